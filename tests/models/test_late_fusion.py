"""Late fusion: counts, towers on their frames, what the order of frames does, the average as linear."""

import pytest
import torch
from torch.nn import functional as F

from fastrcn import models
from fastrcn.models import LateFusion, LateFusionPool, SingleFrame
from tests.helpers.nets import count, made_large

pytestmark = pytest.mark.usefixtures("one_thread")


def test_counts():
    with torch.device("meta"):
        assert count(models.create("late_fusion")) == 125_288_295
        for name in ("late_fusion_fc_toy", "late_fusion_pool_toy"):
            assert count(models.create(name).get_submodule("features")) == 2_952
        # 20 frames of 24 maps of 16x16 cells in, 128 units, twice, and 487 classes
        assert count(models.create("late_fusion_fc_toy").get_submodule("classifier")) == (
            20 * 24 * 16 * 16 * 128 + 128 + 128 * 128 + 128 + 128 * 487 + 487
        )
        assert count(models.create("late_fusion_pool_toy").get_submodule("classifier")) == 24 * 487 + 487


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("late_fusion", (2, 3, 16, 170, 170)),
        ("late_fusion_fc_toy", (2, 3, 20, 64, 64)),
        ("late_fusion_pool_toy", (2, 3, 20, 64, 64)),
    ],
)
def test_shapes_at_the_papers_size(name, shape):
    with torch.device("meta"):
        net = models.create(name)
        assert net.example_inputs(2)[0].shape == shape
        assert net(torch.empty(shape)).shape == (2, 487)


def test_karpathys_towers_see_two_frames_15_apart():
    net, clip = made_large("late_fusion")
    p = dict(net.named_parameters())
    towers = [net.features(clip[:, :, t]).flatten(1) for t in (0, 15)]
    x = torch.cat(towers, 1)
    for k in (0, 3):
        x = F.linear(x, p[f"classifier.{k}.weight"], p[f"classifier.{k}.bias"]).relu()
    truth = F.linear(x, p["classifier.6.weight"], p["classifier.6.bias"])
    torch.testing.assert_close(net(clip), truth, rtol=1e-10, atol=1e-10)
    clip[:, :, 1:15] = float("nan")  # the frames between play no part
    torch.testing.assert_close(net(clip), truth, rtol=1e-10, atol=1e-10)


def test_toy_towers_written_out():
    net, clip = made_large("late_fusion_fc_toy")
    p = dict(net.named_parameters())
    maps = []
    for t in range(4):
        x = F.conv2d(clip[:, :, t], p["features.0.weight"], p["features.0.bias"], padding=1).relu()
        x = F.conv2d(F.max_pool2d(x, 4), p["features.3.weight"], p["features.3.bias"], padding=1).relu()
        assert x.shape[1:] == (24, 3, 3)
        maps.append(x.flatten(1))
    x = torch.cat(maps, 1)
    for k in (0, 3):
        x = F.linear(x, p[f"classifier.{k}.weight"], p[f"classifier.{k}.bias"]).relu()
    truth = F.linear(x, p["classifier.6.weight"], p["classifier.6.bias"])
    torch.testing.assert_close(net(clip), truth, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", ["late_fusion", "late_fusion_fc_toy"])
def test_order_of_frames_matters_to_connected_layers(name):
    net, clip = made_large(name)
    assert (net(clip.flip(2)) - net(clip)).norm() > 1e-2 * net(clip).norm()


def test_order_of_frames_does_not_matter_to_the_average():
    net, clip = made_large("late_fusion_pool_toy")
    torch.testing.assert_close(net(clip[:, :, [2, 0, 1]]), net(clip), rtol=1e-12, atol=1e-12)
    assert (net(clip[:, :, [0, 0, 1]]) - net(clip)).abs().max() > 1e-3  # which frames there are does


@pytest.mark.parametrize("frames", [1, 5])
def test_average_is_that_of_the_frames_logits(frames):
    net, _ = made_large("late_fusion_pool_toy")
    single = SingleFrame(5, "toy", average="logit", size=12).double()
    single.load_state_dict(net.state_dict())
    clip = torch.randn(2, 3, frames, 12, 12, dtype=torch.float64)
    torch.testing.assert_close(net(clip), single(clip), rtol=1e-12, atol=1e-12)
    each = [single.image_logits(clip[:, :, t]) for t in range(frames)]
    torch.testing.assert_close(net(clip), sum(each) / frames, rtol=1e-12, atol=1e-12)


def test_average_of_karpathys_maps():
    net = LateFusionPool(5, "karpathy", width=6, size=40).double()
    clip = torch.randn(2, 3, 2, 40, 40, dtype=torch.float64)
    means = sum(net.features(clip[:, :, t]).mean((2, 3)) for t in range(2)) / 2
    torch.testing.assert_close(net(clip), net.classifier(means), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("make_net", "words"),
    [
        (lambda: LateFusion(net="vgg"), "net: expected one of toy, karpathy, got 'vgg'"),
        (lambda: LateFusionPool(net="vgg"), "net: expected one of toy, karpathy, got 'vgg'"),
        (lambda: LateFusion(distance=0), "num_frames, distance: expected positive ints, got 16, 0"),
        (lambda: made_large("late_fusion")[0](torch.zeros(1, 3, 15, 40, 40)), r"clip: expected \(N,3,16,40,40\), got"),
        (lambda: made_large("late_fusion_pool_toy")[0](torch.zeros(1, 3, 12, 12)), r"clip: expected \(N,3,T,12,12\)"),
    ],
)
def test_errors(make_net, words):
    with pytest.raises(ValueError, match=words):
        make_net()
