"""Moving MNIST in small: scikit-learn's 8x8 handwritten digits that bounce off the borders of a frame.

After Srivastava et al. 2015, arXiv 1502.04681. Nothing is downloaded: ``pip install scikit-learn`` has the digits.
"""

import importlib
from typing import Any

import torch
import torch.nn.functional as F


def _digits():
    """The images (1797,1,8,8), from 0 to 1."""
    try:
        datasets: Any = importlib.import_module("sklearn.datasets")
    except ImportError as error:
        raise ImportError("moving digits are made of scikit-learn's: pip install scikit-learn") from error
    return torch.from_numpy(datasets.load_digits().images).float()[:, None] / 16


def moving_digits(clips, frames, size=64, digits=2, scale=2, seed=0):
    """Clips of digits at constant speed, the brighter one where two overlap.

    Args:
        clips, frames: how many, and how long. size: height and width. digits: in each clip.
        scale: times their 8 pixels, a digit's side. seed: for digits, places and directions.
    Returns: (clips,frames,1,size,size), from 0 to 1.
    Raises: ValueError naming the argument; ImportError without scikit-learn.
    """
    for name, value in {"clips": clips, "frames": frames, "digits": digits, "scale": scale}.items():
        if value < 1:
            raise ValueError(f"{name}: expected at least 1, got {value}")
    images = F.interpolate(_digits(), scale_factor=scale, mode="bilinear")
    side = images.shape[-1]
    reach = size - side  # a digit's corner is from 0 to reach
    if reach < 1:
        raise ValueError(f"size: expected more than a digit's {side} pixels, got {size}")
    generator = torch.Generator().manual_seed(seed)
    found = torch.zeros(clips, frames, 1, size, size)
    for clip in found:
        for _ in range(digits):
            image = images[int(torch.randint(len(images), (), generator=generator))]
            start, angle = torch.rand(2, generator=generator) * reach, torch.rand((), generator=generator) * 6.2832
            speed = torch.stack([angle.sin(), angle.cos()]) * size / 16
            for t, frame in enumerate(clip):
                way = (start + speed * t) % (2 * reach)
                y, x = (reach - (way - reach).abs()).round().int().tolist()  # folded back at both borders
                spot = frame[:, y : y + side, x : x + side]
                spot.copy_(torch.maximum(spot, image))
    return found
