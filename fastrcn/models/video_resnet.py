"""ResNet-50 of clips: C2D, I3D and Slow, with non-local blocks or without.

Wang et al. 2018, "Non-local Neural Networks", https://arxiv.org/abs/1711.07971 (C2D, I3D); Feichtenhofer et al. 2019,
"SlowFast Networks", https://arxiv.org/abs/1812.03982 (Slow).
"""

from typing import Any

import torch
from torch import nn

from fastrcn import backends
from fastrcn.layers.conv3d import run_conv_batch_norm
from fastrcn.models.non_local import NonLocalBlock
from fastrcn.models.registry import register
from fastrcn.ops.relu_maxpool3d.geometry import Pool

# Kernels over time: of conv1, and of the first convolutions of the blocks of res2, res3, res4, res5 in turn.
TEMPORAL_KERNELS = {
    "c2d": (1, (1,), (1,), (1,), (1,)),
    "i3d": (5, (3,), (3, 1), (3, 1), (1, 3)),
    "slow": (1, (1,), (1,), (3,), (3,)),
    "fast": (5, (3,), (3,), (3,), (3,)),
}
BLOCKS = (3, 4, 6, 3)
"""Blocks of res2, res3, res4, res5."""
EXPANSION = 4
"""Channels that a block gives, as a multiple of its inner ones."""


class Stem(nn.Module):
    """7x7 convolution over some frames, normalisation, ReLU, 3x3 max-pooling: a quarter of the height and width."""

    def __init__(self, in_channels, out_channels, time, halve_time=False, backend=None):
        super().__init__()
        stride = 2 if halve_time else 1
        self.conv = nn.Conv3d(in_channels, out_channels, (time, 7, 7), (stride, 2, 2), (time // 2, 3, 3), bias=False)
        self.bn = nn.BatchNorm3d(out_channels)
        self.pool = Pool((stride, 3, 3), (stride, 2, 2), (0, 1, 1))
        self.backend = backend

    def forward(self, x):
        """(N,C,T,H,W) -> (N,C',T',H/4,W/4)."""
        return run_conv_batch_norm(self.conv, self.bn, x, pool=self.pool, backend=self.backend)


class Bottleneck(nn.Module):
    """Tx1x1, 1x3x3 and 1x1x1 convolution, each normalised, added to the block's input; ReLU after the first two and
    the sum. The 1x3x3 convolution has the stride over places; a 1x1x1 convolution fits the input where it must."""

    def __init__(self, in_channels, inner, time, stride=1, dilation=1, backend=None):
        super().__init__()
        out_channels = EXPANSION * inner
        places: Any = {"stride": (1, stride, stride), "padding": (0, dilation, dilation),
                       "dilation": (1, dilation, dilation)}  # fmt: skip
        self.branch1 = self.branch1_bn = None
        if stride != 1 or in_channels != out_channels:
            self.branch1 = nn.Conv3d(in_channels, out_channels, 1, (1, stride, stride), bias=False)
            self.branch1_bn = nn.BatchNorm3d(out_channels)
        self.branch2 = nn.ModuleDict({
            "a": nn.Conv3d(in_channels, inner, (time, 1, 1), padding=(time // 2, 0, 0), bias=False),
            "a_bn": nn.BatchNorm3d(inner),
            "b": nn.Conv3d(inner, inner, (1, 3, 3), **places, bias=False),
            "b_bn": nn.BatchNorm3d(inner),
            "c": nn.Conv3d(inner, out_channels, 1, bias=False),
            "c_bn": nn.BatchNorm3d(out_channels),
        })  # fmt: skip
        self.backend = backend

    def forward(self, x):
        """(N,C,T,H,W) -> (N,4*inner,T,H',W')."""
        layers, y = self.branch2, x
        for name in ("a", "b", "c"):
            y = run_conv_batch_norm(layers[name], layers[f"{name}_bn"], y, relu=name != "c", backend=self.backend)
        if self.branch1 is not None:
            x = run_conv_batch_norm(self.branch1, self.branch1_bn, x, relu=False, backend=self.backend)
        y += x
        return y.relu_()


class Stage(nn.Module):
    """Blocks one after another, in each of one or two pathways.

    Args:
        in_channels, inner, kernels: of each pathway: channels, inner channels of its blocks, their kernels over time
            in turn.
        blocks: in each pathway.
        stride: over places, of the first block. dilation: over places, of all.
        non_local: options of a non-local block after every second block; None: there are none.
    Shapes: a list of (N,C,T,H,W), one for each pathway -> the same.
    """

    def __init__(self, in_channels, inner, kernels, blocks, stride, dilation=1, non_local=None, backend=None):
        super().__init__()
        self.pathways: list[list[str]] = []
        for p, (channels, width, times) in enumerate(zip(in_channels, inner, kernels, strict=True)):
            names = []
            for i in range(blocks):
                time = times[i % len(times)]
                block = Bottleneck(channels, width, time, stride if i == 0 else 1, dilation, backend)
                channels = EXPANSION * width
                names.append(f"pathway{p}_res{i}")
                self.add_module(names[-1], block)
                if non_local is not None and i % 2:
                    names.append(f"pathway{p}_nonlocal{i}")
                    self.add_module(names[-1], NonLocalBlock(channels, **non_local))
            self.pathways.append(names)

    def forward(self, maps):
        """Maps of each pathway."""
        found = []
        for x, names in zip(maps, self.pathways, strict=True):
            for name in names:
                x = self.get_submodule(name)(x)
            found.append(x)
        return found


class Head(nn.Module):
    """Mean of each map, side by side for all pathways, dropout, linear layer; without classes the means."""

    def __init__(self, in_channels, num_classes, dropout):
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.projection = None if num_classes is None else nn.Linear(in_channels, num_classes)

    def forward(self, maps):
        """A list of (N,C,T,H,W) -> (N,num_classes)."""
        x = torch.cat([m.mean((2, 3, 4)) for m in maps], 1)
        return x if self.projection is None else self.projection(self.dropout(x))


def initialise(net, zero_init):
    """The published start: He's normal numbers by each convolution's outputs; 0.01 times normal ones in linear layers;
    with ``zero_init`` every block lets its input through at first."""
    for module in net.modules():
        if isinstance(module, nn.Conv3d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.01)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for module in net.modules():
        if zero_init and isinstance(module, Bottleneck):
            last: Any = module.branch2["c_bn"]
            nn.init.zeros_(last.weight)
        elif isinstance(module, NonLocalBlock):
            module.start_with_zeros()


_WANG, _SLOWFAST = "Wang et al. 2018, arXiv 1711.07971", "Feichtenhofer et al. 2019, arXiv 1812.03982"
_KERNELS = ("conv3d_relu_maxpool3d", "batch_norm_relu_maxpool3d")
_SMALL = {"num_classes": 5, "width": 4, "blocks": (2, 2, 2, 2), "num_frames": 4, "size": 48, "zero_init": False}
_NON_LOCAL = {"subsample": (1, 2, 2)}
# Biases before a softmax or a normalisation have a gradient of zero, where only rounding could be compared: so dot
# products, no normalisation, and a block without a shortcut's convolution after each.
_SMALL_NON_LOCAL = {
    **_SMALL, "blocks": (1, 3, 3, 1),
    "non_local": {"variant": "dot_product", "subsample": (1, 2, 2), "batch_norm": False, "zero_init": None},
}  # fmt: skip


@register("c2d_resnet50", paper=_WANG, kernels=_KERNELS, small=_SMALL, variant="c2d")
@register("i3d_resnet50", paper=_WANG, kernels=_KERNELS, small=_SMALL, variant="i3d")
@register(
    "i3d_resnet50_32_frames", paper=_WANG, kernels=_KERNELS, small={**_SMALL, "num_frames": 16}, variant="i3d",
    num_frames=32, halve_time=True,
)  # fmt: skip
@register(
    "c2d_resnet50_nonlocal", paper=_WANG, kernels=_KERNELS, small=_SMALL_NON_LOCAL, variant="c2d", non_local=_NON_LOCAL
)  # fmt: skip
@register(
    "i3d_resnet50_nonlocal", paper=_WANG, kernels=_KERNELS, small=_SMALL_NON_LOCAL, variant="i3d", non_local=_NON_LOCAL
)  # fmt: skip
@register("slow_resnet50", paper=_SLOWFAST, kernels=_KERNELS, small=_SMALL, variant="slow")
class VideoResNet(nn.Module):
    """ResNet-50 with kernels over time. Its keys are those of PySlowFast, whose weights have these names and shapes.

    ========  ==========================  ====================  =====================  =========
    layer     kernel over time: "c2d"     "i3d"                 "slow"                 channels
    ========  ==========================  ====================  =====================  =========
    conv1     1                           5                     1                      64
    res2 x3   1                           3, 3, 3               1                      256
    pool2     2                           2                     none
    res3 x4   1                           3, 1, 3, 1            1                      512
    res4 x6   1                           3, 1, 3, 1, 3, 1      3                      1024
    res5 x3   1                           1, 3, 1               3                      2048
    ========  ==========================  ====================  =====================  =========

    Args:
        num_classes: outputs; None leaves the last layer out.
        variant: "c2d" (all frames alone but for pool2), "i3d" or "slow".
        in_channels: 3 for RGB, 2 for flow.
        width: channels of conv1, 64 in the paper; all others in proportion.
        blocks: of res2 to res5; (3, 4, 23, 3) makes ResNet-101.
        halve_time: conv1 and pool1 also halve the frames, as in the tables of Wang et al. for 32 frames; PySlowFast
            leaves them for 8. The code of Wang et al. does not pad pool1 (55x55 maps); here it gives the paper's 56x56.
        non_local: options of ``NonLocalBlock`` after every second block of res3 and res4, five in all; None: there are
            none.
        zero_init: blocks let their inputs through at first; non-local ones have an option of their own.
        dropout: before the last layer.
        num_frames, size: of ``example_inputs``; clips of any length and size run.
        backend: of the convolutions with their normalisation, ReLU and pooling; None for the best that can run.
    Shapes: clip (N,in_channels,T,H,W) -> scores before softmax (N,num_classes), or (N,2048) without the last layer.
    Raises: ValueError naming the argument.

    The scores are of the mean over the whole clip, in evaluation too; PySlowFast there averages the probabilities of
    all windows of the training size.
    """

    heads = ("head.projection",)

    def __init__(
        self, num_classes: int | None = 400, variant="i3d", *, in_channels=3, width=64, blocks=BLOCKS,
        halve_time=False, non_local: dict[str, Any] | None = None, zero_init=True, dropout=0.5, num_frames=8, size=224,
        backend=None,
    ):  # fmt: skip
        super().__init__()
        if variant not in ("c2d", "i3d", "slow"):
            raise ValueError(f"variant: expected one of c2d, i3d, slow, got {variant!r}")
        if width < 1:
            raise ValueError(f"width: expected a positive int, got {width}")
        if len(blocks) != len(BLOCKS) or min(blocks) < 1:
            raise ValueError(f"blocks: expected {len(BLOCKS)} positive ints, got {blocks}")
        backends.check_choice(backend)
        self.in_channels, self.num_frames, self.size = in_channels, num_frames, size
        self.pools_time = variant != "slow"
        self.least_frames = 2 if self.pools_time else 1
        if halve_time:
            self.least_frames = 4 * self.least_frames - 1
        first, *kernels = TEMPORAL_KERNELS[variant]
        self.s1 = nn.ModuleDict({"pathway0_stem": Stem(in_channels, width, first, halve_time, backend)})
        channels = width
        for k, times in enumerate(kernels):
            inner = width << k
            stage = Stage(
                (channels,), (inner,), (times,), blocks[k], 2 if k else 1,
                non_local=non_local if k in (1, 2) else None, backend=backend,
            )  # fmt: skip
            self.add_module(f"s{k + 2}", stage)
            channels = EXPANSION * inner
        self.pool2 = nn.MaxPool3d((2, 1, 1)) if self.pools_time else None
        self.out_channels = channels
        self.head = Head(channels, num_classes, dropout)
        initialise(self, zero_init)

    def features(self, clip):
        """The last maps (N,2048,T',H/32,W/32), in a list of one."""
        if clip.dim() != 5 or clip.shape[1] != self.in_channels:
            raise ValueError(f"clip: expected (N,{self.in_channels},T,H,W), got shape {tuple(clip.shape)}")
        if clip.shape[2] < self.least_frames:
            raise ValueError(f"clip: expected at least {self.least_frames} frames, got {clip.shape[2]}")
        maps = [self.s1["pathway0_stem"](clip)]
        for k in range(len(BLOCKS)):
            maps = self.get_submodule(f"s{k + 2}")(maps)
            if k == 0 and self.pool2 is not None:
                maps = [self.pool2(maps[0])]
        return maps

    def forward(self, clip):
        """Class scores before softmax."""
        return self.head(self.features(clip))

    def example_inputs(self, batch=1):
        """Arguments of a forward pass."""
        return (torch.randn(batch, self.in_channels, self.num_frames, self.size, self.size),)
