"""The deep LSTM over long videos: Ng et al. 2015, "Beyond Short Snippets", https://arxiv.org/abs/1503.08909, 3.2."""

from typing import Any

import torch
from torch import nn

from fastrcn.layers import LSTM
from fastrcn.losses import frame_weights
from fastrcn.models.caffenet import AlexNet
from fastrcn.models.registry import register
from fastrcn.models.short_snippets import FRAME_SIZE

AGGREGATIONS = ("last", "max", "average", "weighted")


def aggregate(probabilities, how="weighted", kind="from_zero"):
    """One prediction (N,num_classes) of the probabilities at every step (N,T,num_classes).

    ``how``: "last" step, "max" over time (these need not sum to 1), "average", or "weighted", the average with
    ``frame_weights``. Sum and average rank classes alike.
    """
    if how not in AGGREGATIONS:
        raise ValueError(f"how: expected one of {', '.join(AGGREGATIONS)}, got {how!r}")
    if how == "last":
        return probabilities[:, -1]
    if how == "max":
        return probabilities.max(1).values
    if how == "average":
        return probabilities.mean(1)
    g = frame_weights(probabilities.shape[1], kind, device=probabilities.device, dtype=probabilities.dtype)
    return torch.einsum("t,ntk->nk", g, probabilities) / g.sum()


@register(
    "short_snippets_lstm", paper="Ng et al. 2015, arXiv 1503.08909", kernels="LSTM",
    small={"num_classes": 5, "hidden_size": 6, "num_layers": 3, "num_frames": 4,
           "cnn_options": {"width": 2, "hidden": 8, "size": 64}},
)  # fmt: skip
class ShortSnippetsLSTM(nn.Module):
    """Five LSTM layers with peepholes over the features of a CNN, and a classifier at every step.

    Args:
        num_classes: outputs, 487 for Sports-1M.
        cnn: "alexnet" (to fc7, 220x220 frames), a module that maps frames (M,...) to (M,input_size), or None: the input
            is such features.
        input_size: of a ``cnn`` or features that are given.
        cnn_options: of the AlexNet.
        hidden_size, num_layers: of the LSTM.
        peephole: "channel" (Graves 2013, as the paper's equations), or None.
        num_frames: of ``example_inputs``: 30, 120 or 300 in the paper; any number runs.
        backend: as the layers'.
    Shapes: frames (N,T,3,220,220), or features (N,T,input_size) without a CNN -> scores before softmax at every step
        (N,T,num_classes), for ``fastrcn.losses.weighted_step_cross_entropy``; ``predict`` makes one prediction of them.
    Raises: ValueError naming the argument.
    """

    def __init__(
        self, num_classes=487, *, cnn: Any = "alexnet", input_size: Any = None, cnn_options=None, hidden_size=512,
        num_layers=5, peephole: str | None = "channel", num_frames=120, backend=None,
    ):  # fmt: skip
        super().__init__()
        if isinstance(cnn, str) and cnn != "alexnet":
            raise ValueError(f'cnn: expected "alexnet", a module or None, got {cnn!r}')
        if cnn_options is not None and cnn != "alexnet":
            raise ValueError(f"cnn_options: expected None unless the cnn is alexnet, got {cnn_options}")
        if (input_size is None) != (cnn == "alexnet"):
            raise ValueError(f"input_size: expected None with alexnet and an int otherwise, got {input_size}")
        if cnn == "alexnet":
            cnn = AlexNet(None, **{"size": FRAME_SIZE, **(cnn_options or {})})
            input_size = cnn.hidden
        self.cnn, self.input_size, self.num_frames = cnn, input_size, num_frames
        self.lstm = LSTM(
            input_size, hidden_size, num_layers, peephole=peephole, batch_first=True, backend=backend
        )  # fmt: skip
        self.classifier = nn.Linear(hidden_size, num_classes)

    def forward(self, frames):
        """Scores before softmax, at every step."""
        rank = "(N,T,input_size)" if self.cnn is None else "(N,T,C,H,W)"
        if frames.dim() != (3 if self.cnn is None else 5):
            raise ValueError(f"frames: expected {rank}, got shape {tuple(frames.shape)}")
        features = frames if self.cnn is None else self.cnn(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])
        if tuple(features.shape[2:]) != (self.input_size,):
            raise ValueError(f"input_size: expected features of {self.input_size}, got shape {tuple(features.shape)}")
        return self.classifier(self.lstm(features)[0])

    def predict(self, frames, how="weighted", kind="from_zero"):
        """Probabilities (N,num_classes), by ``aggregate``."""
        return aggregate(self(frames).softmax(-1), how, kind)

    def example_inputs(self, batch=1):
        """Arguments of a forward pass."""
        if self.cnn is None:
            return (torch.randn(batch, self.num_frames, self.input_size),)
        if not isinstance(self.cnn, AlexNet):
            raise ValueError("cnn: only the default one's input is known")
        return (torch.randn(batch, self.num_frames, 3, self.cnn.size, self.cnn.size),)
