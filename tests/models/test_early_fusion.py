"""Early fusion: counts, the order of channels, and the 3-D convolution that the first one is."""

import pytest
import torch
from torch.nn import functional as F

from fastrcn import models
from fastrcn.models import EarlyFusion
from fastrcn.models.receptive_field import filters_over_time
from tests.helpers.nets import count, made_large

pytestmark = pytest.mark.usefixtures("one_thread")


def test_counts():
    with torch.device("meta"):
        assert count(EarlyFusion()) == 74_221_703
        assert count(EarlyFusion(net="toy").features) == 9_108
        assert count(EarlyFusion(7, "toy").classifier) == 24 * 7 + 7


@pytest.mark.parametrize(
    ("name", "shape", "maps"),
    [
        ("early_fusion", (2, 3, 10, 170, 170), (2, 256, 7, 7)),
        ("early_fusion_toy", (2, 3, 20, 64, 64), (2, 24, 16, 16)),
    ],
)
def test_shapes_at_the_papers_size(name, shape, maps):
    with torch.device("meta"):
        net = models.create(name)
        assert net.example_inputs(2)[0].shape == shape
        assert net.features(net.stack(torch.empty(shape))).shape == maps
        assert net(torch.empty(shape)).shape == (2, 487)


def test_channels_are_in_the_order_of_time():
    net, _ = made_large("early_fusion_toy", num_frames=2)
    clip = torch.arange(6.0).view(1, 2, 3).transpose(1, 2)[..., None, None].expand(1, 3, 2, 12, 12)
    assert net.stack(clip)[0, :, 0, 0].tolist() == [0, 1, 2, 3, 4, 5]  # red, green, blue of frame 0, then of frame 1
    assert clip[0, :, 0, 0, 0].tolist() == [0, 1, 2]


@pytest.mark.parametrize("name", ["early_fusion", "early_fusion_toy"])
def test_first_convolution_is_a_3d_one_as_long_as_the_clip(name):
    net, clip = made_large(name)
    conv = net.features[0]
    weight = torch.empty(conv.out_channels, 3, 3, *conv.kernel_size, dtype=torch.float64)
    for t in range(3):
        for c in range(3):
            weight[:, c, t] = conv.weight[:, 3 * t + c]
    around = (0, *conv.padding)  # none over time
    maps = F.conv3d(clip, weight, conv.bias, (1, *conv.stride), around)
    assert maps.shape[2] == 1
    torch.testing.assert_close(conv(net.stack(clip)), maps[:, :, 0], rtol=1e-12, atol=1e-12)
    view = filters_over_time(conv, 3)
    assert torch.equal(view, weight)
    assert view.untyped_storage().data_ptr() == conv.weight.untyped_storage().data_ptr()


def test_toy_net_written_out():
    net, clip = made_large("early_fusion_toy")
    p = dict(net.named_parameters())
    x = F.conv3d(clip, filters_over_time(net.features[0], 3), p["features.0.bias"], padding=(0, 1, 1))[:, :, 0].relu()
    x = F.conv2d(F.max_pool2d(x, 4), p["features.3.weight"], p["features.3.bias"], padding=1).relu()
    truth = x.sum((2, 3)) / 9 @ p["classifier.weight"].T + p["classifier.bias"]
    torch.testing.assert_close(net(clip), truth, rtol=1e-10, atol=1e-10)


def test_karpathys_layers_are_those_of_single_frames():
    net, clip = made_large("early_fusion")
    single = models.create("single_frame", small=True).double()
    state = {n: v for n, v in net.state_dict().items() if n != "features.0.weight"}
    single.load_state_dict({**state, "features.0.weight": net.features[0].weight[:, :3]})
    clip[:, :, 1:] = 0
    torch.testing.assert_close(net(clip), single.eval().image_logits(clip[:, :, 0]), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("make_net", "words"),
    [
        (lambda: EarlyFusion(net="vgg"), "net: expected one of toy, karpathy, got 'vgg'"),
        (
            lambda: made_large("early_fusion_toy")[0](torch.zeros(1, 3, 4, 12, 12)),
            r"clip: expected \(N,3,3,12,12\), got",
        ),
    ],
)
def test_errors(make_net, words):
    with pytest.raises(ValueError, match=words):
        make_net()
