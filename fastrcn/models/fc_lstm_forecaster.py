"""The fully connected baseline of Shi et al. 2015, https://arxiv.org/abs/1506.04214: an encoder-forecaster of LSTMs.

FC-LSTM-2048-2048 of the table on Moving MNIST; its frames are flattened, and only the forecaster's last layer is read.
"""

import math

import torch
from torch import nn

from fastrcn.layers import LSTM
from fastrcn.models.encoder_forecaster import PAPER, unroll
from fastrcn.models.registry import register


@register("fc_lstm_forecaster", paper=PAPER, kernels="LSTM", small={"frame": (2, 4, 4), "hidden_sizes": (5, 3)})
class FCLSTMForecaster(nn.Module):
    """Predicts the next frames of a clip from whole frames as vectors.

    Args:
        frame: channels, height and width of a frame.
        hidden_sizes: widths of the encoder's layers, the lowest first.
        order: "reversed" (the encoder's top state starts the forecaster's first layer) or "same".
        peephole: "channel", one weight per unit, with which the published count is exact; "full", matrices; or None.
        backend, recompute: as the layers'.
    Shapes: frames (B,T,C,H,W) -> (B,horizon,C,H,W), from 0 to 1.
    Raises: ValueError naming the argument.
    """

    def __init__(
        self, frame=(1, 64, 64), hidden_sizes=(2048, 2048), *, order="reversed", peephole: str | None = "channel",
        backend=None, recompute=False,
    ):  # fmt: skip
        super().__init__()
        if order not in ("reversed", "same"):
            raise ValueError(f'order: expected "reversed" or "same", got {order!r}')
        if len(frame) != 3 or min(frame) < 1:
            raise ValueError(f"frame: expected channels, height and width, got {frame!r}")
        hidden_sizes = tuple(hidden_sizes)
        if not hidden_sizes:
            raise ValueError("hidden_sizes: expected at least one layer, got none")
        self.frame, self.order = tuple(frame), order
        pixels = math.prod(frame)

        def stack(first_input, sizes):
            pairs = zip((first_input, *sizes[:-1]), sizes, strict=True)
            return nn.ModuleList(LSTM(i, n, peephole=peephole, backend=backend, recompute=recompute) for i, n in pairs)

        future = hidden_sizes[::-1] if order == "reversed" else hidden_sizes
        self.encoder = stack(pixels, hidden_sizes)
        self.forecaster = stack(0, future)
        self.head = nn.Linear(future[-1], pixels)

    def forward(self, frames, horizon):
        """Predict ``horizon`` frames after ``frames``."""
        if frames.dim() != 5 or tuple(frames.shape[2:]) != self.frame or frames.shape[1] == 0:
            raise ValueError(f"frames: expected (B,T,*{self.frame}) with T at least 1, got shape {tuple(frames.shape)}")
        if horizon < 1:
            raise ValueError(f"horizon: expected at least 1, got {horizon}")
        x = frames.flatten(2).transpose(0, 1)
        top = unroll(self.encoder, self.forecaster, x, horizon, self.order)[-1]
        return torch.sigmoid(self.head(top)).transpose(0, 1).unflatten(2, self.frame)

    def example_inputs(self, batch=1):
        """Arguments of a forward pass: ten frames, and how many to predict."""
        return torch.rand(batch, 10, *self.frame), 10
