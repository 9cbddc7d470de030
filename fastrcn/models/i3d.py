"""I3D, Inception-v1 inflated to 3-D: Carreira and Zisserman 2017, "Quo Vadis", https://arxiv.org/abs/1705.07750."""

import re
from collections import OrderedDict
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from fastrcn import backends
from fastrcn.layers.conv3d import run_conv_batch_norm
from fastrcn.models.inception import MODULES
from fastrcn.models.padding import same_padding
from fastrcn.models.registry import register
from fastrcn.ops.relu_maxpool3d.geometry import Pool

MIXED = {f"Mixed_{name[0]}{chr(ord(name[1]) + 1)}": channels for name, channels in MODULES.items()}
"""Channels of the blocks. I3D counts the pooling before them, so Inception's 3a is 3b here."""

# Name, window and stride of the max-pooling after an endpoint.
POOLINGS = {
    "Conv3d_1a_7x7": ("MaxPool3d_2a_3x3", (1, 3, 3), (1, 2, 2)),
    "Conv3d_2c_3x3": ("MaxPool3d_3a_3x3", (1, 3, 3), (1, 2, 2)),
    "Mixed_3c": ("MaxPool3d_4a_3x3", (3, 3, 3), (2, 2, 2)),
    "Mixed_4f": ("MaxPool3d_5a_2x2", (2, 2, 2), (2, 2, 2)),
}
BLOCKS = ("Conv3d_1a_7x7", "Conv3d_2b_1x1", "Conv3d_2c_3x3", *MIXED)
ENDPOINTS = tuple(name for block in BLOCKS for name in (block, *POOLINGS.get(block, ())[:1]))

KERNELS = ("conv3d_relu_maxpool3d", "batch_norm_relu_maxpool3d")
SPATIAL_PADDINGS = ("same", "torchvision")
TEMPORAL_PADDINGS = ("zeros", "replicate")


class Unit3d(nn.Module):
    """Convolution without bias, batch normalisation, ReLU and, where the net pools next, max-pooling.

    The maps are padded so that a size n gives ceil(n / stride), by amounts that follow from it: see ``I3D``.
    """

    def __init__(self, in_channels, out_channels, kernel, stride, spatial_padding, temporal_padding, backend):
        super().__init__()
        self.spatial_padding, self.temporal_padding, self.backend = spatial_padding, temporal_padding, backend
        half = kernel // 2
        # What every size needs on both sides is the convolution's own padding; forward adds the rest.
        space = half if stride == 1 or spatial_padding == "torchvision" else 0
        time = half if stride == 1 and temporal_padding == "zeros" else 0
        self.conv3d = nn.Conv3d(in_channels, out_channels, kernel, stride, (time, space, space), bias=False)
        self.bn = nn.BatchNorm3d(out_channels, eps=1e-3, momentum=0.01)

    def _padded(self, x):
        conv = self.conv3d
        own: Any = conv.padding
        time, height, width = (
            (0, 0) if p == k // 2 else same_padding(n, k, s)
            for n, k, s, p in zip(x.shape[2:], conv.kernel_size, conv.stride, own, strict=True)
        )
        if self.temporal_padding == "replicate" and any(time):
            x, time = F.pad(x, (0, 0, 0, 0, *time), mode="replicate"), (0, 0)
        around = (*width, *height, *time)
        return F.pad(x, around) if any(around) else x

    def _pool(self, size, window, stride):
        """The window as one that rounds up: with the cells before as padding, those after follow."""
        before = [same_padding(n, k, s)[0] for n, k, s in zip(size, window, stride, strict=True)]
        if self.spatial_padding == "torchvision":
            before[1:] = 0, 0
        return Pool.of(window, stride, before, 1, True)

    def forward(self, x, pooling=None):
        """(N,C,T,H,W) -> (N,C',T',H',W'); ``pooling``: window and stride."""
        sizes = [-(-n // s) for n, s in zip(x.shape[2:], self.conv3d.stride, strict=True)]
        pool = Pool() if pooling is None else self._pool(sizes, *pooling)
        return run_conv_batch_norm(self.conv3d, self.bn, self._padded(x), True, pool, self.backend)


class Mixed(nn.Module):
    """Four branches side by side. Max-pooling keeps to its channel, so each branch pools its own before they join."""

    def __init__(self, in_channels, channels, *options):
        super().__init__()
        b0, b1_reduced, b1, b2_reduced, b2, b3 = channels
        self.b0 = Unit3d(in_channels, b0, 1, 1, *options)
        self.b1a = Unit3d(in_channels, b1_reduced, 1, 1, *options)
        self.b1b = Unit3d(b1_reduced, b1, 3, 1, *options)
        self.b2a = Unit3d(in_channels, b2_reduced, 1, 1, *options)
        self.b2b = Unit3d(b2_reduced, b2, 3, 1, *options)
        self.b3b = Unit3d(in_channels, b3, 1, 1, *options)
        self.out_channels = b0 + b1 + b2 + b3

    def forward(self, x, pooling=None):
        """(N,C,T,H,W) -> (N,out_channels,T',H',W')."""
        b3 = F.max_pool3d(x, 3, 1, 1)
        branches = ((self.b0, x), (self.b1b, self.b1a(x)), (self.b2b, self.b2a(x)), (self.b3b, b3))
        return torch.cat([unit(maps, pooling) for unit, maps in branches], 1)


PAPER = "Carreira and Zisserman 2017, arXiv 1705.07750"
# In smaller nets gradients of normalisations come so close to zero that nothing but their rounding is compared.
SMALL = {"num_classes": 5, "width": 16, "size": 8, "frames": 65}


@register("i3d_rgb", paper=PAPER, kernels=KERNELS, small=SMALL)
@register("i3d_flow", paper=PAPER, kernels=KERNELS, small=SMALL, in_channels=2)
class I3D(nn.Module):
    """Inflated Inception-v1. Its keys are those of pytorch-i3d, whose weights load strictly, also those that were saved
    without ``num_batches_tracked``.

    The last maps are averaged over windows of 2 steps and the whole image, and classified at every step: forward gives
    the mean of these logits over time, as the authors' code does, and ``per_step`` the logits themselves, which is what
    pytorch-i3d's forward gives.

    Args:
        num_classes: outputs, 400 for Kinetics.
        in_channels: 3 for RGB, 2 for flow, both from -1 to 1.
        width: channels of the first convolution, 64 in the paper, a multiple of 8; all others in proportion.
        dropout: probability before the last layer.
        size: height and width of the clips that the last average is made for: 1/32 of it, 7x7 in the paper.
        frames: of ``example_inputs``; clips of 9 frames and more run.
        spatial_padding: "same", TensorFlow's, which published weights expect; or "torchvision", that of its GoogLeNet.
        temporal_padding: of convolutions: "zeros", which published weights expect; or "replicate", the first and the
            last map again, with which a video of one image gives what Inception-v1 gives for it.
        final_endpoint: the last of ``ENDPOINTS`` that there is, and forward gives its maps; None for the whole net.
        backend: of the convolutions and normalisations.
    Shapes: (N,in_channels,T,size,size) -> (N,num_classes).
    Raises: ValueError naming the argument.

    A summary of the paper gives the first two layers 1x3x3 kernels: it is the first two max-poolings that have them.
    """

    heads = ("logits.conv3d",)

    def __init__(
        self, num_classes=400, in_channels=3, *, width=64, dropout=0.5, size=224, frames=64, spatial_padding="same",
        temporal_padding="zeros", final_endpoint: str | None = None, backend=None,
    ):  # fmt: skip
        super().__init__()
        if width < 8 or width % 8:
            raise ValueError(f"width: expected a multiple of 8, got {width}")
        if spatial_padding not in SPATIAL_PADDINGS:
            raise ValueError(f"spatial_padding: expected one of {', '.join(SPATIAL_PADDINGS)}, got {spatial_padding!r}")
        if temporal_padding not in TEMPORAL_PADDINGS:
            expected = ", ".join(TEMPORAL_PADDINGS)
            raise ValueError(f"temporal_padding: expected one of {expected}, got {temporal_padding!r}")
        if final_endpoint is not None:
            _check_endpoint(final_endpoint, "final_endpoint", ENDPOINTS)
        backend = backends.check_choice(backend)
        self.in_channels, self.size, self.frames = in_channels, size, frames
        options = (spatial_padding, temporal_padding, backend)
        last = final_endpoint or ENDPOINTS[-1]
        self.endpoints = ENDPOINTS[: ENDPOINTS.index(last) + 1]
        units = {
            "Conv3d_1a_7x7": (in_channels, width, 7, 2),
            "Conv3d_2b_1x1": (width, width, 1, 1),
            "Conv3d_2c_3x3": (width, 3 * width, 3, 1),
        }
        for name in self.endpoints:
            if name in units:
                channels, self.out_channels, kernel, stride = units[name]
                self.add_module(name, Unit3d(channels, self.out_channels, kernel, stride, *options))
            elif name in MIXED:
                channels = [c * width // 64 for c in MIXED[name]]
                block = Mixed(self.out_channels, channels, *options)
                self.add_module(name, block)
                self.out_channels = block.out_channels
        self.whole = final_endpoint is None
        if self.whole:
            self.avg_pool = nn.AvgPool3d((2, -(-size // 32), -(-size // 32)), 1)
            self.dropout = nn.Dropout(dropout)
            self.logits = nn.Sequential(OrderedDict(conv3d=nn.Conv3d(self.out_channels, num_classes, 1)))

    def _check(self, x, frames):
        if x.dim() != 5 or x.shape[1] != self.in_channels or x.shape[2] < frames:
            expected = f"(N,{self.in_channels},T,H,W) of at least {frames} frames"
            raise ValueError(f"x: expected {expected}, got shape {tuple(x.shape)}")

    def endpoint(self, x, name):
        """The maps (N,C,T',H',W') after one of ``ENDPOINTS``, of clips of any size."""
        _check_endpoint(name, "name", self.endpoints)
        self._check(x, 1)
        for block in BLOCKS:
            pool, *pooling = POOLINGS.get(block, ("", None, None))
            unit: Any = self.get_submodule(block)
            x = unit(x, pooling if pool and name != block else None)
            if name in (block, pool):
                break
        return x

    def features(self, x):
        """What the last layer reads: averages over 2 steps and the image, (N,1024,T'-1)."""
        self._check(x, 9)
        maps = self.endpoint(x, ENDPOINTS[-1])
        window: Any = self.avg_pool.kernel_size
        if tuple(maps.shape[3:]) != window[1:]:
            raise ValueError(
                f"x: expected clips whose last maps are {window[1]}x{window[2]}, as {self.size}x{self.size} gives, got "
                f"shape {tuple(x.shape)}"
            )
        return self.avg_pool(maps)[..., 0, 0]

    def per_step(self, x):
        """Logits of every step (N,num_classes,T'-1): 7 of 64 frames."""
        return self.logits(self.dropout(self.features(x)[..., None, None]))[..., 0, 0]

    def forward(self, x):
        """Class scores before softmax; the maps of ``final_endpoint`` where the net ends there."""
        return self.per_step(x).mean(2) if self.whole else self.endpoint(x, self.endpoints[-1])

    def example_inputs(self, batch=1):
        """Arguments of a forward pass."""
        return (torch.randn(batch, self.in_channels, self.frames, self.size, self.size),)


def _check_endpoint(name, argument, endpoints):
    if name not in endpoints:
        raise ValueError(f"{argument}: expected one of {', '.join(endpoints)}, got {name!r}")


_TENSORFLOW = re.compile(
    r"(?:\w+/)?inception_i3d/"
    r"(?:(?P<unit>Conv3d_\w+)|Logits/Conv3d_0c_1x1"
    r"|(?P<block>Mixed_\w+)/Branch_(?P<branch>\d)/Conv3d_0[ab]_(?P<kernel>\d)x\d)/"
    r"(?P<end>conv_3d/[wb]|batch_norm/(?:beta|moving_mean|moving_variance))(?::0)?"
)
_BRANCHES = {"01": "b0", "11": "b1a", "13": "b1b", "21": "b2a", "23": "b2b", "31": "b3b"}
_ENDS = {
    "conv_3d/w": "conv3d.weight", "conv_3d/b": "conv3d.bias", "batch_norm/beta": "bn.bias",
    "batch_norm/moving_mean": "bn.running_mean", "batch_norm/moving_variance": "bn.running_var",
}  # fmt: skip


def from_tensorflow(variables):
    """The state of an ``I3D`` from the variables of the authors' TensorFlow checkpoints, arrays by name.

    A name is RGB/inception_i3d/Mixed_3b/Branch_1/Conv3d_0b_3x3/conv_3d/w. A branch's convolutions are told apart by
    their kernels, as Mixed_5b's third branch has two with 0a in their names. There is no scale after a normalisation:
    it is 1.

    Raises: ValueError for a name that is none of these.
    """
    found = {}
    for name, array in variables.items():
        match = _TENSORFLOW.fullmatch(name)
        if match is None:
            raise ValueError(f"variables: expected names as RGB/inception_i3d/Conv3d_1a_7x7/conv_3d/w, got {name!r}")
        unit = match["unit"] or "logits"
        if match["block"]:
            unit = f"{match['block']}.{_BRANCHES[match['branch'] + match['kernel']]}"
        value = torch.as_tensor(array)
        # kernels (T,H,W,in,out); all others (out,), some as (1,1,1,1,out)
        value = value.permute(4, 3, 0, 1, 2).contiguous() if match["end"] == "conv_3d/w" else value.reshape(-1)
        found[f"{unit}.{_ENDS[match['end']]}"] = value
        if match["end"] == "batch_norm/beta":
            found[f"{unit}.bn.weight"] = torch.ones(value.numel(), dtype=value.dtype)
    return found
