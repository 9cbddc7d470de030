"""Moving MNIST in small: scikit-learn's 8x8 handwritten digits that bounce off the borders of a frame.

After Srivastava et al. 2015, arXiv 1502.04681. Nothing is downloaded: ``pip install scikit-learn`` has the digits.
"""

import importlib
from typing import Any

import torch
import torch.nn.functional as F

from fastrcn.data.checks import check_counts, check_seed
from fastrcn.data.windows import Window, Windows


def _digits(size, scale):
    """The images (1797,1,side,side), from 0 to 1, of a side that leaves room to move in frames of ``size`` pixels."""
    try:
        datasets: Any = importlib.import_module("sklearn.datasets")
    except ImportError as error:
        raise ImportError("moving digits are made of scikit-learn's: pip install scikit-learn") from error
    images = torch.from_numpy(datasets.load_digits().images).float()[:, None] / 16
    images = F.interpolate(images, scale_factor=scale, mode="bilinear")
    if size <= images.shape[-1]:
        raise ValueError(f"size: expected more than a digit's {images.shape[-1]} pixels, got {size}")
    return images


def _draw(clips, images, size, digits, seed):
    """For each clip its digits: number of the image, place and speed in pixels (2,) each."""
    generator = torch.Generator().manual_seed(seed)

    def digit():
        number = int(torch.randint(len(images), (), generator=generator))
        place = torch.rand(2, generator=generator) * (size - images.shape[-1])
        angle = torch.rand((), generator=generator) * 6.2832
        return number, place, torch.stack([angle.sin(), angle.cos()]) * size / 16

    return [[digit() for _ in range(digits)] for _ in range(clips)]


def _clip(images, drawn, frames, size):
    """One clip (frames,1,size,size) of the digits that were drawn for it."""
    side = images.shape[-1]
    reach = size - side  # a digit's corner is from 0 to reach
    clip = torch.zeros(frames, 1, size, size)
    for number, place, speed in drawn:
        for t, frame in enumerate(clip):
            way = (place + speed * t) % (2 * reach)
            y, x = (reach - (way - reach).abs()).round().int().tolist()  # folded back at both borders
            spot = frame[:, y : y + side, x : x + side]
            spot.copy_(torch.maximum(spot, images[number]))
    return clip


def moving_digits(clips, frames, size=64, digits=2, scale=2, seed=0):
    """Clips of digits at constant speed, the brighter one where two overlap.

    A clip depends on the seed and its number, not on how many there are.

    Args:
        clips, frames: how many, and how long. size: height and width. digits: in each clip.
        scale: times their 8 pixels, a digit's side. seed: for digits, places and directions; not negative.
    Returns: (clips,frames,1,size,size), from 0 to 1.
    Raises: ValueError naming the argument; ImportError without scikit-learn.
    """
    check_counts(clips=clips, frames=frames, size=size, digits=digits, scale=scale)
    check_seed(seed)
    images = _digits(size, scale)
    return torch.stack([_clip(images, drawn, frames, size) for drawn in _draw(clips, images, size, digits, seed)])


class MovingDigits(Windows):
    """The clips of ``moving_digits`` as a Dataset, each made when it is read.

    Items as those of ``Windows``, with C = 1 and values from 0 to 1, all of them known. To hold out, take another seed.

    Args:
        clips: how many. inputs, targets: frames that are seen, and that are forecast.
        size, digits, seed: as of ``moving_digits``.
    Raises: ValueError naming the argument; ImportError without scikit-learn.
    """

    def __init__(self, clips, inputs, targets, *, size=64, digits=2, seed=0):
        check_counts(clips=clips, inputs=inputs, targets=targets, size=size, digits=digits)
        check_seed(seed)
        super().__init__([Window(number, 0) for number in range(clips)], inputs, targets)
        self.size = size
        self._images = _digits(size, scale=2)
        self._drawn = _draw(clips, self._images, size, digits, seed)

    def _read(self, window):
        frames = _clip(self._images, self._drawn[window.sequence], self.inputs + self.targets, self.size)
        return frames, torch.ones_like(frames, dtype=torch.bool)
