"""Slow fusion: counts, sizes in time and place, the layers written out, clips that come later."""

import pytest
import torch
from torch.nn import functional as F

from fastrcn import models
from fastrcn.models import SlowFusion
from fastrcn.models.receptive_field import temporal_shift_error
from tests.helpers.nets import count, made_large
from tests.helpers.tolerances import assert_close

pytestmark = pytest.mark.usefixtures("one_thread")


def test_counts():
    with torch.device("meta"):
        assert count(SlowFusion()) == 75_511_751
        assert count(SlowFusion(net="toy").features) == 8_784
        assert count(SlowFusion(7, "toy").classifier) == 24 * 7 + 7


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        (
            "slow_fusion", (2, 3, 10, 170, 170),
            [(96, 4, 57), (96, 4, 57), (96, 4, 28), (256, 2, 28), (256, 2, 28), (256, 2, 14), (384, 1, 14),
             (384, 1, 14), (256, 1, 7)],
        ),
        ("slow_fusion_toy", (2, 3, 20, 64, 64), [(12, 5, 16), (24, 5, 16)]),
    ],
)  # fmt: skip
def test_sizes_at_the_papers_size(name, shape, expected):
    with torch.device("meta"):
        net = models.create(name)
        assert net.example_inputs(2)[0].shape == shape
        x, sizes = torch.empty(shape), []
        for layer in net.features:
            x = layer(x)
            assert x.shape[3] == x.shape[4]
            sizes.append(tuple(x.shape[1:4]))
        assert sizes == expected
        assert net(torch.empty(shape)).shape == (2, 487)


def test_longer_clips():
    with torch.device("meta"):
        net, times = SlowFusion(5, num_frames=18), []
        x = torch.empty(1, 3, 18, 170, 170)
        for layer in net.features:
            x = layer(x)
            times.append(x.shape[2])
        assert times == [8, 8, 8, 4, 4, 4, 2, 2, 2]
        assert net(torch.empty(1, 3, 18, 170, 170)).shape == (1, 5)


def local_response(x):
    """x / (2 + 1e-4 * sum of squares over 5 channels around)^0.5, channel by channel."""
    out = torch.empty_like(x)
    for c in range(x.shape[1]):
        out[:, c] = x[:, c] / (2 + 1e-4 * x[:, max(0, c - 2) : c + 3].square().sum(1)).sqrt()
    return out


def conv_over_time(x, weight, bias, stride, place):
    """A 3-D convolution without padding over time, as a sum of 2-D ones; a list of maps of steps."""
    steps = []
    for t in range(0, x.shape[2] - weight.shape[2] + 1, stride):
        parts = [
            F.conv2d(x[:, :, t + k], weight[:, :, k], None, place, weight.shape[-1] // 2)
            for k in range(weight.shape[2])
        ]
        steps.append((sum(parts) + bias[:, None, None]).relu())
    return steps


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_karpathys_net_written_out(backend):
    net, clip = made_large("slow_fusion", backend=backend)
    clip, p = clip * 30, dict(net.named_parameters())
    x = clip
    for k, stride, place, normalise, pool in (
        (0, 2, 3, True, True), (3, 2, 1, True, True), (6, 2, 1, False, False), (7, 1, 1, False, False),
        (8, 1, 1, False, True),
    ):  # fmt: skip
        steps = conv_over_time(x, p[f"features.{k}.0.weight"], p[f"features.{k}.0.bias"], stride, place)
        steps = [local_response(s) for s in steps] if normalise else steps
        steps = [F.max_pool2d(s, 2) for s in steps] if pool else steps
        x = torch.stack(steps, 2)
    x = x.flatten(1)
    for k in (0, 3):
        x = F.linear(x, p[f"classifier.{k}.weight"], p[f"classifier.{k}.bias"]).relu()
    truth = F.linear(x, p["classifier.6.weight"], p["classifier.6.bias"])
    assert_close(net(clip), truth)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_toy_net_written_out(backend):
    net, clip = made_large("slow_fusion_toy", backend=backend)
    p = dict(net.named_parameters())

    def conv(x, k):
        around = F.pad(x, (0, 0, 0, 0, 1, 1))
        return torch.stack(
            conv_over_time(around, p[f"features.{k}.0.weight"], p[f"features.{k}.0.bias"], 1, 1), 2
        )  # fmt: skip

    x = conv(F.max_pool3d(conv(clip, 0), 4), 1)
    truth = x.sum((2, 3, 4)) / (2 * 3 * 3) @ p["classifier.weight"].T + p["classifier.bias"]
    assert_close(net(clip), truth)


def event(length, first, frames=2):
    """Clips that are blank but for some frames."""
    clip = torch.zeros(2, 3, length, 12, 12, dtype=torch.float64)
    clip[:, :, first : first + frames] = torch.randn(2, 3, frames, 12, 12, dtype=torch.float64)
    return clip


def test_a_later_event_is_answered_later():
    net, _ = made_large("slow_fusion_toy")
    clip = event(40, 16)
    assert temporal_shift_error(net.features, clip, 8) < 1e-12  # maps, two steps later
    assert temporal_shift_error(net, clip, 8) < 1e-12  # scores, the same
    blank = net.features(torch.zeros_like(clip))
    first = net.features(clip) - blank
    later = net.features(clip.roll(8, 2)) - blank
    steps = [bool(d.abs().max() > 1e-6) for d in first.unbind(2)]
    assert steps == [t in (2, 3, 4, 5) for t in range(10)]  # step t sees frames 4t-5 .. 4t+8
    torch.testing.assert_close(later[:, :, 2:], first[:, :, :-2], rtol=1e-10, atol=1e-10)


def test_shifts_that_are_no_multiple_of_the_stride_or_reach_the_ends():
    net, _ = made_large("slow_fusion_toy")
    assert temporal_shift_error(net, event(40, 16), 2) > 1e-2  # pooling over 4 frames
    assert temporal_shift_error(net.features, event(20, 2), 8) > 1e-2  # padding


def test_early_fusion_does_not_know_a_later_event():
    net, _ = made_large("early_fusion_toy", num_frames=40)
    clip = event(40, 16)
    assert temporal_shift_error(lambda x: net.features(net.stack(x)), clip, 8) > 0.1
    assert temporal_shift_error(net, clip, 8) > 0.1


@pytest.mark.parametrize(
    ("make_net", "words"),
    [
        (lambda: SlowFusion(net="vgg"), "net: expected one of toy, karpathy, got 'vgg'"),
        (lambda: SlowFusion(num_frames=6), "num_frames, size: expected clips large enough for every layer, got 6, 170"),
        (lambda: SlowFusion(net="toy", size=3), "num_frames, size: expected clips large enough"),
        (lambda: SlowFusion(net="toy", backend="gpu"), "backend: .*'gpu'"),
        (lambda: made_large("slow_fusion")[0](torch.zeros(1, 3, 11, 40, 40)), r"clip: expected \(N,3,10,40,40\), got"),
        (
            lambda: made_large("slow_fusion_toy")[0](torch.zeros(1, 3, 3, 12, 12)),
            "clip: expected .* T at least 4, got shape",
        ),
    ],
)
def test_errors(make_net, words):
    with pytest.raises(ValueError, match=words):
        make_net()
