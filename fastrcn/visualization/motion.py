"""A task without labels, and a small 3-D net that learns it: which way was a window over a frame moved?

Frames of any clip are its training data: a window slides over one frame in one of eight directions, slowly or fast, or
stands still, and the net sees the frames of the window.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from fastrcn.layers import ConvReLUPool3d

FRAMES, SIZE = 8, 32
"""Of a window over a frame."""
SPEEDS = (1.0, 2.5)
"""Pixels per frame."""
CLASSES = ("still", "right", "down-right", "down", "down-left", "left", "up-left", "up", "up-right")


def directions():
    """(x,y) of each class, of length 1 but for "still"; y points down: (9,2)."""
    angles = torch.arange(8) * (math.pi / 4)
    return torch.cat([torch.zeros(1, 2), torch.stack([angles.cos(), angles.sin()], 1)])


def moving_windows(frames, indices, labels, speeds, places):
    """Clips whose content moves by ``speeds`` pixels per frame in the direction of ``labels``, each out of one frame.

    Args:
        frames: (M,C,H,W), H and W at least ``smallest_side()``. indices, labels: (N,). speeds: (N,), at most 2.5.
        places: (N,2) from 0 to 1, where the window is, (x,y): all of the places at which it stays in the frame.
    Shapes: -> (N,C,8,32,32), each with mean zero.
    """
    height, width = frames.shape[2:]
    velocity = directions()[labels] * speeds[:, None]
    time = torch.arange(FRAMES) - (FRAMES - 1) / 2
    margin = (SIZE - 1) / 2 + velocity.abs() * (FRAMES - 1) / 2
    centre = margin + places * (torch.tensor([width - 1.0, height - 1.0]) - 2 * margin)
    centre = centre[:, None] - velocity[:, None] * time[:, None]  # content moves against the window: (N,T,2)
    offset = torch.arange(SIZE) - (SIZE - 1) / 2
    x, y = (centre[..., k, None] + offset for k in (0, 1))  # (N,T,32)
    grid = torch.stack(
        [(2 * x / (width - 1) - 1)[:, :, None].expand(-1, -1, SIZE, -1),
         (2 * y / (height - 1) - 1)[..., None].expand(-1, -1, -1, SIZE)], -1,
    )  # fmt: skip
    clips = F.grid_sample(frames[indices], grid.flatten(1, 2), align_corners=True).unflatten(2, (FRAMES, SIZE))
    return centred(clips)


def centred(clips):
    """Each clip (N,C,T,H,W) less its mean: brightness and tint say nothing about motion."""
    return clips - clips.mean((1, 2, 3, 4), keepdim=True)


def smallest_side():
    """Least height and width of frames that the fastest window moves over."""
    return math.ceil(SIZE + max(SPEEDS) * (FRAMES - 1))


def random_windows(frames, count, generator):
    """Random clips (count,C,8,32,32) and their labels (count,)."""
    indices = torch.randint(len(frames), (count,), generator=generator)
    labels = torch.randint(len(CLASSES), (count,), generator=generator)
    speeds = torch.tensor(SPEEDS)[torch.randint(len(SPEEDS), (count,), generator=generator)]
    return moving_windows(frames, indices, labels, speeds, torch.rand(count, 2, generator=generator)), labels


class MotionNet(nn.Module):
    """Three 3-D convolutions with ReLU and pooling, the mean over all places, a linear layer.

    Shapes: (N,3,T,H,W), T at least 8 -> scores before softmax (N,9), of any height and width.
    """

    def __init__(self, width=16, backend=None):
        super().__init__()
        same: Any = {"padding": (0, 1, 1), "backend": backend}  # in space
        start: Any = {"stride": (1, 2, 2), "padding": (0, 3, 3), "backend": backend}
        self.conv1 = ConvReLUPool3d(3, width, (4, 7, 7), **start, pool_kernel_size=(1, 2, 2))
        self.conv2 = ConvReLUPool3d(width, 2 * width, 3, **same, pool_kernel_size=(1, 2, 2))
        self.conv3 = ConvReLUPool3d(2 * width, 4 * width, 3, **same)
        self.classifier = nn.Linear(4 * width, len(CLASSES))
        with torch.no_grad():  # else the random start is still seen in the filters that were learned
            self.first_layer.weight.mul_(0.1)

    @property
    def first_layer(self) -> nn.Conv3d:
        """The convolution whose filters are drawn."""
        conv = self.conv1[0]
        assert isinstance(conv, nn.Conv3d)
        return conv

    def forward(self, clip):
        """Scores before softmax."""
        return self.classifier(self.conv3(self.conv2(self.conv1(clip))).mean((2, 3, 4)))


def train_steps(model, frames, steps, batch, generator, learning_rate=4e-3) -> Iterator[float]:
    """Train on random windows; yields each step's loss."""
    optimizer = torch.optim.AdamW(model.parameters(), learning_rate, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps)
    for _ in range(steps):
        clips, labels = random_windows(frames, batch, generator)
        loss = F.cross_entropy(model(clips), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        yield loss.item()


@torch.no_grad()
def accuracy(model, frames, count, generator) -> float:
    """Share of random windows over frames that the model tells right; 1/9 is chance."""
    right = 0
    for part in torch.full((count,), 0).split(128):
        clips, labels = random_windows(frames, len(part), generator)
        right += int((model(clips).argmax(1) == labels).sum())
    return right / count


def velocity_of(clips):
    """The one velocity (x,y) in pixels per frame that explains each clip best (N,C,T,H,W) -> (N,2).

    Least squares over dI/dt + u dI/dx + v dI/dy = 0 at all places (Lucas and Kanade 1981, with one window).
    """
    step = clips.diff(dim=2)[..., :-1, :-1]
    middle = (clips[:, :, 1:] + clips[:, :, :-1]) / 2
    dx, dy = middle.diff(dim=4)[..., :-1, :], middle.diff(dim=3)[..., :-1]
    slopes = torch.stack([dx, dy], -1).flatten(1, -2)  # (N,places,2)
    squares = slopes.transpose(1, 2) @ slopes
    right = -(slopes * step.flatten(1)[..., None]).sum(1)
    return torch.linalg.lstsq(squares, right[..., None]).solution[..., 0]
