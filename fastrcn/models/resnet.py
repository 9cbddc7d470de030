"""ResNet-50 of He et al. 2015, https://arxiv.org/abs/1512.03385, of images, in torchvision's layout."""

import torch
from torch import nn

from fastrcn.models.registry import register

# Blocks, and their inner channels as multiples of the stem's; a block gives four times as many.
STAGES = ((3, 1), (4, 2), (6, 4), (3, 8))
EXPANSION = 4


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolution, each normalised, added to the block's input; ReLU after the first two and the sum.

    A block that changes the channels or halves the maps sends its input through a 1x1 convolution first. The 3x3
    convolution has the stride, as in all published weights; the paper's first 1x1 has it.
    """

    def __init__(self, in_channels, inner, stride=1):
        super().__init__()
        out_channels = EXPANSION * inner
        self.conv1 = nn.Conv2d(in_channels, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.downsample = None
        if stride != 1 or in_channels != out_channels:
            shortcut = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(out_channels))

    def forward(self, x):
        """(N,C,H,W) -> (N,4*inner,H',W')."""
        y = self.bn1(self.conv1(x)).relu_()
        y = self.bn2(self.conv2(y)).relu_()
        y = self.bn3(self.conv3(y))
        y += x if self.downsample is None else self.downsample(x)
        return y.relu_()


@register(
    "resnet50", paper="He et al. 2015, arXiv 1512.03385", small={"num_classes": 5, "width": 4, "size": 64}
)  # fmt: skip
class ResNet50(nn.Module):
    """ResNet-50; its keys are those of torchvision's ``resnet50``, whose weights load strictly at the paper's size.

    Args:
        num_classes: outputs; None leaves the last layer out.
        in_channels: 3 for RGB, 20 for ten stacked flow fields.
        width: channels of the first convolution, 64 in the paper; all others in proportion.
        zero_init: start the last normalisation of each block with a scale of 0: a block lets its input through then.
        size: height and width of ``example_inputs``; images of any size run.
    Shapes: (N,in_channels,H,W) -> (N,num_classes), or (N,2048) without the last layer.
    Raises: ValueError naming the argument.
    """

    heads = ("fc",)

    def __init__(
        self, num_classes: int | None = 1000, in_channels=3, *, width=64, zero_init=False, size=224
    ):  # fmt: skip
        super().__init__()
        if width < 1:
            raise ValueError(f"width: expected a positive int, got {width}")
        self.in_channels, self.size = in_channels, size
        self.conv1 = nn.Conv2d(in_channels, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        channels = width
        for stage, (blocks, multiple) in enumerate(STAGES, 1):
            layer = nn.Sequential()
            for block in range(blocks):
                layer.append(Bottleneck(channels, width * multiple, 2 if block == 0 and stage > 1 else 1))
                channels = EXPANSION * width * multiple
            self.add_module(f"layer{stage}", layer)
        self.out_channels = channels
        self.fc = None if num_classes is None else nn.Linear(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif zero_init and isinstance(module, Bottleneck):
                nn.init.zeros_(module.bn3.weight)

    def taps(self, x):
        """The maps of the four stages: 256x56x56, 512x28x28, 1024x14x14 and 2048x7x7 at 224x224."""
        if x.dim() != 4 or x.shape[1] != self.in_channels:
            raise ValueError(f"x: expected (N,{self.in_channels},H,W), got shape {tuple(x.shape)}")
        x = self.maxpool(self.bn1(self.conv1(x)).relu_())
        found = []
        for stage in range(1, len(STAGES) + 1):
            x = self.get_submodule(f"layer{stage}")(x)
            found.append(x)
        return found

    def pooled(self, x):
        """The mean of each of the last maps (N,2048)."""
        return self.taps(x)[-1].mean((2, 3))

    def forward(self, x):
        """Class scores before softmax."""
        x = self.pooled(x)
        return x if self.fc is None else self.fc(x)

    def example_inputs(self, batch=1):
        """Arguments of a forward pass."""
        return (torch.randn(batch, self.in_channels, self.size, self.size),)
