"""C3D: Tran et al. 2015 (ICCV), https://arxiv.org/abs/1412.0767."""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from fastrcn import backends
from fastrcn.layers.conv3d import run_conv
from fastrcn.models.registry import register
from fastrcn.ops.relu_maxpool3d.geometry import Pool

CHANNELS = ((64,), (128,), (256, 256), (512, 512), (512, 512))
UCF101 = ((64,), (128,), (256,), (256,), (256,))
POOL5 = ("ceil", "pad")
PAPER = "Tran et al. 2015, arXiv 1412.0767"


def _names(channels):
    """Of the convolutions of each group: conv1, or conv3a and conv3b."""
    return [[f"conv{k}{'ab'[i] if len(c) > 1 else ''}" for i in range(len(c))] for k, c in enumerate(channels, 1)]


@register(
    "c3d", paper=PAPER, kernels="conv3d_relu_maxpool3d",
    small={"num_classes": 5, "channels": ((4,), (4,), (6, 6), (8, 8), (8, 8)), "hidden": 12, "size": 48},
)  # fmt: skip
@register(
    "c3d_ucf101", paper=PAPER, kernels="conv3d_relu_maxpool3d",
    small={"num_classes": 5, "channels": ((4,), (4,), (6,), (6,), (6,)), "hidden": 12, "size": 48},
    num_classes=101, channels=UCF101, hidden=2048,
)  # fmt: skip
class C3D(nn.Module):
    """Eight 3x3x3 convolutions, five poolings and two fully connected layers, on clips of 16 frames.

    ==============  ==================
    layers          output
    ==============  ==================
    conv1 64        64 x 16 x 112 x 112
    pool1 1x2x2     64 x 16 x 56 x 56
    conv2 128       128 x 16 x 56 x 56
    pool2 2x2x2     128 x 8 x 28 x 28
    conv3a, b 256   256 x 8 x 28 x 28
    pool3 2x2x2     256 x 4 x 14 x 14
    conv4a, b 512   512 x 4 x 14 x 14
    pool4 2x2x2     512 x 2 x 7 x 7
    conv5a, b 512   512 x 2 x 7 x 7
    pool5 2x2x2     512 x 1 x 4 x 4
    fc6, fc7        4096, 4096
    fc8             num_classes
    ==============  ==================

    Args:
        num_classes: outputs of fc8, 487 for Sports-1M.
        pool5: "ceil" pools rows {0,1} {2,3} {4,5} {6} of 7, as Caffe does: for weights that were trained with it, the
            released ones. "pad" pools {0} {1,2} {3,4} {5,6}, as ports to PyTorch do: the same shape.
        channels: of the convolutions of each of the five groups; ``c3d_ucf101`` is the smaller net, of one convolution
            a group, that the authors trained on UCF-101 alone.
        hidden: units of fc6 and fc7. dropout: probability after each of them.
        frames, size: of the clips that fc6 is made for; size a multiple of 16.
        backend: of the convolutions.
    Shapes: clip (N,3,frames,size,size) -> scores before softmax (N,num_classes).
    Raises: ValueError naming the argument.

    Keys are those of the usual ports: conv1, conv2, conv3a, ..., fc8. Weights start as in the authors' release. Some
    tables list pool5 as 3x3: pooling rounds up there, and fc6 has 8192 inputs. A clip takes 38.55e9 multiplications at
    101 classes; tables that say 39.5 count the fully connected layers as if they had 3x3x3 kernels.
    """

    heads = ("fc8",)
    pool_times = (1, 2, 2, 2, 2)  # length of each pooling's window over time

    def __init__(
        self, num_classes=487, *, pool5="ceil", channels=CHANNELS, hidden=4096, frames=16, size=112, dropout=0.5,
        backend=None,
    ):  # fmt: skip
        super().__init__()
        if pool5 not in POOL5:
            raise ValueError(f"pool5: expected one of {', '.join(POOL5)}, got {pool5!r}")
        if len(channels) != 5 or any(len(group) not in (1, 2) for group in channels):
            raise ValueError(f"channels: expected five groups of one or two convolutions, got {channels}")
        if size < 16 or size % 16:
            raise ValueError(f"size: expected a multiple of 16, got {size}")
        self.backend = backends.check_choice(backend)
        self.frames, self.size = frames, size
        pools = [Pool.of((time, 2, 2)) for time in self.pool_times]
        last = (self.pool_times[4], 2, 2)
        pools[4] = Pool.of(last, ceil_mode=True) if pool5 == "ceil" else Pool.of(last, padding=(0, 1, 1))
        self.layers: list[tuple[str, Pool]] = []  # a convolution and the pooling after it
        inputs, shape = 3, (frames, size, size)
        for names, widths, pool in zip(_names(channels), channels, pools, strict=True):
            for name, width in zip(names, widths, strict=True):
                self.add_module(name, nn.Conv3d(inputs, width, 3, padding=1))
                self.layers.append((name, pool if name == names[-1] else Pool()))
                inputs = width
            shape = pool.output_size(shape)
        if min(shape) < 1:
            raise ValueError(f"frames: expected enough for every pooling, got {frames}")
        self.fc6 = nn.Linear(inputs * shape[0] * shape[1] * shape[2], hidden)
        self.fc7 = nn.Linear(hidden, hidden)
        self.fc8 = nn.Linear(hidden, num_classes)
        self.dropout = nn.Dropout(dropout)
        for name in (*(name for name, _ in self.layers), "fc6", "fc7", "fc8"):
            layer: Any = self.get_submodule(name)
            nn.init.normal_(layer.weight, 0, 0.005 if name in ("fc6", "fc7") else 0.01)
            nn.init.constant_(layer.bias, 0 if name in ("conv1", "fc8") else 1)

    def _convolve(self, name, x, pool):
        conv: Any = self.get_submodule(name)
        return run_conv(conv, x, conv.weight, conv.bias, True, pool, self.backend)

    def _connect(self, name, x):
        return self.get_submodule(name)(x).relu()

    def maps(self, clip):
        """The maps of pool5 (N,512,1,4,4)."""
        if clip.dim() != 5 or tuple(clip.shape[1:]) != (3, self.frames, self.size, self.size):
            expected = f"(N,3,{self.frames},{self.size},{self.size})"
            raise ValueError(f"clip: expected {expected}, got shape {tuple(clip.shape)}")
        x = clip
        for name, pool in self.layers:
            x = self._convolve(name, x, pool)
        return x

    def features(self, clip, layer="fc6"):
        """fc6 or fc7 of clips after its ReLU (N,4096)."""
        if layer not in ("fc6", "fc7"):
            raise ValueError(f'layer: expected "fc6" or "fc7", got {layer!r}')
        fc6 = self._connect("fc6", self.maps(clip).flatten(1))
        return fc6 if layer == "fc6" else self._connect("fc7", self.dropout(fc6))

    def descriptor(self, video, distance=8):
        """One vector of length 1 (N,4096) of a video (N,3,T,size,size), T at least ``frames``: for a linear classifier.

        The mean of fc6 over clips that begin every ``distance`` frames; frames after the last whole clip are left.
        """
        if video.dim() != 5 or video.shape[2] < self.frames:
            expected = f"(N,3,T,{self.size},{self.size}) with T at least {self.frames}"
            raise ValueError(f"video: expected {expected}, got shape {tuple(video.shape)}")
        if distance < 1:
            raise ValueError(f"distance: expected a positive int, got {distance}")
        starts = range(0, video.shape[2] - self.frames + 1, distance)
        clips = [self.features(video[:, :, start : start + self.frames]) for start in starts]
        return F.normalize(torch.stack(clips).mean(0), dim=1)

    def forward(self, clip):
        """Class scores before softmax."""
        return self.fc8(self.dropout(self.features(clip, "fc7")))

    def example_inputs(self, batch=1):
        """Arguments of a forward pass."""
        return (torch.randn(batch, 3, self.frames, self.size, self.size),)
