"""Nets of single frames: published and counted sizes, the layers written out, what order and number of frames do."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fastrcn.models import SingleFrame, SingleFrameMultiresolution
from tests.helpers.nets import count, made_large

pytestmark = pytest.mark.usefixtures("one_thread")

NAMES = ("single_frame_toy", "single_frame", "single_frame_multiresolution")


def test_counts():
    with torch.device("meta"):
        assert count(SingleFrame()) == 73_908_071
        assert count(SingleFrameMultiresolution()) == 129_035_495
        assert count(SingleFrame(net="toy").features) == 2_952
        assert count(SingleFrame(7, "toy").classifier) == 24 * 7 + 7


@pytest.mark.parametrize(
    ("make_net", "trunk", "side", "expected"),
    [
        (SingleFrame, "features", 170, [57, 28, 28, 14, 14, 14, 14, 7]),
        (SingleFrameMultiresolution, "fovea", 89, [30, 15, 15, 7, 7, 7, 7]),
        (SingleFrameMultiresolution, "context", 89, [30, 15, 15, 7, 7, 7, 7]),
        (lambda: SingleFrame(net="toy"), "features", 64, [64, 16, 16]),
    ],
)
def test_sides_of_maps_at_the_papers_size(make_net, trunk, side, expected):
    with torch.device("meta"):
        net = make_net()
        x, sides = torch.empty(1, 3, side, side), []
        for layer in net.get_submodule(trunk):
            x = layer(x)
            if isinstance(layer, (nn.Conv2d, nn.MaxPool2d)):
                sides.append(x.shape[-1])
        assert sides == expected
        assert net(*net.example_inputs(2)).shape == (2, 487)


def test_order_of_layers():
    with torch.device("meta"):
        kinds = [type(layer).__name__ for layer in SingleFrame().features]
    first = ["Conv2d", "ReLU", "LocalResponseNorm", "MaxPool2d"]
    assert kinds == [*first, *first, "Conv2d", "ReLU", "Conv2d", "ReLU", "Conv2d", "ReLU", "MaxPool2d"]


def local_response(x):
    """x / (2 + 1e-4 * sum of squares over 5 channels around)^0.5, channel by channel."""
    out = torch.empty_like(x)
    for c in range(x.shape[1]):
        out[:, c] = x[:, c] / (2 + 1e-4 * x[:, max(0, c - 2) : c + 3].square().sum(1)).sqrt()
    return out


def trunk_written_out(p, prefix, x, last_pool):
    for k, stride, normalise, pool in (
        (0, 3, True, True), (4, 1, True, True), (8, 1, False, False), (10, 1, False, False), (12, 1, False, last_pool),
    ):  # fmt: skip
        weight = p[f"{prefix}.{k}.weight"]
        x = F.conv2d(x, weight, p[f"{prefix}.{k}.bias"], stride, weight.shape[-1] // 2).relu()
        x = local_response(x) if normalise else x
        x = F.max_pool2d(x, 2) if pool else x
    return x


def head_written_out(p, x):
    for k in (0, 3):
        x = F.linear(x, p[f"classifier.{k}.weight"], p[f"classifier.{k}.bias"]).relu()
    return F.linear(x, p["classifier.6.weight"], p["classifier.6.bias"])


def test_karpathys_net_written_out():
    net = made_large("single_frame")[0]
    p, image = dict(net.named_parameters()), torch.randn(2, 3, 40, 40, dtype=torch.float64) * 30
    truth = head_written_out(p, trunk_written_out(p, "features", image, True).flatten(1))
    torch.testing.assert_close(net.image_logits(image), truth, rtol=1e-10, atol=1e-10)


def test_multiresolution_written_out():
    net = made_large("single_frame_multiresolution")[0]
    p, image = dict(net.named_parameters()), torch.randn(2, 3, 48, 48, dtype=torch.float64)
    half = (image[..., ::2, ::2] + image[..., 1::2, ::2] + image[..., ::2, 1::2] + image[..., 1::2, 1::2]) / 4
    centre = image[..., 12:36, 12:36]
    context, fovea = net.streams(image)
    torch.testing.assert_close(context, half, rtol=1e-12, atol=1e-12)
    assert torch.equal(fovea, centre)
    maps = [trunk_written_out(p, "context", half, False), trunk_written_out(p, "fovea", centre, False)]
    truth = head_written_out(p, torch.cat([m.flatten(1) for m in maps], 1))
    torch.testing.assert_close(net.image_logits(image), truth, rtol=1e-10, atol=1e-10)


def test_toy_net_written_out():
    net = made_large("single_frame_toy")[0]
    p, image = dict(net.named_parameters()), torch.randn(2, 3, 12, 12, dtype=torch.float64)
    x = F.max_pool2d(F.conv2d(image, p["features.0.weight"], p["features.0.bias"], padding=1).relu(), 4)
    x = F.conv2d(x, p["features.3.weight"], p["features.3.bias"], padding=1).relu()
    truth = x.sum((2, 3)) / 9 @ p["classifier.weight"].T + p["classifier.bias"]
    torch.testing.assert_close(net.image_logits(image), truth, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("average", ["prob", "logit"])
@pytest.mark.parametrize("name", NAMES)
def test_average_over_frames(name, average):
    net = made_large(name, average=average)[0]
    (clip,) = net.example_inputs(2)
    clip = clip.double()
    each = torch.stack([net.image_logits(clip[:, :, t]) for t in range(clip.shape[2])])
    each = each.exp() / each.exp().sum(-1, keepdim=True) if average == "prob" else each
    torch.testing.assert_close(net(clip), each.sum(0) / len(each), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("average", ["prob", "logit"])
@pytest.mark.parametrize("name", NAMES)
def test_order_of_frames_does_not_matter(name, average):
    net = made_large(name, average=average)[0]
    clip = net.example_inputs(2)[0].double()
    torch.testing.assert_close(net(clip[:, :, [2, 0, 1]]), net(clip), rtol=1e-12, atol=1e-12)
    assert (net(clip[:, :, [0, 0, 1]]) - net(clip)).abs().max() > 1e-6  # which frames there are does


@pytest.mark.parametrize("frames", [1, 4])
@pytest.mark.parametrize("name", NAMES)
def test_copies_of_a_frame_equal_the_net_of_images(name, frames):
    net = made_large(name)[0]
    image = net.example_inputs(2)[0][:, :, 0].double()
    copies = image[:, :, None].expand(-1, -1, frames, -1, -1)
    torch.testing.assert_close(net(copies), net.image_logits(image).softmax(-1), rtol=1e-12, atol=1e-12)
    net.average = "logit"
    torch.testing.assert_close(net(copies), net.image_logits(image), rtol=1e-12, atol=1e-12)


def test_width_scales_every_layer():
    wide, narrow = SingleFrame(5, width=12, hidden=8, size=40), SingleFrame(5, width=6, hidden=8, size=40)
    channels = [[m.out_channels for m in net.features if isinstance(m, nn.Conv2d)] for net in (wide, narrow)]
    assert channels == [[12, 32, 48, 48, 32], [6, 16, 24, 24, 16]]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: SingleFrame(net="vgg"), "net: expected one of toy, karpathy, got 'vgg'"),
        (lambda: SingleFrame(5, "toy", average="max"), "average: expected one of prob, logit, got 'max'"),
        (lambda: SingleFrame(5, "toy", width=0), "width: expected a positive int"),
        (lambda: SingleFrame(5, "toy", size=3), "size: expected images large enough"),
        (lambda: SingleFrameMultiresolution(5, size=47), "size: expected an even number of pixels, got 47"),
        (lambda: SingleFrame(5, "toy")(torch.zeros(1, 3, 64, 64)), r"clip: expected \(N,3,T,64,64\)"),
        (lambda: SingleFrame(5, "toy")(torch.zeros(1, 3, 0, 64, 64)), "clip: expected .*T at least 1, got shape"),
        (lambda: SingleFrame(5, "toy")(torch.zeros(1, 4, 2, 64, 64)), r"clip: expected .*got shape \(1, 4, 2"),
        (lambda: SingleFrame(5, "toy").image_logits(torch.zeros(1, 3, 32, 64)), r"images: expected \(N,3,64,64\)"),
    ],
)
def test_errors(make, words):
    with pytest.raises(ValueError, match=words):
        make()
