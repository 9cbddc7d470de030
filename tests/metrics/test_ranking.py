"""Average precision of ranked lists: by hand, and against scikit-learn, also with equal scores."""

import math

import pytest
import torch
from sklearn.metrics import average_precision_score

from fastrcn.metrics import average_precision

pytestmark = pytest.mark.usefixtures("one_thread")


def test_by_hand():
    assert average_precision([True, True], 2) == 1.0
    assert average_precision([True, False, True, False], 4) == pytest.approx((1 + 2 / 3) / 4)
    assert average_precision([False, True], 1) == 0.5
    assert average_precision([False], 3) == 0.0
    assert average_precision([], 3) == 0.0
    assert math.isnan(average_precision([False], 0))


def test_equal_scores_share_the_last_rank_of_them():
    # Ranks 1; 4, 4, 4; 5. Two of the first four are right, three of five.
    hits, scores = [False, True, False, True, True], [0.9, 0.5, 0.5, 0.5, 0.1]
    assert average_precision(hits, 3, scores) == pytest.approx((2 / 4 + 2 / 4 + 3 / 5) / 3)
    assert average_precision([False, True, True, False, True], 3, scores) == average_precision(hits, 3, scores)


@pytest.mark.parametrize("levels", [1, 3, 1000])
def test_against_scikit_learn(levels):
    for _ in range(10):
        scores = torch.randint(levels, (50,)).double().sort(descending=True).values / levels
        hits = torch.rand(50) < 0.3
        hits[int(torch.randint(50, ()))] = True
        found = average_precision(hits, int(hits.sum()), scores)
        assert found == pytest.approx(average_precision_score(hits.numpy(), scores.numpy()), rel=1e-12)


def test_interpolated_by_hand_and_by_loop():
    # Precision 0, 1/2, 2/3, 2/4, 3/5; the largest from rank 2 on is 2/3, from rank 5 on 3/5.
    hits = [False, True, True, False, True]
    assert average_precision(hits, 4, interpolated=True) == pytest.approx((2 / 3 + 2 / 3 + 3 / 5) / 4)
    for _ in range(10):
        hits = (torch.rand(30) < 0.4).tolist()
        precision = [sum(hits[: k + 1]) / (k + 1) for k in range(30)]
        total = sum(max(precision[k:]) for k in range(30) if hits[k])
        found = average_precision(hits, 20 + sum(hits), interpolated=True)
        assert found == pytest.approx(total / (20 + sum(hits)), rel=1e-12)
        assert found >= average_precision(hits, 20 + sum(hits))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (([[True]], 1), r"hits: expected \(D,\), got shape \(1, 1\)"),
        (([True, True], 1), "positives: expected at least 2, the number of hits, got 1"),
        (([True, False], 1, [0.1, 0.2]), "scores: expected 2 falling numbers, got"),
        (([True, False], 1, [0.1]), "scores: expected 2 falling numbers, got"),
        (([True, False], 1, [0.1, math.nan]), "scores: expected 2 falling numbers, got"),
    ],
)
def test_errors(arguments, words):
    with pytest.raises(ValueError, match=words):
        average_precision(*arguments)
