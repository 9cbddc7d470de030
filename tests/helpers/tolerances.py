"""The one table of tolerances. Errors are relative: norm of the difference over norm of the truth."""

import math

import torch

RELATIVE = {torch.float64: 1e-12, torch.float32: 1e-5}
"""Largest error against the float64 truth."""

LOW_PRECISION_FACTOR = 2.0
"""bfloat16: largest error as a multiple of that of a plain loop in bfloat16."""

TF32_EPS = 2.0**-10
"""Of float32 whose products are rounded to TF32, in which the error is then as in low precision."""

LOW_PRECISION_DRAWS = 5
"""Random draws whose errors are taken together, by their root mean square: one draw of the gradient of a bias of three
channels says little, for the plain loop's may be near by chance."""


def draws(dtype):
    """Seeds of the draws that a comparison in a type takes."""
    return range(1 if dtype in RELATIVE else LOW_PRECISION_DRAWS)


def relative_error(found, truth):
    """NaN where anything is not finite, so that it never passes a comparison."""
    found, truth = found.detach().double(), truth.detach().double()
    assert found.shape == truth.shape, f"shape {tuple(found.shape)}, expected {tuple(truth.shape)}"
    if not torch.isfinite(found).all():
        return float("nan")
    scale = truth.norm()
    return float((found - truth).norm() / (scale if scale > 0 else 1))


def assert_close(found, truth, what="", dtype=None, plain=None):
    """``found`` is as near to the float64 ``truth`` as its type allows; bfloat16 needs the ``plain`` loop's value."""
    assert_draws_close([({what: found}, {what: truth}, {what: plain})], dtype or found.dtype)


def assert_draws_close(results, dtype, tf32=False):
    """The same for each part of several draws, of which each is (found, truth, plain) by part. ``tf32``: float32 was
    rounded to it, by the plain loop too."""
    for part in results[0][1]:
        error = _mean_error([(found[part], truth[part]) for found, truth, _ in results])
        limit = None if tf32 else RELATIVE.get(dtype)
        if limit is None:
            plain = _mean_error([(plain[part], truth[part]) for _, truth, plain in results])
            limit = LOW_PRECISION_FACTOR * max(plain, (TF32_EPS if tf32 else torch.finfo(dtype).eps) / 4)
        assert error <= limit, f"{part}: relative error {error:.2e}, allowed {limit:.2e}"


def _mean_error(pairs):
    """Root mean square of the errors of pairs (found, truth)."""
    return math.sqrt(sum(relative_error(found, truth) ** 2 for found, truth in pairs) / len(pairs))
