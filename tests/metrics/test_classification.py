"""Top-k, hit@k and class accuracy: by hand and against scikit-learn; batches that are gathered."""

import math

import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, recall_score, top_k_accuracy_score

from fastrcn.metrics import Predictions, hit_at_k, mean_class_accuracy, multi_label_map, top_k_accuracy

pytestmark = pytest.mark.usefixtures("one_thread")

SCORES = torch.tensor([[0.1, 0.6, 0.3], [0.5, 0.2, 0.3], [0.2, 0.3, 0.5], [0.4, 0.35, 0.25]])


def test_top_k_by_hand():
    labels = torch.tensor([1, 2, 0, 0])  # ranks 1, 2, 3, 1
    assert [top_k_accuracy(SCORES, labels, k) for k in (1, 2, 3)] == [0.5, 0.75, 1.0]


def test_of_equal_scores_the_lower_class_is_better():
    scores = torch.zeros(3, 4)
    assert top_k_accuracy(scores, torch.tensor([0, 1, 2])) == pytest.approx(1 / 3)
    assert top_k_accuracy(scores, torch.tensor([0, 1, 2]), 2) == pytest.approx(2 / 3)


def test_hit_at_k_by_hand():
    labels = torch.tensor([[1, 1, 0], [0, 1, 0], [0, 1, 0], [0, 0, 0]])  # best rank 1, 3, 2, none
    assert [hit_at_k(SCORES, labels, k) for k in (1, 2, 3)] == [0.25, 0.5, 0.75]
    assert hit_at_k(SCORES, labels.bool(), 2) == 0.5


def test_clips_and_the_video_of_their_mean():
    """Two clips of each of two videos: three of four clips are right, and both videos."""
    clips = torch.tensor([[0.9, 0.1], [0.4, 0.6], [0.3, 0.7], [0.2, 0.8]])
    labels = torch.tensor([[1, 0], [0, 1]])
    assert hit_at_k(clips, labels.repeat_interleave(2, 0)) == 0.75
    assert hit_at_k(clips.view(2, 2, 2).mean(1), labels) == 1.0


@pytest.mark.parametrize("k", [1, 2, 5])
def test_against_scikit_learn(k):
    scores, labels = torch.rand(60, 7, dtype=torch.float64), torch.randint(7, (60,))
    truth = top_k_accuracy_score(labels.numpy(), scores.numpy(), k=k, labels=list(range(7)))
    assert 0.05 < truth < 0.95
    assert top_k_accuracy(scores, labels, k) == pytest.approx(truth)
    assert hit_at_k(scores, torch.nn.functional.one_hot(labels, 7), k) == pytest.approx(truth)


def test_class_accuracy_by_hand():
    labels = torch.tensor([1, 0, 0, 0])  # predicted: 1, 0, 2, 0
    mean, table = mean_class_accuracy(SCORES, labels)
    assert mean == pytest.approx((2 / 3 + 1) / 2)
    torch.testing.assert_close(table, torch.tensor([2 / 3, 1.0, math.nan], dtype=torch.float64), equal_nan=True)


def test_class_accuracy_against_scikit_learn():
    scores, labels = torch.rand(80, 5), torch.randint(4, (80,))
    predicted = scores.argmax(1).clamp(max=3)  # scikit-learn counts a class that is only predicted, with a warning
    scores = torch.nn.functional.one_hot(predicted, 5).float()
    mean, table = mean_class_accuracy(scores, labels)
    assert mean == pytest.approx(balanced_accuracy_score(labels.numpy(), predicted.numpy()))
    truth = recall_score(labels.numpy(), predicted.numpy(), average=None)
    assert table[:4].tolist() == pytest.approx(truth.tolist())
    assert table[4].isnan()


def test_batches_give_what_all_at_once_gives():
    scores, labels = torch.rand(10, 4, requires_grad=True), torch.randint(4, (10,))
    seen = Predictions()
    for part in torch.arange(10).split(3):
        seen.add(scores[part], labels[part])
    assert seen.measure(top_k_accuracy, k=2) == top_k_accuracy(scores, labels, 2)
    assert seen.measure(mean_class_accuracy)[0] == mean_class_accuracy(scores, labels)[0]
    some = torch.rand(10, 4) < 0.4
    seen = Predictions()
    seen.add(scores[:7], some[:7])
    seen.add(scores[7:], some[7:])
    assert seen.measure(multi_label_map)[0] == multi_label_map(scores, some)[0]


def test_gathered_scores_are_copies():
    scores, labels, seen = torch.eye(3), torch.arange(3), Predictions()
    seen.add(scores, labels)
    scores.zero_()
    labels.zero_()
    assert seen.measure(mean_class_accuracy)[1].tolist() == [1.0, 1.0, 1.0]


LABELS = torch.tensor([0, 1, 2, 0])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: top_k_accuracy(SCORES[0], LABELS), r"scores: expected \(N,num_classes\), .* got shape \(3,\)"),
        (lambda: top_k_accuracy(SCORES[:0], LABELS[:0]), r"scores: expected .* got shape \(0, 3\)"),
        (lambda: top_k_accuracy(SCORES.log().sub(math.nan), LABELS), "scores: expected numbers, got NaN in 4 of 4"),
        (lambda: top_k_accuracy(SCORES, LABELS, 4), "k: expected from 1 to 3, the number of classes, got 4"),
        (lambda: top_k_accuracy(SCORES, LABELS, 0), "k: expected from 1 to 3"),
        (lambda: top_k_accuracy(SCORES, LABELS + 1), "labels: expected classes from 0 to 2, got 1 to 3"),
        (lambda: top_k_accuracy(SCORES, LABELS - 1), "labels: expected classes from 0 to 2, got -1 to 1"),
        (lambda: mean_class_accuracy(SCORES, LABELS[:3]), r"labels: expected whole numbers \(4,\), got .*\(3,\)"),
        (lambda: mean_class_accuracy(SCORES, LABELS.float()), "labels: expected whole numbers .*, got torch.float32"),
        (lambda: hit_at_k(SCORES, LABELS), r"labels: expected the scores' shape \(4, 3\), got \(4,\)"),
        (lambda: hit_at_k(SCORES, SCORES), "labels: expected 0 or 1, got values from 0.1"),
        (lambda: Predictions().measure(top_k_accuracy), "predictions: expected at least one batch, none was added"),
        (lambda: Predictions().add(SCORES, LABELS[:2]), r"scores, labels: .* got shapes \(4, 3\) and \(2,\)"),
        (lambda: two_batches(SCORES[:, :2], LABELS), r"scores: expected torch.float32 of shape \('N', 3\), as before"),
        (lambda: two_batches(SCORES.double(), LABELS), "scores: expected torch.float32 .* got torch.float64"),
        (lambda: two_batches(SCORES, LABELS.int()), "labels: expected torch.int64 .* got torch.int32"),
    ],
)
def test_errors(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def two_batches(scores, labels):
    seen = Predictions()
    seen.add(SCORES, LABELS)
    seen.add(scores, labels)
