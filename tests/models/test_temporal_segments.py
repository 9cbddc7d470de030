"""Segments of time: everything against loops or worked out by hand."""

import math

import pytest
import torch

from fastrcn.models.temporal_segments import decode, encode, make_anchors, match, nms, sample, soi_pool
from fastrcn.overlap import tiou

pytestmark = pytest.mark.usefixtures("one_thread")


def random_segments(count, reach=50.0):
    start = torch.rand(count).double() * reach
    return torch.stack([start, start + 0.5 + torch.rand(count).double() * reach / 3], 1)


def test_anchors_by_hand():
    assert make_anchors(2, (1.0, 4.0)).tolist() == [[[0.0, 1.0], [-1.5, 2.5]], [[1.0, 2.0], [-0.5, 3.5]]]


def test_offsets_by_hand():
    anchor, segment = torch.tensor([10.0, 14.0]), torch.tensor([12.0, 20.0])  # centres 12 and 16, lengths 4 and 8
    torch.testing.assert_close(encode(segment, anchor), torch.tensor([1.0, math.log(2)]))
    torch.testing.assert_close(decode(torch.tensor([-0.5, math.log(0.5)]), anchor), torch.tensor([9.0, 11.0]))


def test_decode_of_encode_is_the_identity():
    segments, anchors = random_segments(40), random_segments(40)
    torch.testing.assert_close(decode(encode(segments, anchors), anchors), segments, rtol=1e-12, atol=1e-12)
    offsets = torch.randn(40, 2).double()
    torch.testing.assert_close(encode(decode(offsets, anchors), anchors), offsets, rtol=1e-10, atol=1e-12)


def overlap(a, b):
    common = max(0.0, min(a[1], b[1]) - max(a[0], b[0]))
    union = a[1] - a[0] + b[1] - b[0] - common
    return common / union if union > 0 else 0.0


def test_tiou():
    a = torch.tensor([[0.0, 4.0], [2.0, 2.0]])
    b = torch.tensor([[0.0, 4.0], [3.0, 5.0], [4.0, 6.0], [1.0, 2.0], [2.0, 2.0]])
    torch.testing.assert_close(tiou(a, b), torch.tensor([[1.0, 1 / 5, 0.0, 1 / 4, 0.0], [0.0, 0.0, 0.0, 0.0, 0.0]]))
    a, b = random_segments(20), random_segments(30)
    truth = torch.tensor([[overlap(x, y) for y in b.tolist()] for x in a.tolist()], dtype=a.dtype)
    torch.testing.assert_close(tiou(a, b), truth, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.7])
def test_nms_against_brute_force(threshold):
    for _ in range(10):
        segments, scores = random_segments(40), torch.rand(40)
        rest, kept = sorted(range(40), key=lambda k: -float(scores[k])), []
        while rest:
            best = rest.pop(0)
            kept.append(best)
            rest = [k for k in rest if overlap(segments[k].tolist(), segments[best].tolist()) <= threshold]
        found = nms(segments, scores, threshold)
        assert found.tolist() == kept
        assert nms(segments, scores, threshold, 3).tolist() == kept[:3]


def test_nms_by_hand():
    segments = torch.tensor([[0.0, 10.0], [1.0, 10.0], [20.0, 30.0], [5.0, 15.0]])
    scores = torch.tensor([0.8, 0.9, 0.1, 0.7])
    assert nms(segments, scores, 0.5).tolist() == [1, 3, 2]  # 0 overlaps 1 by 0.9; 3 overlaps it by 5/14
    assert nms(segments, scores, 0.3).tolist() == [1, 2]
    assert nms(segments[:0], scores[:0], 0.5).tolist() == []


def test_soi_pooling_of_a_ramp():
    ramp = torch.arange(12.0)[None]
    # [2,8) in three bins of two steps: the last step of each; [1.5,4.5) rounded outwards: 1-3, 2-4, 3-5
    found = soi_pool(ramp, torch.tensor([[2.0, 8.0], [1.5, 4.5], [3.2, 3.4], [-6.0, 3.0], [9.0, 15.0]]), 3)
    truth = [[3, 5, 7], [2, 3, 4], [3, 3, 3], [0, 0, 2], [10, 11, 11]]
    assert found[:, 0].int().tolist() == truth
    falling = soi_pool(-ramp, torch.tensor([[2.0, 8.0]]), 3)
    assert falling[0, 0].tolist() == [-2.0, -4.0, -6.0]


def test_soi_pooling_against_a_loop():
    features = torch.randn(3, 37).double().requires_grad_()
    segments = random_segments(25, 36.0) - 3
    found = soi_pool(features, segments, 5)
    rows = []
    for start, end in segments.tolist():
        for k in range(5):
            low, high = (start + (end - start) * j / 5 for j in (k, k + 1))
            first = min(max(math.floor(low), 0), 36)
            last = max(min(max(math.ceil(high), 1), 37), first + 1)
            rows.append(features[:, first:last].max(1).values)
    truth = torch.stack(rows).view(25, 5, 3).transpose(1, 2)
    assert torch.equal(found, truth)
    weight = torch.randn_like(truth)
    gradients = [torch.autograd.grad((x * weight).sum(), features)[0] for x in (found, truth)]
    torch.testing.assert_close(*gradients)


def test_soi_pooling_of_one_step():
    assert soi_pool(torch.tensor([[5.0]]), torch.tensor([[0.0, 1.0], [-9.0, 40.0]]), 2).flatten().tolist() == [5.0] * 4
    assert soi_pool(torch.randn(3, 9), torch.zeros(0, 2), 2).shape == (0, 3, 2)


def test_match_by_hand():
    anchors = torch.tensor([[0.0, 10.0], [0.0, 8.0], [0.0, 5.0], [30.0, 40.0], [38.0, 50.0], [100.0, 110.0]])
    segments = torch.tensor([[0.0, 10.0], [36.0, 46.0], [200.0, 210.0]])
    # overlaps with the first: 1, 0.8, 0.5; with the second 4/16, 8/14 (its best); none with the third
    labels, index = match(anchors, segments, 0.7, 0.3)
    assert labels.tolist() == [1, 1, -1, 0, 1, 0]
    assert index[labels == 1].tolist() == [0, 0, 1]
    assert match(anchors, segments[:0], 0.7, 0.3)[0].tolist() == [0] * 6


def test_match_gives_each_segment_its_best_anchor():
    """Though that anchor overlaps another segment more."""
    anchors = torch.tensor([[0.0, 10.0], [50.0, 60.0]])
    segments = torch.tensor([[0.0, 9.0], [8.0, 12.0]])
    labels, index = match(anchors, segments, 0.95, 0.3)
    assert labels.tolist() == [1, 0]
    assert index[0] == 1


def test_sample():
    labels = torch.tensor([1, 0, 2, -1, 0, 0, 1, 0, -1, 0])
    for _ in range(20):
        chosen = sample(labels, 4, 0.5)
        assert sorted((labels[chosen] > 0).tolist()) == [False, False, True, True]
        assert len(set(chosen.tolist())) == 4
    assert sorted(sample(labels, 100, 0.5).tolist()) == [0, 1, 2, 4, 5, 6, 7, 9]
    few = sample(torch.tensor([1, 0, 0, 0, 0]), 4, 0.5)
    assert (few == 0).sum() == 1
    assert len(few) == 4
    found = [sample(labels, 3, 0.5, torch.Generator().manual_seed(s)).tolist() for s in (0, 0, 1, 2, 3)]
    assert found[0] == found[1]
    assert len({tuple(f) for f in found}) > 1


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: encode(torch.zeros(3), torch.zeros(2)), r"segments: expected \(...,2\) of start and end, got"),
        (lambda: decode(torch.zeros(2), torch.zeros(4, 3)), r"anchors: expected \(...,2\)"),
        (lambda: tiou(torch.zeros(1, 2), torch.zeros(1, 4)), r"b: expected \(...,2\)"),
        (lambda: nms(torch.zeros(3, 2), torch.zeros(2), 0.5), r"scores: expected shape \(3,\), got \(2,\)"),
        (lambda: soi_pool(torch.zeros(2, 3, 4), torch.zeros(1, 2), 3), r"features: expected \(C,T\)"),
        (lambda: soi_pool(torch.zeros(3, 4), torch.zeros(1, 2), 0), "bins: expected a positive int, got 0"),
    ],
)
def test_errors(call, words):
    with pytest.raises(ValueError, match=words):
        call()
