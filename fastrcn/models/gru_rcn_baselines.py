"""The baselines of Ballas et al. 2016, https://arxiv.org/abs/1511.06432: VGG-16 on single frames, a GRU on its fc7."""

import torch
from torch import nn

from fastrcn.data.sampling import average_scores
from fastrcn.layers import GRU
from fastrcn.models.gru_rcn import AVERAGES, PAPER, FrameTaps, check_average
from fastrcn.models.registry import register
from fastrcn.models.vgg import VGG16


@register("vgg16_frames", paper=PAPER, small={"num_classes": 5, "width": 4, "fc": 8, "size": 32})
class VGG16Frames(nn.Module):
    """VGG-16 tuned on single frames; a clip's scores are the average of its frames'.

    Args:
        num_classes, in_channels: 101 classes in the paper; 20 channels for ten stacked flow fields.
        average: mean of "probabilities" or of "logits".
        dropout: probability after fc6 and fc7.
        width, fc, size: as in ``GRURCN``.
    Shapes: (N,T,in_channels,size,size) -> scores (N,num_classes) and the frames' logits (N,T,num_classes).
    Raises: ValueError naming the argument.
    """

    def __init__(
        self, num_classes=101, in_channels=3, *, average="probabilities", dropout=0.5, width=64, fc=4096, size=224
    ):  # fmt: skip
        super().__init__()
        self.average = check_average(average)
        self.cnn = VGG16(num_classes, in_channels, width=width, hidden=fc, size=size, dropout=dropout)

    def forward(self, frames):
        """Scores of the clip, and logits of each frame."""
        if frames.dim() != 5 or frames.shape[1] == 0:
            raise ValueError(f"frames: expected (N,T,C,H,W) with at least one frame, got shape {tuple(frames.shape)}")
        logits = self.cnn(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])
        return average_scores(logits, AVERAGES[self.average]), logits

    def example_inputs(self, batch=1):
        """Arguments of a forward pass: ten frames."""
        return (torch.randn(batch, 10, self.cnn.in_channels, self.cnn.size, self.cnn.size),)


@register(
    "vgg16_rnn", paper=PAPER, kernels="GRU",
    small={"num_classes": 5, "hidden_size": 6, "width": 4, "fc": 8, "size": 32},
)  # fmt: skip
class VGG16RNN(nn.Module):
    """A GRU on fc7 of every frame, and a linear layer on its last state.

    Args:
        num_classes, in_channels: as ``VGG16Frames``.
        hidden_size: of the GRU. The paper does not give it; this is that of GRU-RCN's level on fc7.
        bias: of the GRU; the paper's equations have none.
        dropout: probability before the classifier.
        train_cnn, width, fc, size: as in ``GRURCN``.
        backend: as the layer's.
    Shapes: frames (N,T,in_channels,size,size), or fc7 that was computed before (N,T,fc) -> logits (N,num_classes).
    Raises: ValueError naming the argument.
    """

    def __init__(
        self, num_classes=101, in_channels=3, *, hidden_size=512, bias=False, dropout=0.7, train_cnn=False, width=64,
        fc=4096, size=224, backend=None,
    ):  # fmt: skip
        super().__init__()
        self.trunk = FrameTaps(in_channels, width=width, fc=fc, size=size, train_cnn=train_cnn)
        self.rnn = GRU(fc, hidden_size, bias=bias, batch_first=True, backend=backend)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(hidden_size, num_classes)

    def fc7(self, frames):
        """fc7 of every frame (N,T,fc), to keep."""
        return self.trunk.frame_taps(frames)[-1].flatten(2)

    def forward(self, frames):
        """Class scores before softmax."""
        if frames.dim() not in (3, 5) or frames.shape[1] == 0:
            expected = f"(N,T,C,H,W) or fc7 (N,T,{self.trunk.hidden}), with at least one frame"
            raise ValueError(f"frames: expected {expected}, got shape {tuple(frames.shape)}")
        features = self.fc7(frames) if frames.dim() == 5 else frames
        _, last = self.rnn(features)
        return self.classifier(self.dropout(last[0]))

    def example_inputs(self, batch=1):
        """Arguments of a forward pass: ten frames."""
        return (torch.randn(batch, 10, self.trunk.in_channels, self.trunk.size, self.trunk.size),)
