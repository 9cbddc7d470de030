"""TF32: when it is allowed, and rounding to it."""

import pytest
import torch

from fastrcn.ops.tf32 import allows_tf32, allows_tf32_products, as_tf32, is_exact
from tests.helpers import cells
from tests.helpers.cells import Case, compare_in_tf32
from tests.helpers.tolerances import relative_error


@pytest.fixture
def cudnn():
    """PyTorch's switches, as they were afterwards."""
    switches = torch.backends.cudnn
    before = switches.conv.fp32_precision
    yield switches
    switches.conv.fp32_precision = before


def test_either_switch(cudnn):
    for allowed in (False, True):
        cudnn.allow_tf32 = allowed
        assert allows_tf32() is allowed
        assert is_exact(torch.float32) is not allowed
        assert not is_exact(torch.bfloat16)


def test_products_have_a_switch_of_their_own(cudnn):
    cudnn.allow_tf32 = True
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    try:
        for allowed in (False, True):
            matmul.allow_tf32 = allowed
            assert allows_tf32_products() is allowed
            assert is_exact(torch.float32, product=True) is not allowed
            assert not is_exact(torch.float32)
    finally:
        matmul.fp32_precision = before


def test_switches_that_differ(cudnn):
    """The older one can then not be read."""
    cudnn.conv.fp32_precision = "ieee"
    with pytest.raises(RuntimeError):
        assert cudnn.allow_tf32
    assert not allows_tf32()
    cudnn.conv.fp32_precision = "tf32"
    assert allows_tf32()


def test_rounding():
    """Ten bits after the first; ties away from zero, infinities and NaN kept."""
    unit = 2.0**-10
    given = torch.tensor([1 + 0.49 * unit, 1 + 0.5 * unit, -1 - 1.5 * unit, -3.0, 0.0, torch.finfo().max, 1e-39])
    expected = torch.tensor([1.0, 1 + unit, -1 - 2 * unit, -3.0, 0.0, torch.inf, 1e-39])
    found = as_tf32(given)
    assert torch.equal(found[:6], expected[:6])
    assert abs(found[6] - expected[6]) <= 2.0**-137
    kept = torch.tensor([torch.inf, -torch.inf, torch.nan])
    kept.view(torch.int32)[2] = 0x7FFFFFFF
    assert torch.equal(as_tf32(kept).view(torch.int32), kept.view(torch.int32))


def test_what_is_compared_in_tf32(cudnn, monkeypatch):
    """An error of TF32's size passes, with lengths too; one of bfloat16's does not."""
    cudnn.allow_tf32 = True
    case = Case(channels=8, inputs=4, lengths=(4, 2), scale=0.1)
    rounded = cells.run_package

    def rounding(to):
        def run(subject, case, tensors, backend, recompute):
            tensors = {n: t + (to(t) - t).detach() for n, t in tensors.items()}
            return rounded(subject, case, tensors, "reference", recompute)

        return run

    monkeypatch.setattr(cells, "run_package", rounding(as_tf32))
    found, plain = compare_in_tf32("gru_before", case, "reference", "cpu")
    assert 1e-5 < relative_error(found["output"], plain["output"]) < 2.0**-11
    monkeypatch.setattr(cells, "run_package", rounding(lambda t: t.bfloat16().float()))
    with pytest.raises(AssertionError, match="relative error"):
        compare_in_tf32("gru_before", case, "reference", "cpu")
