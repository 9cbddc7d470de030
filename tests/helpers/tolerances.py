"""The one table of tolerances. Errors are relative: norm of the difference over norm of the truth."""

import torch

RELATIVE = {torch.float64: 1e-12, torch.float32: 1e-5}
"""Largest error against the float64 truth."""

LOW_PRECISION_FACTOR = 2.0
"""bfloat16: largest error as a multiple of that of a plain loop in bfloat16."""


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
    error = relative_error(found, truth)
    dtype = dtype or found.dtype
    limit = RELATIVE.get(dtype)
    if limit is None:
        limit = LOW_PRECISION_FACTOR * max(relative_error(plain, truth), torch.finfo(dtype).eps / 4)
    assert error <= limit, f"{what}: relative error {error:.2e}, allowed {limit:.2e}"
