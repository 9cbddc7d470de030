"""Slow fusion, a 3-D CNN: Karpathy et al. 2014 (CVPR), section 3.1; Ji et al. 2010 (ICML)."""

from typing import Any, NamedTuple

import torch
from torch import nn

from fastrcn.layers import ConvReLUPool3d
from fastrcn.models.registry import register
from fastrcn.models.single_frame import (
    FRAMES,
    PAPER,
    SIZES,
    TOY,
    check_clip,
    check_net,
    local_response_norm,
    make_head,
    scaled,
)


class Row(NamedTuple):
    """A convolution with its ReLU and what follows. Kernels and strides are (time, place)."""

    channels: int
    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    time_padding: int = 0
    norm: bool = False
    pool: tuple[int, int] = (1, 1)


# Karpathy's take two frames of four: 10 -> 4 -> 2 -> 1 in time; in place they are those of single frames.
LAYERS = {
    "toy": (Row(12, (3, 3), time_padding=1, pool=(4, 4)), Row(24, (3, 3), time_padding=1)),
    "karpathy": (
        Row(96, (4, 11), (2, 3), norm=True, pool=(1, 2)),
        Row(256, (2, 5), (2, 1), norm=True, pool=(1, 2)),
        Row(384, (2, 3), (2, 1)),
        Row(384, (1, 3)),
        Row(256, (1, 3), pool=(1, 2)),
    ),
}


def _layers(row: Row, in_channels, channels, backend) -> list[nn.Module]:
    (time, place), (over_time, over_place) = row.kernel, row.stride
    conv: Any = {
        "kernel_size": (time, place, place), "stride": (over_time, over_place, over_place),
        "padding": (row.time_padding, place // 2, place // 2), "backend": backend,
    }  # fmt: skip
    window = (row.pool[0], row.pool[1], row.pool[1])
    if row.norm:  # it stands between ReLU and pooling
        return [ConvReLUPool3d(in_channels, channels, **conv), local_response_norm(), nn.MaxPool3d(window)]
    return [ConvReLUPool3d(in_channels, channels, **conv, pool_kernel_size=window)]


@register(
    "slow_fusion", paper=PAPER, kernels="conv3d_relu_maxpool3d",
    small={"num_classes": 5, "width": 6, "hidden": 8, "size": 40},
)  # fmt: skip
@register(
    "slow_fusion_toy", paper=TOY, kernels="conv3d_relu_maxpool3d",
    small={"num_classes": 5, "size": 12, "num_frames": 8}, net="toy",
)  # fmt: skip
class SlowFusion(nn.Module):
    """Convolutions over time and place, so that higher layers see more and more frames.

    ==========  ====================================================================================================
    net         layers; C(channels, kernel, stride) as (time, place), ReLU; N: normalisation; P: 2x2 max-pooling
    ==========  ====================================================================================================
    "karpathy"  C(96, 4x11, 2x3) N P C(256, 2x5, 2x1) N P C(384, 2x3, 2x1) C(384, 1x3) C(256, 1x3) P, two fully
                connected layers of 4096
    "toy"       C(12, 3x3), 4x4x4 max-pooling, C(24, 3x3), average over time and place
    ==========  ====================================================================================================

    Args:
        num_classes, net, width, hidden, size, dropout: as in ``SingleFrame``.
        num_frames: of a clip: 10 for Karpathy's net; for the small one those of ``example_inputs``, any from 4 run.
        backend: of the convolutions.
    Shapes: clip (N,3,T,size,size) -> scores before softmax (N,num_classes).
    Raises: ValueError naming the argument.

    For transfer to UCF-101 the paper has 65.4 %, which Ballas et al. 2016 quote as 65.2.
    """

    def __init__(
        self, num_classes=487, net="karpathy", *, num_frames=None, width=None, hidden=4096, size=None, dropout=0.5,
        backend=None,
    ):  # fmt: skip
        super().__init__()
        self.net, self.size, self.num_frames = check_net(net), size or SIZES[net], num_frames or FRAMES[net]
        layers, channels, shape = [], 3, (self.num_frames, self.size)
        for row in LAYERS[net]:
            inputs, channels = channels, scaled(row.channels, net, width)
            layers += _layers(row, inputs, channels, backend)
            paddings = (row.time_padding, row.kernel[1] // 2)
            sizes = zip(shape, row.kernel, row.stride, paddings, row.pool, strict=True)
            shape = tuple(((n + 2 * p - k) // s + 1) // pool for n, k, s, p, pool in sizes)
            if min(shape) < 1:
                came = f"{self.num_frames}, {self.size}"
                raise ValueError(f"num_frames, size: expected clips large enough for every layer, got {came}")
        self.features = nn.Sequential(*layers)
        self.heads = ("classifier",) if net == "toy" else ("classifier.6",)
        if net == "toy":
            self.classifier: nn.Module = nn.Linear(channels, num_classes)
        else:
            self.classifier = make_head(channels * shape[0] * shape[1] ** 2, hidden, num_classes, dropout)

    def forward(self, clip):
        """Class scores before softmax."""
        if self.net == "toy":
            check_clip(clip, self.size, least=LAYERS["toy"][0].pool[0])
            return self.classifier(self.features(clip).mean((2, 3, 4)))
        check_clip(clip, self.size, self.num_frames)
        return self.classifier(self.features(clip).flatten(1))

    def example_inputs(self, batch=1):
        """Arguments of a forward pass."""
        return (torch.randn(batch, 3, self.num_frames, self.size, self.size),)
