"""Scores of forecasts: by hand, by loops over pixels, masks, and batches that are added."""

import math

import pytest
import torch
from sklearn.metrics import jaccard_score, precision_score, recall_score

from fastrcn.metrics import correlation, count_events, frame_mae, frame_mse, rain_mse, rain_rate

pytestmark = pytest.mark.usefixtures("one_thread")


def close(found, expected):
    expected = torch.as_tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12, equal_nan=True)


# Two sequences of two steps of 1x2 pixels.
TRUTH = torch.tensor([[[[0.0, 1.0]], [[2.0, 0.0]]], [[[0.0, 0.0]], [[1.0, 3.0]]]])
PREDICTED = torch.tensor([[[[0.5, 1.0]], [[1.0, 1.0]]], [[[0.0, 2.0]], [[1.0, 0.0]]]])
MASK = torch.tensor([[True, False]])  # of all frames the left pixel


def test_errors_of_frames_by_hand():
    close(frame_mse(PREDICTED, TRUTH), [(0.25 + 4) / 2, (2 + 9) / 2])
    close(frame_mse(PREDICTED, TRUTH, over="mean"), [4.25 / 4, 11 / 4])
    close(frame_mae(PREDICTED, TRUTH), [2.5 / 2, 5 / 2])
    close(frame_mse(PREDICTED, TRUTH, MASK), [0.25 / 2, 1 / 2])
    close(frame_mae(PREDICTED, TRUTH, MASK, "mean"), [0.5 / 2, 1 / 2])


def test_errors_are_those_that_openstl_reports():
    """Its formulas: mean over sequences and steps, sum over channels and pixels."""
    p, t = torch.rand(3, 4, 2, 5, 6, dtype=torch.float64), torch.rand(3, 4, 2, 5, 6, dtype=torch.float64)
    close(frame_mse(p, t).mean(), ((p - t) ** 2).mean((0, 1)).sum())
    close(frame_mae(p, t).mean(), (p - t).abs().mean((0, 1)).sum())
    close(frame_mse(p, t, over="mean").mean(), torch.nn.functional.mse_loss(p, t))


def test_correlation_by_hand():
    # Step 1: 1 / sqrt(1.25 * 1), nothing; step 2: 2 / sqrt(2 * 4), 1 / sqrt(1 * 10).
    truth = [1 / math.sqrt(1.25 + 1e-9) / 2, (2 / math.sqrt(8 + 1e-9) + 1 / math.sqrt(10 + 1e-9)) / 2]
    close(correlation(PREDICTED, TRUTH), truth)
    close(correlation(PREDICTED, TRUTH, MASK), [0.0, (2 / math.sqrt(4 + 1e-9) + 1 / math.sqrt(1 + 1e-9)) / 2])


def test_correlation_does_not_subtract_means():
    frame = torch.rand(1, 1, 1, 6, 6) + 1
    close(correlation(3 * frame, frame).round(decimals=9), [1.0])
    assert correlation(frame, torch.ones_like(frame)).item() > 0.9


def test_rain_by_hand():
    """With a = 100 and b = 2: 20 dBZ is 1 mm/h, 40 dBZ 10 mm/h."""
    close(rain_rate(torch.tensor([20.0, 40.0, 0.0], dtype=torch.float64), 100, 2), [1.0, 10.0, 0.1])
    predicted, truth = torch.tensor([[[20.0, 0.0]]]), torch.tensor([[[40.0, 20.0]]])
    close(rain_mse(predicted, truth, a=100, b=2), [(81 + 0.81) / 2])
    close(rain_mse(predicted, truth, a=100, b=2, mask=torch.tensor([False, True])), [0.81])
    # Marshall and Palmer's formula the other way: Z = 200 R^1.6
    dbz = 10 * math.log10(200 * 3.5**1.6)
    assert float(rain_rate(torch.tensor(dbz, dtype=torch.float64), 200, 1.6)) == pytest.approx(3.5)


def test_events_by_hand():
    events = count_events(PREDICTED, TRUTH, (0.5, 2.0))
    # At 0.5 step 1 says three pixels, of which one has it; step 2 three, of which two have it, and misses one.
    assert events.hits.tolist() == [[1, 2], [0, 0]]
    assert events.misses.tolist() == [[0, 1], [0, 2]]
    assert events.false_alarms.tolist() == [[2, 1], [1, 0]]
    close(events.csi, [[1 / 3, 2 / 4], [0.0, 0.0]])
    close(events.far, [[2 / 3, 1 / 3], [1.0, math.nan]])
    close(events.pod, [[1.0, 2 / 3], [math.nan, 0.0]])


def test_events_of_batches_are_added():
    p, t = torch.rand(5, 3, 1, 4, 4), torch.rand(5, 3, 1, 4, 4)
    parts = [count_events(p[s], t[s], (0.2, 0.7)) for s in (slice(0, 2), slice(2, 5))]
    whole = count_events(p, t, (0.2, 0.7))
    total = parts[0] + parts[1]
    for name in ("hits", "misses", "false_alarms", "csi", "far", "pod"):
        assert torch.equal(getattr(total, name), getattr(whole, name))
    with pytest.raises(ValueError, match=r"events: expected the same .* got \(2, 3\) and \(1, 3\)"):
        whole + count_events(p, t, (0.2,))


def test_events_against_scikit_learn():
    p, t = torch.rand(4, 3, 1, 6, 6), torch.rand(4, 3, 1, 6, 6)
    mask = torch.rand(4, 3, 1, 6, 6) < 0.7
    events = count_events(p, t, (0.6,), mask)
    for step in range(3):
        there = mask[:, step]
        truth, said = (t[:, step][there] >= 0.6).numpy(), (p[:, step][there] >= 0.6).numpy()
        assert events.csi[0, step].item() == pytest.approx(jaccard_score(truth, said))
        assert 1 - events.far[0, step].item() == pytest.approx(precision_score(truth, said))
        assert events.pod[0, step].item() == pytest.approx(recall_score(truth, said))


def test_what_the_mask_leaves_out_has_no_part():
    p, t = torch.rand(2, 3, 1, 4, 4), torch.rand(2, 3, 1, 4, 4)
    mask = torch.rand(2, 3, 1, 4, 4) < 0.5
    broken_p, broken_t = p.masked_fill(~mask, math.nan), t.masked_fill(~mask, math.inf)
    for score in (frame_mse, frame_mae, correlation, lambda *a: rain_mse(*a[:2], a=200, b=1.6, mask=a[2])):
        found = score(broken_p, broken_t, mask)
        assert torch.equal(found, score(p, t, mask))
        assert found.isfinite().all()
        assert not torch.allclose(found, score(p, t, torch.ones_like(mask)))
    assert torch.equal(count_events(broken_p, broken_t, (0.5,), mask).csi, count_events(p, t, (0.5,), mask).csi)
    nothing = torch.zeros(2, 3, 1, 4, 4, dtype=torch.bool)
    assert frame_mse(p, t, nothing, "mean").isnan().all()


def test_thresholds_are_reached_by_equal_values():
    rain = torch.full((1, 1, 1), 0.5)
    assert count_events(rain, rain, (0.5,)).hits.tolist() == [[1]]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: frame_mse(PREDICTED, TRUTH[:1]), "predicted, truth: expected one shape"),
        (lambda: frame_mse(PREDICTED[:0], TRUTH[:0]), "predicted, truth: expected one shape .* without zeros"),
        (lambda: frame_mae(torch.zeros(3), torch.zeros(3)), "predicted, truth: expected one shape"),
        (lambda: frame_mse(PREDICTED, TRUTH, over="max"), 'over: expected "sum" or "mean", got \'max\''),
        (lambda: frame_mse(PREDICTED, TRUTH, MASK.float()), "mask: expected booleans"),
        (lambda: correlation(PREDICTED, TRUTH, MASK.expand(3, 2)), r"mask: .* broadcasts .* got \(3, 2\)"),
        (lambda: correlation(PREDICTED * math.nan, TRUTH), "predicted: expected numbers where they count, got NaN"),
        (lambda: count_events(PREDICTED, TRUTH * math.nan, (1.0,)), "truth: expected numbers where they count"),
        (lambda: count_events(PREDICTED, TRUTH, ()), r"thresholds: expected a sequence of numbers, got \[\]"),
        (lambda: count_events(PREDICTED, TRUTH, 0.5), "thresholds: expected a sequence of numbers, got 0.5"),
        (lambda: rain_rate(PREDICTED, 0, 1.6), "a, b: expected positive numbers, got 0 and 1.6"),
    ],
)
def test_errors(call, words):
    with pytest.raises(ValueError, match=words):
        call()
