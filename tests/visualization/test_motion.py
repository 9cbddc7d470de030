"""The task of telling motions: clips move as their labels say; the estimate of velocity; a net learns it."""

import math

import pytest
import torch

from fastrcn.data import read_clip
from fastrcn.demo.video import packaged_clip
from fastrcn.visualization.motion import (
    CLASSES,
    MotionNet,
    accuracy,
    centred,
    directions,
    moving_windows,
    random_windows,
    smallest_side,
    train_steps,
    velocity_of,
)

pytestmark = pytest.mark.usefixtures("one_thread")


def test_directions_are_the_classes():
    by_name = dict(zip(CLASSES, directions().tolist(), strict=True))
    half = math.sqrt(0.5)
    expected = {
        "still": (0, 0), "right": (1, 0), "left": (-1, 0), "down": (0, 1), "up": (0, -1), "down-right": (half, half),
        "down-left": (-half, half), "up-left": (-half, -half), "up-right": (half, -half),
    }  # fmt: skip
    assert by_name.keys() == expected.keys()
    for name, (x, y) in expected.items():
        assert by_name[name] == pytest.approx((x, y), abs=1e-6)


def ramp(slope_x, slope_y, height=60, width=70):
    y, x = torch.arange(height).float(), torch.arange(width).float()
    return (slope_x * x + slope_y * y[:, None])[None, None]


@pytest.mark.parametrize("label", range(9))
def test_a_window_over_a_ramp_moves_as_its_class_says(label):
    """The content moves by v: I(x,t) = I(x - v t), so on a ramp the values fall by slope . v in each frame."""
    clips = moving_windows(
        ramp(0.3, 0.5), torch.zeros(2).long(), torch.tensor([label] * 2), torch.tensor([1.0, 2.5]), torch.rand(2, 2)
    )
    assert clips.shape == (2, 1, 8, 32, 32)
    slope = torch.tensor([0.3, 0.5])
    for clip, speed in zip(clips, (1.0, 2.5), strict=True):
        step = -float(slope @ directions()[label]) * speed
        torch.testing.assert_close(clip.diff(dim=1), torch.full((1, 7, 32, 32), step), atol=1e-4, rtol=0)
        torch.testing.assert_close(clip.diff(dim=3), torch.full((1, 8, 32, 31), 0.3), atol=1e-4, rtol=0)
        assert abs(float(clip.mean())) < 1e-4


@pytest.mark.parametrize("places", [0.0, 1.0])
def test_the_fastest_window_stays_in_the_smallest_frame(places):
    """Outside a frame of ones the samples would be zero, and the clip less its mean would not be zero."""
    side = smallest_side()
    frames = torch.ones(1, 3, side, side)
    labels = torch.arange(9)
    clips = moving_windows(frames, labels * 0, labels, torch.full((9,), 2.5), torch.full((9, 2), places))
    assert clips.abs().max() < 1e-5


def test_velocity_of_a_moving_wave():
    t, y, x = torch.meshgrid(torch.arange(8.0), torch.arange(40.0), torch.arange(40.0), indexing="ij")
    clips = torch.stack([(0.25 * (x - u * t)).sin() + (0.2 * (y - v * t)).cos() for u, v in ((0.5, -0.3), (0.0, 0.8))])
    found = velocity_of(clips[:, None])
    torch.testing.assert_close(found, torch.tensor([[0.5, -0.3], [0.0, 0.8]]), atol=0.03, rtol=0)


def test_windows_depend_on_the_seed_only():
    frames = torch.rand(3, 3, 60, 60)
    first, second, other = (random_windows(frames, 6, torch.Generator().manual_seed(s)) for s in (0, 0, 1))
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
    assert not torch.equal(first[0], other[0])
    shift = torch.rand(6, 1, 1, 1, 1)
    torch.testing.assert_close(centred(first[0] + shift), first[0], atol=1e-5, rtol=0)


def test_net_takes_any_size():
    net = MotionNet(4)
    assert net(torch.randn(2, 3, 8, 32, 32)).shape == (2, 9)
    assert net(torch.randn(1, 3, 11, 40, 70)).shape == (1, 9)
    assert net.first_layer.weight.shape == (4, 3, 4, 7, 7)


@pytest.mark.slow
def test_learns_motions_of_a_real_clip():
    """On frames of other shots than those it was trained on; chance is 11 %."""
    clip = read_clip(packaged_clip(), 64, 2, 50, color=True)
    assert clip.shape == (250, 3, 64, 150)
    torch.manual_seed(0)
    net, generator = MotionNet(8), torch.Generator().manual_seed(0)
    before = accuracy(net, clip[200:], 256, generator)
    losses = list(train_steps(net, clip[:200], 150, 24, generator))
    assert before < 0.3
    assert losses[-1] < 0.7 * losses[0]
    assert accuracy(net, clip[200:], 512, generator) > 0.4
