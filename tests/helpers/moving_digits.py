"""Moving MNIST in small: scikit-learn's 8x8 handwritten digits that bounce off the borders of a frame."""

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits


def moving_digits(clips, frames, size=64, digits=2, scale=2, seed=0):
    """Clips (clips,frames,1,size,size) from 0 to 1 of digits at constant speed, the brighter one where two overlap."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.from_numpy(load_digits().images).float()[:, None] / 16
    images = F.interpolate(images, scale_factor=scale, mode="bilinear")
    side = images.shape[-1]
    reach = size - side  # a digit's corner is from 0 to reach
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
