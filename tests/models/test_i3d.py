"""I3D and its two streams: counts, keys and shapes of the published nets, the arithmetic of their port written out."""

import pytest
import torch
from torch.nn import functional as F

from fastrcn.models import I3D, I3DTwoStream, create
from fastrcn.models.i3d import ENDPOINTS, from_tensorflow
from tests.helpers.nets import count, randomize
from tests.helpers.tolerances import assert_close

pytestmark = pytest.mark.usefixtures("one_thread")

# b0; b1 reduced, b1; b2 reduced, b2; b3 of each block, and the channels that it reads.
BLOCKS = {
    "Mixed_3b": (192, 64, 96, 128, 16, 32, 32), "Mixed_3c": (256, 128, 128, 192, 32, 96, 64),
    "Mixed_4b": (480, 192, 96, 208, 16, 48, 64), "Mixed_4c": (512, 160, 112, 224, 24, 64, 64),
    "Mixed_4d": (512, 128, 128, 256, 24, 64, 64), "Mixed_4e": (512, 112, 144, 288, 32, 64, 64),
    "Mixed_4f": (528, 256, 160, 320, 32, 128, 128), "Mixed_5b": (832, 256, 160, 320, 32, 128, 128),
    "Mixed_5c": (832, 384, 192, 384, 48, 128, 128),
}  # fmt: skip
SHAPES = {  # of one clip of 64 frames of 224x224
    "Conv3d_1a_7x7": (64, 32, 112), "MaxPool3d_2a_3x3": (64, 32, 56), "Conv3d_2b_1x1": (64, 32, 56),
    "Conv3d_2c_3x3": (192, 32, 56), "MaxPool3d_3a_3x3": (192, 32, 28), "Mixed_3b": (256, 32, 28),
    "Mixed_3c": (480, 32, 28), "MaxPool3d_4a_3x3": (480, 16, 14), "Mixed_4b": (512, 16, 14), "Mixed_4c": (512, 16, 14),
    "Mixed_4d": (512, 16, 14), "Mixed_4e": (528, 16, 14), "Mixed_4f": (832, 16, 14), "MaxPool3d_5a_2x2": (832, 8, 7),
    "Mixed_5b": (832, 8, 7), "Mixed_5c": (1024, 8, 7),
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("i3d_rgb", {}, 12_697_264),
        ("i3d_flow", {}, 12_675_312),
        ("i3d_rgb", {"num_classes": 157}, 12_448_189),
        ("i3d_rgb", {"final_endpoint": "Mixed_5c"}, 12_287_264),
        ("i3d_two_stream", {}, 25_372_576),
    ],
)
def test_parameter_counts(name, options, expected):
    with torch.device("meta"):
        net = create(name, **options)
    assert count(net) == expected
    if expected == 12_697_264:  # the published checkpoints have no scale in their normalisations
        scales = sum(p.numel() for n, p in net.named_parameters() if n.endswith("bn.weight"))
        assert expected - scales == 12_689_984


def test_keys_are_the_ports():
    units = {"Conv3d_1a_7x7": (64, 3, 7), "Conv3d_2b_1x1": (64, 64, 1), "Conv3d_2c_3x3": (192, 64, 3)}
    for name, (i, b0, r1, b1, r2, b2, b3) in BLOCKS.items():
        branches = {"b0": (b0, i, 1), "b1a": (r1, i, 1), "b1b": (b1, r1, 3), "b2a": (r2, i, 1), "b2b": (b2, r2, 3)}
        units |= {f"{name}.{branch}": sizes for branch, sizes in (branches | {"b3b": (b3, i, 1)}).items()}
    expected = {"logits.conv3d.weight": (400, 1024, 1, 1, 1), "logits.conv3d.bias": (400,)}
    for name, (out, i, k) in units.items():
        expected[f"{name}.conv3d.weight"] = (out, i, k, k, k)
        expected |= {f"{name}.bn.{n}": (out,) for n in ("weight", "bias", "running_mean", "running_var")}
        expected[f"{name}.bn.num_batches_tracked"] = ()
    with torch.device("meta"):
        assert {n: tuple(v.shape) for n, v in I3D().state_dict().items()} == expected


def test_shapes_at_the_papers_size():
    with torch.device("meta"):
        net, x = I3D().eval(), torch.empty(2, 3, 64, 224, 224)
        found = {name: tuple(net.endpoint(x, name).shape) for name in ENDPOINTS}
        assert found == {name: (2, c, t, side, side) for name, (c, t, side) in SHAPES.items()}
        assert net.features(x).shape == (2, 1024, 7)
        assert net.per_step(x).shape == (2, 400, 7)
        assert net(x).shape == (2, 400)
        two = I3DTwoStream().eval()
        assert two(*two.example_inputs(2)).shape == (2, 400)


class Port:
    """The port's arithmetic on a state_dict: pad, then convolve or pool without padding. Maps of every endpoint."""

    def __init__(self, state, spatial="same", temporal="zeros", training=False):
        self.state, self.spatial, self.temporal, self.training = state, spatial, temporal, training
        self.statistics = {}

    @staticmethod
    def around(size, kernel, stride):
        total = max(kernel - stride, 0) if size % stride == 0 else max(kernel - size % stride, 0)
        return total // 2, total - total // 2

    def unit(self, x, name, stride=1):
        weight = self.state[f"{name}.conv3d.weight"]
        k = weight.shape[-1]
        t, h, w = (self.around(n, k, stride) for n in x.shape[2:])
        if self.spatial == "torchvision":
            h = w = (k // 2, k // 2)
        if self.temporal == "replicate":
            frames = torch.arange(-t[0], x.shape[2] + t[1]).clamp(0, x.shape[2] - 1)
            x, t = x[:, :, frames], (0, 0)
        x = F.conv3d(F.pad(x, (*w, *h, *t)), weight, None, stride)
        mean, var, scale, shift = (
            self.state[f"{name}.bn.{n}"].view(-1, 1, 1, 1) for n in ("running_mean", "running_var", "weight", "bias")
        )
        if self.training:
            axes = (0, 2, 3, 4)
            self.statistics[name] = x.mean(axes), x.var(axes, unbiased=True)
            mean, var = x.mean(axes, keepdim=True), x.var(axes, unbiased=False, keepdim=True)
        return ((x - mean) / (var + 1e-3).sqrt() * scale + shift).relu()

    def pool(self, x, kernel, stride):
        t, h, w = (self.around(n, k, s) for n, k, s in zip(x.shape[2:], kernel, stride, strict=True))
        if self.spatial == "torchvision" and stride[1] == 2:  # rounding up without padding
            h, w = ((0, -(n - kernel[1]) % 2) for n in x.shape[3:])
        return F.max_pool3d(F.pad(x, (*w, *h, *t)), kernel, stride)

    def block(self, x, name):
        b1 = self.unit(self.unit(x, f"{name}.b1a"), f"{name}.b1b")
        b2 = self.unit(self.unit(x, f"{name}.b2a"), f"{name}.b2b")
        b3 = self.unit(self.pool(x, (3, 3, 3), (1, 1, 1)), f"{name}.b3b")
        return torch.cat([self.unit(x, f"{name}.b0"), b1, b2, b3], 1)

    def endpoints(self, x, last="Mixed_5c"):
        found: dict[str, torch.Tensor] = {}
        for name in SHAPES:
            if name == "Conv3d_1a_7x7":
                x = self.unit(x, name, 2)
            elif name.startswith("Conv3d"):
                x = self.unit(x, name)
            elif name.startswith("Mixed"):
                x = self.block(x, name)
            elif name == "MaxPool3d_4a_3x3":
                x = self.pool(x, (3, 3, 3), (2, 2, 2))
            elif name == "MaxPool3d_5a_2x2":
                x = self.pool(x, (2, 2, 2), (2, 2, 2))
            else:
                x = self.pool(x, (1, 3, 3), (1, 2, 2))
            found[name] = x
            if name == last:
                break
        return found

    def per_step(self, x):
        maps = self.endpoints(x)["Mixed_5c"]
        pairs = (maps[:, :, 1:] + maps[:, :, :-1]).mean((3, 4)) / 2
        weight, bias = self.state["logits.conv3d.weight"][..., 0, 0, 0], self.state["logits.conv3d.bias"]
        return torch.einsum("nct,kc->nkt", pairs, weight) + bias[:, None]


@pytest.mark.parametrize(
    ("size", "paddings", "backend"),
    [
        ((9, 33, 40), ("same", "zeros"), "reference"),
        ((9, 17, 32), ("same", "zeros"), "cpu"),
        ((16, 26, 23), ("same", "zeros"), "cpu"),
        ((11, 19, 29), ("same", "replicate"), "cpu"),
        ((12, 32, 23), ("torchvision", "zeros"), "cpu"),
        ((17, 29, 27), ("torchvision", "replicate"), "cpu"),
    ],
)
def test_equals_the_ports_arithmetic(size, paddings, backend):
    spatial, temporal = paddings
    options = {"spatial_padding": spatial, "temporal_padding": temporal, "backend": backend}
    net = randomize(I3D(5, 2, width=8, size=max(size[1:]), **options).double().eval(), 0.2)
    port = Port(net.state_dict(), spatial, temporal)
    x = torch.randn(1, 2, *size, dtype=torch.float64)
    truth = port.per_step(x)
    with torch.no_grad():
        assert_close(net.per_step(x), truth)
        assert_close(net(x), truth.mean(2))


def test_every_endpoint_equals_the_ports():
    net = randomize(I3D(5, width=8, backend="cpu").double().eval(), 0.2)
    x = torch.randn(1, 3, 6, 13, 18, dtype=torch.float64)
    for name, maps in Port(net.state_dict()).endpoints(x).items():
        with torch.no_grad():
            assert_close(net.endpoint(x, name), maps, name)


def traced(net):
    """The state that the port computes with, its parameters apart, and their names."""
    state = {n: v.clone() for n, v in net.state_dict().items()}
    names = [n for n, _ in net.named_parameters()]
    for name in names:
        state[name].requires_grad_()
    return state, names


def assert_same_gradients(net, found, state, names, truth):
    assert_close(found, truth)
    scale = torch.linspace(-1, 1, truth.numel(), dtype=truth.dtype).view_as(truth)
    grads = torch.autograd.grad((found * scale).sum(), list(net.parameters()))
    expected = torch.autograd.grad((truth * scale).sum(), [state[n] for n in names])
    for name, a, b in zip(names, grads, expected, strict=True):
        assert_close(a, b, name)


def test_gradients_equal_the_ports():
    net = randomize(I3D(5, width=8, size=32, backend="cpu").double().eval(), 0.2)
    state, names = traced(net)
    x = torch.randn(2, 3, 17, 32, 31, dtype=torch.float64)
    assert_same_gradients(net, net(x), state, names, Port(state).per_step(x).mean(2))


def test_training_step_equals_the_ports():
    """With statistics of the batch, of which a hundredth is kept. As far as the maps have many cells: rounding grows
    with every normalisation by few."""
    net = randomize(I3D(width=8, final_endpoint="MaxPool3d_4a_3x3", backend="cpu").double().train(), 0.2)
    state, names = traced(net)
    port = Port(state, training=True)
    x = torch.randn(2, 3, 15, 32, 31, dtype=torch.float64)
    truth = port.endpoints(x, "MaxPool3d_4a_3x3")["MaxPool3d_4a_3x3"]
    assert_same_gradients(net, net(x), state, names, truth)
    assert len(port.statistics) == 15
    after = net.state_dict()
    for name, (mean, var) in port.statistics.items():
        assert after[f"{name}.bn.num_batches_tracked"] == 1
        for kept, new in (("mean", mean), ("var", var)):
            key = f"{name}.bn.running_{kept}"
            assert_close(after[key], 0.99 * state[key] + 0.01 * new, key)


def test_pooling_is_part_of_the_convolutions(monkeypatch):
    """Of 13 poolings 9 stand before a convolution; the four after one are done with it."""
    calls, plain = [], F.max_pool3d
    monkeypatch.setattr(F, "max_pool3d", lambda *a, **options: calls.append(a[1:]) or plain(*a, **options))
    monkeypatch.setattr(torch.nn.functional, "max_pool3d", F.max_pool3d)
    net = I3D(5, width=8, size=32, backend="cpu")
    x = torch.randn(1, 3, 9, 32, 32)
    for mode in (True, False):
        net.train(mode)(x)
        assert calls == [(3, 1, 1)] * 9
        calls.clear()


def test_weights_without_the_counters_of_new_versions_load_strictly():
    net, other = randomize(I3D(5, width=8, size=32), 0.2), I3D(5, width=8, size=32)
    other.load_state_dict({n: v for n, v in net.state_dict().items() if not n.endswith("num_batches_tracked")})
    x = torch.randn(1, 3, 9, 32, 32)
    assert torch.equal(net.eval()(x), other.eval()(x))
    with pytest.raises(RuntimeError, match=r"logits\.conv3d\.bias"):
        other.load_state_dict({n: v for n, v in net.state_dict().items() if n != "logits.conv3d.bias"})


def test_weights_from_tensorflow():
    """Names as in the authors' checkpoints, Mixed_5b's slip among them."""
    net, other = randomize(I3D(5, width=8, size=32), 0.2), I3D(5, width=8, size=32)
    layers = {
        "b0": "Branch_0/Conv3d_0a_1x1", "b1a": "Branch_1/Conv3d_0a_1x1", "b1b": "Branch_1/Conv3d_0b_3x3",
        "b2a": "Branch_2/Conv3d_0a_1x1", "b2b": "Branch_2/Conv3d_0b_3x3", "b3b": "Branch_3/Conv3d_0b_1x1",
    }  # fmt: skip
    units = {f"{block}.{branch}": f"{block}/{layer}" for block in BLOCKS for branch, layer in layers.items()}
    units["Mixed_5b.b2b"] = "Mixed_5b/Branch_2/Conv3d_0a_3x3"
    units |= {name: name for name in ("Conv3d_1a_7x7", "Conv3d_2b_1x1", "Conv3d_2c_3x3")}
    state = net.state_dict()
    variables = {"RGB/inception_i3d/Logits/Conv3d_0c_1x1/conv_3d/b:0": state["logits.conv3d.bias"].numpy()}
    for ours, theirs in [*units.items(), ("logits", "Logits/Conv3d_0c_1x1")]:
        weight = torch.einsum("oithw->thwio", state[f"{ours}.conv3d.weight"])
        variables[f"RGB/inception_i3d/{theirs}/conv_3d/w:0"] = weight.numpy()
    for ours, theirs in units.items():
        state[f"{ours}.bn.weight"].fill_(1)
        for end, name in (("bias", "beta"), ("running_mean", "moving_mean"), ("running_var", "moving_variance")):
            value = state[f"{ours}.bn.{end}"].view(1, 1, 1, 1, -1)
            variables[f"RGB/inception_i3d/{theirs}/batch_norm/{name}:0"] = value.numpy()
    other.load_state_dict(from_tensorflow(variables))
    assert all(torch.equal(value, state[name]) for name, value in other.state_dict().items())
    with pytest.raises(ValueError, match=r"variables: expected names as .*, got 'global_step'"):
        from_tensorflow({"global_step": 1})


def test_a_net_that_ends_at_an_endpoint():
    whole = randomize(I3D(5, width=8, size=32), 0.2).eval()
    x = torch.randn(1, 3, 6, 40, 20)
    for name in ("MaxPool3d_2a_3x3", "Mixed_3c", "Mixed_4e"):
        trunk = I3D(width=8, final_endpoint=name).eval()
        state = whole.state_dict()
        trunk.load_state_dict({n: state[n] for n in trunk.state_dict()})
        assert torch.equal(trunk(x), whole.endpoint(x, name))
        assert trunk.out_channels == trunk(x).shape[1]
        with pytest.raises(ValueError, match="name: expected one of Conv3d_1a_7x7"):
            trunk.endpoint(x, "Mixed_5c")


def test_dropout_before_the_last_layer():
    net = I3D(5, width=8, size=32, dropout=1.0).train()
    x = torch.randn(2, 3, 9, 32, 32)
    bias = net.logits.conv3d.bias.expand(2, 5)
    assert torch.allclose(net(x), bias)
    assert not torch.allclose(net.eval()(x), bias)


@pytest.mark.parametrize("fuse", ["logits", "probabilities"])
def test_two_streams(fuse):
    net = create("i3d_two_stream", small=True, fuse=fuse).eval()
    rgb, flow = net.example_inputs(2)
    assert flow.shape[1] == 2
    a, b = net.rgb(rgb), net.flow(flow)
    truth = a + b if fuse == "logits" else (a.exp() / a.exp().sum(1, True) + b.exp() / b.exp().sum(1, True)) / 2
    torch.testing.assert_close(net(rgb, flow), truth)
    if fuse == "probabilities":
        torch.testing.assert_close(net(rgb, flow).sum(1), torch.ones(2))


SMALL = {"width": 8, "size": 32}


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: I3D(width=12), "width: expected a multiple of 8, got 12"),
        (lambda: I3D(spatial_padding="valid"), "spatial_padding: expected one of same, torchvision, got 'valid'"),
        (lambda: I3D(temporal_padding="same"), "temporal_padding: expected one of zeros, replicate, got 'same'"),
        (lambda: I3D(final_endpoint="Mixed_3a"), "final_endpoint: expected one of .*Mixed_3b.*, got 'Mixed_3a'"),
        (lambda: I3D(5, **SMALL).endpoint(torch.zeros(1, 3, 9, 32, 32), "Logits"), "name: expected one of .*'Logits'"),
        (lambda: I3D(5, **SMALL)(torch.zeros(1, 2, 9, 32, 32)), r"x: expected \(N,3,T,H,W\) of at least 9 frames, got"),
        (lambda: I3D(5, **SMALL)(torch.zeros(3, 9, 32, 32)), r"x: expected \(N,3,T,H,W\) of at least 9 frames, got"),
        (lambda: I3D(5, **SMALL)(torch.zeros(1, 3, 8, 32, 32)), "x: expected .* at least 9 frames, got shape"),
        (lambda: I3D(5, **SMALL)(torch.zeros(1, 3, 9, 33, 32)), "x: expected .* last maps are 1x1, as 32x32 gives"),
        (lambda: I3DTwoStream(fuse="mean"), "fuse: expected one of logits, probabilities, got 'mean'"),
        (
            lambda: I3DTwoStream(5, **SMALL)(torch.zeros(2, 3, 9, 32, 32), torch.zeros(1, 2, 9, 32, 32)),
            "flow: expected 2 clips as of rgb, got 1",
        ),
    ],
)
def test_errors(make, words):
    with pytest.raises(ValueError, match=words):
        make()
