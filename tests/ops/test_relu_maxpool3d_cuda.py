"""The ``cuda`` backend of conv3d and batch norm with ReLU and max-pooling.

On a GPU against the plain form. Without one, its Python with the CPU's passes in place of the kernels, which are
called alike; the kernels themselves run in ``test_relu_maxpool3d_on_host``.
"""

import ctypes
from types import SimpleNamespace

import pytest
import torch

from fastrcn import backends, native
from fastrcn.functional import batch_norm_relu_maxpool3d, conv3d_relu_maxpool3d
from fastrcn.ops.batch_norm_relu_maxpool3d import operators as batch_norm
from fastrcn.ops.conv3d_relu_maxpool3d import operators as conv3d
from fastrcn.ops.conv3d_relu_maxpool3d.geometry import Conv
from fastrcn.ops.relu_maxpool3d import cuda as passes
from fastrcn.ops.relu_maxpool3d.geometry import Pool
from tests.helpers.cuda_graph import captured
from tests.helpers.tolerances import assert_close

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
POOLS = {
    "none": {},
    "1x2x2": {"pool_kernel_size": (1, 2, 2)},
    "2": {"pool_kernel_size": 2, "ceil_mode": True},
    "3/2": {"pool_kernel_size": 3, "pool_stride": 2, "pool_padding": 1},
    "dilated": {"pool_kernel_size": (2, 3, 2), "pool_stride": (1, 2, 3), "pool_padding": 1, "pool_dilation": (1, 2, 2)},
}
LAYOUTS = [torch.contiguous_format, torch.channels_last_3d]
SMALL = (2, 8, 5, 7, 9)


def conv3d_tensors(dtype, layout, device, shape=SMALL, outputs=16):
    x = torch.randn(shape, dtype=torch.float64).to(dtype).to(memory_format=layout)
    weight = (0.2 * torch.randn(outputs, shape[1], 3, 3, 3)).to(dtype)
    return [t.to(device) for t in (x, weight, torch.randn(outputs).to(dtype))]


def batch_norm_tensors(dtype, layout, device, shape=SMALL):
    x = (3 + torch.randn(shape, dtype=torch.float64)).to(dtype).to(memory_format=layout)
    return [t.to(device) for t in (x, torch.randn(shape[1]).to(dtype), torch.randn(shape[1]).to(dtype))]


def run_conv3d(tensors, options, backend):
    return conv3d_relu_maxpool3d(*tensors, padding=1, **options, backend=backend)


def run_batch_norm(tensors, options, backend):
    x, weight, bias = tensors
    return batch_norm_relu_maxpool3d(x, None, None, weight, bias, training=True, **options, backend=backend)


OPERATIONS = {"conv3d": (conv3d_tensors, run_conv3d), "batch_norm": (batch_norm_tensors, run_batch_norm)}


def with_gradients(run, tensors, options, backend):
    leaves = [t.detach().clone(memory_format=torch.preserve_format).requires_grad_() for t in tensors]
    output = run(leaves, options, backend)
    grad = torch.sin(torch.arange(output.numel(), device=output.device, dtype=torch.float64))
    return [output.detach(), *torch.autograd.grad(output, leaves, grad.view(output.shape).to(output.dtype))]


@pytest.fixture(autouse=True)
def exact_float32(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@pytest.mark.gpu
@pytest.mark.sanitizer
@pytest.mark.parametrize("layout", LAYOUTS, ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_on_the_gpu(operation, pool, dtype, layout):
    make, run = OPERATIONS[operation]
    tensors, options = make(dtype, layout, "cuda"), POOLS[pool]
    found = with_gradients(run, tensors, options, "cuda")
    truth = with_gradients(run, [t.double() for t in tensors], options, "reference")
    plain = with_gradients(run, tensors, options, "reference")
    assert found[0].stride() == plain[0].stride()
    for name, one, exact, rough in zip(("output", "dx", "dweight", "dbias"), found, truth, plain, strict=True):
        assert_close(one, exact, name, dtype, rough)


@pytest.mark.gpu
@pytest.mark.parametrize("operation", OPERATIONS)
def test_large_maps(operation):
    """More blocks than a GPU runs at once, in both layouts."""
    make, run = OPERATIONS[operation]
    for layout in LAYOUTS:
        tensors = make(torch.bfloat16, layout, "cuda", (4, 64, 8, 96, 96))
        for pool in ("1x2x2", "3/2"):
            found, plain = (with_gradients(run, tensors, POOLS[pool], name) for name in ("cuda", "reference"))
            truth = with_gradients(run, [t.float() for t in tensors], POOLS[pool], "reference")
            for one, exact, rough in zip(found, truth, plain, strict=True):
                assert_close(one, exact, f"{layout} {pool}", torch.bfloat16, rough)


@pytest.mark.gpu
@pytest.mark.parametrize("layout", LAYOUTS, ids=["contiguous", "channels_last"])
def test_every_run_gives_the_same_bits(layout):
    """Of batch norm, whose kernels are all this package's."""
    tensors = batch_norm_tensors(torch.bfloat16, layout, "cuda", (4, 32, 8, 32, 32))
    first = with_gradients(run_batch_norm, tensors, POOLS["3/2"], "cuda")
    for _ in range(5):
        again = with_gradients(run_batch_norm, tensors, POOLS["3/2"], "cuda")
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


@pytest.mark.gpu
@pytest.mark.parametrize("operation", OPERATIONS)
def test_captured_in_a_graph(operation):
    make, run = OPERATIONS[operation]
    tensors = [t.requires_grad_() for t in make(torch.float32, torch.channels_last_3d, "cuda")]

    def step():
        output = run(tensors, POOLS["2"], "cuda")
        return [output.detach(), *torch.autograd.grad(output.sum(), tensors)]

    graph, outputs = captured(step)
    with torch.no_grad():
        tensors[0].copy_(torch.randn_like(tensors[0]))
    graph.replay()
    for found, truth in zip(outputs, step(), strict=True):
        assert_close(found, truth.double())


def on_cpu(name, device, *arguments):
    """What ``passes._launch`` does, with the CPU's pass of the same name."""
    arguments = list(arguments)
    if name == "cuda_pool_statistics":
        return centred_sums(*arguments)
    if name == "cuda_pool_sums":
        del arguments[-2]  # the partial sums
    run = getattr(native.module(), name.removeprefix("cuda_"))
    return run(native.isa(), *arguments, torch.get_num_threads())


def centred_sums(number, shape, last, x, center, partials, totals):
    """Sums of x - center and of its square, of doubles: what the CUDA kernel gives."""
    n, c, *size = shape
    mean, var = (torch.empty(c, dtype=torch.float64) for _ in range(2))
    native.module().pool_statistics(native.isa(), number, shape, last, x, mean.data_ptr(), var.data_ptr(), 1)
    away = mean - torch.tensor((ctypes.c_double * c).from_address(center)[:], dtype=torch.float64)
    sums = n * size[0] * size[1] * size[2] * torch.cat([away, var + away.square()])
    (ctypes.c_double * (2 * c)).from_address(totals)[:] = sums.tolist()


@pytest.fixture
def kernels_on_cpu(monkeypatch):
    if not hasattr(native.module(), "cuda_pool_forward"):
        pytest.skip(passes.can_run(Pool(), torch.float32, "cuda")[1])
    monkeypatch.setattr(passes, "_launch", on_cpu)


@pytest.mark.parametrize("layout", LAYOUTS, ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.usefixtures("kernels_on_cpu")
def test_conv3d_python(pool, layout):
    """Results, gradients and layouts against the ``cpu`` backend."""
    tensors = conv3d_tensors(torch.float64, layout, "cpu")
    options = {name.removeprefix("pool_"): value for name, value in POOLS[pool].items()}
    window = Pool.of(**options)
    conv = Conv((1, 1, 1), (1, 1, 1), (1, 1, 1), 1)
    rest = (*conv, True, window.numbers(), window.ceil_mode)
    found, truth = (conv3d.forward(name, *tensors, *rest, True) for name in ("cuda", "cpu"))
    grad = torch.randn_like(truth[0])
    gate = truth[-1]
    gradients = [conv3d.backward(name, grad, *tensors, gate, *rest, [True] * 3) for name in ("cuda", "cpu")]
    for one, exact in zip([*found, *gradients[0]], [*truth, *gradients[1]], strict=True):
        assert one.stride() == exact.stride()
        assert_close(one.double(), exact.double())


@pytest.mark.parametrize("layout", LAYOUTS, ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.usefixtures("kernels_on_cpu")
def test_batch_norm_python(pool, training, layout):
    """Results, gradients and layouts against the ``cpu`` backend."""
    tensors = batch_norm_tensors(torch.float64, layout, "cpu")
    options = {name.removeprefix("pool_"): value for name, value in POOLS[pool].items()}
    window = Pool.of(**options)
    rest = (training, 1e-5, True, window.numbers(), window.ceil_mode)
    given = (None, None) if training else (torch.randn(8).double(), torch.rand(8).double())
    found, truth = (batch_norm.forward(name, *tensors, *given, *rest, True) for name in ("cuda", "cpu"))
    mean, var = truth[1:3] if training else given
    grad, gate = torch.randn_like(truth[0]), truth[-1] if window.cells > 1 else truth[0]
    gradients = [
        batch_norm.backward(name, grad, *tensors, mean, var, gate, *rest, [True] * 3) for name in ("cuda", "cpu")
    ]
    for one, exact in zip([*found, *gradients[0]], [*truth, *gradients[1]], strict=True):
        assert one.stride() == exact.stride()
        assert_close(one.double(), exact.double())


def test_reasons(monkeypatch):
    """Every reason not to run names what is missing."""
    what = (Conv((1, 1, 1), (0, 0, 0), (1, 1, 1), 1), True, Pool.of(7))

    def reason(what, dtype, device):
        ok, text = backends.can_run("conv3d_relu_maxpool3d", "cuda", what, dtype, device)
        assert not ok
        return text

    assert "runs on cuda tensors, these are on cpu" in reason(what, torch.float32, "cpu")
    with monkeypatch.context() as patch:
        patch.setattr(native, "module", lambda: None)
        patch.setattr(native, "missing_reason", lambda: "it was not built")
        assert reason(what, torch.float32, "cuda") == "it was not built"
    with monkeypatch.context() as patch:
        patch.setattr(native, "module", lambda: SimpleNamespace(build_info='{"without_cuda": "no nvcc"}'))
        assert reason(what, torch.float32, "cuda") == "the extension was built without CUDA: no nvcc"
    with monkeypatch.context() as patch:
        patch.setattr(native, "module", lambda: SimpleNamespace(cuda_pool_forward=None))
        assert "these are int32" in reason(what, torch.int32, "cuda")
        assert "255 cells at most, this one has 343" in reason(what, torch.float32, "cuda")
        batch = backends.can_run("batch_norm_relu_maxpool3d", "cuda", (True, Pool.of(2)), torch.float16, "cuda")
        assert batch == (True, "scale, ReLU and pooling in one CUDA kernel")
