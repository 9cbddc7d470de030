"""VGG-16: counts, keys and taps of the published net."""

import pytest
import torch
from torch import nn

from fastrcn.models import VGG16


@pytest.mark.parametrize(
    ("classes", "channels", "count"), [(1000, 3, 138_357_544), (101, 3, 134_674_341), (101, 20, 134_684_133)]
)
def test_parameter_counts(classes, channels, count):
    with torch.device("meta"):
        net = VGG16(classes, channels)
    assert sum(p.numel() for p in net.parameters()) == count


def test_keys_are_torchvisions():
    with torch.device("meta"):
        net = VGG16()
    layers = [f"features.{k}" for k in (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)]
    layers += [f"classifier.{k}" for k in (0, 3, 6)]
    assert list(net.state_dict()) == [f"{layer}.{end}" for layer in layers for end in ("weight", "bias")]


def test_taps_at_the_papers_size():
    with torch.device("meta"):
        net = VGG16()
        shapes = [tuple(t.shape) for t in net.taps(torch.empty(2, 3, 224, 224))]
    sides = [(128, 56), (256, 28), (512, 14), (512, 7), (4096, 1)]
    assert shapes == [(2, c, s, s) for c, s in sides]
    assert list(net.tap_channels.values()) == [64, *(c for c, _ in sides)]


def test_equals_the_layers_written_out():
    net = VGG16(5, width=4, hidden=8, size=32).eval()
    x = torch.randn(2, 3, 32, 32)
    truth = nn.Sequential(*net.features, nn.Flatten(), *net.classifier)(x)
    assert torch.equal(net(x), truth)
    fc7 = net.taps(x)[-1].flatten(1)
    assert torch.equal(net.classifier[6](fc7), truth)
    assert (fc7 >= 0).all()


def test_rgb_stem():
    rgb, flow = VGG16(2, 3, width=4, hidden=8, size=32), VGG16(2, 20, width=4, hidden=8, size=32)
    flow.load_rgb_stem(rgb.features[0].weight)
    gray = torch.randn(1, 1, 32, 32)
    ours, theirs = flow.features[0], rgb.features[0]
    a = nn.functional.conv2d(gray.expand(1, 20, 32, 32), ours.weight, padding=1) / 20
    b = nn.functional.conv2d(gray.expand(1, 3, 32, 32), theirs.weight, padding=1) / 3
    assert torch.allclose(a, b, atol=1e-5)
    with pytest.raises(ValueError, match=r"weight: expected \(4,3,3,3\)"):
        flow.load_rgb_stem(torch.zeros(4, 1, 3, 3))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: VGG16(size=30), "size: expected a multiple of 32"),
        (lambda: VGG16(width=0), "width"),
        (lambda: VGG16(2, width=4, hidden=8, size=32)(torch.zeros(1, 3, 64, 64)), r"x: expected \(N,3,32,32\)"),
    ],
)
def test_errors(make, words):
    with pytest.raises(ValueError, match=words):
        make()
