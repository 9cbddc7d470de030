"""Crops, mirroring and colour jitter of clips: one decision per clip, the same for every frame of it.

Simonyan and Zisserman 2014, arXiv 1406.2199; Donahue et al. 2015, arXiv 1411.4389; Wang et al. 2015, arXiv 1507.02159
(crops of several sizes, and at corners); Ballas et al. 2016, arXiv 1511.06432; Carreira and Zisserman 2017, arXiv
1705.07750.

A clip here is (T,C,H,W), a flow (T,2,H,W) in pixels, x before y. With ``flow=True`` mirroring also negates x, and
resizing multiplies the motion by the factor, so that it stays in pixels; loaders that store flow as images do not.
Functions that choose give a ``Crop``, which is then taken of frames and of flow alike.
"""

from typing import NamedTuple

import torch
from torch.nn import functional as F

from fastrcn.data.checks import height_and_width
from fastrcn.data.flow_encoding import flip_flow

LIGHTING_VALUES = (0.2175, 0.0188, 0.0045)
LIGHTING_VECTORS = ((-0.5675, -0.5808, -0.5836), (0.7192, -0.0045, -0.6948), (0.4009, -0.8140, 0.4203))
"""The principal components of ImageNet's colours (red, green, blue from 0 to 1), one a row; from fb.resnet.torch."""
SIDES = (256, 224, 192, 168)
"""Of multi-scale crops, in pixels."""


class Crop(NamedTuple):
    """A rectangle of every frame of a clip, resized to ``size`` (height and width), mirrored or not; in pixels."""

    top: int
    left: int
    height: int
    width: int
    size: tuple[int, int]
    mirrored: bool = False


def _check_clip(clip, flow):
    if clip.dim() != 4 or 0 in clip.shape[2:] or (flow and clip.shape[1] != 2):
        expected = "(T,2,H,W)" if flow else "(T,C,H,W)"
        raise ValueError(f"clip: expected {expected}, got shape {tuple(clip.shape)}")
    if flow and not clip.is_floating_point():
        raise ValueError(f"clip: expected flow in pixels as floats, got {clip.dtype}")


def resize(clip, size, *, flow=False):
    """A clip at another size, bilinear, with antialiasing where it gets smaller.

    Args:
        size: height and width, or one number for both.
    Shapes: (T,C,H,W) -> (T,C,*size), of the same type: uint8 or floats.
    Raises: ValueError naming the argument.
    """
    _check_clip(clip, flow)
    if clip.dtype != torch.uint8 and not clip.is_floating_point():
        raise ValueError(f"clip: expected uint8 or floats, got {clip.dtype}")
    size, old = height_and_width("size", size), clip.shape[2:]
    if size == tuple(old):
        return clip
    clip = F.interpolate(clip, size=size, mode="bilinear", align_corners=False, antialias=True)
    return clip * clip.new_tensor([size[1] / old[1], size[0] / old[0]])[:, None, None] if flow else clip


def short_side_size(height, width, side):
    """Height and width with the short side at ``side`` and the same proportions, rounded to whole pixels."""
    short = min(height, width)
    return (side * height + short // 2) // short, (side * width + short // 2) // short


def flip(clip, *, flow=False):
    """A clip mirrored left to right; of a flow, x is negated."""
    _check_clip(clip, flow)
    return flip_flow(clip) if flow else clip.flip(-1)


def take_crop(clip, crop: Crop, *, flow=False):
    """The rectangle of every frame, resized, mirrored: (T,C,H,W) -> (T,C,*crop.size).

    Raises: ValueError where it is not inside the frames.
    """
    _check_clip(clip, flow)
    top, left, height, width, size, mirrored = crop
    if min(top, left) < 0 or min(height, width) < 1 or top + height > clip.shape[2] or left + width > clip.shape[3]:
        raise ValueError(f"crop: expected a rectangle inside {clip.shape[2]}x{clip.shape[3]} pixels, got {crop}")
    part = resize(clip[:, :, top : top + height, left : left + width], size, flow=flow)
    return flip(part, flow=flow) if mirrored else part


def _room(frame, size, name="size"):
    """Rows and columns that are left beside a rectangle; ``frame`` is the frames' height and width."""
    frame, size = height_and_width("frame", frame), height_and_width(name, size)
    if size[0] > frame[0] or size[1] > frame[1]:
        raise ValueError(f"{name}: expected at most the frames' {frame[0]}x{frame[1]} pixels, got {size[0]}x{size[1]}")
    return frame[0] - size[0], frame[1] - size[1], size


def _draw(count, generator):
    """A whole number below ``count``, all alike."""
    return int(torch.randint(count, (), generator=generator))


def center_crop(frame, size):
    """The middle of the frames. ``frame``, ``size``: height and width, or one number for both."""
    down, right, size = _room(frame, size)
    return Crop(down // 2, right // 2, *size, size)


def random_crop(frame, size, *, generator=None):
    """A crop that lies anywhere in the frames, all places alike."""
    down, right, size = _room(frame, size)
    return Crop(_draw(down + 1, generator), _draw(right + 1, generator), *size, size)


def corner_crops(frame, size):
    """The four corners, row by row, and the middle."""
    down, right, size = _room(frame, size)
    places = [(0, 0), (0, right), (down, 0), (down, right), (down // 2, right // 2)]
    return [Crop(top, left, *size, size) for top, left in places]


def ten_crops(frame, size):
    """The corners and the middle, then each of them mirrored."""
    five = corner_crops(frame, size)
    return five + [crop._replace(mirrored=True) for crop in five]


def three_crops(frame, size):
    """Three squares along the longer side: its beginning, its middle and its end; the middle of the other."""
    down, right, size = _room(frame, size)
    if right >= down:
        places = [(down // 2, left) for left in (0, right // 2, right)]
    else:
        places = [(top, right // 2) for top in (0, down // 2, down)]
    return [Crop(top, left, *size, size) for top, left in places]


def multi_scale_crop(
    frame, size, *, sides=SIDES, independent=True, corners=False, generator=None
):  # fmt: skip
    """A rectangle with sides drawn from a few, anywhere in the frames, resized to one size.

    Args:
        independent: height and width are drawn each for itself, as two-stream nets do; otherwise one side of a square,
            as GRU-RCN's paper reads.
        corners: only at one of the four corners or in the middle (Wang et al.), all five alike.
    Raises: ValueError naming the argument.
    """
    if not len(sides):
        raise ValueError(f"sides: expected at least one, got {sides!r}")
    height = sides[_draw(len(sides), generator)]
    width = sides[_draw(len(sides), generator)] if independent else height
    for side in sides:
        _room(frame, side, "sides")  # each, so that an error does not wait for its draw
    if corners:
        crop = corner_crops(frame, (height, width))[_draw(5, generator)]
    else:
        crop = random_crop(frame, (height, width), generator=generator)
    return crop._replace(size=height_and_width("size", size))


def random_flip(crop, *, generator=None):
    """The crop, mirrored with probability one half."""
    return crop._replace(mirrored=bool(_draw(2, generator)) != crop.mirrored)


def color_jitter(clip, *, strength=0.1, generator=None):
    """Red, green and blue of a whole clip moved along the principal components of ImageNet's colours.

    Krizhevsky et al. 2012 (NIPS), section 4.1; the RGB jittering of two-stream nets. Results may lie outside 0 to 1.

    Args:
        strength: standard deviation of the three coefficients.
    Shapes: (T,3,H,W), floats, 0 to 1 -> the same.
    Raises: ValueError naming the argument.
    """
    if clip.dim() != 4 or clip.shape[1] != 3 or not clip.is_floating_point():
        raise ValueError(f"clip: expected (T,3,H,W) of floats, got shape {tuple(clip.shape)} of {clip.dtype}")
    drawn = torch.randn(3, generator=generator, dtype=torch.float64) * strength
    shift = (drawn * torch.tensor(LIGHTING_VALUES).double()) @ torch.tensor(LIGHTING_VECTORS).double()
    return clip + shift.to(clip)[:, None, None]
