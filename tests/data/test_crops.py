"""Crops: places by hand, the same for every frame, and what they do to flow."""

import pytest
import torch
from torch.nn import functional as F

from fastrcn.data import (
    Crop,
    center_crop,
    color_jitter,
    corner_crops,
    flip,
    multi_scale_crop,
    optical_flow,
    random_crop,
    random_flip,
    resize,
    short_side_size,
    take_crop,
    ten_crops,
    three_crops,
)
from fastrcn.data.crops import LIGHTING_VALUES, LIGHTING_VECTORS


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def places(frames, height, width):
    """A clip whose pixels tell frame, row and column: (T,3,H,W)."""
    grid = torch.meshgrid(torch.arange(frames), torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack(grid, 1).float()


def test_a_crop_is_the_same_rectangle_of_every_frame():
    clip = places(4, 10, 12)
    found = take_crop(clip, Crop(2, 3, 5, 6, (5, 6)))
    assert torch.equal(found, clip[:, :, 2:7, 3:9])
    mirrored = take_crop(clip, Crop(2, 3, 5, 6, (5, 6), True))
    assert mirrored[:, 2, 0].tolist() == [[8, 7, 6, 5, 4, 3]] * 4
    assert torch.equal(take_crop(clip.byte(), Crop(2, 3, 5, 6, (5, 6))), clip.byte()[:, :, 2:7, 3:9])


def test_middle_corners_and_ten():
    assert center_crop((10, 13), (4, 6)) == Crop(3, 3, 4, 6, (4, 6))
    five = corner_crops((10, 13), 4)
    assert [crop[:4] for crop in five] == [(0, 0, 4, 4), (0, 9, 4, 4), (6, 0, 4, 4), (6, 9, 4, 4), (3, 4, 4, 4)]
    ten = ten_crops((10, 13), 4)
    assert ten[:5] == five
    assert [crop[:5] for crop in ten[5:]] == [crop[:5] for crop in five]
    assert all(crop.mirrored for crop in ten[5:])
    assert not any(crop.mirrored for crop in five)
    clip = places(2, 10, 13)
    assert torch.equal(take_crop(clip, ten[8]), take_crop(clip, ten[3]).flip(-1))
    assert [crop[:2] for crop in three_crops((256, 340), 256)] == [(0, 0), (0, 42), (0, 84)]
    assert [crop[:2] for crop in three_crops((340, 300), 256)] == [(0, 22), (42, 22), (84, 22)]


def test_random_crops_lie_everywhere():
    found = {random_crop((6, 9), (5, 6), generator=seeded(seed))[:2] for seed in range(300)}
    assert found == {(top, left) for top in range(2) for left in range(4)}
    crop = random_crop((100, 100), 10, generator=seeded(3))
    assert crop == random_crop((100, 100), 10, generator=seeded(3))
    assert crop != random_crop((100, 100), 10, generator=seeded(4))
    assert crop.size == (10, 10)
    flips = [random_flip(crop, generator=seeded(seed)).mirrored for seed in range(200)]
    assert 70 < sum(flips) < 130
    assert {random_flip(crop._replace(mirrored=True), generator=seeded(seed)).mirrored for seed in range(20)} == {
        True,
        False,
    }


def test_crops_of_several_sizes():
    draws = [multi_scale_crop((256, 340), 224, generator=seeded(seed)) for seed in range(400)]
    assert {(crop.height, crop.width) for crop in draws} == {
        (h, w) for h in (256, 224, 192, 168) for w in (256, 224, 192, 168)
    }
    assert all(crop.size == (224, 224) and not crop.mirrored for crop in draws)
    assert all(crop.top + crop.height <= 256 and crop.left + crop.width <= 340 for crop in draws)
    squares = [multi_scale_crop((256, 340), 224, independent=False, generator=seeded(seed)) for seed in range(100)]
    assert all(crop.height == crop.width for crop in squares)
    assert len({crop.height for crop in squares}) == 4


def test_crops_of_several_sizes_at_corners():
    found = set()
    for seed in range(200):
        crop = multi_scale_crop((20, 30), 16, sides=(12,), corners=True, generator=seeded(seed))
        found.add(crop[:4])
    assert found == {(t, s, 12, 12) for t, s in [(0, 0), (0, 18), (8, 0), (8, 18), (4, 9)]}
    assert take_crop(torch.rand(3, 3, 20, 30), multi_scale_crop((20, 30), 16, sides=(12, 20))).shape == (3, 3, 16, 16)


def test_resizing():
    clip = torch.rand(2, 3, 8, 12)
    torch.testing.assert_close(resize(clip, (16, 24)), F.interpolate(clip, scale_factor=2.0, mode="bilinear"))
    constant = torch.full((1, 3, 9, 7), 0.3)
    torch.testing.assert_close(resize(constant, 4), torch.full((1, 3, 4, 4), 0.3))
    assert resize(clip, (8, 12)) is clip
    ramp = torch.arange(12.0).expand(1, 1, 8, 12)
    # antialiased: a triangle over four pixels; the columns 2k and 2k+1 weigh 3/8 each, those beside them 1/8
    torch.testing.assert_close(resize(ramp, (4, 6))[0, 0, 0, 1:-1], torch.tensor([2.5, 4.5, 6.5, 8.5]))
    byte = resize((clip * 255).byte(), (4, 6))
    assert byte.dtype == torch.uint8
    assert (byte.float() / 255 - resize(clip, (4, 6))).abs().max() < 3 / 255
    assert short_side_size(240, 320, 256) == (256, 341)
    assert short_side_size(320, 240, 256) == (341, 256)
    assert short_side_size(100, 100, 64) == (64, 64)


def moving(height, width, dx, dy):
    """Two frames of smooth texture that moves by (dx,dy)."""
    y, x = torch.meshgrid(torch.arange(height).float(), torch.arange(width).float(), indexing="ij")

    def texture(y, x):
        return 0.5 + 0.2 * (x / 3.1).sin() * (y / 4.3).cos() + 0.2 * (x / 7.9 + y / 6.1).sin()

    return torch.stack([texture(y, x), texture(y - dy, x - dx)])[:, None]


def test_flow_stays_the_flow_of_the_frames(one_thread):
    """Mirrored or enlarged frames have the mirrored or enlarged flow, as an estimate of it says."""
    frames = moving(40, 60, 1.5, -0.5)
    truth = torch.tensor([1.5, -0.5])[None, :, None, None].expand(1, 2, 40, 60)
    for crop, expected in (
        (Crop(4, 6, 32, 48, (32, 48)), (1.5, -0.5)),
        (Crop(4, 6, 32, 48, (32, 48), True), (-1.5, -0.5)),
        (Crop(4, 6, 32, 48, (48, 96), True), (-3.0, -0.75)),
    ):
        flow = take_crop(truth, crop, flow=True)
        torch.testing.assert_close(flow.mean((0, 2, 3)), torch.tensor(expected))
        estimate = optical_flow(take_crop(frames, crop)[None])[0]
        assert (estimate - flow)[..., 8:-8, 8:-8].abs().mean() < 0.15


def test_flip():
    clip = places(2, 3, 4)
    assert torch.equal(flip(clip)[:, 2, 0], torch.tensor([[3.0, 2, 1, 0]] * 2))
    flow = torch.randn(3, 2, 4, 5)
    found = flip(flow, flow=True)
    assert torch.equal(found[:, 0], -flow[:, 0].flip(-1))
    assert torch.equal(found[:, 1], flow[:, 1].flip(-1))
    assert torch.equal(flip(found, flow=True), flow)


def test_color_jitter():
    clip = torch.rand(3, 3, 4, 5)
    shift = color_jitter(clip, generator=seeded(1)) - clip
    assert shift.std((0, 2, 3)).max() < 1e-6, "one colour for the whole clip"
    assert torch.equal(color_jitter(clip, strength=0.0), clip)
    assert torch.equal(color_jitter(clip, generator=seeded(1)), color_jitter(clip, generator=seeded(1)))
    vectors = torch.tensor(LIGHTING_VECTORS).double()
    torch.testing.assert_close(vectors @ vectors.T, torch.eye(3).double(), rtol=0, atol=2e-4)
    black = torch.zeros(1, 3, 1, 1).double()
    draws = torch.stack([color_jitter(black, generator=seeded(s)).flatten() for s in range(3000)]) @ vectors.T
    torch.testing.assert_close(draws.std(0), 0.1 * torch.tensor(LIGHTING_VALUES).double(), rtol=0.06, atol=0)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: center_crop((10, 12), 11), "size: expected at most the frames' 10x12 pixels, got 11x11"),
        (lambda: random_crop((10, 12), (4, 13)), "size: expected at most the frames' 10x12 pixels, got 4x13"),
        (lambda: multi_scale_crop((200, 300), 224), "sides: expected at most the frames' 200x300 pixels, got 256x256"),
        (lambda: multi_scale_crop((200, 300), 224, sides=()), r"sides: expected at least one, got \(\)"),
        (lambda: center_crop((10, 12), 0), "size: expected a positive int or two, height and width, got 0"),
        (lambda: center_crop((10, 12, 3), 4), "frame: expected a positive int or two"),
        (lambda: take_crop(torch.zeros(1, 3, 4, 4), Crop(1, 0, 4, 4, (4, 4))), "crop: expected a rectangle inside 4x4"),
        (lambda: take_crop(torch.zeros(3, 4, 4), Crop(0, 0, 4, 4, (4, 4))), r"clip: expected \(T,C,H,W\)"),
        (lambda: flip(torch.zeros(1, 3, 4, 4), flow=True), r"clip: expected \(T,2,H,W\)"),
        (lambda: resize(torch.zeros(1, 2, 4, 4).byte(), 2, flow=True), "clip: expected flow in pixels as floats"),
        (lambda: resize(torch.zeros(1, 2, 4, 4).long(), 2), "clip: expected uint8 or floats, got torch.int64"),
        (lambda: color_jitter(torch.zeros(1, 3, 4, 4).byte()), r"clip: expected \(T,3,H,W\) of floats"),
    ],
)
def test_errors(call, words):
    with pytest.raises(ValueError, match=words):
        call()
