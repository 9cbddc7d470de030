"""The Triton backend of conv3d_relu_maxpool3d and batch_norm_relu_maxpool3d on a GPU: every case and data type, both
methods, both layouts, repeatability, capture in a CUDA graph."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from fastrcn.functional import batch_norm_relu_maxpool3d, conv3d_relu_maxpool3d
from fastrcn.ops.conv3d_relu_maxpool3d import method, triton_conv3d
from fastrcn.ops.conv3d_relu_maxpool3d.geometry import Conv
from fastrcn.ops.relu_maxpool3d import triton_passes
from fastrcn.ops.relu_maxpool3d.geometry import Pool
from fastrcn.ops.relu_maxpool3d.layout import is_last
from tests.helpers.conv3d import CASES, Case, compare_batch_norm, compare_conv, fused_conv, make_conv, plain_conv
from tests.helpers.cuda_graph import captured
from tests.helpers.tolerances import assert_close

pytestmark = [pytest.mark.gpu, pytest.mark.triton]

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
LARGE = Case(batch=3, inputs=40, outputs=72, size=(7, 23, 31), last="x weight", coarse=True)
WINDOWS = {
    "1x1x1": None,
    "1x2x2": {"kernel_size": (1, 2, 2)},
    "2x2x2": {"kernel_size": 2, "ceil_mode": True},
    "overlapping": {"kernel_size": 3, "stride": 2, "padding": 1},
}


@pytest.fixture(autouse=True)
def exact_float32(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@pytest.mark.parametrize("name", method.NAMES)
@pytest.mark.parametrize("case", CASES)
def test_conv(case, name):
    with method.use_method(name):
        compare_conv(CASES[case], device="cuda")


@pytest.mark.sanitizer
@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_small(dtype, window):
    """Of more than one tile, in pixels and in channels, the last of them not full."""
    case = Case(batch=1, inputs=20, outputs=40, size=(4, 9, 11), window=WINDOWS[window], last="x weight", coarse=True)
    for name in method.NAMES:
        with method.use_method(name):
            compare_conv(case, dtype, "cuda")
    compare_batch_norm(case, True, dtype, "cuda")


@pytest.mark.sanitizer
@pytest.mark.parametrize("window", WINDOWS)
def test_small_in_tf32(window, monkeypatch):
    """In these numbers nothing is rounded."""
    case = Case(batch=1, inputs=20, outputs=40, size=(4, 9, 11), window=WINDOWS[window], coarse=True)
    tensors = make_conv(case)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    with method.use_method("fused"):
        found = fused_conv(case, {n: t.cuda() for n, t in tensors.items()}, "triton")
    assert_close(found.cpu(), plain_conv(case, {n: t.double() for n, t in tensors.items()}))


@pytest.mark.parametrize("name", method.NAMES)
@pytest.mark.parametrize("last", ["", "x weight"], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_large_conv(dtype, window, last, name):
    with method.use_method(name):
        compare_conv(replace(LARGE, window=WINDOWS[window], last=last), dtype, "cuda")


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("last", ["", "x"], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_batch_norm(dtype, window, last, training):
    for case in (Case(), LARGE):
        compare_batch_norm(replace(case, window=WINDOWS[window], last=last), training, dtype, "cuda")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_run_is_the_same(dtype):
    for name in method.NAMES:
        with method.use_method(name):
            first, second = (run_fixed(dtype) for _ in range(2))
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def run_fixed(dtype):
    """The fused convolution's results and the sums of batch normalisation, of fixed tensors."""
    torch.manual_seed(1)
    tensors = {n: t.cuda() for n, t in make_conv(LARGE, dtype).items()}
    conv, pool = Conv((1, 1, 1), (1, 1, 1), (1, 1, 1), 1), Pool.of(2)
    out, index = triton_conv3d.forward(*tensors.values(), conv, True, pool, True)
    x, weight = tensors["input"], tensors["weight"]
    dx, _, dbias = triton_conv3d.backward(out, x, weight, index, conv, pool, [True, False, True])
    pooled, chosen = triton_passes.forward(x, None, None, True, pool, True)
    mean, var = triton_passes.statistics(x)
    return [
        out,
        index,
        dx,
        dbias,
        mean,
        var,
        *triton_passes.sums(pooled, chosen, x.shape[2:], pool, is_last(x), x, mean),
    ]


@pytest.mark.parametrize("name", method.NAMES)
def test_nan_and_ties_as_pytorch(name):
    x, weight = (torch.randint(-2, 3, s, device="cuda").float() for s in ((2, 16, 4, 8, 8), (16, 16, 1, 1, 1)))
    x[0, 3, 1, 2, 3] = float("nan")
    with method.use_method(name):
        found = conv3d_relu_maxpool3d(x, weight, pool_kernel_size=2, backend="triton")
    expected = F.max_pool3d(F.conv3d(x, weight).relu(), 2)
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)


def test_tf32_follows_pytorch(monkeypatch):
    """Allowed, products are rounded to ten bits as PyTorch's own are; the error says so."""
    tensors = {n: t.cuda() for n, t in make_conv(replace(LARGE, coarse=False)).items()}

    def run():
        with method.use_method("fused"):
            return conv3d_relu_maxpool3d(**tensors, padding=1, pool_kernel_size=2, backend="triton")

    exact = run()
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    rounded = run()
    assert 1e-6 < float((rounded - exact).norm() / exact.norm()) < 5e-3


def test_more_elements_than_32_bits_count():
    """The last values of a tensor of 2^31 elements and more."""
    x = torch.zeros(1, 64, 33, 1024, 1024, dtype=torch.bfloat16, device="cuda")
    x = x.contiguous(memory_format=torch.channels_last_3d)
    x[0, -1, -1, -1, -1] = 2
    out, index = triton_passes.forward(x, None, None, True, Pool.of((1, 2, 2)), True)
    assert float(out[0, -1, -1, -1, -1]) == 2
    assert int(index[0, -1, -1, -1, -1]) == 3
    dx = triton_passes.backward(out, index, x.shape[2:], Pool.of((1, 2, 2)), True)
    assert torch.equal(dx[0, -1, -1], x[0, -1, -1])
    assert not dx[0, 0].any()


@pytest.mark.parametrize("name", method.NAMES)
def test_training_step_in_a_cuda_graph(name):
    """Nothing in the operators waits for the GPU, so a whole step can be captured and replayed on new data."""
    weight = torch.randn(24, 16, 3, 3, 3, device="cuda", requires_grad=True)
    bias, scale, shift = (torch.randn(24, device="cuda", requires_grad=True) for _ in range(3))
    x, other = torch.randn(2, 2, 16, 6, 17, 18, device="cuda")

    def step(x):
        with method.use_method(name):
            y = conv3d_relu_maxpool3d(x, weight, bias, padding=1, pool_kernel_size=(1, 2, 2), backend="triton")
            y = batch_norm_relu_maxpool3d(
                y, None, None, scale, shift, training=True, pool_kernel_size=2, backend="triton"
            )
            return [y.detach(), *torch.autograd.grad(y.square().sum(), [weight, bias, scale, shift])]

    expected = [t.clone() for t in step(other)]
    graph, found = captured(lambda: step(x))
    x.copy_(other)
    graph.replay()
    for a, b in zip(found, expected, strict=True):
        assert_close(a, b)
