"""Which frames are read: hand-worked indices, and what holds for every size of video."""

from fractions import Fraction

import pytest
import torch

from fastrcn.data import (
    at_rate,
    average_scores,
    dense_clips,
    flow_pairs,
    random_clip,
    sparse_frames,
    uniform_clips,
    whole_video,
)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def test_random_clips_begin_wherever_they_fit():
    found = [random_clip(9, 3, stride=2, generator=seeded(seed)) for seed in range(200)]
    assert all(clip.tolist() == [clip[0], clip[0] + 2, clip[0] + 4] for clip in found)
    starts = [int(clip[0]) for clip in found]
    assert set(starts) == {0, 1, 2, 3, 4}
    assert min(starts.count(s) for s in range(5)) > 20, "of 200, 40 each are expected"
    assert random_clip(5, 5).tolist() == [0, 1, 2, 3, 4]
    assert torch.equal(random_clip(1000, 8, generator=seeded(1)), random_clip(1000, 8, generator=seeded(1)))


def test_short_videos_are_looped():
    assert random_clip(3, 8, loop=True).tolist() == [0, 1, 2, 0, 1, 2, 0, 1]
    assert random_clip(5, 4, stride=2, loop=True).tolist() == [0, 2, 4, 1]
    assert uniform_clips(3, 4, 2, loop=True).tolist() == [[0, 1, 2, 0]] * 2
    assert dense_clips(3, 4, 1, loop=True).tolist() == [[0, 1, 2, 0]]
    assert whole_video(3, fewest=5).tolist() == [[0, 1, 2, 0, 1]]
    assert random_clip(1, 3, loop=True).tolist() == [0, 0, 0]


def test_uniform_clips():
    assert uniform_clips(10, 2, 3).tolist() == [[0, 1], [4, 5], [8, 9]]
    assert uniform_clips(10, 2, 1).tolist() == [[4, 5]]
    assert uniform_clips(11, 3, 2, stride=3).tolist() == [[0, 3, 6], [4, 7, 10]]
    assert uniform_clips(6, 1, 4)[:, 0].tolist() == [0, 2, 3, 5]  # 0, 1.67, 3.33, 5
    assert uniform_clips(2, 1, 3)[:, 0].tolist() == [0, 1, 1]  # a half rounds up
    for frames in range(25, 300, 7):
        starts = uniform_clips(frames, 1, 25)[:, 0]
        assert starts[0] == 0
        assert starts[-1] == frames - 1
        steps = starts.diff()
        assert steps.max() - steps.min() <= 1


def test_dense_clips():
    assert dense_clips(10, 4, 3).tolist() == [[0, 1, 2, 3], [3, 4, 5, 6], [6, 7, 8, 9]]
    assert dense_clips(11, 4, 3, rest="drop").tolist() == dense_clips(10, 4, 3).tolist()
    assert dense_clips(11, 4, 3)[:, 0].tolist() == [0, 3, 6, 7]  # the last ends with frame 10
    assert dense_clips(9, 2, 4, stride=3)[:, 0].tolist() == [0, 4, 5]


@pytest.mark.parametrize("frames", range(16, 60))
def test_lrcn_clips_read_every_frame(frames):
    """Clips of 16 every 8 frames, against a loop; none is read twice at the end."""
    expected, start = [], 0
    while start + 16 <= frames:
        expected.append(start)
        start += 8
    if expected[-1] + 16 < frames:
        expected.append(frames - 16)
    clips = dense_clips(frames, 16, 8)
    assert clips[:, 0].tolist() == expected
    assert sorted(set(clips.flatten().tolist())) == list(range(frames))
    assert len(set(expected)) == len(expected)


def test_whole_video():
    assert whole_video(4).tolist() == [[0, 1, 2, 3]]
    assert whole_video(11, stride=5).tolist() == [[0, 5, 10]]
    assert whole_video(250, stride=5).shape == (1, 50)  # ten seconds at 25 frames per second


def test_rates():
    assert at_rate(10, 25, 5).tolist() == [0, 5]
    assert at_rate(11, 25, 5).tolist() == [0, 5, 10]
    assert at_rate(4, 10, 20).tolist() == [0, 1, 1, 2, 2, 3, 3]  # moments 0, 0.05, ...: a half rounds up
    assert at_rate(7, 30, 25).tolist() == [0, 1, 2, 4, 5, 6]  # 0, 1.2, 2.4, 3.6, 4.8, 6
    assert at_rate(6, 30, 30).tolist() == list(range(6))
    long = at_rate(90000, Fraction(30000, 1001), 1)
    assert long[:3].tolist() == [0, 30, 60]
    assert long[3000] == round(3000 * 30000 / 1001)


def test_a_clip_at_another_rate():
    frames = at_rate(100, 25, 5)
    assert frames[uniform_clips(len(frames), 3, 2)].tolist() == [[0, 5, 10], [85, 90, 95]]


def test_sparse_frames_of_long_and_short_videos():
    assert sparse_frames(30 * 400, 30).tolist() == [30 * k for k in range(300)]  # the first five minutes of more
    assert sparse_frames(75, 25, 7).tolist() == [0, 25, 50, 0, 25, 50, 0]
    assert sparse_frames(10, 25, 4).tolist() == [0, 0, 0, 0]


def test_flow_pairs():
    at = torch.tensor([0, 30, 58, 59])
    assert flow_pairs(at, 60, 30).tolist() == [[0, 2], [30, 32], [57, 59], [57, 59]]
    assert flow_pairs(at, 60, 10).tolist() == [[0, 1], [30, 31], [58, 59], [58, 59]]


def test_average_by_hand():
    even = torch.tensor([0.25, 0.75]).log()
    scores = torch.stack([even, torch.tensor([0.75, 0.25]).log() + 3, torch.tensor([0.5, 0.5]).log()])[None]
    torch.testing.assert_close(average_scores(scores), torch.tensor([[0.5, 0.5]]))
    torch.testing.assert_close(average_scores(scores, weights=[1, 0, 1]), torch.tensor([[0.375, 0.625]]))
    torch.testing.assert_close(average_scores(scores, weights=[[1.0, 0.0, 0.0]]), torch.tensor([[0.25, 0.75]]))
    torch.testing.assert_close(average_scores(scores, "logit"), scores.mean(1))


def test_average_against_loops():
    scores, weights = torch.randn(3, 4, 5, 6).double(), torch.rand(3, 4).double()
    for average in ("prob", "logit"):
        expected = torch.zeros(3, 5, 6).double()
        for n in range(3):
            for k in range(4):
                each = scores[n, k].softmax(-1) if average == "prob" else scores[n, k]
                expected[n] += weights[n, k] / weights[n].sum() * each
        torch.testing.assert_close(average_scores(scores, average, weights), expected)
        uniform = average_scores(scores, average, torch.full((4,), 7.0))
        torch.testing.assert_close(uniform, average_scores(scores, average))


def test_the_average_of_one_clip_is_the_clip():
    scores = torch.randn(2, 1, 5)
    assert torch.equal(average_scores(scores, "logit"), scores[:, 0])
    assert torch.equal(average_scores(scores), scores[:, 0].softmax(-1))
    assert torch.equal(average_scores(scores, weights=[0.3]), scores[:, 0].softmax(-1))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: random_clip(9, 4, stride=3), "frames: expected at least 10, for 4 that are 3 apart, got 9"),
        (lambda: uniform_clips(0, 1, 1, loop=True), "frames: expected a positive int, got 0"),
        (lambda: uniform_clips(9, 1, 0), "count: expected a positive int, got 0"),
        (lambda: dense_clips(9, 1, 0), "step: expected a positive int, got 0"),
        (lambda: dense_clips(9, 1, 1, rest="pad"), 'rest: expected "align" or "drop", got \'pad\''),
        (lambda: whole_video(9, stride=1.5), "stride: expected a positive int, got 1.5"),
        (lambda: random_clip(9, True), "length: expected a positive int, got True"),
        (lambda: at_rate(9, 25, 0), "rate: expected a positive number of frames per second, got 0"),
        (lambda: sparse_frames(9, -1), "frame_rate: expected a positive number of frames per second, got -1"),
        (lambda: flow_pairs(torch.tensor([9]), 9, 25), "indices: expected .T,., each from 0 to 8"),
        (lambda: flow_pairs(torch.tensor([0]), 2, 30), "frames: expected at least 3, a pair, got 2"),
        (lambda: average_scores(torch.zeros(2, 3, 4), "mean"), "average: expected one of prob, logit, got 'mean'"),
        (lambda: average_scores(torch.zeros(2, 4)), r"scores: expected .N,K,...,classes. with at least one clip"),
        (lambda: average_scores(torch.zeros(2, 0, 4)), "with at least one clip, got shape"),
        (lambda: average_scores(torch.zeros(2, 3, 4), weights=[1, 2]), r"weights: expected shape \(3,\) or \(2, 3\)"),
        (lambda: average_scores(torch.zeros(2, 3, 4), weights=[0, 0, 0]), "weights: expected numbers that are not"),
        (lambda: average_scores(torch.zeros(2, 3, 4), weights=[-1, 1, 1]), "weights: expected numbers that are not"),
    ],
)
def test_errors(call, words):
    with pytest.raises(ValueError, match=words):
        call()
