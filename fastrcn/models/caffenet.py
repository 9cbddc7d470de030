"""AlexNet in two layouts, CaffeNet's and torchvision's, and the larger net that LRCN reads frames with.

Krizhevsky et al. 2012 (NIPS); CaffeNet: Jia et al. 2014, arXiv 1408.5093; hybrid: Donahue et al. 2015, arXiv 1411.4389.
"""

from collections import OrderedDict

import torch
from torch import nn

from fastrcn.models.registry import register

# Kernel, stride, padding, channels, groups of conv1 .. conv5. After the first two: pooling and normalisation; after the
# last: pooling. All poolings are 3x3 with stride 2 and round up, as Caffe's do.
CONVOLUTIONS = {
    "caffenet": ((11, 4, 0, 96, 1), (5, 1, 2, 256, 2), (3, 1, 1, 384, 1), (3, 1, 1, 384, 2), (3, 1, 1, 256, 2)),
    "lrcn_hybrid": ((7, 2, 0, 96, 1), (5, 2, 0, 384, 2), (3, 1, 1, 512, 1), (3, 1, 1, 512, 2), (3, 1, 1, 384, 2)),
}
TOPS = ("fc6", "fc7", "fc8")


def _check_images(x, channels, size):
    if x.dim() != 4 or tuple(x.shape[1:]) != (channels, size, size):
        raise ValueError(f"x: expected (N,{channels},{size},{size}), got shape {tuple(x.shape)}")


_SMALL = {"width": 6, "hidden": 16, "size": 67}


@register("caffenet", paper="Krizhevsky et al. 2012; Jia et al. 2014, arXiv 1408.5093", small=_SMALL)
@register("lrcn_hybrid", paper="Donahue et al. 2015, arXiv 1411.4389", small=_SMALL, variant="lrcn_hybrid")
class CaffeNet(nn.Module):
    """CaffeNet, or the LRCN hybrid net, which the authors' activity model uses although the paper names CaffeNet.

    Args:
        num_classes: outputs of fc8.
        in_channels: 3 for RGB or a flow image (x, y, magnitude).
        variant: "caffenet" or "lrcn_hybrid".
        grouped: False makes conv2, conv4 and conv5 see all channels.
        normalize_first: True puts the normalisation before the pooling, as in the original AlexNet.
        top: last layer: "fc8" (class scores), or "fc7" or "fc6", whose ReLU and dropout then end the net.
        width: channels of conv1, 96 in the papers, a multiple of 6; all others in proportion.
        hidden: units of fc6 and fc7.
        size: height and width of the images that fc6 is made for, 227 in the papers.
        dropout: probability after fc6 and fc7; LRCN takes 0.9.
    Shapes: (N,in_channels,size,size) -> (N,num_classes), or (N,hidden) where ``top`` is fc6 or fc7.
    Raises: ValueError naming the argument.

    Weights trained with Caffe expect BGR from 0 to 255 less the mean.
    """

    heads = ("classifier.fc8",)

    def __init__(
        self, num_classes=1000, in_channels=3, *, variant="caffenet", grouped=True, normalize_first=False, top="fc8",
        width=96, hidden=4096, size=227, dropout=0.5,
    ):  # fmt: skip
        super().__init__()
        if variant not in CONVOLUTIONS:
            raise ValueError(f"variant: expected one of {', '.join(CONVOLUTIONS)}, got {variant!r}")
        if top not in TOPS:
            raise ValueError(f"top: expected one of {', '.join(TOPS)}, got {top!r}")
        if width < 6 or width % 6:
            raise ValueError(f"width: expected a multiple of 6, got {width}")
        self.in_channels, self.size, self.hidden, self.top = in_channels, size, hidden, top
        layers = OrderedDict()
        channels, side = in_channels, size
        for k, (kernel, stride, padding, out, groups) in enumerate(CONVOLUTIONS[variant], start=1):
            out = out * width // 96
            layers[f"conv{k}"] = nn.Conv2d(
                channels, out, kernel, stride, padding, groups=groups if grouped else 1
            )  # fmt: skip
            layers[f"relu{k}"] = nn.ReLU(inplace=True)
            channels, side = out, (side + 2 * padding - kernel) // stride + 1
            if k in (1, 2, 5):
                after: list[tuple[str, nn.Module]] = [(f"pool{k}", nn.MaxPool2d(3, 2, ceil_mode=True))]
                if k < 5:
                    after.append((f"norm{k}", nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=1.0)))
                layers.update(reversed(after) if normalize_first else after)
                side = -((3 - side) // 2) + 1
            if side < 1:
                raise ValueError(f"size: expected images large enough for every layer, got {size}")
        self.features = nn.Sequential(layers)
        head = OrderedDict()
        units = channels * side**2
        for name, k in (("fc6", 6), ("fc7", 7)):
            head[name] = nn.Linear(units, hidden)
            head[f"relu{k}"] = nn.ReLU(inplace=True)
            head[f"drop{k}"] = nn.Dropout(dropout)
            units = hidden
            if name == top:
                break
        if top == "fc8":
            head["fc8"] = nn.Linear(hidden, num_classes)
        self.classifier = nn.Sequential(head)

    def forward(self, x):
        """Class scores before softmax, or what ``top`` says."""
        return self.classifier(self.maps(x).flatten(1))

    def maps(self, x):
        """The maps of pool5."""
        _check_images(x, self.in_channels, self.size)
        return self.features(x)

    def example_inputs(self, batch=1):
        """Arguments of a forward pass."""
        return (torch.randn(batch, self.in_channels, self.size, self.size),)


@register(
    "alexnet", paper="Krizhevsky 2014, arXiv 1404.5997 (torchvision's layout)",
    small={"width": 4, "hidden": 16, "size": 64},
)  # fmt: skip
class AlexNet(nn.Module):
    """AlexNet of one tower; its keys are those of torchvision's ``alexnet``, whose weights load strictly.

    Another net than CaffeNet: other widths, no groups, no normalisation.

    Args:
        num_classes: outputs; None leaves the last layer out.
        in_channels: of the images.
        width: channels of the first convolution, 64 in the paper; all others in proportion.
        hidden: units of fc6 and fc7.
        size: height and width of the images, at least 63; fc6 always sees 6x6 cells.
        dropout: probability before fc6 and fc7.
    Shapes: (N,in_channels,size,size) -> (N,num_classes), or (N,hidden) without the last layer.
    Raises: ValueError naming the argument.
    """

    heads = ("classifier.6",)

    def __init__(
        self, num_classes: int | None = 1000, in_channels=3, *, width=64, hidden=4096, size=224, dropout=0.5
    ):  # fmt: skip
        super().__init__()
        if width < 1:
            raise ValueError(f"width: expected a positive int, got {width}")
        if size < 63:
            raise ValueError(f"size: expected at least 63, got {size}")
        self.in_channels, self.size, self.hidden = in_channels, size, hidden
        c1, c2, c3, c4, c5 = (c * width for c in (1, 3, 6, 4, 4))
        self.features = nn.Sequential(
            nn.Conv2d(in_channels, c1, 11, stride=4, padding=2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2),
            nn.Conv2d(c1, c2, 5, padding=2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2),
            nn.Conv2d(c2, c3, 3, padding=1), nn.ReLU(inplace=True),
            nn.Conv2d(c3, c4, 3, padding=1), nn.ReLU(inplace=True),
            nn.Conv2d(c4, c5, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2),
        )  # fmt: skip
        self.avgpool = nn.AdaptiveAvgPool2d(6)
        head = [] if num_classes is None else [nn.Linear(hidden, num_classes)]
        self.classifier = nn.Sequential(
            nn.Dropout(dropout), nn.Linear(c5 * 36, hidden), nn.ReLU(inplace=True),
            nn.Dropout(dropout), nn.Linear(hidden, hidden), nn.ReLU(inplace=True), *head,
        )  # fmt: skip

    def forward(self, x):
        """Class scores (N,num_classes), before softmax; without the last layer fc7 after its ReLU."""
        return self.classifier(self.avgpool(self.maps(x)).flatten(1))

    def maps(self, x):
        """The maps after the last pooling, 6x6 at 224x224, 5x5 at 220x220."""
        _check_images(x, self.in_channels, self.size)
        return self.features(x)

    def example_inputs(self, batch=1):
        """Arguments of a forward pass."""
        return (torch.randn(batch, self.in_channels, self.size, self.size),)
