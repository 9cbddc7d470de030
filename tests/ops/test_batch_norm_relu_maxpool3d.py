"""batch_norm_relu_maxpool3d against PyTorch's own functions, values and gradients, and under its transformations."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

from fastrcn import native
from fastrcn.functional import batch_norm_relu_maxpool3d
from tests.helpers.pooled import (
    BACKENDS,
    DTYPES,
    ISAS,
    WINDOWS,
    assert_same,
    compare,
    gradients,
    leaves,
    options,
    plain_tail,
    saved_bytes,
)
from tests.helpers.tolerances import assert_close, relative_error

pytestmark = pytest.mark.usefixtures("one_thread")

SIZES = {"odd": (2, 5, 5, 7, 9), "clip": (1, 19, 4, 8, 6), "block": (2, 16, 4, 6, 7), "one_channel": (3, 1, 4, 6, 5)}


def make(name="odd", affine=True):
    x = 2 * torch.randn(*SIZES[name], dtype=torch.float64) + 0.5
    c = x.shape[1]
    return [x, *(torch.randn(2, c, dtype=torch.float64).unbind() if affine else (None, None))]


def functions(window, training=True, relu=True, backend="cpu", channels=5, eps=1e-5):
    generator = torch.Generator().manual_seed(3)
    mean, var = torch.randn(channels, generator=generator), torch.rand(channels, generator=generator) + 0.5

    def statistics(x):
        return (None, None) if training else (mean.to(x.dtype), var.to(x.dtype))

    def fused(x, weight, bias):
        return batch_norm_relu_maxpool3d(
            x, *statistics(x), weight, bias, training=training, eps=eps, relu=relu, backend=backend, **options(window)
        )

    def plain(x, weight, bias):
        return plain_tail(F.batch_norm(x, *statistics(x), weight, bias, training, 0.0, eps), window, relu)

    return fused, plain


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("window", WINDOWS)
def test_windows(window, training, dtype, backend):
    for layout in ("first", "last", "strided"):
        compare(*functions(window, training, backend=backend), make(), dtype, layout)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("name", SIZES)
def test_sizes(name, relu, affine, dtype):
    for window in ("none", "overlapping"):
        for training in (True, False):
            for layout in ("first", "last"):
                both = functions(window, training, relu, channels=SIZES[name][1])
                compare(*both, make(name, affine), dtype, layout)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("window", ["none", "1x2x2", "overlapping", "dilated", "ceil"])
def test_instruction_sets(window, isa, monkeypatch):
    monkeypatch.setattr(native, "isa", lambda: isa)
    for dtype in DTYPES:
        for layout in ("first", "last"):
            compare(*functions(window, channels=19), make("clip"), dtype, layout)


def test_any_number_of_threads():
    for threads in (1, 2, 3, 5):
        torch.set_num_threads(threads)  # the fixture resets it
        for layout in ("first", "last"):
            compare(*functions("overlapping"), make(), torch.float64, layout)


@pytest.mark.parametrize("size", [(1, 6, 5), (4, 1, 6), (4, 6, 1), (1, 1, 1)])
def test_thin_maps(size):
    tensors = [torch.randn(3, 5, *size, dtype=torch.float64), *make()[1:]]
    for window in ("none", (3, 1, 1, 1, False)):
        for training in (True, False):
            compare(*functions(window, training), tensors, torch.float32)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("window", ["none", "2x2x2"])
def test_empty_batch(window, training):
    x, weight, bias = make()
    fused, plain = functions(window, training)
    values = leaves([x[:0], weight, bias], torch.float32)
    output = fused(*values)
    assert output.shape == plain(*values).shape
    assert_same(gradients(output, values), gradients(plain(*values), values))
    running = torch.zeros(5), torch.ones(5)
    batch_norm_relu_maxpool3d(values[0], *running, training=True)
    assert_same(running, (torch.zeros(5), torch.ones(5)))


@pytest.mark.parametrize("layout", ["first", "last"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("window", WINDOWS)
def test_ties(window, dtype, layout):
    """Of equal cells the first in a window gets the gradient. Statistics that leave whole numbers as they are."""
    x = torch.randint(-1, 2, (2, 19, 6, 7, 8)).to(dtype)
    zero, one = torch.zeros(19, dtype=dtype), torch.ones(19, dtype=dtype)
    (value,) = leaves([x], dtype, layout)
    output = batch_norm_relu_maxpool3d(value, zero, one, eps=0.0, **options(window))
    truth = plain_tail(F.batch_norm(value, zero, one, eps=0.0), window)
    assert_same([output], [truth])
    cotangent = torch.randint(-3, 4, output.shape).to(dtype)
    assert_same(torch.autograd.grad(output, value, cotangent), torch.autograd.grad(truth, value, cotangent))


@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("layout", ["first", "last"])
@pytest.mark.parametrize("window", [w for w in WINDOWS if w != "none"])
def test_not_a_number_and_infinities(window, layout, relu):
    """As in nn.MaxPool3d: a NaN is the largest, and of several the last; gradients go where they go there."""
    x = torch.randint(-2, 3, (2, 3, 6, 7, 8)).float()
    for value in (torch.nan, torch.inf, -torch.inf):
        x.view(-1)[torch.randperm(x.numel())[:60]] = value
    mean, var, weight, bias = torch.zeros(3), torch.ones(3), torch.tensor([1.0, -1.0, 2.0]), torch.zeros(3)

    def fused(x, bias):
        return batch_norm_relu_maxpool3d(x, mean, var, weight, bias, eps=0.0, relu=relu, **options(window))

    def plain(x, bias):
        return plain_tail(F.batch_norm(x, mean, var, weight, bias, eps=0.0), window, relu)

    results = []
    # PyTorch's own channels-last pooling mistakes the cell of a window that holds -inf only.
    for function, where in ((fused, layout), (plain, "first")):
        values = leaves([x, bias], torch.float32, where)
        output = function(*values)
        results.append([output, *gradients(output, values, whole=True)])
    assert_same(*results)


def test_not_a_number_spoils_its_channel_only():
    x, weight, bias = make()
    x[0, 1, 0, 0, 0] = torch.nan
    results = []
    for function in functions("2x2x2"):
        values = leaves([x, weight, bias], torch.float64)
        output = function(*values)
        results.append([output.isnan(), *(g.isnan() for g in gradients(output, values))])
    assert_same(*results)
    assert results[0][0][:, 1].all()
    assert not results[0][0][:, [0, 2, 3, 4]].any()


@pytest.mark.parametrize("layout", ["first", "last"])
@pytest.mark.parametrize(("mean", "deviation"), [(1e4, 1.0), (-300.0, 1e-2), (1e-8, 1e-6)])
def test_large_mean_and_small_variance(mean, deviation, layout):
    """The statistics are as exact as the input allows, and the rest no worse than PyTorch's in the same type. Of many
    channels: the rounding of a channel's mean moves all of its values, more or less by chance."""
    x = (mean + deviation * torch.randn(3, 200, 4, 6, 5, dtype=torch.float64)).float().double()
    tensors = [x, *torch.randn(2, 200, dtype=torch.float64).unbind()]
    fused, plain = functions("2x2x2", relu=False)

    def run(function, dtype, where):
        values = leaves(tensors, dtype, where)
        output = function(*values)
        return [output, *gradients(output, values)]

    exact, low = run(plain, torch.float64, "first"), run(plain, torch.float32, layout)
    for found, truth, other in zip(run(fused, torch.float32, layout), exact, low, strict=True):
        assert relative_error(found, truth) <= max(1e-5, 2 * relative_error(other, truth))
    running = torch.zeros(200), torch.zeros(200)
    (value,) = leaves([x], torch.float32, layout)
    batch_norm_relu_maxpool3d(value, *running, training=True, momentum=1.0)
    var, average = torch.var_mean(x, (0, 2, 3, 4))
    assert_close(running[0], average)
    assert_close(running[1], var)


@pytest.mark.parametrize("layout", ["first", "last"])
@pytest.mark.parametrize("mean", [1e7, -1e9])
def test_statistics_far_from_zero_in_float64(mean, layout):
    """Squares of such values have no digits left for the variance."""
    distances = torch.randn(3, 7, 4, 6, 5, dtype=torch.float64).mul(1024).round() / 1024  # exact beside the mean
    running = torch.zeros(2, 7, dtype=torch.float64).unbind()
    (value,) = leaves([mean + distances], torch.float64, layout)
    batch_norm_relu_maxpool3d(value, *running, training=True, momentum=1.0)
    var, average = torch.var_mean(distances, (0, 2, 3, 4))
    torch.testing.assert_close(running[0], mean + average, rtol=1e-15, atol=0)
    torch.testing.assert_close(running[1], var, rtol=1e-12, atol=0)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", ["first", "last"])
@pytest.mark.parametrize("momentum", [0.1, 1.0, 0.0])
def test_running_statistics(momentum, layout, dtype):
    theirs = nn.BatchNorm3d(5, momentum=momentum, dtype=dtype)
    exact = nn.BatchNorm3d(5, momentum=momentum, dtype=torch.float64)
    running = theirs.running_mean.clone(), theirs.running_var.clone()
    for _ in range(4):
        (x,) = leaves([make()[0]], dtype, layout)
        batch_norm_relu_maxpool3d(x, *running, training=True, momentum=momentum, pool_kernel_size=2)
        theirs(x)
        exact(x.double())
    for found, name in zip(running, ("running_mean", "running_var"), strict=True):
        assert_close(found, getattr(exact, name), name, plain=getattr(theirs, name))


def test_parameters_in_float32_for_input_in_bfloat16():
    x, weight, bias = make()
    values = [*leaves([x], torch.bfloat16), *leaves([weight, bias], torch.float32)]
    mean, var = torch.zeros(5), torch.ones(5)
    for training in (True, False):
        output = batch_norm_relu_maxpool3d(values[0], mean, var, *values[1:], training=training, pool_kernel_size=2)
        assert output.dtype == torch.bfloat16
        assert [g.dtype for g in gradients(output, values)] == [torch.bfloat16, torch.float32, torch.float32]
        assert mean.dtype == torch.float32


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("window", ["none", "2x2x2", "overlapping"])
def test_second_order(window, training):
    fused, _ = functions(window, training, channels=2, eps=1e-2)
    values = leaves([torch.randn(2, 2, 3, 4, 3), *torch.randn(2, 2)], torch.float64)
    assert torch.autograd.gradcheck(fused, values)
    assert torch.autograd.gradgradcheck(fused, values, fast_mode=True)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("window", ["none", "2x2x2"])
@pytest.mark.parametrize("keep", [False, True])
def test_opcheck(window, training, keep):
    x, weight, bias = (t.float() for t in make())
    mean, var = torch.zeros(5), torch.ones(5)
    pool = [1] * 6 + [0] * 3 + [1] * 3 if window == "none" else [2] * 6 + [0] * 3 + [1] * 3
    common, operators = (training, 1e-5, True, pool, False), torch.ops.fastrcn
    forward = ("cpu", x, weight, bias, *((None, None) if training else (mean, var)), *common, keep)
    check = torch.library.opcheck(operators.batch_norm_relu_maxpool3d_fwd.default, forward)
    assert set(check.values()) == {"SUCCESS"}
    if not keep:
        return
    output, *rest = operators.batch_norm_relu_maxpool3d_fwd(*forward)
    if training:
        mean, var, *rest = rest
    for needs in ([True, True, True], [False, True, False], [True, False, False]):
        backward = ("cpu", torch.ones_like(output), x, weight, bias, mean, var, *(rest or [output]), *common, needs)
        check = torch.library.opcheck(operators.batch_norm_relu_maxpool3d_bwd.default, backward)
        assert set(check.values()) == {"SUCCESS"}


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compile_once_for_all_batches_and_lengths(backend):
    torch._dynamo.reset()
    counter = CompileCounterWithBackend(backend)

    def function(x, mean, var, weight, bias):
        return batch_norm_relu_maxpool3d(x, mean, var, weight, bias, training=True, pool_kernel_size=2)

    compiled = torch.compile(function, backend=counter, fullgraph=True)
    _, weight, bias = make()
    for n, d in ((2, 5), (3, 8), (5, 4)):
        values = leaves([torch.randn(n, 5, d, 7, 9), weight, bias], torch.float32)
        torch._dynamo.mark_dynamic(values[0], 0)
        torch._dynamo.mark_dynamic(values[0], 2)
        running = [(torch.zeros(5), torch.ones(5)) for _ in range(2)]
        found, truth = (f(values[0], *r, *values[1:]) for f, r in zip((compiled, function), running, strict=True))
        assert_close(found, truth)
        for a, b in zip(
            [*gradients(found, values), *running[0]], [*gradients(truth, values), *running[1]], strict=True
        ):
            assert_close(a, b)
    assert counter.frame_count == 1


def test_function_transforms():
    tensors = make()
    x, weight, bias = tensors
    fused, plain = functions("2x2x2")

    def loss(function):
        return lambda *values: function(*values).sin().sum()

    found = torch.func.grad(loss(fused), (0, 1, 2))(*tensors)
    for a, b in zip(found, torch.func.grad(loss(plain), (0, 1, 2))(*tensors), strict=True):
        assert_close(a, b)
    outputs = torch.func.vmap(fused, (0, None, None))(x[:, None], weight, bias)
    for k in range(x.shape[0]):
        assert_close(outputs[k], plain(x[k : k + 1], weight, bias))
    each = torch.func.vmap(torch.func.grad(loss(fused), 1), (0, None, None))(x[:, None], weight, bias)
    for k in range(x.shape[0]):
        assert_close(each[k], torch.func.grad(loss(plain), 1)(x[k : k + 1], weight, bias))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("window", ["none", "2x2x2"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_autocast(dtype, window, training):
    """The result's type is the plain functions'."""
    x, weight, bias = make()
    fused, plain = functions(window, training)
    values = leaves([x, weight, bias], dtype)
    with torch.autocast("cpu", torch.bfloat16):
        output, truth = fused(*values), plain(*values)
    assert output.dtype == truth.dtype
    assert [g.dtype for g in gradients(output, values)] == [dtype] * 3


@pytest.mark.parametrize(("window", "relu"), [("none", True), ("none", False), ("2x2x2", True), ("overlapping", False)])
def test_what_is_kept_for_backward(window, relu):
    """Never the normalised tensor: the arguments, the statistics, and a byte for each window or the result itself."""
    values = leaves(make("block"), torch.float32)
    fused, _ = functions(window, relu=relu, channels=16)
    output, kept = saved_bytes(lambda: fused(*values))
    extra = output.numel() if window != "none" else output.nbytes if relu else 0
    assert kept == sum(v.nbytes for v in values) + 2 * 16 * 4 + extra


X, R = torch.randn(2, 3, 5, 7, 9), torch.ones(3)


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        ({"input": X[0]}, ValueError, ["input", "(N,C,D,H,W)", "(3, 5, 7, 9)"]),
        ({"input": X.long()}, TypeError, ["input", "floating", "int64"]),
        ({"input": X[:, :2]}, ValueError, ["running_mean", "(2,)", "(3,)"]),
        ({"input": X.to("meta")}, RuntimeError, ["running_mean", "meta", "cpu"]),
        (
            {"input": X[:1, :, :1, :1, :1], "training": True},
            ValueError,
            ["input", "more than 1 value", "(1, 3, 1, 1, 1)"],
        ),
        ({"running_var": None}, ValueError, ["running_mean, running_var", "both"]),
        ({"running_mean": None, "running_var": None}, ValueError, ["running_mean", "training"]),
        ({"running_mean": R.clone().requires_grad_()}, RuntimeError, ["running_mean", "without gradient"]),
        ({"weight": R[:2]}, ValueError, ["weight", "(3,)", "(2,)"]),
        ({"bias": R.double()}, TypeError, ["bias", "float32", "float64"]),
        ({"pool_kernel_size": 9}, ValueError, ["pool_kernel_size", "fits", "(5, 7, 9)", "(9, 9, 9)"]),
        ({"pool_kernel_size": (2, 2)}, ValueError, ["pool_kernel_size", "three", "(2, 2)"]),
        ({"backend": "gpu"}, ValueError, ["backend", "reference", "gpu"]),
        ({"backend": "triton"}, RuntimeError, ["backend", "triton", "cannot run"]),
    ],
)
def test_errors(change, kind, words):
    arguments = {"input": X, "running_mean": R, "running_var": R} | change
    with pytest.raises(kind) as error:
        batch_norm_relu_maxpool3d(**arguments)
    assert all(word in str(error.value) for word in words), error.value
