"""The CUDA kernels of the pooling passes, run on the host thread after thread, against PyTorch in float64.

Values are small whole numbers, exact in every type, and often equal: nothing here has a tolerance but the statistics.
"""

import itertools

import pytest
import torch

from fastrcn.ops.relu_maxpool3d.geometry import CLOSED, Pool
from tests.helpers.tolerances import RELATIVE
from tests.ops import cuda_on_host
from tests.ops.cuda_on_host import BACKWARD, FORWARD, STATISTICS, SUMS, Request

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
OPEN, INDEX, VALUE = range(3)
POOLS = [
    Pool.of(),
    Pool.of(1, 2),
    Pool.of((1, 2, 2)),
    Pool.of(2),
    Pool.of(2, ceil_mode=True),
    Pool.of(2, padding=1),
    Pool.of((3, 2, 2)),
    Pool.of((2, 1, 1)),
    Pool.of((1, 2, 2), 1),
    Pool.of((1, 3, 3), (1, 2, 2), (0, 1, 1)),
    Pool.of(3, 2, 1),
    Pool.of(3, 2, ceil_mode=True),
    Pool.of(3, 1, 1, 2),
    Pool.of((2, 3, 4), (1, 2, 3), (1, 1, 2), (2, 1, 2)),
    Pool.of((5, 6, 8), 3, (2, 3, 4)),
]
# The last two have neither whole vectors of channels nor of columns.
SHAPES = [(2, 16, 5, 6, 16), (1, 24, 5, 7, 8), (2, 3, 5, 6, 7), (1, 5, 6, 8, 9)]


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    if cuda_on_host.compiler() is None:
        pytest.skip("no C++ compiler (tried CXX, g++, clang++, c++)")
    return cuda_on_host.build(tmp_path_factory.mktemp("cuda_on_host"))


def whole(*shape, most=4):
    return torch.randint(-most, most + 1, shape).double()


def coefficients(channels):
    """Powers of two of both signs."""
    return 2.0 ** torch.randint(-1, 2, (channels,)) * (2 * torch.randint(2, (channels,)) - 1).double()


def accumulate(dtype):
    return torch.float64 if dtype == torch.float64 else torch.float32


def fits(pool, shape):
    return all(n >= 1 for n in pool.output_size(shape[2:]))


def cells(pool, shape):
    """For each window and cell its place in a map, flat, (cells,D',H',W'); -1 outside."""
    lines = []
    for axis in range(3):
        k, s, p, d, _ = (part if isinstance(part, bool) else part[axis] for part in pool)
        at = torch.arange(pool.output_size(shape[2:])[axis]) * s - p + d * torch.arange(k)[:, None]
        lines.append(torch.where((at >= 0) & (at < shape[2 + axis]), at, -1))
    a, b, c = lines[0][:, None, None, :, None, None], lines[1][:, None, :, None], lines[2]
    b, c = b[None, :, :, None, :, :].reshape(1, b.shape[0], 1, 1, -1, 1), c[None, None, :, None, None, :]
    flat = (a * shape[3] + b) * shape[4] + c
    return torch.where((a < 0) | (b < 0) | (c < 0), -1, flat).flatten(0, 2)


def pool_truth(y, pool, relu):
    """(pooled, number of each window's cell)."""
    pooled, flat = torch.nn.functional.max_pool3d(y, *pool, return_indices=True)
    number = (cells(pool, y.shape) == flat.unsqueeze(2)).to(torch.uint8).argmax(2)
    if relu:
        number = torch.where(pooled <= 0, CLOSED, number)
        pooled = torch.where(pooled <= 0, torch.zeros_like(pooled), pooled)
    return pooled, number.to(torch.uint8)


def places(number, pool, shape):
    """(where each window's gradient goes, flat; whether anywhere)."""
    flat = cells(pool, shape).expand(*shape[:2], -1, -1, -1, -1)
    index = number.long().unsqueeze(2)
    found = flat.gather(2, index.clamp(max=flat.shape[2] - 1)).squeeze(2)
    return found, (index != CLOSED).squeeze(2)


def per_channel(values):
    return values.view(1, -1, 1, 1, 1)


def same(found, truth):
    torch.testing.assert_close(found, truth.to(found.dtype), rtol=0, atol=0, equal_nan=True)


def layouts(dtype):
    """(pool, shape, channels-last, elements off alignment)."""
    for (k, pool), shape, last in itertools.product(enumerate(POOLS), SHAPES, (False, True)):
        if fits(pool, shape):
            yield pool, shape, last, int(k % 5 == 4) and int(dtype.itemsize < 8)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_forward(program, tmp_path, dtype):
    requests, truths = [], []
    for n, (pool, shape, last, skip) in enumerate(layouts(dtype)):
        x, relu = whole(*shape), n % 3 != 2
        if n % 2:
            x.view(-1)[torch.randint(x.numel(), (x.numel() // 9,))] = torch.nan
            x.view(-1)[torch.randint(x.numel(), (x.numel() // 4,))] = -torch.inf
        scale, shift = (None, None) if n % 5 == 0 else (coefficients(shape[1]), whole(shape[1]))
        y = x if scale is None else x * per_channel(scale) + per_channel(shift)
        truths.append(pool_truth(y, pool, relu))
        pooled = truths[-1][0].shape
        buffers = {"maps": x.to(dtype), "pooled": torch.full(pooled, torch.nan, dtype=dtype)}
        if n % 7:
            buffers["index"] = torch.full(pooled, 77, dtype=torch.uint8)
        if scale is not None:
            buffers |= {"scale": scale.to(accumulate(dtype)), "shift": shift.to(accumulate(dtype))}
        requests.append(Request(FORWARD, dtype, shape, pool, last, buffers, relu, skip=skip))
    found = cuda_on_host.run(program, tmp_path, requests)
    for result, (pooled, index) in zip(found, truths, strict=True):
        same(result["pooled"], pooled)
        if "index" in result:
            same(result["index"], index)


def gated(pool, shape, dtype, relu):
    """(grad, gate's kind, gate or None, number of each window's cell)."""
    pooled, number = pool_truth(whole(*shape), pool, relu)
    kind = INDEX if pool.cells > 1 else VALUE if relu else OPEN
    if kind == VALUE:
        pooled.view(-1)[0] = torch.nan  # which a ReLU lets through
        number.view(-1)[0] = 0
    gate = None if kind == OPEN else number if kind == INDEX else pooled.to(dtype)
    return whole(*pooled.shape), kind, gate, number


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_backward(program, tmp_path, dtype):
    requests, truths = [], []
    for n, (pool, shape, last, skip) in enumerate(layouts(dtype)):
        grad, kind, gate, number = gated(pool, shape, dtype, n % 3 != 2)
        at, passes = places(number, pool, shape)
        passing = torch.where(passes, grad, 0.0)
        truth = torch.zeros(*shape[:2], shape[2] * shape[3] * shape[4], dtype=torch.float64)
        truth = truth.scatter_add(2, torch.where(passes, at, 0).flatten(2), passing.flatten(2)).view(shape)
        buffers = {"maps": torch.full(shape, torch.nan, dtype=dtype), "pooled": grad.to(dtype), "index": gate}
        if n % 4:
            buffers["scale"] = coefficients(shape[1])
            truth = truth * per_channel(buffers["scale"])
        if n % 2:
            x = whole(*shape)
            named = {name: coefficients(shape[1]) for name in ("center", "slope", "offset")}
            truth += per_channel(named["slope"]) * (x - per_channel(named["center"])) + per_channel(named["offset"])
            buffers |= {"x": x.to(dtype)} | named
        for name in ("scale", "center", "slope", "offset"):
            if name in buffers:
                buffers[name] = buffers[name].to(accumulate(dtype))
        truths.append(truth)
        requests.append(Request(BACKWARD, dtype, shape, pool, last, buffers, gate=kind, skip=skip))
    for result, truth in zip(cuda_on_host.run(program, tmp_path, requests), truths, strict=True):
        same(result["maps"], truth.to(dtype))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_sums(program, tmp_path, dtype):
    requests, truths = [], []
    for n, (pool, shape, last, skip) in enumerate(layouts(dtype)):
        grad, kind, gate, number = gated(pool, shape, dtype, n % 3 != 2)
        at, passes = places(number, pool, shape)
        passing = torch.where(passes, grad, 0.0)
        buffers = {"pooled": grad.to(dtype), "index": gate}
        weighted = torch.zeros(shape[1], dtype=torch.float64)
        if n % 2:
            x, center = whole(*shape), whole(shape[1])
            chosen = x.flatten(2).gather(2, torch.where(passes, at, 0).flatten(2)).view(at.shape) - per_channel(center)
            weighted = (passing * chosen).sum((0, 2, 3, 4))
            # Where nothing passes, not even infinity counts.
            missed = torch.ones(*shape[:2], shape[2] * shape[3] * shape[4], dtype=torch.bool)
            used = torch.where(passing != 0, at, 0).flatten(2)
            missed = missed.scatter(2, used, False).view(shape)
            buffers |= {"x": torch.where(missed, torch.inf, x).to(dtype), "center": center.to(accumulate(dtype))}
        truths.append(torch.stack([passing.sum((0, 2, 3, 4)), weighted]))
        requests.append(Request(SUMS, dtype, shape, pool, last, buffers, gate=kind, skip=skip))
    for result, truth in zip(cuda_on_host.run(program, tmp_path, requests), truths, strict=True):
        same(result["totals"], truth)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_statistics(program, tmp_path, dtype):
    """A large mean, and a first value far from it, cost no accuracy."""
    shapes = [*SHAPES, (3, 20, 2, 9, 8), (2, 130, 1, 4, 8)]
    cases = [*itertools.product(shapes, (False, True)), ((1, 8, 4, 40, 64), True), ((2, 1, 9, 40, 64), False)]
    requests, truths = [], []
    for n, (shape, last) in enumerate(cases):
        x = (torch.randn(shape, dtype=torch.float64) + 100 * (n % 3)).to(dtype)
        x[0, :, 0, 0, 0] += 50 * (n % 2)
        center = x[0, :, 0, 0, 0].to(accumulate(dtype))
        requests.append(
            Request(STATISTICS, dtype, shape, Pool(), last, {"x": x, "center": center}, skip=int(n % 5 == 4))
        )
        truths.append((x.double(), center.double()))
    for result, (x, center) in zip(cuda_on_host.run(program, tmp_path, requests), truths, strict=True):
        mean, square = result["totals"] / (x.numel() // x.shape[1])
        var, exact = torch.var_mean(x, (0, 2, 3, 4), correction=0)
        tolerance = RELATIVE[accumulate(dtype)]
        torch.testing.assert_close(mean + center, exact, rtol=tolerance, atol=tolerance)
        torch.testing.assert_close(square - mean * mean, var, rtol=tolerance, atol=0)


def test_no_images(program, tmp_path):
    shape, pool = (0, 4, 4, 4, 8), Pool.of(2)
    pooled = torch.empty(0, 4, 2, 2, 4)
    buffers = {"pooled": pooled, "index": pooled.byte()}
    requests = [
        Request(FORWARD, torch.float32, shape, pool, False, {"maps": torch.empty(shape), **buffers}),
        Request(SUMS, torch.float32, shape, pool, True, buffers, gate=INDEX),
    ]
    assert not any(r["totals"].any() for r in cuda_on_host.run(program, tmp_path, requests))
