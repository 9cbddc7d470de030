"""How good forecasts of frames are, step by step: errors, correlation, and how rain above a threshold is met.

Shi et al. 2015, arXiv 1506.04214, and 2017, arXiv 1706.03458; errors as OpenSTL (Tan et al. 2023, arXiv 2306.11249)
reports them. Sequences are (N,T,...), usually (N,T,C,H,W). A mask, of booleans that broadcast to that shape, says
which pixels count. Every result has T values, one for each step ahead; take its mean for one number. Results are
float64.
"""

from dataclasses import dataclass

import torch


def _check(predicted, truth, mask):
    """Both in float64, and the mask of their shape. NaN is an error where it counts, and 0 elsewhere."""
    if predicted.dim() < 2 or predicted.shape != truth.shape or 0 in predicted.shape:
        came = f"{tuple(predicted.shape)} and {tuple(truth.shape)}"
        raise ValueError(f"predicted, truth: expected one shape (N,T,...) without zeros, got {came}")
    if mask is None:
        mask = torch.ones_like(predicted, dtype=torch.bool)
    if mask.dtype != torch.bool:
        raise ValueError(f"mask: expected booleans, True for pixels that count, got {mask.dtype}")
    try:
        mask = mask.expand(predicted.shape)
    except RuntimeError:
        expected = f"a shape that broadcasts to {tuple(predicted.shape)}"
        raise ValueError(f"mask: expected {expected}, got {tuple(mask.shape)}") from None
    for name, value in (("predicted", predicted), ("truth", truth)):
        if bool((value.isnan() & mask).any()):
            raise ValueError(f"{name}: expected numbers where they count, got NaN; leave such pixels out by the mask")
    predicted, truth = (value.double().masked_fill(~mask, 0) for value in (predicted, truth))
    return predicted, truth, mask


def _of_steps(values, mask, over):
    """(N,T,...) -> (T,): the mean over sequences of the sum over pixels, or the mean over all pixels that count."""
    sums = values.transpose(0, 1).flatten(1).sum(1)
    if over == "sum":
        return sums / len(values)
    if over == "mean":
        return sums / mask.transpose(0, 1).flatten(1).sum(1)
    raise ValueError(f'over: expected "sum" or "mean", got {over!r}')


def frame_mse(predicted, truth, mask=None, over="sum"):
    """Squared error of a frame at each step.

    Args:
        predicted, truth: (N,T,...).
        mask: True where a pixel counts; all if None.
        over: "sum" over the pixels of a frame, then the mean over sequences, as papers report Moving MNIST; "mean" over
            all pixels that count (NaN where none does).
    Returns: (T,).
    Raises: ValueError naming the argument.
    """
    predicted, truth, mask = _check(predicted, truth, mask)
    return _of_steps((predicted - truth).square(), mask, over)


def frame_mae(predicted, truth, mask=None, over="sum"):
    """Absolute error of a frame at each step; arguments as ``frame_mse``."""
    predicted, truth, mask = _check(predicted, truth, mask)
    return _of_steps((predicted - truth).abs(), mask, over)


def correlation(predicted, truth, mask=None):
    """The mean over sequences of sum(P T) / sqrt(sum(P P) sum(T T) + 1e-9), sums over the pixels of a frame.

    Means are not subtracted: so Shi et al. 2015 define it. A frame without anything has correlation 0.

    Args:
        predicted, truth: (N,T,...). mask: True where a pixel counts; all if None.
    Returns: (T,).
    Raises: ValueError naming the argument.
    """
    predicted, truth, _ = _check(predicted, truth, mask)
    p, t = predicted.flatten(2), truth.flatten(2)
    below = (p.square().sum(2) * t.square().sum(2) + 1e-9).sqrt()
    return ((p * t).sum(2) / below).mean(0)


def rain_rate(reflectivity, a, b):
    """Rain in mm/h of a radar's reflectivity in dBZ by Z = a R^b, so dBZ = 10 log10(a) + 10 b log10(R).

    a and b belong to the radar and the climate; Marshall and Palmer's are 200 and 1.6. Any shape. Raises ValueError.
    """
    if a <= 0 or b <= 0:
        raise ValueError(f"a, b: expected positive numbers, got {a} and {b}")
    return (10 ** (reflectivity / 10) / a) ** (1 / b)


def rain_mse(predicted, truth, *, a, b, mask=None):
    """Rainfall-MSE of Shi et al. 2015: the mean squared error of the rain (mm/h) at each step, (T,).

    Args:
        predicted, truth: (N,T,...) reflectivity in dBZ. a, b: of ``rain_rate``.
        mask: True where a pixel counts; all if None.
    Raises: ValueError naming the argument.
    """
    predicted, truth, mask = _check(predicted, truth, mask)
    return frame_mse(rain_rate(predicted, a, b), rain_rate(truth, a, b), mask, "mean")


@dataclass(frozen=True, eq=False)
class Events:
    """Pixels with rain that were forecast, missed, or forecast without rain: whole numbers (thresholds,T).

    Those of several batches are added with ``+``. A score is float64 of that shape, NaN where it is 0/0.
    """

    hits: torch.Tensor
    misses: torch.Tensor
    false_alarms: torch.Tensor

    def __add__(self, other):
        """The counts of both; ValueError unless they have the same thresholds and steps."""
        if self.hits.shape != other.hits.shape:
            came = f"{tuple(self.hits.shape)} and {tuple(other.hits.shape)}"
            raise ValueError(f"events: expected the same numbers of thresholds and steps, got {came}")
        return Events(
            self.hits + other.hits, self.misses + other.misses, self.false_alarms + other.false_alarms
        )  # fmt: skip

    @property
    def csi(self):
        """Critical success index: hits / (hits + misses + false alarms). 1 is best."""
        return self.hits.double() / (self.hits + self.misses + self.false_alarms)

    @property
    def far(self):
        """False alarm ratio: false alarms / (hits + false alarms). 0 is best."""
        return self.false_alarms.double() / (self.hits + self.false_alarms)

    @property
    def pod(self):
        """Probability of detection: hits / (hits + misses). 1 is best."""
        return self.hits.double() / (self.hits + self.misses)


def count_events(predicted, truth, thresholds, mask=None):
    """Counts of where forecast and truth reach thresholds, for CSI, FAR and POD.

    Args:
        predicted, truth: (N,T,...), in the thresholds' unit: 0.5 mm/h in Shi et al. 2015.
        thresholds: numbers; a pixel with exactly that much reaches it.
        mask: True where a pixel counts; all if None.
    Returns: ``Events`` (thresholds,T), of all sequences.
    Raises: ValueError naming the argument.
    """
    predicted, truth, mask = _check(predicted, truth, mask)
    thresholds = torch.as_tensor(thresholds, dtype=torch.float64, device=predicted.device)
    if thresholds.dim() != 1 or not len(thresholds) or bool(thresholds.isnan().any()):
        raise ValueError(f"thresholds: expected a sequence of numbers, got {thresholds.tolist()}")

    def count(where):
        return (where & mask).transpose(0, 1).flatten(1).sum(1)

    counts = []
    for threshold in thresholds:
        said, there = predicted >= threshold, truth >= threshold
        counts.append(torch.stack([count(said & there), count(~said & there), count(said & ~there)]))
    return Events(*torch.stack(counts, 1).unbind(0))
