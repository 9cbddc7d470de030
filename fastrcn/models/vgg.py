"""VGG-16 (configuration D) of Simonyan and Zisserman 2014, https://arxiv.org/abs/1409.1556, with five taps."""

from typing import Any

import torch
from torch import nn

from fastrcn.models.registry import register

# Channels of the 3x3 convolutions; "P" is a 2x2 max-pooling.
LAYERS: tuple[Any, ...] = (64, 64, "P", 128, 128, "P", 256, 256, 256, "P", 512, 512, 512, "P", 512, 512, 512, "P")
TAPS = {"pool2": 9, "pool3": 16, "pool4": 23, "pool5": 30}
"""Index in ``features`` of the layers whose maps recurrent levels read; the fifth tap is fc7."""


@register("vgg16", paper="Simonyan and Zisserman 2014, arXiv 1409.1556", small={"width": 4, "hidden": 16, "size": 32})
class VGG16(nn.Module):
    """VGG-16; its keys are those of torchvision's ``vgg16``, whose weights load strictly at the paper's size.

    Args:
        num_classes: outputs; None leaves the last layer out.
        in_channels: 3 for RGB, 20 for ten stacked flow fields (see ``load_rgb_stem``).
        width: channels of the first convolution, 64 in the paper; all others in proportion.
        hidden: units of fc6 and fc7.
        size: height and width of the images that fc6 is made for, a multiple of 32.
        dropout: probability after fc6 and fc7.
    Shapes: (N,in_channels,size,size) -> (N,num_classes).
    Raises: ValueError naming the argument.

    The layer that Ballas et al. 2016 call "pool2 (56x56x64)" has 128 channels here as everywhere: 64 is the width of
    the recurrent level on it.
    """

    heads = ("classifier.6",)

    def __init__(
        self, num_classes: int | None = 1000, in_channels=3, *, width=64, hidden=4096, size=224, dropout=0.5
    ):  # fmt: skip
        super().__init__()
        if size < 32 or size % 32:
            raise ValueError(f"size: expected a multiple of 32, got {size}")
        if width < 1:
            raise ValueError(f"width: expected a positive int, got {width}")
        self.in_channels, self.size, self.hidden = in_channels, size, hidden
        layers: list[nn.Module] = []
        channels = in_channels
        self.tap_channels = {}
        for step in LAYERS:
            if step == "P":
                layers.append(nn.MaxPool2d(2))
                self.tap_channels[f"pool{len(self.tap_channels) + 1}"] = channels
            else:
                layers += [nn.Conv2d(channels, step * width // 64, 3, padding=1), nn.ReLU(inplace=True)]
                channels = step * width // 64
        self.tap_channels["fc7"] = hidden
        self.features = nn.Sequential(*layers)
        head = [] if num_classes is None else [nn.Linear(hidden, num_classes)]
        self.classifier = nn.Sequential(
            nn.Linear(channels * (size // 32) ** 2, hidden), nn.ReLU(inplace=True), nn.Dropout(dropout),
            nn.Linear(hidden, hidden), nn.ReLU(inplace=True), nn.Dropout(dropout), *head,
        )  # fmt: skip

    def _check(self, x):
        if x.dim() != 4 or tuple(x.shape[1:]) != (self.in_channels, self.size, self.size):
            expected = f"(N,{self.in_channels},{self.size},{self.size})"
            raise ValueError(f"x: expected {expected}, got shape {tuple(x.shape)}")

    def forward(self, x):
        """Class scores (N,num_classes), before softmax."""
        self._check(x)
        return self.classifier(self.features(x).flatten(1))

    def taps(self, x):
        """The maps of pool2, pool3, pool4, pool5, and fc7 after its ReLU as 1x1 maps, in this order."""
        self._check(x)
        found = []
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index in TAPS.values():
                found.append(x)
        fc7 = self.classifier[:5](x.flatten(1))
        return [*found, fc7[..., None, None]]

    def load_rgb_stem(self, weight):
        """Start the first convolution, of flow, from one of RGB (C,3,3,3): the mean over its inputs, for each input.

        The practice of Wang et al. 2015, arXiv 1507.02159.
        """
        stem: Any = self.features[0]
        ours = stem.weight
        if weight.shape != (ours.shape[0], 3, 3, 3):
            raise ValueError(f"weight: expected ({ours.shape[0]},3,3,3), got shape {tuple(weight.shape)}")
        with torch.no_grad():
            ours.copy_(weight.mean(1, keepdim=True).expand_as(ours))

    def example_inputs(self, batch=1):
        """Arguments of a forward pass."""
        return (torch.randn(batch, self.in_channels, self.size, self.size),)
