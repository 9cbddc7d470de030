"""torchvision: its video nets before and after ``fastrcn.fuse``, its image nets and ours with equal weights."""

import copy

import pytest
import torch
from torch import nn

import fastrcn
from fastrcn.models import VGG16, AlexNet
from tests.helpers.tolerances import assert_close
from tests.helpers.torchvision_models import models

# Parameters with 400 classes, and what fuse finds: a BatchNorm3d with its ReLU each, all in one module's forward.
VIDEO = {"r3d_18": (33_371_472, 9), "mc3_18": (11_695_440, 9), "r2plus1d_18": (31_505_325, 26), "s3d": (8_320_048, 77)}


def made(name):
    kind = models.video.s3d if name == "s3d" else getattr(models.video, name)
    net = kind(weights=None, num_classes=400)
    for module in net.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if isinstance(module, nn.AvgPool3d):  # made for maps of 7x7
            net.avgpool = nn.AdaptiveAvgPool3d(1)
    return net


def results(net, x):
    """Outputs and gradients, and buffers after them."""
    output = net(x)
    weight = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view_as(output)
    grads = torch.autograd.grad((output * weight).sum(), [*net.parameters()])
    named = {f"gradient of {n}": g for (n, _), g in zip(net.named_parameters(), grads, strict=True)}
    return named | {"output": output, **dict(net.named_buffers())}


def check_fused(name, shape, dtype, training):
    plain = made(name).to(dtype).train(training)
    count, chains = VIDEO[name]
    assert sum(p.numel() for p in plain.parameters()) == count
    fused = copy.deepcopy(plain)
    report = fastrcn.fuse(fused)
    assert len(report) == chains, str(report)
    x = torch.randn(shape, dtype=dtype)
    expected, found = results(plain, x), results(fused, x)
    for n, value in expected.items():
        if value.is_floating_point():
            assert_close(found[n], value, n)
        else:
            assert torch.equal(found[n], value), n


@pytest.mark.slow
@pytest.mark.parametrize("name", VIDEO)
def test_video_nets_fused_in_evaluation(name):
    check_fused(name, (1, 3, 16 if name == "s3d" else 8, 32, 32), torch.float64, training=False)


@pytest.mark.slow
def test_video_net_fused_in_training():
    # Statistics of few pixels would magnify rounding: the last maps have 2x2x2x2 of them.
    check_fused("r3d_18", (2, 3, 16, 32, 32), torch.float64, training=True)


@pytest.mark.parametrize(
    ("name", "ours"), [("vgg16", lambda: VGG16(10, dropout=0.0)), ("alexnet", lambda: AlexNet(10, dropout=0.0))]
)
def test_image_nets(name, ours):
    theirs = getattr(models, name)(weights=None, num_classes=10, dropout=0.0)
    with torch.device("meta"):
        net = ours()
    net.load_state_dict(theirs.state_dict(), strict=True, assign=True)
    x = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        assert_close(net(x), theirs(x), name)
