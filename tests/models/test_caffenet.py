"""AlexNet, CaffeNet and the LRCN hybrid: counts, shapes, keys, the normalisation, Caffe's pooling."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fastrcn.models import AlexNet, CaffeNet
from tests.helpers.nets import count

TINY = {"width": 6, "hidden": 16, "size": 67}


@pytest.mark.parametrize(("grouped", "expected"), [(True, 60_965_224), (False, 62_378_344)])
def test_caffenet_count(grouped, expected):
    with torch.device("meta"):
        assert count(CaffeNet(grouped=grouped)) == expected


def test_hybrid_counts():
    with torch.device("meta"):
        net = CaffeNet(variant="lrcn_hybrid", top="fc6")
    assert count(net.features) == 4_310_656
    assert count(net.classifier.fc6) == 56_627_200
    assert count(net) == 4_310_656 + 56_627_200


def test_alexnet_count_and_keys_are_torchvisions():
    with torch.device("meta"):
        net = AlexNet()
    assert count(net) == 61_100_840
    layers = [f"features.{k}" for k in (0, 3, 6, 8, 10)] + [f"classifier.{k}" for k in (1, 4, 6)]
    assert list(net.state_dict()) == [f"{layer}.{end}" for layer in layers for end in ("weight", "bias")]
    shapes = [tuple(v.shape) for n, v in net.state_dict().items() if n.endswith("weight")]
    assert shapes == [
        (64, 3, 11, 11), (192, 64, 5, 5), (384, 192, 3, 3), (256, 384, 3, 3), (256, 256, 3, 3),
        (4096, 9216), (4096, 4096), (1000, 4096),
    ]  # fmt: skip


def sides(net, x):
    found = []
    for layer in net.features:
        x = layer(x)
        if isinstance(layer, (nn.Conv2d, nn.MaxPool2d)):
            found.append(x.shape[-1])
    return found, tuple(x.shape[1:])


@pytest.mark.parametrize(
    ("variant", "expected", "maps"),
    [
        ("caffenet", [55, 27, 27, 13, 13, 13, 13, 6], (256, 6, 6)),
        ("lrcn_hybrid", [111, 55, 26, 13, 13, 13, 13, 6], (384, 6, 6)),
    ],
)
def test_shapes_at_the_papers_size(variant, expected, maps):
    with torch.device("meta"):
        net = CaffeNet(101, variant=variant)
        x = torch.empty(2, 3, 227, 227)
        assert sides(net, x) == (expected, maps)
        assert net(x).shape == (2, 101)


def test_alexnet_shapes():
    with torch.device("meta"):
        assert AlexNet().maps(torch.empty(2, 3, 224, 224)).shape == (2, 256, 6, 6)
        net = AlexNet(None, size=220)
        assert net.maps(torch.empty(2, 3, 220, 220)).shape == (2, 256, 5, 5)
        assert net(torch.empty(2, 3, 220, 220)).shape == (2, 4096)


def local_response(x):
    """x / (1 + 1e-4/5 * sum of squares over 5 channels around)^0.75, channel by channel."""
    out = torch.empty_like(x)
    for c in range(x.shape[1]):
        near = x[:, max(0, c - 2) : c + 3]
        out[:, c] = x[:, c] / (1 + 1e-4 / 5 * near.square().sum(1)) ** 0.75
    return out


@pytest.mark.parametrize("variant", ["caffenet", "lrcn_hybrid"])
@pytest.mark.parametrize("normalize_first", [False, True])
def test_equals_the_layers_written_out(variant, normalize_first):
    net = CaffeNet(5, variant=variant, normalize_first=normalize_first, **TINY).double().eval()
    with torch.no_grad():
        for p in net.parameters():
            p.normal_(0, 0.2)
    x = 100 * torch.randn(2, 3, 67, 67, dtype=torch.float64)  # large, so that normalisation matters
    p = net.state_dict()
    strides = {"caffenet": (4, 1), "lrcn_hybrid": (2, 2)}[variant]
    paddings = {"caffenet": (0, 2), "lrcn_hybrid": (0, 0)}[variant]
    y = x
    for k in range(1, 6):
        stride, padding = (strides[k - 1], paddings[k - 1]) if k < 3 else (1, 1)
        w, b = p[f"features.conv{k}.weight"], p[f"features.conv{k}.bias"]
        if k in (2, 4, 5):  # two groups, as two towers
            pairs = zip(y.chunk(2, 1), w.chunk(2), b.chunk(2), strict=True)
            y = torch.cat([F.conv2d(a, v, c, stride, padding) for a, v, c in pairs], 1)
        else:
            y = F.conv2d(y, w, b, stride, padding)
        y = y.relu()
        if k in (1, 2):
            steps = [local_response, lambda t: F.max_pool2d(t, 3, 2, ceil_mode=True)]
            for step in steps if normalize_first else reversed(steps):
                y = step(y)
    y = F.max_pool2d(y, 3, 2, ceil_mode=True).flatten(1)
    fc6 = F.linear(y, p["classifier.fc6.weight"], p["classifier.fc6.bias"]).relu()
    fc7 = F.linear(fc6, p["classifier.fc7.weight"], p["classifier.fc7.bias"]).relu()
    truth = F.linear(fc7, p["classifier.fc8.weight"], p["classifier.fc8.bias"])
    torch.testing.assert_close(net(x), truth, rtol=1e-10, atol=1e-10)
    for top, expected in (("fc6", fc6), ("fc7", fc7)):
        shorter = CaffeNet(variant=variant, normalize_first=normalize_first, top=top, **TINY).double().eval()
        shorter.load_state_dict({n: v for n, v in p.items() if n in shorter.state_dict()})
        torch.testing.assert_close(shorter(x), expected, rtol=1e-10, atol=1e-10)


def test_normalisation_is_torchs_and_matters():
    norm = CaffeNet(**TINY).features.norm1
    x = 50 * torch.randn(2, 9, 4, 4, dtype=torch.float64)
    torch.testing.assert_close(norm(x), local_response(x), rtol=1e-12, atol=0)
    torch.testing.assert_close(norm(x), nn.LocalResponseNorm(5, 1e-4, 0.75, 1.0)(x), rtol=0, atol=0)
    assert (norm(x) - x).abs().max() > 1


def test_pooling_rounds_up():
    """26 cells become 13, where rounding down gives 12: the last window holds two cells."""
    pool = CaffeNet(variant="lrcn_hybrid", **TINY).features.pool2
    x = torch.arange(26.0).expand(1, 1, 26, 26)
    assert pool(x)[0, 0, 0].tolist() == [*range(2, 25, 2), 25]


def test_alexnet_without_its_last_layer_gives_fc7():
    net, shorter = (AlexNet(n, width=2, hidden=8, size=64).eval() for n in (5, None))
    shorter.load_state_dict({n: v for n, v in net.state_dict().items() if n in shorter.state_dict()})
    x = torch.randn(2, 3, 64, 64)
    assert torch.equal(net.classifier[6](shorter(x)), net(x))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: CaffeNet(variant="vgg"), "variant: expected one of caffenet, lrcn_hybrid, got 'vgg'"),
        (lambda: CaffeNet(top="fc9"), "top"),
        (lambda: CaffeNet(width=8), "width: expected a multiple of 6"),
        (lambda: CaffeNet(size=20), "size"),
        (lambda: CaffeNet(5, **TINY)(torch.zeros(1, 3, 64, 64)), r"x: expected \(N,3,67,67\)"),
        (lambda: AlexNet(width=0), "width"),
        (lambda: AlexNet(size=62), "size: expected at least 63"),
        (lambda: AlexNet(5, width=2, hidden=8)(torch.zeros(1, 4, 224, 224)), r"x: expected \(N,3,224,224\)"),
    ],
)
def test_errors(make, words):
    with pytest.raises(ValueError, match=words):
        make()
