"""Optical flow: known motions are found, warping undoes them, OpenCV's methods agree."""

import math
import sys
from types import SimpleNamespace

import pytest
import torch

from fastrcn.data import bidirectional_flow, optical_flow, read_clip, tv_l1, warp
from fastrcn.data.optical_flow import METHODS, _divergence, _gradient, gray
from fastrcn.demo.video import packaged_clip

pytestmark = pytest.mark.usefixtures("one_thread")

MARGIN = 8
"""Pixels at the border where a motion brings in what the other frame does not show."""


def real_frames(start, count):
    """Consecutive gray frames (1,count,1,96,118) of a person in a car."""
    clip = read_clip(packaged_clip().parent / "carphone_pristine.mp4", 96, 2, start + count)
    return clip[None, start : start + count]


def texture(height, width):
    """A smooth random picture (1,1,height,width) from 0 to 1: waves of random direction, none shorter than 9 pixels."""
    y, x = torch.meshgrid(torch.arange(height).float(), torch.arange(width).float(), indexing="ij")
    picture = torch.zeros(height, width)
    for _ in range(30):
        direction, length, phase = (torch.rand(3) * torch.tensor([2 * math.pi, 20.0, 2 * math.pi])).tolist()
        along = math.cos(direction) * x + math.sin(direction) * y
        picture += torch.sin(2 * math.pi * along / (length + 9) + phase)
    return ((picture - picture.min()) / (picture.max() - picture.min()))[None, None]


def moved(picture, dx, dy, height, width, margin=12):
    """Two frames (1,2,1,height,width) cut out of a picture that moves by whole pixels."""
    first = picture[..., margin : margin + height, margin : margin + width]
    second = picture[..., margin - dy : margin - dy + height, margin - dx : margin - dx + width]
    return torch.stack([first, second], 1)


def inner(tensor):
    return tensor[..., MARGIN:-MARGIN, MARGIN:-MARGIN]


def distance(flow, truth):
    """Length of the difference of each pixel's motion, away from the border."""
    return inner((flow - truth).norm(dim=-3))


@pytest.mark.parametrize("motion", [(1, 0), (0, -2), (3, 2), (-6, 4)])
def test_translation_of_a_real_frame_is_found(motion):
    frames = moved(real_frames(30, 1)[0], *motion, 72, 88)
    flow = optical_flow(frames)
    assert flow.shape == (1, 1, 2, 72, 88)
    error = distance(flow[0, 0], torch.tensor(motion)[:, None, None])
    assert error.mean() < 0.02
    assert error.max() < 0.25
    before = inner(frames[:, 1] - frames[:, 0]).abs().mean()
    assert inner(warp(frames[:, 1], flow[:, 0]) - frames[:, 0]).abs().mean() < 0.02 * before


@pytest.mark.parametrize("method", ["tv_l1", "opencv_dis", "opencv_farneback"])
def test_parts_of_a_pixel_are_found_by_each_method(method):
    large = texture(100, 112)
    for dx, dy in ((1.5, -0.75), (-4.25, 2.5)):
        shift = torch.tensor([dx, dy])[:, None, None]
        second = warp(large, (-shift).expand(1, 2, 100, 112))  # second(x + shift) = large(x)
        frames = torch.stack([large, second], 1)[..., 14:86, 14:98]
        error = distance(optical_flow(frames, method)[0, 0], shift)
        assert error.mean() < 0.1
        assert error.max() < 0.5


def test_warping_by_the_flow_gives_the_frame_before():
    """On real motion, of about a pixel, the difference of the frames falls to less than half."""
    frames = real_frames(30, 3)
    flow = optical_flow(frames)
    before = (frames[:, 1:] - frames[:, :-1]).abs().mean()
    assert (warp(frames[:, 1:], flow) - frames[:, :-1]).abs().mean() < 0.5 * before
    assert 0.3 < flow.norm(dim=2).mean() < 2


@pytest.mark.parametrize("method", ["opencv_dis", "opencv_farneback"])
def test_agrees_with_opencv_on_real_motion(method):
    """0.2 and 0.25 pixels on average were seen; OpenCV's two methods are as far from each other."""
    frames = real_frames(30, 2)
    ours, theirs = optical_flow(frames), optical_flow(frames, method)
    assert theirs.shape == ours.shape
    assert theirs.dtype == ours.dtype
    difference = (ours - theirs).norm(dim=2).mean()
    assert difference < 0.35
    assert difference < 0.5 * ours.norm(dim=2).mean()


@pytest.mark.parametrize("method", ["tv_l1", "opencv_dis"])  # Farneback's finds 0.2 pixels at the border
def test_constant_video_has_no_flow(method):
    flow = optical_flow(real_frames(0, 1).expand(-1, 3, -1, -1, -1), method)
    assert flow.shape == (1, 2, 2, 96, 118)
    assert flow.abs().max() < 1e-3


def test_without_any_contrast_there_is_no_flow():
    frames = torch.stack([torch.full((1, 1, 40, 40), 0.25), torch.full((1, 1, 40, 40), 0.75)], 1)
    assert torch.equal(optical_flow(frames), torch.zeros(1, 1, 2, 40, 40))


def test_mirrored_video_has_the_mirrored_flow():
    frames = moved(texture(80, 80), 2, 1, 56, 56)
    plain, mirrored = optical_flow(frames), optical_flow(frames.flip(-1))
    expected = torch.stack([-plain[:, :, 0], plain[:, :, 1]], 2).flip(-1)
    assert inner(mirrored - expected).abs().max() < 0.05


def test_clips_of_a_batch_are_independent():
    a, b = moved(texture(60, 60), 2, 0, 36, 36), moved(texture(60, 60), 0, -3, 36, 36)
    quick = {"warps": 2, "iterations": 10}
    both = optical_flow(torch.cat([a, b]), **quick)
    torch.testing.assert_close(both[:1], optical_flow(a, **quick), rtol=0, atol=1e-4)
    torch.testing.assert_close(both[1:], optical_flow(b, **quick), rtol=0, atol=1e-4)


def test_backward_flow_of_a_motion_is_its_opposite():
    large, motion = texture(76, 76), torch.tensor([2.0, -1.0])[:, None, None]
    frames = torch.stack([large[..., 14 - t * -1 : 62 - t * -1, 14 - t * 2 : 62 - t * 2] for t in range(5)], 1)
    flow = bidirectional_flow(frames)
    assert flow.shape == (1, 4, 2, 48, 48)
    for k, sign in enumerate((1, 1, -1, -1)):
        assert distance(flow[0, k], sign * motion).mean() < 0.05
    assert torch.equal(flow[:, :2], optical_flow(frames[:, 2:]))


def test_warp_by_nothing_and_by_whole_pixels():
    frames = torch.rand(2, 3, 3, 5, 7, dtype=torch.float64)
    torch.testing.assert_close(warp(frames, torch.zeros(2, 3, 2, 5, 7, dtype=torch.float64)), frames)
    flow = torch.tensor([2.0, -1.0], dtype=torch.float64)[:, None, None].expand(2, 3, 2, 5, 7)
    found = warp(frames, flow)
    for y in range(5):
        for x in range(7):  # past the border its nearest pixel
            torch.testing.assert_close(found[..., y, x], frames[..., max(y - 1, 0), min(x + 2, 6)])


def test_warp_is_bilinear():
    frame, flow = torch.rand(1, 1, 4, 5, dtype=torch.float64), torch.randn(1, 2, 4, 5, dtype=torch.float64) * 2
    found = warp(frame, flow)
    for y in range(4):
        for x in range(5):
            ex = min(max(x + flow[0, 0, y, x].item(), 0), 4)
            ey = min(max(y + flow[0, 1, y, x].item(), 0), 3)
            value = 0.0
            for v in range(4):
                for u in range(5):
                    value += frame[0, 0, v, u].item() * max(0, 1 - abs(ex - u)) * max(0, 1 - abs(ey - v))
            assert abs(found[0, 0, y, x].item() - value) < 1e-12


def test_divergence_is_the_negative_adjoint_of_the_gradient():
    u, px, py = (torch.randn(1, 2, 5, 6, dtype=torch.float64) for _ in range(3))
    gx, gy = _gradient(u)
    torch.testing.assert_close((gx * px).sum() + (gy * py).sum(), -(u * _divergence(px, py)).sum())


def test_gray_frames():
    colours = torch.zeros(1, 3, 3, 2, 2)
    for t in range(3):
        colours[:, t, t] = 1
    assert torch.allclose(gray(colours)[0, :, 0, 0, 0], torch.tensor([0.299, 0.587, 0.114]))
    eight_bit = torch.randint(0, 256, (1, 2, 3, 24, 24), dtype=torch.uint8)
    quick = {"warps": 1, "iterations": 5}
    assert torch.equal(optical_flow(eight_bit, **quick), optical_flow(eight_bit.float() / 255, **quick))


def test_opencv_tv_l1_is_called_where_there_is_one(monkeypatch):
    """It comes with opencv-contrib: another that notes what it is given stands in for it."""
    import cv2

    seen = []

    class Stand:
        def calc(self, first, second, flow):
            seen.append((first, second))
            return torch.tensor([1.5, -2.0]).expand(20, 24, 2).numpy()

    monkeypatch.setattr(cv2, "optflow", SimpleNamespace(DualTVL1OpticalFlow_create=Stand), raising=False)
    frames = torch.stack([torch.zeros(1, 1, 20, 24), torch.ones(1, 1, 20, 24)], 1)
    flow = optical_flow(frames, "opencv_tv_l1")
    assert torch.equal(flow, torch.tensor([1.5, -2.0])[:, None, None].expand(1, 1, 2, 20, 24))
    assert [(a.dtype, a.max(), b.min()) for a, b in seen] == [("uint8", 0, 255)]
    monkeypatch.delattr(cv2, "optflow")
    with pytest.raises(ValueError, match=r"opencv_tv_l1.*opencv-contrib"):
        optical_flow(frames, "opencv_tv_l1")


def test_without_opencv(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ImportError, match=r"'opencv_dis' needs OpenCV, pip install \"fastrcn\[flow\]\""):
        optical_flow(torch.zeros(1, 2, 1, 32, 32), "opencv_dis")


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda x: optical_flow(x, "brox"), f"method: expected one of {', '.join(METHODS)}, got 'brox'"),
        (lambda x: optical_flow(x[:, :1]), "frames: expected at least 2 of them, got 1"),
        (lambda x: optical_flow(x[0]), r"frames: expected \(N,T,3,H,W\) or"),
        (lambda x: optical_flow(x[:, :, :2]), r"frames: expected \(N,T,3,H,W\) or"),
        (lambda x: optical_flow(x + 1), "frames: expected uint8 or floats from 0 to 1"),
        (lambda x: optical_flow(x.long()), "frames: expected uint8 or floats from 0 to 1"),
        (lambda x: optical_flow(x * float("nan")), "frames: expected uint8 or floats from 0 to 1"),
        (lambda x: optical_flow(x, "opencv_dis", warps=2), "options: expected none with opencv_dis, got warps"),
        (lambda x: optical_flow(x, zoom=1.0), "zoom: expected a number between 0 and 1"),
        (lambda x: optical_flow(x, iterations=0), "iterations: expected a positive int, got 0"),
        (lambda x: tv_l1(x[0], x[0]), r"first, second: expected one shape \(N,1,H,W\)"),
        (lambda x: warp(x, torch.zeros(1, 2, 8, 8)), r"flow: expected shape \(1, 2, 2, 8, 8\) with frames"),
        (lambda x: bidirectional_flow(x), r"frames: expected \(N,T,C,H,W\) with an odd T of at least 3"),
    ],
)
def test_errors(call, words):
    with pytest.raises(ValueError, match=words):
        call(torch.rand(1, 2, 3, 8, 8))
