"""conv3d_relu_maxpool3d against PyTorch's own functions, values and gradients, and under PyTorch's transformations."""

import pytest
import torch
import torch.nn.functional as F
from torch._dynamo.testing import CompileCounterWithBackend

from fastrcn import backends, native
from fastrcn.functional import conv3d_relu_maxpool3d
from tests.helpers.pooled import (
    BACKENDS,
    DTYPES,
    ISAS,
    WINDOWS,
    assert_same,
    compare,
    gradients,
    laid_out,
    leaves,
    options,
    plain_tail,
    saved_bytes,
)
from tests.helpers.tolerances import assert_close, relative_error

pytestmark = pytest.mark.usefixtures("one_thread")

# batch, channels in, size, channels out, kernel, convolution's options
CONVOLUTIONS = {
    "3x3x3": (2, 3, (5, 7, 9), 5, (3, 3, 3), {"padding": 1}),
    "strided_7x7x7": (1, 3, (8, 15, 14), 18, (7, 7, 7), {"stride": 2, "padding": 3}),
    "one_clip": (1, 4, (4, 8, 6), 16, (3, 3, 3), {"padding": 1}),
    "pointwise": (3, 5, (4, 5, 6), 17, (1, 1, 1), {}),
    "groups": (2, 6, (4, 6, 7), 9, (3, 3, 3), {"padding": 1, "groups": 3}),
    "depthwise": (2, 5, (4, 6, 7), 5, (3, 1, 3), {"padding": (1, 0, 1), "groups": 5}),
    "dilated": (2, 3, (6, 9, 11), 4, (2, 3, 3), {"padding": (1, 2, 3), "dilation": (1, 2, 3)}),
    "many_inputs": (2, 17, (3, 7, 8), 112, (3, 3, 3), {"padding": 1}),
    "no_padding": (2, 3, (5, 8, 7), 4, (2, 3, 4), {"stride": (1, 2, 1)}),
}


def make(name, bias=True):
    n, c, size, outputs, kernel, given = CONVOLUTIONS[name]
    x = torch.randn(n, c, *size, dtype=torch.float64)
    weight = torch.randn(outputs, c // given.get("groups", 1), *kernel, dtype=torch.float64) / 5
    return [x, weight, torch.randn(outputs, dtype=torch.float64) if bias else None], given


def functions(given, window, relu=True, backend="cpu"):
    def fused(x, weight, bias):
        return conv3d_relu_maxpool3d(x, weight, bias, relu=relu, backend=backend, **given, **options(window))

    def plain(x, weight, bias):
        return plain_tail(F.conv3d(x, weight, bias, **given), window, relu)

    return fused, plain


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", ["first", "last"])
@pytest.mark.parametrize("window", WINDOWS)
def test_windows(window, layout, dtype, backend):
    tensors, given = make("3x3x3")
    compare(*functions(given, window, backend=backend), tensors, dtype, layout)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("window", ["none", "1x2x2", "overlapping"])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions(name, window, dtype):
    tensors, given = make(name)
    if name == "no_padding" and window == "overlapping":
        window = "2x2x2"
    for layout in ("first", "last", "strided"):
        compare(*functions(given, window), tensors, dtype, layout)


@pytest.mark.parametrize("window", ["none", "2x2x2", "one_cell_strided"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("relu", [True, False])
def test_without_relu_or_bias(relu, bias, window):
    tensors, given = make("3x3x3", bias)
    for layout in ("first", "last"):
        compare(*functions(given, window, relu), tensors, torch.float32, layout)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("window", ["none", "1x2x2", "overlapping", "dilated", "ceil"])
def test_instruction_sets(window, isa, monkeypatch):
    monkeypatch.setattr(native, "isa", lambda: isa)
    tensors, given = make("one_clip")
    for dtype in DTYPES:
        for layout in ("first", "last"):
            compare(*functions(given, window), tensors, dtype, layout)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("name", ["many_inputs", "pointwise"])
def test_choices_of_instruction_sets(name, relu, isa, monkeypatch):
    """Which convolutions and layouts are the library's depends on it."""
    monkeypatch.setattr(native, "isa", lambda: isa)
    tensors, given = make(name)
    for window in ("none", "2x2x2"):
        for layout in ("first", "last", "strided"):
            compare(*functions(given, window, relu), tensors, torch.float32, layout)


@pytest.mark.parametrize(
    ("frames", "kernel", "stride", "padding"),
    [(5, 5, 2, 3), (5, 5, 3, 4), (6, 5, 3, 4), (7, 7, 2, 3), (7, 7, 2, 5), (7, 7, 3, 5), (8, 7, 3, 4)],
)
def test_strides_over_frames(frames, kernel, stride, padding):
    """Of so many channels oneDNN's own float32 weight gradient leaves some of these kernels' taps unwritten."""
    given = {"stride": (stride, 1, 1), "padding": (padding, 1, 1)}
    for size in ((frames, 6, 6), (frames, 14, 14)):
        exact = [torch.randn(2, 16, *size, dtype=torch.float64)]
        exact.append(torch.randn(32, 16, kernel, 3, 3, dtype=torch.float64))
        found = []
        for dtype in (torch.float32, torch.float64):
            tensors = [t.to(dtype).requires_grad_() for t in exact]
            backend = "cpu" if dtype == torch.float32 else "reference"
            output = conv3d_relu_maxpool3d(*tensors, **given, backend=backend)
            found.append(torch.autograd.grad(output, tensors, torch.ones_like(output)))
        for a, b in zip(*found, strict=True):
            assert_close(a, b)


@pytest.mark.parametrize("layout", ["first", "last"])
@pytest.mark.parametrize(
    ("frames", "kernel", "given"),
    [
        (2, (3, 3, 3), {"padding": 1}),
        (2, (3, 3, 3), {"padding": 1, "groups": 2}),
        (2, (3, 1, 1), {"padding": (1, 0, 0)}),
        (3, (5, 3, 3), {"padding": (2, 1, 1), "stride": (2, 1, 1)}),
    ],
)
def test_fewer_frames_than_the_kernel_in_bfloat16(frames, kernel, given, layout):
    """oneDNN's own bfloat16 weight gradient leaves the other frames' taps unwritten."""
    groups = given.get("groups", 1)
    exact = [torch.randn(2, 32, frames, 14, 14), torch.randn(64, 32 // groups, *kernel) / 16]
    tensors = [laid_out(t.bfloat16(), layout).requires_grad_() for t in exact]
    wide = [t.detach().double().requires_grad_() for t in tensors]
    output = conv3d_relu_maxpool3d(*tensors, **given, relu=False, backend="cpu")
    grad = torch.randn(output.shape).bfloat16()
    truths = torch.autograd.grad(F.conv3d(*wide, None, **given), wide, grad.double())
    for found, truth in zip(torch.autograd.grad(output, tensors, grad), truths, strict=True):
        assert relative_error(found, truth) < torch.finfo(torch.bfloat16).eps


def test_any_number_of_threads():
    tensors, given = make("3x3x3")
    for threads in (1, 2, 3, 5):
        torch.set_num_threads(threads)  # the fixture resets it
        for layout in ("first", "last"):
            compare(*functions(given, "overlapping"), tensors, torch.float64, layout)


@pytest.mark.parametrize("size", [(1, 6, 5), (4, 1, 6), (4, 6, 1), (1, 1, 1)])
def test_thin_maps(size):
    x, weight = torch.randn(2, 3, *size, dtype=torch.float64), torch.randn(4, 3, 3, 3, 3, dtype=torch.float64)
    for window in ("none", "overlapping"):
        for layout in ("first", "last"):
            compare(*functions({"padding": 1}, window), [x, weight, None], torch.float32, layout)


@pytest.mark.parametrize("window", ["none", "2x2x2"])
@pytest.mark.parametrize("name", ["strided_7x7x7", "pointwise", "groups", "many_inputs"])
def test_views_of_the_bias(name, window):
    """Every second value of a longer one, and one value for all channels."""
    (x, weight, bias), given = make(name)
    fused, plain = functions(given, window)
    for view in (torch.stack([bias, torch.full_like(bias, float("nan"))], 1)[:, 0], bias[:1].expand_as(bias)):
        truth = plain(x, weight, view)
        assert_close(fused(x, weight, view), truth)


@pytest.mark.parametrize("window", ["none", "2x2x2"])
def test_empty_batch(window):
    (x, weight, bias), given = make("3x3x3")
    fused, plain = functions(given, window)
    values = leaves([x[:0], weight, bias], torch.float32)
    output = fused(*values)
    assert output.shape == plain(*values).shape
    assert_same(gradients(output, values), gradients(plain(*values), values))


@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("layout", ["first", "last"])
@pytest.mark.parametrize("window", WINDOWS)
def test_not_a_number_and_infinities(window, layout, relu):
    """As in nn.MaxPool3d: a NaN is the largest, and of several the last; gradients go where they go there."""
    x = torch.randint(-2, 3, (2, 3, 6, 7, 8)).float()
    for value in (torch.nan, torch.inf, -torch.inf):
        x.view(-1)[torch.randperm(x.numel())[:60]] = value
    weight = torch.tensor([1.0, -1.0, 2.0]).view(3, 1, 1, 1, 1)
    fused, plain = functions({"groups": 3}, window, relu)
    results = []
    # PyTorch's own channels-last pooling mistakes the cell of a window that holds -inf only.
    for function, where in ((fused, layout), (plain, "first")):
        values = leaves([x, weight, None], torch.float32, where)
        output = function(*values)
        results.append([output, gradients(output, values, whole=True)[0]])
    assert_same(*results)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", ["first", "last"])
@pytest.mark.parametrize("window", WINDOWS)
def test_ties(window, layout, dtype):
    """Of equal cells the first in a window gets the gradient. Whole numbers: every sum is exact."""
    x = torch.randint(-1, 2, (2, 3, 6, 7, 8)).to(dtype)
    weight = torch.randint(-1, 2, (19, 3, 1, 1, 1)).to(dtype)
    bias = torch.randint(-1, 2, (19,)).to(dtype)
    fused, plain = functions({}, window)
    values = leaves([x, weight, bias], dtype, layout)
    output, truth = fused(*values), plain(*values)
    cotangent = torch.randint(-3, 4, output.shape).to(dtype)
    found, expected = (torch.autograd.grad(o, values[0], cotangent) for o in (output, truth))
    assert_same([output], [truth])
    assert_same(found, expected)


def test_layout_of_the_result():
    (x, weight, bias), given = make("3x3x3")
    for layout in ("first", "last"):
        for window in ("none", "2x2x2"):
            fused, plain = functions(given, window)
            tensors = [laid_out(x.float(), layout), weight.float(), bias.float()]
            assert fused(*tensors).stride() == plain(*tensors).stride()


@pytest.mark.parametrize("window", ["none", "2x2x2", "overlapping"])
def test_second_order(window):
    x, weight, bias = (torch.randn(s, dtype=torch.float64) for s in ((1, 2, 3, 4, 3), (2, 2, 3, 3, 3), (2,)))
    fused, _ = functions({"padding": 1}, window)
    values = leaves([x, weight, bias], torch.float64)
    assert torch.autograd.gradcheck(fused, values)
    assert torch.autograd.gradgradcheck(fused, values, fast_mode=True)


@pytest.mark.parametrize("window", ["none", "2x2x2"])
@pytest.mark.parametrize("keep", [False, True])
def test_opcheck(window, keep):
    (x, weight, bias), _ = make("3x3x3")
    pool = [1] * 6 + [0] * 3 + [1] * 3 if window == "none" else [2] * 6 + [0] * 3 + [1] * 3
    common = ([1] * 3, [1] * 3, [1] * 3, 1, True, pool, False)
    forward = ("cpu", x, weight, bias, *common, keep)
    operators = torch.ops.fastrcn
    check = torch.library.opcheck(operators.conv3d_relu_maxpool3d_fwd.default, forward)
    assert set(check.values()) == {"SUCCESS"}
    if not keep:
        return
    output, *index = operators.conv3d_relu_maxpool3d_fwd(*forward)
    for needs in ([True, True, True], [False, True, False], [True, False, False]):
        backward = ("cpu", torch.ones_like(output), x, weight, bias, *(index or [output]), *common, needs)
        check = torch.library.opcheck(operators.conv3d_relu_maxpool3d_bwd.default, backward)
        assert set(check.values()) == {"SUCCESS"}


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compile_once_for_all_batches_and_lengths(backend):
    torch._dynamo.reset()
    (_, weight, bias), given = make("3x3x3")
    fused, _ = functions(given, "2x2x2")
    counter = CompileCounterWithBackend(backend)
    compiled = torch.compile(fused, backend=counter, fullgraph=True)
    for n, d in ((2, 5), (3, 8), (5, 4)):
        values = leaves([torch.randn(n, 3, d, 7, 9), weight, bias], torch.float32)
        torch._dynamo.mark_dynamic(values[0], 0)
        torch._dynamo.mark_dynamic(values[0], 2)
        found, truth = compiled(*values), fused(*values)
        assert_close(found, truth)
        for a, b in zip(gradients(found, values), gradients(truth, values), strict=True):
            assert_close(a, b)
    assert counter.frame_count == 1


def test_function_transforms():
    tensors, given = make("3x3x3")
    x, weight, bias = tensors
    fused, plain = functions(given, "2x2x2")

    def loss(function):
        return lambda *values: function(*values).sin().sum()

    found = torch.func.grad(loss(fused), (0, 1, 2))(*tensors)
    for a, b in zip(found, torch.func.grad(loss(plain), (0, 1, 2))(*tensors), strict=True):
        assert_close(a, b)
    outputs = torch.func.vmap(fused, (0, None, None))(x[:, None], weight, bias)
    assert_close(outputs[:, 0], plain(*tensors))
    each = torch.func.vmap(torch.func.grad(loss(fused), 1), (0, None, None))(x[:, None], weight, bias)
    for k in range(x.shape[0]):
        assert_close(each[k], torch.func.grad(loss(plain), 1)(x[k : k + 1], weight, bias))


@pytest.mark.parametrize("window", ["none", "2x2x2"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_autocast(dtype, window):
    """The result's type is the plain functions'."""
    tensors, given = make("3x3x3")
    fused, plain = functions(given, window)
    values = leaves(tensors, dtype)
    with torch.autocast("cpu", torch.bfloat16):
        output, truth = fused(*values), plain(*values)
    assert output.dtype == truth.dtype
    assert [g.dtype for g in gradients(output, values)] == [dtype] * 3


@pytest.mark.parametrize(("window", "relu"), [("none", True), ("none", False), ("2x2x2", True), ("overlapping", False)])
def test_what_is_kept_for_backward(window, relu):
    """Never the tensor before pooling: the arguments and a byte for each window, or, without windows, the result."""
    tensors, given = make("one_clip")
    values = leaves(tensors, torch.float32)
    fused, _ = functions(given, window, relu)
    output, kept = saved_bytes(lambda: fused(*values))
    extra = output.numel() if window != "none" else output.nbytes if relu else 0
    assert kept == sum(v.nbytes for v in values) + extra
    with torch.no_grad():
        assert saved_bytes(lambda: fused(*values))[1] == 0


def test_changes_in_place_are_noticed():
    tensors, given = make("3x3x3")
    values = leaves(tensors, torch.float32)
    output = functions(given, "2x2x2")[0](*values)
    with torch.no_grad():
        values[1].add_(1)
    with pytest.raises(RuntimeError, match=r"in-?place"):
        output.sum().backward()


def test_wide_windows_run_on_the_reference(monkeypatch):
    monkeypatch.setattr(backends, "_told", set())
    tensors, given = make("3x3x3")
    fused, plain = functions(given, (7, 1, 3, 1, False), backend=None)
    with pytest.warns(UserWarning, match="255 cells at most, this one has 343"):
        compare(fused, plain, tensors, torch.float32)


X, W, B = torch.randn(2, 3, 5, 7, 9), torch.randn(4, 3, 3, 3, 3), torch.randn(4)


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        ({"input": X[0]}, ValueError, ["input", "(N,C,D,H,W)", "(3, 5, 7, 9)"]),
        ({"input": X[:, :2]}, ValueError, ["input", "3 channels", "2"]),
        ({"input": X.long()}, TypeError, ["input", "floating", "int64"]),
        ({"input": X.double()}, TypeError, ["weight", "float64", "float32"]),
        ({"input": X.to("meta")}, RuntimeError, ["weight", "meta", "cpu"]),
        ({"input": X[..., :2]}, ValueError, ["weight", "fits", "(5, 7, 2)", "(3, 3, 3)"]),
        ({"weight": W[0]}, ValueError, ["weight", "5 dimensions", "(3, 3, 3, 3)"]),
        ({"bias": B[:2]}, ValueError, ["bias", "(4,)", "(2,)"]),
        ({"groups": 3}, ValueError, ["groups", "4", "3"]),
        ({"groups": 0}, ValueError, ["groups", "positive", "0"]),
        ({"stride": 0}, ValueError, ["stride", "at least 1", "0"]),
        ({"padding": (1, 2)}, ValueError, ["padding", "three", "(1, 2)"]),
        ({"padding": "same"}, ValueError, ["padding", "'same'"]),
        ({"dilation": -1}, ValueError, ["dilation", "-1"]),
        ({"pool_kernel_size": 0}, ValueError, ["pool_kernel_size", "0"]),
        ({"pool_kernel_size": 9}, ValueError, ["pool_kernel_size", "fits", "(3, 5, 7)", "(9, 9, 9)"]),
        ({"pool_kernel_size": 2, "pool_padding": 2}, ValueError, ["pool_padding", "half", "(2, 2, 2)"]),
        ({"pool_kernel_size": 2, "pool_stride": 0}, ValueError, ["pool_stride", "0"]),
        ({"backend": "gpu"}, ValueError, ["backend", "reference", "gpu"]),
        ({"backend": "triton"}, RuntimeError, ["backend", "triton", "cannot run"]),
    ],
)
def test_errors(change, kind, words):
    arguments = {"input": X, "weight": W, "bias": B} | change
    with pytest.raises(kind) as error:
        conv3d_relu_maxpool3d(**arguments)
    assert all(word in str(error.value) for word in words), error.value


def test_windows_that_step_over_the_maps():
    with pytest.raises(ValueError, match=r"pool_dilation.*\(2, 5, 7\).*\(3, 1, 1\)"):
        conv3d_relu_maxpool3d(
            X[:, :, :4], W, pool_kernel_size=(2, 1, 1), pool_padding=(1, 0, 0), pool_dilation=(3, 1, 1)
        )
