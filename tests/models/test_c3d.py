"""C3D: published counts, sizes, products and keys, both forms of pool5, the layers written out, descriptors."""

import itertools

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from fastrcn import models
from fastrcn.models import C3D
from fastrcn.models.c3d import CHANNELS
from tests.helpers.nets import count
from tests.helpers.tolerances import assert_close

pytestmark = pytest.mark.usefixtures("one_thread")

LAYERS = {
    "conv1": (64, 3), "conv2": (128, 64), "conv3a": (256, 128), "conv3b": (256, 256), "conv4a": (512, 256),
    "conv4b": (512, 512), "conv5a": (512, 512), "conv5b": (512, 512),
}  # fmt: skip
TINY = {"num_classes": 5, "channels": ((4,), (4,), (6, 6), (8, 8), (8, 8)), "hidden": 12, "size": 48}


@pytest.mark.parametrize("pool5", ["ceil", "pad"])
@pytest.mark.parametrize(("classes", "expected"), [(101, 78_409_573), (400, 79_634_576), (487, 79_991_015)])
def test_counts(classes, expected, pool5):
    with torch.device("meta"):
        assert count(C3D(classes, pool5=pool5)) == expected


def test_count_of_the_smaller_net():
    widths = [3, 64, 128, 256, 256, 256]
    convolutions = sum(27 * i * o + o for i, o in itertools.pairwise(widths))
    connected = 256 * 16 * 2048 + 2048 + 2048 * 2048 + 2048 + 2048 * 101 + 101
    with torch.device("meta"):
        net = models.create("c3d_ucf101")
        assert count(net) == convolutions + connected
        names = [n for n, _ in net.named_children() if n != "dropout"]
        assert names == ["conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8"]
        assert net(torch.empty(2, 3, 16, 112, 112)).shape == (2, 101)


def test_strict_load_of_the_ports_keys():
    """Names and shapes of the usual ports' file of weights for 487 classes."""
    shapes = {f"{n}.weight": (o, i, 3, 3, 3) for n, (o, i) in LAYERS.items()}
    shapes |= {f"{n}.bias": (o,) for n, (o, _) in LAYERS.items()}
    shapes |= {"fc6.weight": (4096, 8192), "fc6.bias": (4096,), "fc7.weight": (4096, 4096), "fc7.bias": (4096,)}
    shapes |= {"fc8.weight": (487, 4096), "fc8.bias": (487,)}
    with torch.device("meta"):
        net, weights = C3D(), {n: torch.empty(s) for n, s in shapes.items()}
        net.load_state_dict(weights, strict=True)
    assert {n: tuple(v.shape) for n, v in net.state_dict().items()} == shapes


class Products(TorchDispatchMode):
    """Multiplications of each convolution and matrix product, and the maps' sizes."""

    def __init__(self):
        super().__init__()
        self.found, self.sizes = [], []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.convolution.default:
            self.found.append(out.numel() * args[1][0].numel())
            self.sizes.append(tuple(out.shape[1:]))
        elif func is torch.ops.aten.addmm.default:
            self.found.append(args[1].shape[1] * out.numel())
        return out


def test_sizes_and_products_at_the_papers_size():
    with torch.device("meta"):
        net, clip = C3D(101, backend="reference"), torch.empty(1, 3, 16, 112, 112)
        with Products() as products, torch.no_grad():
            assert net(clip).shape == (1, 101)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            net(clip)
    assert products.sizes == [
        (64, 16, 112, 112), (128, 16, 56, 56), (256, 8, 28, 28), (256, 8, 28, 28), (512, 4, 14, 14), (512, 4, 14, 14),
        (512, 2, 7, 7), (512, 2, 7, 7),
    ]  # fmt: skip
    billions = [p / 1e9 for p in products.found]
    assert [round(b, 2) for b in billions[:8]] == [1.04, 11.10, 5.55, 11.10, 2.77, 5.55, 0.69, 0.69]
    assert [round(b, 3) for b in billions[8:10]] == [0.034, 0.017]
    assert products.found[10] == 4096 * 101
    assert counter.get_total_flops() == 2 * sum(products.found)
    assert round(sum(billions), 2) == 38.55
    with torch.device("meta"):
        assert C3D(101).maps(clip).shape == (1, 512, 1, 4, 4)


def start_large(net):
    """Weights that let a signal through, as the release's start does not in small nets."""
    with torch.no_grad():
        for p in net.parameters():
            p.normal_(0, 0.3)
    return net.double().eval()


def max_of_cells(x, time, rows):
    """Max over blocks of ``time`` steps and of rows and columns given by their (first, past the last)."""
    x = x.unflatten(2, (-1, time)).amax(3)
    x = torch.stack([x[:, :, :, a:b].amax(3) for a, b in rows], 3)
    return torch.stack([x[..., a:b].amax(4) for a, b in rows], 4)


def written_out(net, clip, pool5):
    """With plain convolutions and maxima over listed cells, for clips of 16 frames of 48x48."""
    p = dict(net.named_parameters())
    x = clip
    for k, time, rows in ((1, 1, 48), (2, 2, 24), (3, 2, 12), (4, 2, 6), (5, 2, 3)):
        names = [n for n in (f"conv{k}", f"conv{k}a", f"conv{k}b") if f"{n}.weight" in p]
        for name in names:
            x = F.conv3d(x, p[f"{name}.weight"], p[f"{name}.bias"], padding=1).relu()
        pairs = [(r, r + 2) for r in range(0, rows, 2)]
        if k == 5:
            pairs = [(0, 2), (2, 3)] if pool5 == "ceil" else [(0, 1), (1, 3)]
        x = max_of_cells(x, time, pairs)
    x = x.flatten(1)
    for name in ("fc6", "fc7"):
        x = F.linear(x, p[f"{name}.weight"], p[f"{name}.bias"]).relu()
    return F.linear(x, p["fc8.weight"], p["fc8.bias"])


@pytest.mark.parametrize("pool5", ["ceil", "pad"])
@pytest.mark.parametrize(("name", "backend"), [("c3d", "cpu"), ("c3d", "reference"), ("c3d_ucf101", "cpu")])
def test_equals_layers_written_out_with_all_gradients(name, backend, pool5):
    net = start_large(models.create(name, small=True, backend=backend, pool5=pool5))
    clip = torch.randn(1, 3, 16, 48, 48, dtype=torch.float64)
    found, truth = net(clip), written_out(net, clip, pool5)
    assert_close(found, truth)
    weights = torch.linspace(-1, 1, 5, dtype=torch.float64)
    names, parameters = zip(*net.named_parameters(), strict=True)
    grads = torch.autograd.grad((found * weights).sum(), parameters)
    truths = torch.autograd.grad((truth * weights).sum(), parameters)
    for n, a, b in zip(names, grads, truths, strict=True):
        assert b.norm() > 0
        assert_close(a, b, n)


@pytest.mark.parametrize(("pool5", "first"), [("ceil", (0, 2, 4, 6)), ("pad", (0, 1, 3, 5))])
def test_rows_that_pool5_puts_together(pool5, first):
    """Convolutions that pass their input on leave the poolings: 16 rows each, then the last one's choice of 7."""
    net = C3D(2, pool5=pool5, channels=((3,),) * 5, hidden=2)
    with torch.no_grad():
        for name, _ in net.layers:
            conv = net.get_submodule(name)
            conv.bias.zero_()
            conv.weight.zero_()
            for c in range(3):
                conv.weight[c, c, 1, 1, 1] = 1
        clip = torch.rand(1, 1, 1, 112, 1).expand(1, 3, 16, 112, 112)
        found = net.maps(clip)
    assert found.shape == (1, 3, 1, 4, 4)
    rows = clip[0, 0, 0, :, 0].view(7, 16).amax(1)
    expected = torch.stack([rows[a:b].max() for a, b in zip(first, (*first[1:], 7), strict=True)])
    assert torch.equal(found[0, 0, 0, :, 0], expected)


def test_start_of_the_release():
    torch.manual_seed(3)
    net = C3D(5, channels=((16,), (16,), (16, 16), (16, 16), (16, 16)), hidden=64, size=16)
    for name, p in net.named_parameters():
        layer, kind = name.split(".")
        if kind == "bias":
            assert (p == (0 if layer in ("conv1", "fc8") else 1)).all(), name
        else:
            std = 0.005 if layer in ("fc6", "fc7") else 0.01
            error = 5 / (2 * p.numel()) ** 0.5  # five standard errors of the deviation
            assert abs(p.std().item() / std - 1) < error, name
            assert abs(p.mean().item()) < 5 * std / p.numel() ** 0.5, name


def test_features_lead_to_the_scores():
    net = start_large(C3D(**TINY))
    clip = torch.randn(2, 3, 16, 48, 48, dtype=torch.float64)
    fc6, fc7 = net.features(clip), net.features(clip, "fc7")
    assert torch.equal(fc6, net.fc6(net.maps(clip).flatten(1)).relu())
    assert torch.equal(fc7, net.fc7(fc6).relu())
    assert torch.equal(net.fc8(fc7), net(clip))
    net.train()
    assert not torch.equal(net(clip), net(clip))  # dropout
    assert torch.equal(net.features(clip), fc6)


def test_descriptor_of_a_video():
    net = start_large(C3D(**TINY))
    video = torch.randn(2, 3, 35, 48, 48, dtype=torch.float64)
    each = [net.features(video[:, :, s : s + 16]) for s in (0, 8, 16)]  # one from 24 on would end past frame 35
    mean = (each[0] + each[1] + each[2]) / 3
    truth = mean / mean.square().sum(1, keepdim=True).sqrt()
    torch.testing.assert_close(net.descriptor(video), truth, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        net.descriptor(video, distance=40), each[0] / each[0].norm(dim=1, keepdim=True), rtol=1e-12, atol=1e-12
    )


def test_shorter_clips():
    with torch.device("meta"):
        net = C3D(5, frames=8, size=48)
        assert net.maps(torch.empty(1, 3, 8, 48, 48)).shape == (1, 512, 1, 2, 2)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: C3D(pool5="floor"), "pool5: expected one of ceil, pad, got 'floor'"),
        (lambda: C3D(channels=CHANNELS[:4]), "channels: expected five groups"),
        (lambda: C3D(size=100), "size: expected a multiple of 16, got 100"),
        (lambda: C3D(frames=4, **TINY), "frames: expected enough for every pooling, got 4"),
        (lambda: C3D(**TINY, backend="gpu"), "backend: .*'gpu'"),
        (lambda: C3D(**TINY)(torch.zeros(1, 3, 8, 48, 48)), r"clip: expected \(N,3,16,48,48\), got shape \(1, 3, 8"),
        (lambda: C3D(**TINY)(torch.zeros(3, 16, 48, 48)), r"clip: expected \(N,3,16,48,48\)"),
        (lambda: C3D(**TINY).features(torch.zeros(1, 3, 16, 48, 48), "fc8"), 'layer: expected "fc6" or "fc7"'),
        (lambda: C3D(**TINY).descriptor(torch.zeros(1, 3, 15, 48, 48)), "video: expected .* T at least 16"),
        (lambda: C3D(**TINY).descriptor(torch.zeros(1, 3, 16, 48, 48), 0), "distance: expected a positive int"),
    ],
)
def test_errors(make, words):
    with pytest.raises(ValueError, match=words):
        make()
