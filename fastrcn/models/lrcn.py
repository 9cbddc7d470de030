"""LRCN for activity recognition: Donahue et al. 2015, https://arxiv.org/abs/1411.4389, section 4."""

import torch
from torch import nn

from fastrcn.layers import LSTM
from fastrcn.layers.markers import run_with_markers
from fastrcn.models.caffenet import CaffeNet
from fastrcn.models.registry import register

BACKBONES = {"hybrid": "lrcn_hybrid", "caffenet": "caffenet"}


def clip_starts(num_frames, length=16, stride=8):
    """First frames of the clips that a video is tested on: every ``stride`` frames, the last one ends with the video.

    Raises: ValueError where the video is shorter than a clip.
    """
    if length < 1 or stride < 1:
        raise ValueError(f"length, stride: expected positive ints, got {length}, {stride}")
    if num_frames < length:
        raise ValueError(f"num_frames: expected at least {length}, one clip, got {num_frames}")
    last = num_frames - length
    starts = list(range(0, last + 1, stride))
    return starts if starts[-1] == last else [*starts, last]


@register(
    "lrcn", paper="Donahue et al. 2015, arXiv 1411.4389", kernels="LSTM",
    small={"num_classes": 5, "hidden_size": 6, "width": 6, "cnn_hidden": 16, "size": 67},
)  # fmt: skip
class LRCN(nn.Module):
    """A CNN for every frame, an LSTM over its features, and a classifier at every step.

    Args:
        num_classes: outputs of the classifier.
        backbone: "hybrid", the net of the authors' release, or "caffenet", the one that the paper names.
        layer: "fc6", the better one, or "fc7": the CNN's last layer.
        hidden_size: units of the LSTM: 256; the paper reports 1024 for flow, the release has 256 there too.
        in_channels: 3, also for flow, as an image of x, y and magnitude around 128. Mirroring it negates x.
        cnn_dropout, dropout: probabilities after the CNN's fully connected layers, and after the LSTM.
        width, cnn_hidden, size: of the CNN, as ``CaffeNet``'s width, hidden and size.
        backend: as the layers'.
    Shapes: frames (N,T,in_channels,size,size), T 16 in the paper -> scores before softmax (N,T,num_classes).
    Raises: ValueError naming the argument.

    Trained with cross-entropy at every step against the clip's label (``fastrcn.losses.step_cross_entropy``), from the
    weights of the net on single frames.
    """

    def __init__(
        self, num_classes=101, *, backbone="hybrid", layer="fc6", hidden_size=256, in_channels=3, cnn_dropout=0.9,
        dropout=0.5, width=96, cnn_hidden=4096, size=227, backend=None,
    ):  # fmt: skip
        super().__init__()
        if backbone not in BACKBONES:
            raise ValueError(f"backbone: expected one of {', '.join(BACKBONES)}, got {backbone!r}")
        if layer not in ("fc6", "fc7"):
            raise ValueError(f'layer: expected "fc6" or "fc7", got {layer!r}')
        self.cnn = CaffeNet(
            in_channels=in_channels, variant=BACKBONES[backbone], top=layer, width=width, hidden=cnn_hidden, size=size,
            dropout=cnn_dropout,
        )  # fmt: skip
        self.lstm = LSTM(cnn_hidden, hidden_size, batch_first=True, backend=backend)
        for name, parameter in self.lstm.named_parameters():
            if name.startswith("bias"):
                nn.init.zeros_(parameter)
            else:
                nn.init.uniform_(parameter, -0.01, 0.01)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(hidden_size, num_classes)

    def forward(self, frames, markers=None):
        """Scores at every step; ``markers`` (N,T) with 0 where a clip begins let one sequence hold several clips."""
        if frames.dim() != 5:
            raise ValueError(f"frames: expected (N,T,C,H,W), got shape {tuple(frames.shape)}")
        features = self.cnn(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])
        if markers is None:
            hidden, _ = self.lstm(features)
        else:
            hidden, _ = run_with_markers(self.lstm, features, markers)
        return self.classifier(self.dropout(hidden))

    def predict(self, frames):
        """Probabilities (N,num_classes) of clips: the mean over the steps of each step's softmax.

        A video's are the mean over its clips (see ``clip_starts``) and their crops.
        """
        return self(frames).softmax(-1).mean(1)

    def example_inputs(self, batch=1):
        """Arguments of a forward pass: clips of 16 frames."""
        return (torch.randn(batch, 16, self.cnn.in_channels, self.cnn.size, self.cnn.size),)
