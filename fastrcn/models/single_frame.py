"""CNNs on single frames: Karpathy et al. 2014 (CVPR), "Large-scale Video Classification with CNNs", section 3.

Their trunk and head are also those of the fusions over time: late, early and slow.
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from fastrcn.data.sampling import AVERAGES, average_scores
from fastrcn.models.registry import register

PAPER = "Karpathy et al. 2014, CVPR"
TOY = "Karpathy et al. 2014, CVPR (the small net of a lecture)"

# (channels, kernel, stride) of a convolution, "N": normalisation across channels, a number: max-pooling of that size.
LAYERS: dict[str, tuple[Any, ...]] = {
    "toy": ((12, 3, 1), 4, (24, 3, 1)),
    "karpathy": ((96, 11, 3), "N", 2, (256, 5, 1), "N", 2, (384, 3, 1), (384, 3, 1), (256, 3, 1), 2),
}
SIZES = {"toy": 64, "karpathy": 170}
FRAMES = {"toy": 20, "karpathy": 10}


def check_net(net):
    """The name of one of the two nets. Raises ValueError for any other."""
    if net not in LAYERS:
        raise ValueError(f"net: expected one of {', '.join(LAYERS)}, got {net!r}")
    return net


def check_clip(clip, size, frames=None, least=1):
    """A clip (N,3,T,size,size) of exactly ``frames``, or of at least ``least``. Raises ValueError naming it."""
    if frames is None:
        expected, fits = f"(N,3,T,{size},{size}) with T at least {least}", lambda count: count >= least
    else:
        expected, fits = f"(N,3,{frames},{size},{size})", lambda count: count == frames
    if clip.dim() != 5 or clip.shape[1] != 3 or tuple(clip.shape[3:]) != (size, size) or not fits(clip.shape[2]):
        raise ValueError(f"clip: expected {expected}, got shape {tuple(clip.shape)}")


def scaled(channels, net, width):
    """Channels of a layer where the first convolution has ``width`` (None: as in the paper)."""
    if width is not None and width < 1:
        raise ValueError(f"width: expected a positive int or None, got {width}")
    first = LAYERS[net][0][0]
    return channels * (first if width is None else width) // first


def local_response_norm():
    """x / (2 + 1e-4 * sum of x^2 over 5 channels around)^0.5. PyTorch divides alpha by the number of channels."""
    return nn.LocalResponseNorm(5, alpha=5e-4, beta=0.5, k=2.0)


def make_features(net, in_channels=3, *, width=None, last_pool=True):
    """Convolutions with their ReLU, normalisations and poolings, of one frame or of frames stacked as channels.

    Convolutions are padded by half of their kernel, which the paper does not say: only so its net ends in 7x7 maps.
    """
    steps = LAYERS[net] if last_pool else LAYERS[net][:-1]
    layers: list[nn.Module] = []
    for step in steps:
        if isinstance(step, tuple):
            channels, kernel, stride = step
            channels = scaled(channels, net, width)
            layers += [nn.Conv2d(in_channels, channels, kernel, stride, kernel // 2), nn.ReLU(inplace=True)]
            in_channels = channels
        else:
            layers.append(local_response_norm() if step == "N" else nn.MaxPool2d(step))
    return nn.Sequential(*layers)


def maps_shape(features, in_channels, size):
    """(C,h,w) of what a trunk makes of images. Raises ValueError where they are too small for it."""
    side = size
    for layer in features:
        if isinstance(layer, nn.Conv2d):
            kernel, stride, padding = layer.kernel_size[0], layer.stride[0], layer.padding[0]
            in_channels, side = layer.out_channels, (side + 2 * int(padding) - kernel) // stride + 1
        elif isinstance(layer, nn.MaxPool2d):
            side = side // layer.kernel_size
        if side < 1:
            raise ValueError(f"size: expected images large enough for every layer, got {size}")
    return in_channels, side, side


def make_head(units, hidden, num_classes, dropout):
    """Two fully connected layers with ReLU and dropout, and the classifier."""
    return nn.Sequential(
        nn.Linear(units, hidden), nn.ReLU(inplace=True), nn.Dropout(dropout),
        nn.Linear(hidden, hidden), nn.ReLU(inplace=True), nn.Dropout(dropout), nn.Linear(hidden, num_classes),
    )  # fmt: skip


class _FrameAverage(nn.Module):
    """A net of images, and the average of its scores over the frames of a clip."""

    def __init__(self, average, size, num_frames):
        super().__init__()
        if average not in AVERAGES:
            raise ValueError(f"average: expected one of {', '.join(AVERAGES)}, got {average!r}")
        self.average, self.size, self.num_frames = average, size, num_frames

    def image_logits(self, images):
        """Scores before softmax (N,num_classes) of images (N,3,size,size), which the net is trained on."""
        raise NotImplementedError

    def _check_images(self, images):
        if images.dim() != 4 or tuple(images.shape[1:]) != (3, self.size, self.size):
            expected = f"(N,3,{self.size},{self.size})"
            raise ValueError(f"images: expected {expected}, got shape {tuple(images.shape)}")

    def forward(self, clip):
        """Mean over the frames of their probabilities, or of their logits."""
        check_clip(clip, self.size)
        frames = clip.transpose(1, 2)  # (N,T,3,H,W)
        logits = self.image_logits(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])
        return average_scores(logits, self.average)

    def example_inputs(self, batch=1):
        """Arguments of a forward pass."""
        return (torch.randn(batch, 3, self.num_frames, self.size, self.size),)


@register("single_frame", paper=PAPER, small={"num_classes": 5, "width": 6, "hidden": 8, "size": 40, "num_frames": 3})
@register("single_frame_toy", paper=TOY, small={"num_classes": 5, "size": 12, "num_frames": 3}, net="toy")
class SingleFrame(_FrameAverage):
    """A CNN of images, applied to every frame of a clip; time plays no part, and as a baseline it is strong.

    ==========  ====================================================================================================
    net         layers; C(channels, kernel, stride) with ReLU, N: normalisation across channels, P: 2x2 max-pooling
    ==========  ====================================================================================================
    "karpathy"  C(96,11,3) N P C(256,5,1) N P C(384,3,1) C(384,3,1) C(256,3,1) P, two fully connected layers of 4096
    "toy"       C(12,3,1), 4x4 max-pooling, C(24,3,1), average over the map
    ==========  ====================================================================================================

    Args:
        num_classes: outputs, 487 for Sports-1M.
        net: one of the above.
        average: "prob", the mean of the frames' probabilities, or "logit", of their scores before softmax.
        width: channels of the first convolution, None for those above; all others in proportion.
        hidden: units of Karpathy's fully connected layers. dropout: probability after each of them.
        size: height and width of the frames; None for 170 and 64.
        num_frames: of ``example_inputs``; None for 10 and 20. Any number runs.
    Shapes: clip (N,3,T,size,size) -> probabilities, or with "logit" scores before softmax (N,num_classes).
    Raises: ValueError naming the argument.

    Trained on single frames, by ``image_logits``.
    """

    def __init__(
        self, num_classes=487, net="karpathy", *, average="prob", width=None, hidden=4096, size=None, dropout=0.5,
        num_frames=None,
    ):  # fmt: skip
        super().__init__(average, size or SIZES[check_net(net)], num_frames or FRAMES[net])
        self.net = net
        self.features = make_features(net, width=width)
        channels, height, width = maps_shape(self.features, 3, self.size)
        self.heads = ("classifier",) if net == "toy" else ("classifier.6",)
        if net == "toy":
            self.classifier: nn.Module = nn.Linear(channels, num_classes)
        else:
            self.classifier = make_head(channels * height * width, hidden, num_classes, dropout)

    def image_logits(self, images):
        """Scores before softmax (N,num_classes) of images (N,3,size,size), which the net is trained on."""
        self._check_images(images)
        maps = self.features(images)
        return self.classifier(maps.mean((2, 3)) if self.net == "toy" else maps.flatten(1))


@register(
    "single_frame_multiresolution", paper=PAPER,
    small={"num_classes": 5, "width": 6, "hidden": 8, "size": 48, "num_frames": 3},
)  # fmt: skip
class SingleFrameMultiresolution(_FrameAverage):
    """Two streams of half the size: all of the frame at half the resolution, and its centre as it is.

    Each is Karpathy's trunk without the last pooling, so that both end in 7x7 maps; side by side they go into the
    fully connected layers.

    Args:
        num_classes, average, width, hidden, dropout, num_frames: as in ``SingleFrame``.
        size: height and width of the frames, even.
    Shapes: clip (N,3,T,178,178), in the streams 89x89 -> as ``SingleFrame``.
    Raises: ValueError naming the argument.
    """

    heads = ("classifier.6",)

    def __init__(
        self, num_classes=487, *, average="prob", width=None, hidden=4096, size=178, dropout=0.5, num_frames=10
    ):  # fmt: skip
        if size < 2 or size % 2:
            raise ValueError(f"size: expected an even number of pixels, got {size}")
        super().__init__(average, size, num_frames)
        self.context = make_features("karpathy", width=width, last_pool=False)
        self.fovea = make_features("karpathy", width=width, last_pool=False)
        channels, height, width = maps_shape(self.context, 3, size // 2)
        self.classifier = make_head(2 * channels * height * width, hidden, num_classes, dropout)

    def streams(self, images):
        """What the two streams see of images (N,3,size,size): context and fovea, each (N,3,size/2,size/2)."""
        half = self.size // 2
        start = (self.size - half) // 2
        return F.avg_pool2d(images, 2), images[:, :, start : start + half, start : start + half]

    def image_logits(self, images):
        """Scores before softmax (N,num_classes) of images (N,3,size,size), which the net is trained on."""
        self._check_images(images)
        context, fovea = self.streams(images)
        return self.classifier(torch.cat([self.context(context), self.fovea(fovea)], 1).flatten(1))
