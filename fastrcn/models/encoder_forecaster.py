"""The encoder-forecaster of Shi et al. 2015, https://arxiv.org/abs/1506.04214, section 3.2.

An encoder stack reads the past frames; a forecaster stack starts from its states and unrolls the future without any
input to its first layer; all its hidden maps together give the frames by a 1x1 convolution.
"""

from typing import cast

import torch
from torch import nn
from torch.nn import functional as F

from fastrcn.layers import ConvLSTM
from fastrcn.models.registry import register

OUTPUTS = ("sigmoid", "linear", "residual")
PAPER = "Shi et al. 2015, arXiv 1506.04214"
SMALL = {"hidden_sizes": (4, 3), "kernel_size": 3, "patch": 2}


def variant(name, **options):
    """A net of the paper's tables: its widths, and its kernels of input and state."""
    return register(name, paper=PAPER, kernels="ConvLSTM", small=SMALL, **options)


def unroll(encoder, forecaster, x, horizon, order):
    """The states over time of the forecaster's layers (horizon,B,...), begun with what the encoder made of x (T,B,...).

    ``order``: "same", or "reversed" where the encoder's top layer starts the forecaster's first.
    """
    states = []
    for layer in encoder:
        x, state = layer(x)
        states.append(state)
    if order == "reversed":
        states.reverse()
    x = x.new_empty(horizon, x.shape[1], 0, *x.shape[3:])
    hidden = []
    for layer, state in zip(forecaster, states, strict=True):
        x, _ = layer(x, state)
        hidden.append(x)
    return hidden


@variant("conv_lstm_moving_mnist_256", hidden_sizes=(256,))
@variant("conv_lstm_moving_mnist_128_128", hidden_sizes=(128, 128))
@variant("conv_lstm_moving_mnist_128_64_64", hidden_sizes=(128, 64, 64))
@variant("conv_lstm_moving_mnist_128_128_state_1x1", hidden_sizes=(128, 128), kernel_size=9, recurrent_kernel_size=1)
@variant(
    "conv_lstm_moving_mnist_128_64_64_state_1x1", hidden_sizes=(128, 64, 64), kernel_size=9, recurrent_kernel_size=1
)
@variant("conv_lstm_radar", hidden_sizes=(64, 64), kernel_size=3, patch=2)
@register("encoder_forecaster", paper=PAPER, kernels="ConvLSTM", small={"in_channels": 2, **SMALL})
class EncoderForecaster(nn.Module):
    """Predicts the next frames of a clip.

    Args:
        in_channels: channels of a frame.
        hidden_sizes: widths of the encoder's layers, the lowest first.
        kernel_size, recurrent_kernel_size: of every layer; the second defaults to the first.
        patch: frames are cut into patches of this size, whose pixels become channels.
        layer: ConvLSTM, ConvGRU or ConvRNN.
        order: "reversed" (the figure: the encoder's top state starts the forecaster's first layer) or "same".
        output: "sigmoid" (the paper, for values from 0 to 1), "linear", or "residual" (added to the last frame seen).
        peephole: of the ConvLSTM; the paper's counts are those of "channel".
        backend, recompute: as the layers'.
    Shapes: frames (B,T,C,H,W) with H and W multiples of ``patch`` -> (B,horizon,C,H,W).
    Raises: ValueError naming the argument.
    """

    def __init__(
        self, in_channels=1, hidden_sizes=(128, 64, 64), kernel_size=5, *, recurrent_kernel_size=None, patch=4,
        layer=ConvLSTM, order="reversed", output="sigmoid", peephole: str | None = "channel", backend=None,
        recompute=False,
    ):  # fmt: skip
        super().__init__()
        if order not in ("reversed", "same"):
            raise ValueError(f'order: expected "reversed" or "same", got {order!r}')
        if output not in OUTPUTS:
            raise ValueError(f"output: expected one of {', '.join(OUTPUTS)}, got {output!r}")
        hidden_sizes = tuple(hidden_sizes)
        if not hidden_sizes:
            raise ValueError("hidden_sizes: expected at least one layer, got none")
        self.in_channels, self.patch, self.order, self.output = in_channels, patch, order, output
        depth = in_channels * patch**2
        options = {"recurrent_kernel_size": recurrent_kernel_size, "backend": backend, "recompute": recompute}
        if layer is ConvLSTM:
            options["peephole"] = peephole

        def stack(first_input, sizes):
            inputs = (first_input, *sizes[:-1])
            return nn.ModuleList(layer(i, c, kernel_size, **options) for i, c in zip(inputs, sizes, strict=True))

        self.encoder = stack(depth, hidden_sizes)
        self.forecaster = stack(0, hidden_sizes[::-1] if order == "reversed" else hidden_sizes)
        self.head = nn.Conv2d(sum(hidden_sizes), depth, 1)
        if output == "residual":  # begins as a repetition of the last frame
            nn.init.zeros_(self.head.weight)
            nn.init.zeros_(cast(nn.Parameter, self.head.bias))

    def forward(self, frames, horizon):
        """Predict ``horizon`` frames after ``frames``."""
        if frames.dim() != 5:
            raise ValueError(f"frames: expected (B,T,C,H,W), got shape {tuple(frames.shape)}")
        if frames.shape[3] % self.patch or frames.shape[4] % self.patch:
            raise ValueError(f"frames: expected H and W in multiples of {self.patch}, got shape {tuple(frames.shape)}")
        if horizon < 1:
            raise ValueError(f"horizon: expected at least 1, got {horizon}")
        x = F.pixel_unshuffle(frames, self.patch).transpose(0, 1)
        hidden = unroll(self.encoder, self.forecaster, x, horizon, self.order)
        maps = self.head(torch.cat(hidden, dim=2).flatten(0, 1))
        future = F.pixel_shuffle(maps, self.patch).unflatten(0, (horizon, -1)).transpose(0, 1)
        if self.output == "residual":
            return frames[:, -1:] + future
        return torch.sigmoid(future) if self.output == "sigmoid" else future

    def example_inputs(self, batch=1):
        """Arguments of a forward pass: ten frames of 16x16 patches, and how many to predict."""
        size = 16 * self.patch
        return torch.rand(batch, 10, self.in_channels, size, size), 10
