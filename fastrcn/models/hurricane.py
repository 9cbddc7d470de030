"""Tracking and forecasting hurricanes by density maps: Kim et al. 2019, "Deep-Hurricane-Tracker", WACV.

From sequences of climate maps a stack of ConvLSTMs estimates, at every step, a map of how likely a hurricane is centred
there; an encoder-forecaster continues a sequence of such maps. The paper's depth, widths and kernels could not be
established: the defaults of both nets are ours. Its data: every 3 hours, 180 to 340 E and 0 to 60 N as 128x257 maps,
each channel scaled to 0..1, ten steps at a time.
"""

import math
from typing import cast

import torch
from torch import nn
from torch.nn import functional as F

from fastrcn.layers import ConvLSTM
from fastrcn.models.encoder_forecaster import EncoderForecaster
from fastrcn.models.registry import register

PAPER = "Kim et al. 2019, WACV"


def density_maps(positions, size, sigma=2.0, scale="peak"):
    """Training targets: a Gaussian at every hurricane.

    Args:
        positions: (...,hurricanes,2) rows and columns in pixels, fractions allowed; NaN where there is none.
        size: height and width of the maps.
        sigma: standard deviation in pixels.
        scale: "peak": 1 at each centre, the largest of overlapping ones, so within 0..1 as the nets' outputs;
            "density": each integrates to 1 where it is not cut off by the border, overlapping ones add up.
    Returns: (...,1,H,W).
    Raises: ValueError naming the argument.
    """
    if positions.dim() < 2 or positions.shape[-1] != 2:
        raise ValueError(f"positions: expected (...,hurricanes,2), got shape {tuple(positions.shape)}")
    if sigma <= 0:
        raise ValueError(f"sigma: expected a positive number, got {sigma}")
    if scale not in ("peak", "density"):
        raise ValueError(f'scale: expected "peak" or "density", got {scale!r}')
    rows, columns = (torch.arange(n, device=positions.device, dtype=positions.dtype) for n in size)
    y, x = positions[..., None, None].unbind(-3)
    gaussians = torch.exp(-((rows[:, None] - y) ** 2 + (columns - x) ** 2) / (2 * sigma**2)).nan_to_num(0)
    if scale == "density":
        return gaussians.sum(-3, keepdim=True) / (2 * math.pi * sigma**2)
    if positions.shape[-2] == 0:
        return gaussians.sum(-3, keepdim=True)
    return gaussians.amax(-3, keepdim=True)


def strongest_positions(maps):
    """Row and column (...,2) of the largest value of each map (...,1,H,W)."""
    place = maps.flatten(-3).argmax(-1)
    return torch.stack([place // maps.shape[-1], place % maps.shape[-1]], -1)


def local_maxima(maps, threshold=0.5, radius=2):
    """Pixels above ``threshold`` that none within ``radius`` rows and columns exceeds: several hurricanes at a time.

    maps (...,1,H,W) -> (found,axes): for maps (N,T,1,H,W) each line is n, t, row, column.
    """
    maps = maps.squeeze(-3)
    flat = maps.reshape(-1, 1, *maps.shape[-2:])
    highest = F.max_pool2d(flat, 2 * radius + 1, 1, radius).view(maps.shape)
    return ((maps == highest) & (maps > threshold)).nonzero()


@register(
    "hurricane_tracker", paper=PAPER, kernels="ConvLSTM",
    small={"in_channels": 2, "hidden_sizes": (3, 4), "kernel_size": 3, "frame": (6, 7)},
)  # fmt: skip
class HurricaneTracker(nn.Module):
    """Density maps of hurricanes for every step of a sequence of climate maps.

    Args:
        in_channels: 6 in the published data (pressure, two winds, precipitation, two temperatures), 3 in the paper.
        hidden_sizes, kernel_size: of the ConvLSTM layers.
        peephole: of the layers.
        output: "sigmoid" (for squared error or cross-entropy against "peak" targets) or "logits".
        frame: height and width of ``example_inputs`` only.
        backend, recompute: as the layers'.
    Shapes: (N,T,in_channels,H,W) -> (N,T,1,H,W); ``strongest_positions`` and ``local_maxima`` read positions off.
    Raises: ValueError naming the argument.
    """

    def __init__(
        self, in_channels=6, hidden_sizes=(32, 64, 32), kernel_size=5, *, peephole: str | None = "channel",
        output="sigmoid", frame=(128, 257), backend=None, recompute=False,
    ):  # fmt: skip
        super().__init__()
        if output not in ("sigmoid", "logits"):
            raise ValueError(f'output: expected "sigmoid" or "logits", got {output!r}')
        sizes = tuple(hidden_sizes)
        if not sizes:
            raise ValueError("hidden_sizes: expected at least one layer, got none")
        self.in_channels, self.output, self.frame = in_channels, output, tuple(frame)
        self.layers = nn.ModuleList(
            ConvLSTM(i, c, kernel_size, peephole=peephole, batch_first=True, backend=backend, recompute=recompute)
            for i, c in zip((in_channels, *sizes[:-1]), sizes, strict=True)
        )
        self.head = nn.Conv2d(sizes[-1], 1, 1)
        # Begins with few hurricanes: from one half everywhere, training can stop at how rare they are.
        nn.init.constant_(cast(nn.Parameter, self.head.bias), -3.0)

    def forward(self, maps):
        """Density maps of each step, from it and the steps before."""
        if maps.dim() != 5 or maps.shape[2] != self.in_channels or maps.shape[1] == 0:
            raise ValueError(f"maps: expected (N,T,{self.in_channels},H,W), got shape {tuple(maps.shape)}")
        x = maps
        for layer in self.layers:
            x, _ = layer(x)
        density = self.head(x.flatten(0, 1)).unflatten(0, maps.shape[:2])
        return torch.sigmoid(density) if self.output == "sigmoid" else density

    def example_inputs(self, batch=1):
        """Arguments of a forward pass: ten steps, 30 hours."""
        return (torch.rand(batch, 10, self.in_channels, *self.frame),)


@register(
    "hurricane_forecaster", paper=PAPER, kernels="ConvLSTM",
    small={"hidden_sizes": (3, 4), "kernel_size": 3, "frame": (6, 7)},
)  # fmt: skip
class HurricaneForecaster(EncoderForecaster):
    """The next density maps after a sequence of them: five after five, ten steps being split in half.

    Args:
        hidden_sizes, kernel_size, patch, output, peephole, backend, recompute: as in ``EncoderForecaster``; a patch is
            one pixel because 257 columns have no divisor.
        frame: height and width of ``example_inputs`` only.
    Shapes: (N,T,1,H,W) -> (N,horizon,1,H,W).
    Raises: ValueError naming the argument.
    """

    def __init__(
        self, hidden_sizes=(32, 64, 32), kernel_size=5, *, patch=1, output="sigmoid", peephole: str | None = "channel",
        frame=(128, 257), backend=None, recompute=False,
    ):  # fmt: skip
        super().__init__(
            1, hidden_sizes, kernel_size, patch=patch, output=output, peephole=peephole, backend=backend,
            recompute=recompute,
        )  # fmt: skip
        self.frame = tuple(frame)

    def forward(self, frames, horizon=5):
        """Predict ``horizon`` maps after ``frames``."""
        if frames.dim() != 5 or frames.shape[2] != 1 or frames.shape[1] == 0:
            raise ValueError(f"frames: expected density maps (N,T,1,H,W), got shape {tuple(frames.shape)}")
        return super().forward(frames, horizon)

    def example_inputs(self, batch=1):
        """Arguments of a forward pass: five maps, and how many to predict."""
        return torch.rand(batch, 5, 1, *self.frame), 5
