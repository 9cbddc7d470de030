"""ConvReLUPool3d, ConvBNReLUPool3d, BatchNormReLUPool3d against the plain modules that they replace."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad

import fastrcn
from fastrcn import native
from fastrcn.layers import conv3d
from fastrcn.ops.relu_maxpool3d.layout import is_last
from tests.helpers.pooled import ISAS, saved_bytes
from tests.helpers.tolerances import assert_close

pytestmark = pytest.mark.usefixtures("one_thread")

# input's shape, arguments of the layer
CONV = {
    "c3d_1": ((2, 3, 4, 14, 14), {"out_channels": 8, "kernel_size": 3, "padding": 1, "pool_kernel_size": (1, 2, 2)}),
    "c3d_2": ((1, 8, 4, 14, 14), {"out_channels": 16, "kernel_size": 3, "padding": 1, "pool_kernel_size": 2}),
    "c3d_3a": ((1, 8, 4, 7, 7), {"out_channels": 16, "kernel_size": 3, "padding": 1}),
    "c3d_5_ceil": (
        (1, 8, 2, 7, 7),
        {"out_channels": 8, "kernel_size": 3, "padding": 1, "pool_kernel_size": 2, "ceil_mode": True},
    ),
    "c3d_5_padded": (
        (1, 8, 2, 7, 7),
        {"out_channels": 8, "kernel_size": 3, "padding": 1, "pool_kernel_size": 2, "pool_padding": (0, 1, 1)},
    ),
    "i3d_stem": (
        (1, 3, 8, 15, 18),
        {"out_channels": 8, "kernel_size": 7, "stride": 2, "padding": 3, "bias": False}
        | {"pool_kernel_size": (1, 3, 3), "pool_stride": (1, 2, 2), "pool_padding": (0, 1, 1)},
    ),
    "i3d_2c": (
        (2, 6, 5, 8, 7),
        {"out_channels": 9, "kernel_size": 3, "padding": "same", "bias": False}
        | {"pool_kernel_size": 3, "pool_stride": 2, "pool_padding": 1},
    ),
    "valid": ((1, 4, 5, 6, 7), {"out_channels": 6, "kernel_size": (1, 3, 2), "padding": "valid", "groups": 2}),
    "same_even": ((2, 3, 5, 6, 8), {"out_channels": 4, "kernel_size": (2, 4, 3), "padding": "same", "dilation": 2}),
    "reflect": ((2, 3, 5, 6, 8), {"out_channels": 4, "kernel_size": 3, "padding": 1, "padding_mode": "reflect"}),
    "circular_same": (
        (2, 3, 5, 6, 8),
        {"out_channels": 4, "kernel_size": (2, 3, 3), "padding": "same", "padding_mode": "circular"},
    ),
    "replicate": (
        (2, 3, 5, 6, 8),
        {"out_channels": 4, "kernel_size": 3, "padding": (1, 0, 2), "padding_mode": "replicate", "relu": False}
        | {"pool_kernel_size": 2},
    ),
}


def plain_modules(inputs, options, norm=None):
    """The modules by hand, as a user writes them."""
    options = dict(options)
    window = {k: options.pop(k) for k in list(options) if k.startswith(("pool_", "ceil"))}
    relu = options.pop("relu", True)
    modules = [nn.Conv3d(inputs, **options)]
    if norm is not None:
        modules.append(nn.BatchNorm3d(options["out_channels"], **norm))
    modules += [nn.ReLU()] if relu else []
    if window:
        modules.append(nn.MaxPool3d(**{k.removeprefix("pool_"): v for k, v in window.items()}))
    return nn.Sequential(*modules)


def compare(ours, theirs, x):
    """Outputs and all gradients, in float64."""
    results = []
    for model in (ours, theirs):
        value = x.clone().requires_grad_()
        output = model(value)
        weight = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view(output.shape)
        leaves = [value, *model.parameters()]
        results.append([output, *torch.autograd.grad((output * weight).sum(), leaves)])
    for k, (a, b) in enumerate(zip(*results, strict=True)):
        # A bias before a normalisation has no gradient but for rounding.
        if b.abs().max() > 1e-10:
            assert_close(a, b, f"result {k}")


even_same = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")


@even_same
@pytest.mark.parametrize("name", CONV)
def test_conv_relu_pool(name):
    shape, options = CONV[name]
    theirs = plain_modules(shape[1], options).double()
    ours = fastrcn.ConvReLUPool3d(shape[1], **options, dtype=torch.float64)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert [type(m) for m in ours] == [type(m) for m in theirs]
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(shape, dtype=torch.float64)
    compare(ours, theirs, x)
    compare(ours, theirs, x.contiguous(memory_format=torch.channels_last_3d))
    assert_close(ours(x[0]), theirs(x[0]))  # unbatched


NORMS = {
    "default": {},
    "i3d": {"eps": 1e-3, "momentum": 0.01},
    "cumulative": {"momentum": None},
    "plain": {"affine": False},
    "untracked": {"track_running_stats": False},
}


@even_same
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", CONV)
def test_conv_bn_relu_pool(name, norm):
    shape, options = CONV[name]
    shape = (2, *shape[1:])
    theirs = plain_modules(shape[1], options, NORMS[norm]).double()
    ours = fastrcn.ConvBNReLUPool3d(shape[1], **options, **NORMS[norm], dtype=torch.float64)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict())
    for _ in range(3):
        compare(ours, theirs, 3 * torch.randn(shape, dtype=torch.float64) + 1)
    ours.eval()
    theirs.eval()
    compare(ours, theirs, torch.randn(shape, dtype=torch.float64))
    for (key, a), b in zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True):
        assert_close(a, b, key, dtype=torch.float64)


@pytest.mark.parametrize("norm", NORMS)
def test_bn_relu_pool(norm):
    ours = fastrcn.BatchNormReLUPool3d(5, **NORMS[norm], pool_kernel_size=(1, 2, 2), dtype=torch.float64)
    theirs = nn.Sequential(nn.BatchNorm3d(5, **NORMS[norm]), nn.ReLU(), nn.MaxPool3d((1, 2, 2))).double()
    assert [f"0.{key}" for key in ours.state_dict()] == list(theirs.state_dict())
    for training in (True, True, True, False, True):
        ours.train(training)
        theirs.train(training)
        compare(ours, theirs, 2 * torch.randn(2, 5, 4, 6, 7, dtype=torch.float64) - 1)
    for (key, a), b in zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True):
        assert_close(a, b, key, dtype=torch.float64)


@pytest.mark.parametrize("backend", fastrcn.backends.NAMES[:2])
def test_backend_by_name(backend):
    layer = fastrcn.ConvBNReLUPool3d(3, 4, 3, pool_kernel_size=2, backend=backend)
    assert layer(torch.randn(2, 3, 6, 7, 8)).shape == (2, 4, 2, 2, 3)
    assert f"backend='{backend}'" in repr(layer)


def test_from_modules_shares_them():
    conv, norm, relu, pool = nn.Conv3d(3, 4, 3), nn.BatchNorm3d(4), nn.ReLU(inplace=True), nn.MaxPool3d(2)
    x = torch.randn(2, 3, 6, 7, 8)
    for given, layer in (
        ((conv, relu, pool), fastrcn.ConvReLUPool3d.from_modules(conv, relu, pool)),
        ((conv, pool), fastrcn.ConvReLUPool3d.from_modules(conv, pool=pool)),
        ((conv, norm, relu), fastrcn.ConvBNReLUPool3d.from_modules(conv, norm, relu, backend="cpu")),
    ):
        assert list(layer) == list(given)
        torch.testing.assert_close(layer(x), nn.Sequential(*given)(x))
    with pytest.raises(TypeError, match=r"norm: expected BatchNorm3d, got ReLU"):
        fastrcn.ConvBNReLUPool3d.from_modules(conv, relu)
    with pytest.raises(TypeError, match=r"pool: expected MaxPool3d, got ReLU"):
        fastrcn.ConvReLUPool3d.from_modules(conv, relu, relu)


def test_slices_are_plain():
    layer = fastrcn.ConvBNReLUPool3d(3, 4, 3, pool_kernel_size=2)
    part = layer[1:]
    assert type(part) is nn.Sequential
    assert list(part.state_dict()) == [k for k in layer.state_dict() if k.startswith("1.")]
    assert layer[0].weight is next(layer.parameters())


@pytest.mark.parametrize("make", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["copy", "pickle"])
def test_copies(make):
    x = torch.randn(2, 4, 5, 6, 7)
    for layer in (
        fastrcn.ConvReLUPool3d(4, 4, 3, pool_kernel_size=2),
        fastrcn.ConvBNReLUPool3d(4, 4, 3, pool_kernel_size=2),
        fastrcn.BatchNormReLUPool3d(4, pool_kernel_size=2),
    ):
        assert torch.equal(make(layer)(x), layer(x))
        assert make(layer).to("meta")(x.to("meta")).shape == layer(x).shape


def kinds_of_hooks(layer):
    calls = []
    layer[0].register_forward_hook(lambda *_: calls.append("conv"))
    layer[-1].register_forward_pre_hook(lambda *_: calls.append("pool"))
    return calls


def test_exchanged_modules_and_hooks_are_called():
    x = torch.randn(2, 3, 6, 7, 8)
    layer = fastrcn.ConvBNReLUPool3d(3, 4, 3, pool_kernel_size=2)
    plain = copy.deepcopy(nn.Sequential(*layer))
    synchronised = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(layer))
    assert type(synchronised) is fastrcn.ConvBNReLUPool3d
    assert type(synchronised[1]) is nn.SyncBatchNorm
    assert torch.equal(synchronised(x), copy.deepcopy(plain)(x))
    layer[2] = nn.LeakyReLU()
    assert torch.equal(layer(x), nn.Sequential(plain[0], plain[1], nn.LeakyReLU(), plain[3])(x))
    layer = fastrcn.ConvReLUPool3d(3, 4, 3, pool_kernel_size=2)
    calls = kinds_of_hooks(layer)
    layer(x)
    assert calls == ["conv", "pool"]
    nn.utils.parametrizations.weight_norm(layer[0])
    torch.testing.assert_close(layer(x), nn.Sequential(*layer)(x))


@pytest.mark.parametrize("relu", [True, False])
def test_blocks_that_name_their_own_modules_call_a_synchronised_normalisation(relu):
    """As ``convert_sync_batchnorm`` leaves the blocks of I3D, SlowFast and others."""
    x, pool = torch.randn(2, 3, 6, 7, 8), conv3d.Pool.of(2, 2, 0, 1, False)
    conv, norm = nn.Conv3d(3, 4, 3), nn.SyncBatchNorm(4)
    plain = copy.deepcopy(nn.Sequential(conv, norm, nn.ReLU() if relu else nn.Identity(), nn.MaxPool3d(2)))
    called = []
    norm.register_forward_hook(lambda *_: called.append("norm"))
    found = conv3d.run_conv_batch_norm(conv, norm, x, relu, pool)
    assert called == ["norm"]
    torch.testing.assert_close(found, plain(x))
    torch.testing.assert_close(norm.running_var, plain[1].running_var)
    norm.eval()
    plain.eval()
    torch.testing.assert_close(conv3d.run_conv_batch_norm(conv, norm, x, relu, pool), plain(x))


@pytest.mark.parametrize("isa", ISAS)
def test_a_convolution_alone_is_the_module_where_the_operator_gains_nothing(isa, monkeypatch):
    monkeypatch.setattr(native, "isa", lambda: isa)
    run, calls = conv3d.run_conv, []
    monkeypatch.setattr(conv3d, "run_conv", lambda *given: calls.append(given) or run(*given))
    window = {"kernel_size": (3, 1, 3), "padding": (1, 0, 1)}
    layer, fused = fastrcn.ConvBNReLUPool3d(16, 32, **window), conv3d.FusedConv3d(16, 32, **window)
    fused.relu = False
    x = torch.randn(2, 16, 4, 7, 8)
    for module, plain in ((layer, nn.Sequential(*copy.deepcopy(layer))), (fused, nn.Conv3d(16, 32, **window))):
        plain.load_state_dict(module.state_dict())
        calls.clear()
        assert_close(module(x), plain.double()(x.double()))
        assert bool(calls) is (not isa.startswith("avx512"))
        with torch.autocast("cpu", torch.bfloat16):
            module(x)
        assert calls


@pytest.mark.parametrize("kernel", [(3, 3, 3), (3, 1, 3)])
def test_a_convolution_alone_in_inference(kernel, monkeypatch):
    """Only fewer multiplications make the operator worth its start."""
    run, calls = conv3d.run_conv, []
    monkeypatch.setattr(conv3d, "run_conv", lambda *given: calls.append(given) or run(*given))
    fused = conv3d.FusedConv3d(16, 32, kernel)
    fused.relu = False
    x = torch.randn(2, 16, 4, 7, 8)
    with torch.no_grad():
        assert_close(fused(x), nn.functional.conv3d(x.double(), fused.weight.double(), fused.bias.double()))
    assert bool(calls) is (kernel == (3, 3, 3) and native.module() is not None)


@pytest.mark.parametrize(
    ("inputs", "kernel", "converts"),
    [(3, (7, 7, 7), "avx512"), (16, (3, 3, 3), ""), (24, (1, 1, 1), "none")],  # on which instruction sets
)
@pytest.mark.parametrize("isa", ISAS)
def test_contiguous_maps_are_channels_last_inside_a_chain(isa, inputs, kernel, converts, monkeypatch):
    """Where the convolution is faster so: changed before it and behind the pooling, not in between."""
    monkeypatch.setattr(native, "isa", lambda: isa)
    run, between = conv3d.run_batch_norm, []
    monkeypatch.setattr(conv3d, "run_batch_norm", lambda *given: between.append(given[1]) or run(*given))
    padding = tuple(k // 2 for k in kernel)
    layer = fastrcn.ConvBNReLUPool3d(inputs, 32, kernel, padding=padding, pool_kernel_size=(1, 2, 2))
    plain = nn.Sequential(*copy.deepcopy(layer)).double()
    x = torch.randn(2, inputs, 4, 14, 16)
    results = []
    for model, value in ((layer, x), (plain, x.double())):
        value.requires_grad_()
        output = model(value)
        leaves = [value, *(p for n, p in model.named_parameters() if n != "0.bias")]  # has none but for rounding
        grads = torch.autograd.grad(output.pow(2).sum(), leaves, create_graph=True)
        results.append([output, *grads, *torch.autograd.grad(grads[0].pow(2).sum(), leaves[:2])])
    assert is_last(between[0]) is isa.startswith(converts)
    assert results[0][0].is_contiguous()
    for found, truth in zip(*results, strict=True):
        assert_close(found, truth)
    mapped = fastrcn.ConvBNReLUPool3d(inputs, 32, kernel, padding=padding, track_running_stats=False)
    together = torch.func.vmap(mapped)(torch.stack([x, x + 1]))
    assert_close(together, torch.stack([mapped(x), mapped(x + 1)]).double())


def test_chains_asked_of_another_backend_keep_their_layout(monkeypatch):
    run, between = conv3d.run_batch_norm, []
    monkeypatch.setattr(conv3d, "run_batch_norm", lambda *given: between.append(given[1]) or run(*given))
    layer, x = fastrcn.ConvBNReLUPool3d(16, 32, 3, padding=1), torch.randn(2, 16, 4, 8, 8)
    with fastrcn.use_backend("reference"):
        layer(x)
    layer.backend = "reference"
    layer(x)
    assert [is_last(maps) for maps in between] == [False, False]


@pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")  # PyTorch's own
def test_forward_mode_derivatives():
    layer, (x, tangent) = fastrcn.ConvBNReLUPool3d(16, 32, 3, padding=1), torch.randn(2, 2, 16, 4, 8, 8)
    plain = nn.Sequential(*copy.deepcopy(layer))
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x, tangent)
        with pytest.raises(RuntimeError, match="no forward-mode derivatives"):
            layer(dual)
        with fastrcn.use_backend("reference"):
            found = forward_ad.unpack_dual(layer(dual))
        for a, b in zip(found, forward_ad.unpack_dual(plain(dual)), strict=True):
            assert_close(a, b.double())


def test_lazy_convolution():
    conv = nn.LazyConv3d(4, 3)
    layer = fastrcn.ConvReLUPool3d.from_modules(conv, nn.ReLU(), nn.MaxPool3d(2))
    x = torch.randn(2, 3, 6, 7, 8)
    torch.testing.assert_close(layer(x), layer(x))
    assert not conv3d.computes(nn.LazyConv3d(4, 3), nn.Conv3d)
    assert conv3d.computes(conv, nn.Conv3d)


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("pooled", [False, True])
def test_autocast(norm, pooled):
    kind = fastrcn.ConvBNReLUPool3d if norm else fastrcn.ConvReLUPool3d
    layer = kind(3, 4, 3, pool_kernel_size=2 if pooled else 1)
    plain = nn.Sequential(*layer)
    for training in (True, False):
        layer.train(training)
        with torch.autocast("cpu", torch.bfloat16):
            x = torch.randn(2, 3, 6, 7, 8)
            found, truth = layer(x), plain(x)
        assert found.dtype == truth.dtype
        torch.testing.assert_close(found, truth, rtol=3e-2, atol=3e-2)
        found.float().sum().backward()
        assert all(p.grad.dtype == torch.float32 for p in layer.parameters())


@pytest.mark.parametrize("training", [True, False])
def test_compile(training):
    torch._dynamo.reset()
    layer = fastrcn.ConvBNReLUPool3d(3, 4, 3, pool_kernel_size=2).train(training)
    other = copy.deepcopy(layer)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    for n in (2, 3):
        x = torch.randn(n, 3, 6, 7, 8)
        found, truth = compiled(x), other(x)
        assert_close(found, truth)
        found.sum().backward()
        truth.sum().backward()
    assert_close(layer[0].weight.grad, other[0].weight.grad)
    for a, b in zip(layer.buffers(), other.buffers(), strict=True):
        assert_close(a, b, dtype=torch.float32)


def test_export():
    x = torch.randn(2, 3, 6, 7, 8)
    for layer in (fastrcn.ConvReLUPool3d(3, 4, 3, pool_kernel_size=2), fastrcn.ConvBNReLUPool3d(3, 4, 3).eval()):
        batch = {0: torch.export.Dim("batch", min=1, max=64)}
        program = torch.export.export(layer, (x,), dynamic_shapes=(batch,))
        y = torch.randn(5, 3, 6, 7, 8)
        torch.testing.assert_close(program.module()(y), layer(y))


def test_what_is_kept_for_backward():
    """In training the convolution's result stays for the normalisation; the normalised and the rectified one do not."""
    layer, x = fastrcn.ConvBNReLUPool3d(3, 16, 3, padding=1, pool_kernel_size=2), torch.randn(2, 3, 8, 16, 16)
    output, kept = saved_bytes(lambda: layer(x))
    before = 16 * 2 * 8 * 16 * 16 * 4
    assert kept <= x.nbytes + before + output.numel() + sum(p.nbytes for p in layer.parameters()) + 2 * 16 * 4


@pytest.mark.parametrize(
    ("make", "kind", "words"),
    [
        (lambda c: c(0, 4, 3), ValueError, ["in_channels", "positive", "0"]),
        (lambda c: c(3, 2.5, 3), ValueError, ["out_channels", "positive", "2.5"]),
        (lambda c: c(3, 4, 3, groups=2), ValueError, ["groups", "in_channels=3", "2"]),
        (lambda c: c(3, 4, 3, groups=3), ValueError, ["groups", "out_channels=4", "3"]),
        (lambda c: c(3, 4, (3, 3)), ValueError, ["kernel_size", "three", "(3, 3)"]),
        (lambda c: c(3, 4, 3, stride=0), ValueError, ["stride", "0"]),
        (lambda c: c(3, 4, 3, padding="full"), ValueError, ["padding", "same", "valid", "full"]),
        (lambda c: c(3, 4, 3, stride=2, padding="same"), ValueError, ["padding", "same", "(2, 2, 2)"]),
        (lambda c: c(3, 4, 3, padding=-1), ValueError, ["padding", "-1"]),
        (lambda c: c(3, 4, 3, padding_mode="mirror"), ValueError, ["padding_mode", "reflect", "mirror"]),
        (lambda c: c(3, 4, 3, dilation=0), ValueError, ["dilation", "0"]),
        (lambda c: c(3, 4, 3, pool_kernel_size=(2, 2)), ValueError, ["pool_kernel_size", "(2, 2)"]),
        (lambda c: c(3, 4, 3, pool_kernel_size=2, pool_padding=2), ValueError, ["pool_padding", "half", "2"]),
        (lambda c: c(3, 4, 3, backend="gpu"), ValueError, ["backend", "reference", "gpu"]),
        (lambda c: c(3, 4, 3)(torch.randn(2, 3, 4)), ValueError, ["input", "(N,C,D,H,W)", "(2, 3, 4)"]),
        (lambda c: c(3, 4, 3)(torch.randn(2, 2, 4, 5, 6)), ValueError, ["input", "3 channels", "2"]),
        (lambda c: c(3, 4, 3)("clip"), TypeError, ["input", "tensor", "str"]),
    ],
)
@pytest.mark.parametrize("layer", [fastrcn.ConvReLUPool3d, fastrcn.ConvBNReLUPool3d])
def test_errors(layer, make, kind, words):
    with pytest.raises(kind) as error:
        make(layer)
    assert all(word in str(error.value) for word in words), error.value


def test_errors_of_shapes():
    x = torch.randn(2, 3, 4, 5, 6)
    with pytest.raises(ValueError, match=r"weight.*fits.*\(4, 5, 6\).*\(7, 7, 7\)"):
        fastrcn.ConvReLUPool3d(3, 4, 7)(x)
    with pytest.raises(RuntimeError, match="Kernel size can't be greater than actual input size"):
        nn.Conv3d(3, 4, 7)(x)
    with pytest.raises(ValueError, match=r"input: expected \(N,C,D,H,W\), got shape \(3, 4, 5, 6\)"):
        fastrcn.ConvBNReLUPool3d(3, 4, 3)(x[0])
    norm = fastrcn.BatchNormReLUPool3d(3)
    with pytest.raises(ValueError, match=r"input: expected 3 channels, got 2"):
        norm(x[:, :2])
    assert norm.num_batches_tracked == 0
    with pytest.raises(ValueError, match=r"backend.*'gpu'"):
        fastrcn.BatchNormReLUPool3d(3, backend="gpu")
