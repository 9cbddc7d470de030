"""Mean average precision over classes and GAP@k: by hand, by loops and against scikit-learn."""

import math

import pytest
import torch
from sklearn.metrics import average_precision_score

from fastrcn.metrics import GlobalAveragePrecision, global_average_precision, multi_label_map

pytestmark = pytest.mark.usefixtures("one_thread")


def test_map_by_hand():
    scores = torch.tensor([[0.9, 0.2, 0.5], [0.8, 0.7, 0.5], [0.1, 0.6, 0.5]])
    labels = torch.tensor([[1, 0, 0], [0, 1, 0], [1, 1, 0]])
    mean, table = multi_label_map(scores, labels)
    expected = [(1 + 2 / 3) / 2, 1.0, math.nan]
    torch.testing.assert_close(table, torch.tensor(expected, dtype=torch.float64), equal_nan=True)
    assert mean == pytest.approx((5 / 6 + 1) / 2)


@pytest.mark.parametrize("levels", [4, 10**6])
def test_map_against_scikit_learn(levels):
    scores = torch.randint(levels, (80, 6)) / levels
    labels = torch.rand(80, 6) < 0.2
    mean, table = multi_label_map(scores, labels)
    truth = average_precision_score(labels.numpy(), scores.numpy(), average=None)
    assert table.tolist() == pytest.approx(truth.tolist(), rel=1e-12)
    assert mean == pytest.approx(truth.mean(), rel=1e-12)


def test_map_of_frames_is_that_of_all_videos_frames():
    scores, labels = torch.rand(2, 5, 3), torch.rand(2, 5, 3) < 0.5
    there = torch.arange(5) < torch.tensor([[5], [3]])
    found = multi_label_map(scores[there], labels[there])[0]
    parts = [torch.cat([x[0], x[1, :3]]) for x in (scores, labels)]
    assert found == multi_label_map(*parts)[0]


def test_gap_by_hand():
    """Two videos, the two best classes of each: 0.9 right, 0.8 wrong, 0.7 right, 0.6 right; four labels in all."""
    scores = torch.tensor([[0.9, 0.6, 0.1], [0.7, 0.8, 0.5]])
    labels = torch.tensor([[1, 1, 0], [1, 0, 1]])
    assert global_average_precision(scores, labels, k=2) == pytest.approx((1 + 2 / 3 + 3 / 4) / 4)
    assert global_average_precision(scores, labels) == pytest.approx((1 + 2 / 3 + 3 / 4 + 4 / 5) / 4)
    assert math.isnan(global_average_precision(scores, torch.zeros(2, 3)))
    assert global_average_precision(labels.float(), labels) == 1


def test_gap_against_a_loop_over_the_list():
    scores, labels = torch.rand(6, 30), torch.rand(6, 30) < 0.2
    triples = []
    for s, y in zip(scores.tolist(), labels.tolist(), strict=True):
        triples += sorted(zip(s, y, strict=True), reverse=True)[:20]
    right, total = 0, 0.0
    for k, (_, y) in enumerate(sorted(triples, reverse=True), start=1):
        right += y
        total += y * right / k
    assert global_average_precision(scores, labels) == pytest.approx(total / int(labels.sum()))


@pytest.mark.parametrize("levels", [5, 10**6])
def test_gap_of_all_classes_is_scikit_learns_micro_average(levels):
    scores, labels = torch.randint(levels, (9, 12)) / levels, torch.rand(9, 12) < 0.3
    truth = average_precision_score(labels.numpy().ravel(), scores.numpy().ravel())
    assert global_average_precision(scores, labels, k=12) == pytest.approx(truth, rel=1e-12)


def test_gap_batch_by_batch():
    scores, labels = torch.rand(10, 30), torch.rand(10, 30) < 0.2
    gap = GlobalAveragePrecision(k=5)
    for part in torch.arange(10).split(4):
        gap.add(scores[part], labels[part])
    assert gap.compute() == global_average_precision(scores, labels, k=5)
    assert gap.compute() != pytest.approx(global_average_precision(scores, labels, k=6))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: global_average_precision(torch.zeros(1, 2), torch.zeros(2, 2)), r"labels: .* \(1, 2\), got \(2, 2\)"),
        (lambda: global_average_precision(torch.zeros(1, 2), torch.zeros(1, 2), 0), "k: expected at least 1, got 0"),
        (lambda: GlobalAveragePrecision().compute(), "predictions: expected at least one batch"),
        (lambda: multi_label_map(torch.zeros(2, 2), torch.full((2, 2), 0.5)), "labels: expected 0 or 1, got"),
        (lambda: multi_label_map(torch.full((2, 2), math.nan), torch.zeros(2, 2)), "scores: expected numbers, got NaN"),
    ],
)
def test_errors(call, words):
    with pytest.raises(ValueError, match=words):
        call()
