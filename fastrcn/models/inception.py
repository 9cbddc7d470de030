"""Inception-v1 with batch normalisation: Szegedy et al. 2014, https://arxiv.org/abs/1409.4842; Ioffe and Szegedy 2015.

The 2-D trunk of the two-stream models, and what I3D is inflated from.
"""

from typing import Any

import torch
from torch import nn

from fastrcn.models.padding import pad_same, same_max_pool2d
from fastrcn.models.registry import register

PADDINGS = ("torchvision", "same")
# Channels: 1x1; 3x3 reduced, 3x3; second 3x3 reduced, second 3x3; after pooling. I3D's are the same.
MODULES = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}


class ConvBNReLU(nn.Module):
    """Convolution without bias, batch normalisation, ReLU."""

    def __init__(self, in_channels, out_channels, kernel_size, stride=1, padding=0):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(out_channels, eps=1e-3)

    def forward(self, x):
        """(N,C,H,W) -> (N,C',H',W')."""
        return self.bn(self.conv(x)).relu_()


class Inception(nn.Module):
    """Four branches side by side. The third has a 3x3 kernel where the paper has 5x5, as all published weights do."""

    def __init__(self, in_channels, b1, b2_reduced, b2, b3_reduced, b3, b4):
        super().__init__()
        self.branch1 = ConvBNReLU(in_channels, b1, 1)
        self.branch2 = nn.Sequential(ConvBNReLU(in_channels, b2_reduced, 1), ConvBNReLU(b2_reduced, b2, 3, padding=1))
        self.branch3 = nn.Sequential(ConvBNReLU(in_channels, b3_reduced, 1), ConvBNReLU(b3_reduced, b3, 3, padding=1))
        self.branch4 = nn.Sequential(nn.MaxPool2d(3, stride=1, padding=1), ConvBNReLU(in_channels, b4, 1))
        self.out_channels = b1 + b2 + b3 + b4

    def forward(self, x):
        """(N,C,H,W) -> (N,out_channels,H,W)."""
        return torch.cat([self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)], 1)


@register(
    "inception_v1", paper="Szegedy et al. 2014, arXiv 1409.4842; Ioffe and Szegedy 2015, arXiv 1502.03167",
    small={"num_classes": 5, "width": 8, "size": 32},
)  # fmt: skip
class InceptionV1(nn.Module):
    """Inception-v1; its keys are those of torchvision's ``googlenet(aux_logits=False)``, whose weights load strictly.

    Args:
        num_classes: outputs; None leaves the last layer out.
        in_channels: 3 for RGB, 20 for ten stacked flow fields.
        width: channels of the first convolution, 64 in the paper, a multiple of 8; all others in proportion.
        dropout: probability before the last layer.
        transform_input: take images normalised by ImageNet's means and deviations, as torchvision's loader asks for
            together with its weights, which expect -1 to 1.
        size: height and width of ``example_inputs``; images of any size run.
        padding: "torchvision": 3 on both sides of the stem, pooling rounds up; "same": TensorFlow's, which I3D has in
            space. At 224x224 they differ in the stem alone, which "same" pads by 2 before and 3 after.
    Shapes: (N,in_channels,H,W) -> (N,num_classes), or (N,1024) without the last layer.
    Raises: ValueError naming the argument.
    """

    heads = ("fc",)

    def __init__(
        self, num_classes: int | None = 1000, in_channels=3, *, width=64, dropout=0.2, transform_input=False, size=224,
        padding="torchvision",
    ):  # fmt: skip
        super().__init__()
        if width < 8 or width % 8:
            raise ValueError(f"width: expected a multiple of 8, got {width}")
        if transform_input and in_channels != 3:
            raise ValueError(f"transform_input: expected False but for RGB, got {in_channels} channels")
        if padding not in PADDINGS:
            raise ValueError(f"padding: expected one of {', '.join(PADDINGS)}, got {padding!r}")
        self.in_channels, self.size, self.transform_input = in_channels, size, transform_input
        self.padding = padding
        self.conv1 = ConvBNReLU(in_channels, width, 7, stride=2, padding=3 if padding == "torchvision" else 0)
        self.maxpool1 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        self.conv2 = ConvBNReLU(width, width, 1)
        self.conv3 = ConvBNReLU(width, 3 * width, 3, padding=1)
        self.maxpool2 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        channels = 3 * width
        for name, sizes in MODULES.items():
            module = Inception(channels, *(c * width // 64 for c in sizes))
            self.add_module(f"inception{name}", module)
            channels = module.out_channels
        self.maxpool3 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        self.maxpool4 = nn.MaxPool2d(2, stride=2, ceil_mode=True)
        self.dropout = nn.Dropout(dropout)
        self.out_channels = channels
        self.fc = None if num_classes is None else nn.Linear(channels, num_classes)

    def _pool(self, x, name):
        pool: Any = self.get_submodule(name)
        return pool(x) if self.padding == "torchvision" else same_max_pool2d(x, pool.kernel_size, pool.stride)

    def features(self, x):
        """The last maps, 1024x7x7 at 224x224."""
        if x.dim() != 4 or x.shape[1] != self.in_channels:
            raise ValueError(f"x: expected (N,{self.in_channels},H,W), got shape {tuple(x.shape)}")
        if self.transform_input:
            mean, deviation = x.new_tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[..., None, None]
            x = (x * deviation + mean - 0.5) / 0.5
        x = self.conv1(x if self.padding == "torchvision" else pad_same(x, 7, 2))
        x = self._pool(x, "maxpool1")
        x = self._pool(self.conv3(self.conv2(x)), "maxpool2")
        for name in MODULES:
            if name in ("4a", "5a"):
                x = self._pool(x, "maxpool3" if name == "4a" else "maxpool4")
            x = self.get_submodule(f"inception{name}")(x)
        return x

    def pooled(self, x):
        """The mean of each of the last maps (N,1024)."""
        return self.features(x).mean((2, 3))

    def forward(self, x):
        """Class scores before softmax."""
        x = self.dropout(self.pooled(x))
        return x if self.fc is None else self.fc(x)

    def example_inputs(self, batch=1):
        """Arguments of a forward pass."""
        return (torch.randn(batch, self.in_channels, self.size, self.size),)
