"""CNN-M-2048: Chatfield et al. 2014, https://arxiv.org/abs/1405.3531. Both streams of the two-stream network are one.

The latter: Simonyan and Zisserman 2014, "Two-stream convolutional networks", https://arxiv.org/abs/1406.2199, figure 1.
"""

from collections import OrderedDict

import torch
from torch import nn

from fastrcn.models.registry import register

# Kernel, stride, padding, channels of conv1 .. conv5. After the first two: normalisation, then pooling; after the last:
# pooling.
CONVOLUTIONS = ((7, 2, 0, 96), (5, 2, 1, 256), (3, 1, 1, 512), (3, 1, 1, 512), (3, 1, 1, 512))
POOLED = (1, 2, 5)


@register(
    "cnn_m_2048", paper="Chatfield et al. 2014, arXiv 1405.3531",
    small={"num_classes": 5, "width": 3, "hidden": (12, 8), "size": 64},
)  # fmt: skip
class CNNM2048(nn.Module):
    """Five convolutions and three fully connected layers.

    Args:
        num_classes: outputs; None leaves the last layer out.
        in_channels: 3 for RGB, 20 for ten stacked flow fields.
        second_norm: False leaves the second normalisation out, as the temporal stream does to save memory.
        width: channels of the first convolution, 96 in the paper, a multiple of 3; all others in proportion.
        hidden: units of full6 and full7.
        size: height and width of the images that full6 is made for.
        dropout: probability after full6 and full7; 0.5 in Chatfield et al., up to 0.9 in the two-stream net.
    Shapes: (N,in_channels,size,size) -> (N,num_classes), or (N,hidden[1]) without the last layer.
    Raises: ValueError naming the argument.

    Poolings are 3x3 with stride 2 and round up, as in the published layer files. The two-stream paper's figure calls
    them 2x2; the sizes at 224x224 are the same. Normalisation has Krizhevsky's constants: 2 + 1e-4 times the sum of
    squares over 5 channels, which PyTorch writes as 5e-4 times their mean.
    """

    heads = ("classifier.full8",)

    def __init__(
        self, num_classes: int | None = 1000, in_channels=3, *, second_norm=True, width=96, hidden=(4096, 2048),
        size=224, dropout=0.5,
    ):  # fmt: skip
        super().__init__()
        if width < 3 or width % 3:
            raise ValueError(f"width: expected a multiple of 3, got {width}")
        if len(hidden) != 2 or min(hidden) < 1:
            raise ValueError(f"hidden: expected two positive ints, got {hidden!r}")
        self.in_channels, self.size = in_channels, size
        layers = OrderedDict()
        channels, side = in_channels, size
        for k, (kernel, stride, padding, out) in enumerate(CONVOLUTIONS, start=1):
            out = out * width // 96
            layers[f"conv{k}"] = nn.Conv2d(channels, out, kernel, stride, padding)
            layers[f"relu{k}"] = nn.ReLU(inplace=True)
            channels, side = out, (side + 2 * padding - kernel) // stride + 1
            if k == 1 or (k == 2 and second_norm):
                layers[f"norm{k}"] = nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2.0)
            if k in POOLED:
                layers[f"pool{k}"] = nn.MaxPool2d(3, 2, ceil_mode=True)
                side = -((3 - side) // 2) + 1
            if side < 1:
                raise ValueError(f"size: expected images large enough for every layer, got {size}")
        self.features = nn.Sequential(layers)
        head = OrderedDict()
        units = channels * side**2
        for k, out in enumerate(hidden, start=6):
            head[f"full{k}"] = nn.Linear(units, out)
            head[f"relu{k}"] = nn.ReLU(inplace=True)
            head[f"drop{k}"] = nn.Dropout(dropout)
            units = out
        if num_classes is not None:
            head["full8"] = nn.Linear(units, num_classes)
        self.classifier = nn.Sequential(head)

    def forward(self, x):
        """Class scores before softmax."""
        if x.dim() != 4 or tuple(x.shape[1:]) != (self.in_channels, self.size, self.size):
            expected = f"(N,{self.in_channels},{self.size},{self.size})"
            raise ValueError(f"x: expected {expected}, got shape {tuple(x.shape)}")
        return self.classifier(self.features(x).flatten(1))

    def example_inputs(self, batch=1):
        """Arguments of a forward pass."""
        return (torch.randn(batch, self.in_channels, self.size, self.size),)
