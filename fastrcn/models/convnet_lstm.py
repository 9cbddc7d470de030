"""ConvNet+LSTM: Carreira and Zisserman 2017, https://arxiv.org/abs/1705.07750, section 2.1, figure 2a."""

import torch
from torch import nn

from fastrcn.layers import LSTM
from fastrcn.models.inception import InceptionV1
from fastrcn.models.registry import register


@register(
    "convnet_lstm", paper="Carreira and Zisserman 2017, arXiv 1705.07750", kernels="LSTM",
    small={"num_classes": 5, "width": 8, "hidden_size": 6, "size": 32},
)  # fmt: skip
class ConvNetLSTM(nn.Module):
    """Inception-v1 to its last average pooling on every frame, an LSTM over them, and a classifier at every step.

    Args:
        num_classes: outputs of the classifier.
        hidden_size: units of the LSTM.
        bn: "input", batch normalisation of what the LSTM sees, or None. The paper says "with batch normalisation", not
            where.
        width, size: of Inception-v1.
        backend: of the LSTM.
    Shapes: frames (N,T,3,224,224), T 25, five a second -> scores before softmax (N,T,num_classes).
    Raises: ValueError naming the argument.

    In training every step has its cross-entropy with the clip's label (``fastrcn.losses.step_cross_entropy``);
    ``predict`` looks at the last step alone, in tests after 50 frames. 8,952,880 parameters, the paper's 9 million: the
    normalisation has none, as the LSTM's weights and bias follow, which can do whatever a scale and a shift would.
    Normalising inside the cell (Cooijmans et al. 2016, arXiv 1603.09025) takes means over the batch between the
    products and the gates of each step: a cell of this package cannot say that, as its steps are pointwise between
    convolutions.
    """

    heads = ("classifier",)

    def __init__(self, num_classes=400, *, hidden_size=512, bn: str | None = "input", width=64, size=224, backend=None):
        super().__init__()
        if bn not in ("input", None):
            raise ValueError(f'bn: expected "input" or None, got {bn!r}')
        self.cnn = InceptionV1(None, width=width, size=size)
        self.norm = nn.BatchNorm1d(self.cnn.out_channels, eps=1e-3, affine=False) if bn else None
        self.lstm = LSTM(self.cnn.out_channels, hidden_size, batch_first=True, backend=backend)
        self.classifier = nn.Linear(hidden_size, num_classes)

    def _hidden(self, frames):
        if frames.dim() != 5 or frames.shape[1] == 0 or frames.shape[2] != self.cnn.in_channels:
            expected = f"(N,T,{self.cnn.in_channels},H,W) with at least one frame"
            raise ValueError(f"frames: expected {expected}, got shape {tuple(frames.shape)}")
        features = self.cnn.pooled(frames.flatten(0, 1))
        if self.norm is not None:
            features = self.norm(features)
        return self.lstm(features.unflatten(0, frames.shape[:2]))[0]

    def forward(self, frames):
        """Scores at every step."""
        return self.classifier(self._hidden(frames))

    def predict(self, frames):
        """Probabilities (N,num_classes): the softmax of the last step."""
        return self.classifier(self._hidden(frames)[:, -1]).softmax(-1)

    def example_inputs(self, batch=1):
        """Arguments of a forward pass: clips of 25 frames."""
        return (torch.randn(batch, 25, self.cnn.in_channels, self.cnn.size, self.cnn.size),)
