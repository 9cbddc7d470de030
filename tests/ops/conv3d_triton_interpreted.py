"""Run by test_triton_interpreter.py with TRITON_INTERPRET=1: the Triton kernels of conv3d_relu_maxpool3d and
batch_norm_relu_maxpool3d against PyTorch's own operations in float64."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

import fastrcn
from fastrcn import backends
from fastrcn.ops import triton_support
from fastrcn.ops.conv3d_relu_maxpool3d import method, triton_conv3d
from fastrcn.ops.conv3d_relu_maxpool3d.geometry import Conv
from fastrcn.ops.conv_recurrent.triton_config import Config, use_config
from fastrcn.ops.relu_maxpool3d import triton_passes
from fastrcn.ops.relu_maxpool3d.geometry import CLOSED, Pool
from tests.helpers.conv3d import CASES, Case, backpropagate, compare_batch_norm, compare_conv, leaves, make_conv

SMALL = Config(16, 16, 16, 4, 1)
LOW = [torch.float16, torch.bfloat16]
ONE = (1, 1, 1)


@pytest.fixture(autouse=True)
def poisoned_memory():
    """Fresh memory reads as NaN, or as the largest integer."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("name", method.NAMES)
@pytest.mark.parametrize("case", CASES)
def test_conv(case, name):
    with method.use_method(name):
        found = compare_conv(CASES[case])
    last = bool(CASES[case].last) and found["output"].shape[1] > 1
    assert found["output"].is_contiguous(memory_format=torch.channels_last_3d if last else torch.contiguous_format)


MANY_TILES = {
    "inputs": Case(inputs=20, outputs=20, size=(2, 5, 6), kernel=(1, 1, 3), conv={}, window={"kernel_size": (1, 2, 2)}),
    "cells": Case(
        inputs=3, outputs=5, size=(3, 5, 5), kernel=ONE, conv={}, window={"kernel_size": 2, "ceil_mode": True}
    ),
}


@pytest.mark.parametrize("case", MANY_TILES)
def test_conv_of_many_tiles(case):
    """Masks of pixels, output channels and input channels at the ends of several tiles."""
    with method.use_method("fused"), use_config(SMALL):
        compare_conv(MANY_TILES[case])


@pytest.mark.parametrize("name", method.NAMES)
@pytest.mark.parametrize("dtype", LOW, ids=str)
def test_conv_in_low_precision(dtype, name):
    with method.use_method(name):
        compare_conv(Case(inputs=16, outputs=8, last="x weight"), dtype)
        compare_conv(CASES["no_window"], dtype)


BATCH_NORM = ["plain", "only_x_last", "window_1x2x2", "no_window", "no_window_no_relu", "no_relu", "ceil_mode"]
BATCH_NORM += ["overlapping", "dilated_window", "window_over_borders", "wide_window_stride", "one_frame", "one_channel"]


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("case", BATCH_NORM)
def test_batch_norm(case, training):
    for last in ("", "x"):
        compare_batch_norm(replace(CASES[case], last=last), training)


@pytest.mark.parametrize("dtype", LOW, ids=str)
def test_batch_norm_in_low_precision(dtype):
    compare_batch_norm(Case(last="x"), True, dtype)
    compare_batch_norm(CASES["overlapping"], False, dtype)


@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels_last"])
def test_passes_of_many_tiles(last, monkeypatch):
    """Several tiles and, in sums and statistics, several programs of several tiles each."""
    monkeypatch.setattr(triton_passes, "tile_of", lambda *_: (16, 4, 4))
    monkeypatch.setattr(triton_passes, "_CHUNKS", 6)
    compare_batch_norm(Case(inputs=6, size=(3, 5, 6), last="x" if last else ""), True)


def test_statistics_far_from_zero():
    """The variance of values a thousand times as far from zero as from each other, the first one farther still."""
    x = torch.randn(2, 3, 4, 5, 6) + 1000.0
    x[0, :, 0, 0, 0] = 1e5
    mean, var = triton_passes.statistics(x)
    torch.testing.assert_close(mean, x.double().mean((0, 2, 3, 4)).float(), rtol=1e-6, atol=0)
    torch.testing.assert_close(var, x.double().var((0, 2, 3, 4), unbiased=False).float(), rtol=1e-5, atol=0)


def integers(*shape):
    """Few values, so that windows have equal maxima and sums are exact."""
    return torch.randint(-2, 3, shape).float()


@pytest.mark.filterwarnings("ignore:invalid value encountered in matmul:RuntimeWarning")  # NumPy's, of NaN
@pytest.mark.parametrize("name", method.NAMES)
@pytest.mark.parametrize("relu", [True, False])
def test_ties_and_nans_as_pytorch(name, relu):
    """The index of the first of equal maxima, of the last NaN, and 255 where the ReLU is closed."""
    x, weight, conv = integers(1, 2, 4, 4, 6), integers(3, 2, 1, 1, 1), Conv(ONE, (0, 0, 0), ONE, 1)
    x[0, 0, 0, 0, 0] = x[0, 1, 1, 1, 1] = x[0, 0, 3, 2, 5] = float("nan")
    x[0, :, :2, 2:, 2:4] = float("-inf")
    y = F.conv3d(x, weight)
    for pool in (Pool.of(2), Pool.of((1, 2, 2)), Pool.of(3, 2, 1)):
        with method.use_method(name):
            out, index = triton_conv3d.forward(x, weight, None, conv, relu, pool, True)
        best, where = F.max_pool3d(y, *pool, return_indices=True)
        expected = torch.relu(best) if relu else best
        torch.testing.assert_close(out, expected, rtol=0, atol=0, equal_nan=True)
        cell = torch.zeros_like(where)
        for axis, pixels in enumerate((y.shape[3] * y.shape[4], y.shape[4], 1)):
            at = where // pixels % y.shape[2 + axis]
            starts = torch.arange(at.shape[2 + axis]) * pool.stride[axis] - pool.padding[axis]
            starts = starts.view([-1 if d == 2 + axis else 1 for d in range(5)])
            cell = cell * pool.kernel[axis] + at - starts
        cell = torch.where(expected <= 0, CLOSED, cell) if relu else cell
        assert torch.equal(index.long(), cell)


@pytest.mark.parametrize("name", method.NAMES)
def test_gradients_of_ties_as_pytorch(name):
    case = Case(kernel=(1, 3, 3), conv={"padding": (0, 1, 1)}, bias=False)
    tensors = {n: integers(*t.shape) for n, t in make_conv(case).items()}
    found = []
    for dtype in (torch.float32, torch.float64):
        named = leaves(tensors, dtype)
        if dtype == torch.float32:
            with method.use_method(name):
                y = fastrcn.functional.conv3d_relu_maxpool3d(**named, **case.conv, pool_kernel_size=2, backend="triton")
        else:
            y = case.pool(F.conv3d(**named, **case.conv))
        found.append(backpropagate(y, named, torch.arange(y.numel()).view(y.shape) % 7 - 3.0))
    for part, value in found[1].items():
        torch.testing.assert_close(found[0][part].double(), value, rtol=0, atol=0, msg=part)


def test_nan_passes_batch_norm():
    """A NaN keeps its window, and the gradient goes to it."""
    x, scale, shift = torch.randn(2, 3, 4, 4, 4), torch.tensor([1.0, 2.0, -1.0]), torch.zeros(3)
    x[0, 1, 1, 2, 3] = float("nan")
    out, index = triton_passes.forward(x, scale, shift, True, Pool.of(2), True)
    assert out.isnan().sum() == 1
    assert index[0, 1, 0, 1, 1] == 5
    dx = triton_passes.backward(torch.ones_like(out), index, (4, 4, 4), Pool.of(2), False)
    assert dx[0, 1, 1, 2, 3] == 1


def test_only_the_weight_or_only_x_is_differentiated():
    """The method chosen by shape: without the weight's gradient the tensor before pooling is not there."""
    case = Case(bias=False)
    tensors = make_conv(case)
    for wanted in ("input", "weight"):
        both = []
        for dtype, backend in ((torch.float32, "triton"), (torch.float64, "reference")):
            named = {n: t.to(dtype).requires_grad_(n == wanted) for n, t in tensors.items()}
            y = fastrcn.functional.conv3d_relu_maxpool3d(**named, **case.conv, pool_kernel_size=2, backend=backend)
            both.append(torch.autograd.grad(y.square().sum(), named[wanted])[0])
            named[wanted].requires_grad_(False)
        torch.testing.assert_close(both[0].double(), both[1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", method.NAMES)
def test_empty_batch(name):
    case = Case(batch=0)
    with method.use_method(name):
        named = leaves(make_conv(case), torch.float32)
        y = fastrcn.functional.conv3d_relu_maxpool3d(**named, **case.conv, pool_kernel_size=2, backend="triton")
        found = backpropagate(y, named, torch.zeros_like(y))
    assert found["output"].shape == (0, 7, 2, 3, 2)
    assert not found["dweight"].any()
    assert not found["dbias"].any()


@pytest.mark.parametrize("name", method.NAMES)
def test_opcheck(name):
    case, pool = Case(kernel=(1, 1, 3), last="weight"), Pool.of(2)
    tensors = make_conv(case)
    options = [list(ONE), [0, 0, 1], list(ONE), 1, True, pool.numbers(), False]
    with method.use_method(name):
        forward = torch.ops.fastrcn.conv3d_relu_maxpool3d_fwd.default
        torch.library.opcheck(forward, ("triton", *tensors.values(), *options, True))
        out, index = forward("triton", *tensors.values(), *options, True)
        backward = torch.ops.fastrcn.conv3d_relu_maxpool3d_bwd.default
        arguments = ("triton", torch.randn_like(out), *tensors.values(), index, *options, [True] * 3)
        torch.library.opcheck(backward, arguments)


def test_too_many_pixels(monkeypatch):
    monkeypatch.setattr(triton_support, "MOST_PIXELS", 100)
    for name in method.NAMES:
        with method.use_method(name), pytest.raises(ValueError, match="at most 100 pixels"):
            compare_conv(Case())


@pytest.mark.parametrize("operation", ["conv3d_relu_maxpool3d", "batch_norm_relu_maxpool3d"])
def test_can_run_says_why_not(operation, monkeypatch):
    def can_run(pool, dtype, device):
        what = (Conv(ONE, ONE, ONE, 1), True, pool) if operation.startswith("conv") else (True, pool)
        return backends.can_run(operation, "triton", what, dtype, device)

    assert can_run(Pool.of(2), torch.bfloat16, "cpu")[0]
    assert can_run(Pool.of(2), torch.float16, "cuda")[0]
    for pool, dtype, device, word in (
        (Pool.of(2), torch.float64, "cuda", "float64"),
        (Pool.of((4, 8, 8)), torch.float32, "cuda", "255 cells"),
        (Pool.of(2), torch.float32, "mps", "mps"),
    ):
        ok, reason = can_run(pool, dtype, device)
        assert not ok
        assert word in reason
    monkeypatch.delenv("TRITON_INTERPRET")
    assert "TRITON_INTERPRET=1" in can_run(Pool.of(2), torch.float32, "cpu")[1]


def test_named_backend_runs_and_is_not_chosen_by_itself():
    x, weight = torch.randn(1, 4, 2, 4, 4), torch.randn(3, 4, 1, 1, 1)
    with fastrcn.use_backend("triton"):
        y = fastrcn.functional.conv3d_relu_maxpool3d(x, weight, pool_kernel_size=2)
    torch.testing.assert_close(y, F.max_pool3d(F.conv3d(x, weight).relu(), 2))
    what = (Conv(ONE, ONE, ONE, 1), True, Pool.of(2))
    assert backends.select("conv3d_relu_maxpool3d", what, torch.float32, "cpu") != "triton"
    with pytest.raises(RuntimeError, match="float64"), fastrcn.use_backend("triton"):
        fastrcn.functional.conv3d_relu_maxpool3d(x.double(), weight.double())
