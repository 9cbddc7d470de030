"""A ConvGRU encoder-forecaster whose levels halve the map: Shi et al. 2017, https://arxiv.org/abs/1706.03458.

The ConvGRU baseline of that paper with the sizes of its code for Moving MNIST++. Unlike in the net of 2015, the
forecaster runs from the coarsest level to the finest, and only the finest is read.
"""

from itertools import pairwise

import torch
from torch import nn

from fastrcn.layers import ConvGRU
from fastrcn.models.registry import register


@register(
    "conv_gru_forecaster", paper="Shi et al. 2017, arXiv 1706.03458", kernels="ConvGRU",
    small={"in_channels": 2, "hidden_sizes": (3, 4), "recurrent_kernel_size": 3, "stem": 2, "frame": 8},
)  # fmt: skip
class ConvGRUForecaster(nn.Module):
    """Predicts the next frames of a clip on maps of several sizes.

    Args:
        in_channels: channels of a frame.
        hidden_sizes: widths of the levels, the finest first; every further one has half the height and width.
        kernel_size, recurrent_kernel_size: of the levels, input and state.
        stem: channels of the convolutions before the first level and after the last.
        slope: of the leaky ReLUs between levels.
        frame: height and width of ``example_inputs`` only.
        backend, recompute: as the layers'.
    Shapes: frames (B,T,C,H,W), H and W multiples of 2^(levels-1) -> (B,horizon,C,H,W), linear.
    Raises: ValueError naming the argument.

    The reset gate acts after the convolution, as in the paper. The candidate is tanh, as the equations in the paper's
    code say; what that code runs there is the leaky ReLU.
    """

    def __init__(
        self, in_channels=1, hidden_sizes=(64, 96, 96), kernel_size=3, *, recurrent_kernel_size=5, stem=16, slope=0.2,
        frame=64, backend=None, recompute=False,
    ):  # fmt: skip
        super().__init__()
        sizes = tuple(hidden_sizes)
        if not sizes:
            raise ValueError("hidden_sizes: expected at least one level, got none")
        self.in_channels, self.frame, self.multiple = in_channels, frame, 2 ** (len(sizes) - 1)

        def gru(inputs, size):
            return ConvGRU(
                inputs, size, kernel_size, recurrent_kernel_size=recurrent_kernel_size, reset="after", backend=backend,
                recompute=recompute,
            )  # fmt: skip

        def down(inputs, size, stride):
            return nn.Sequential(nn.Conv2d(inputs, size, 3, stride, 1), nn.LeakyReLU(slope))

        def up(inputs, size, kernel, stride):
            deconvolution = nn.ConvTranspose2d(inputs, size, kernel, stride, 1, bias=False)
            return nn.Sequential(deconvolution, nn.LeakyReLU(slope))

        pairs = list(pairwise(sizes))
        self.down = nn.ModuleList([down(in_channels, stem, 1), *(down(a, b, 2) for a, b in pairs)])
        self.encoder = nn.ModuleList([gru(stem, sizes[0]), *(gru(b, b) for _, b in pairs)])
        self.up = nn.ModuleList([*(up(b, b, 4, 2) for _, b in reversed(pairs)), up(sizes[0], stem, 3, 1)])
        self.forecaster = nn.ModuleList([gru(0, sizes[-1]), *(gru(b, a) for a, b in reversed(pairs))])
        self.head = nn.Sequential(
            nn.Conv2d(stem, stem, 3, padding=1), nn.LeakyReLU(slope), nn.Conv2d(stem, in_channels, 1)
        )

    def forward(self, frames, horizon):
        """Predict ``horizon`` frames after ``frames``."""
        if frames.dim() != 5 or frames.shape[1] == 0 or frames.shape[2] != self.in_channels:
            raise ValueError(f"frames: expected (B,T,{self.in_channels},H,W), got shape {tuple(frames.shape)}")
        if frames.shape[3] % self.multiple or frames.shape[4] % self.multiple:
            came = tuple(frames.shape)
            raise ValueError(f"frames: expected H and W in multiples of {self.multiple}, got shape {came}")
        if horizon < 1:
            raise ValueError(f"horizon: expected at least 1, got {horizon}")

        def framewise(module, x):
            return module(x.flatten(0, 1)).unflatten(0, x.shape[:2])

        x, states = frames.transpose(0, 1), []
        for shrink, layer in zip(self.down, self.encoder, strict=True):
            x, state = layer(framewise(shrink, x))
            states.append(state)
        x = x.new_empty(horizon, x.shape[1], 0, *x.shape[3:])
        for layer, state, grow in zip(self.forecaster, reversed(states), self.up, strict=True):
            x, _ = layer(x, state)
            x = framewise(grow, x)
        return framewise(self.head, x).transpose(0, 1)

    def example_inputs(self, batch=1):
        """Arguments of a forward pass: ten frames, and how many to predict."""
        return torch.rand(batch, 10, self.in_channels, self.frame, self.frame), 10
