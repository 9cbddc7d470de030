"""conv3d_relu_maxpool3d and batch_norm_relu_maxpool3d: C3D's and I3D's layer groups, fused and as modules."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

import fastrcn
from benchmarks.baselines import GraphedForward
from benchmarks.case import Case, Unavailable, backend_on


@dataclass(frozen=True)
class Conv3dCase(Case):
    """Conv3d, BatchNorm3d where ``norm``, ReLU, MaxPool3d where it has a window. ``sizes``: (N, Cin, Cout, D, H, W)."""

    sizes: tuple[int, ...] = ()
    norm: bool = False
    options: dict[str, Any] = field(default_factory=dict)

    def _output(self):
        """(D,H,W) of the convolution and after pooling."""
        from fastrcn.ops.conv3d_relu_maxpool3d.geometry import Conv
        from fastrcn.ops.relu_maxpool3d.geometry import Pool

        module = self._module("cpu", torch.float32)
        conv = module[0]
        size = Conv(conv.stride, conv.padding, conv.dilation, 1).output_size(self.sizes[3:], conv.kernel_size)
        pool = {
            k.removeprefix("pool_"): v for k, v in self.options.items() if k.startswith("pool_") or k == "ceil_mode"
        }
        return size, Pool.of(**pool).output_size(size), conv.kernel_size

    def flops(self):
        n, inputs, outputs = self.sizes[:3]
        (d, h, w), _, kernel = self._output()
        return 2 * n * d * h * w * outputs * inputs * kernel[0] * kernel[1] * kernel[2]

    def bytes(self, size):
        """Input read, pooled maps written; with a batch's statistics the convolution's result is written and read."""
        n, inputs, outputs, d, h, w = self.sizes
        (cd, ch, cw), (pd, ph, pw), _ = self._output()
        between = 2 * outputs * cd * ch * cw if self.norm else 0
        return n * size * (inputs * d * h * w + between + outputs * pd * ph * pw)

    def passes(self):
        """A backward pass has as many products for the weights and as many for the input."""
        return 3 if self.input_gradient else 2

    def agreement(self, dtype, device):
        """A rounding may decide which of two cells gets a window's gradient, or whether a ReLU is open."""
        same, _ = super().agreement(dtype, device)
        return same, max(1e-2, 4 * same)

    def make_input(self, dtype, device):
        n, inputs, _, *size = self.sizes
        generator = torch.Generator(device).manual_seed(0)
        x = torch.randn(n, inputs, *size, generator=generator, device=device).to(dtype)
        return x.requires_grad_(self.input_gradient)

    def _module(self, device, dtype):
        torch.manual_seed(0)
        kind: Any = fastrcn.ConvBNReLUPool3d if self.norm else fastrcn.ConvReLUPool3d
        return kind(*self.sizes[1:3], **self.options, backend=backend_on(device), device=device, dtype=dtype)

    def make(self, name, dtype, device):
        fused = self._module(device, dtype)
        if name == "fastrcn":
            return fused
        if name == "last":
            return ChannelsLast(fused)
        if name in ("recompute", "nn", "stages", "plain"):
            raise Unavailable("no such form")
        plain = nn.Sequential(*fused)
        module = plain if name == "a" else ChannelsLast(plain)
        if name == "d":
            if torch.device(device).type != "cuda":
                raise Unavailable("not on this device: CUDA graphs are CUDA's")
            return GraphedForward(module, self.make_input(dtype, device))
        return module


class ChannelsLast(nn.Module):
    """A module with its weights and its input in the channels-last layout."""

    def __init__(self, module):
        super().__init__()
        self.module = module.to(memory_format=torch.channels_last_3d)

    def forward(self, x):
        return self.module(x.contiguous(memory_format=torch.channels_last_3d))


def _full(sizes, note, batch, frames):
    """The case with so many clips and frames."""
    sizes = (batch, *sizes[1:3], frames, *sizes[4:])
    return {"sizes": sizes, "note": f"{note.split(';')[0]}; full size: N {batch}, T {frames}"}


# Clips of 64 frames, by the size of the maps.
_I3D_FRAMES = {224: 64, 56: 32, 28: 32, 14: 16, 7: 8}


def _c3d(name, sizes, note, pool=None, **options):
    window = {} if pool is None else {"pool_kernel_size": pool}
    ceil = {"ceil_mode": True} if name == "c3d-conv5b" else {}
    layer = {"kernel_size": 3, "padding": 1, **window, **ceil}
    return Conv3dCase(name, note, sizes=sizes, options=layer, full=_full(sizes, note, 30, sizes[3]), **options)


def _i3d(name, sizes, kernel, note, pool=None, stride=1, **options):
    window = {} if pool is None else {"pool_kernel_size": pool[0], "pool_stride": pool[1], "pool_padding": pool[2]}
    layer = {"kernel_size": kernel, "stride": stride, "padding": kernel // 2, "bias": False, **window}
    frames = _I3D_FRAMES[sizes[4]]
    return Conv3dCase(name, note, sizes=sizes, norm=True, options=layer, full=_full(sizes, note, 6, frames), **options)


_SPATIAL = ((1, 3, 3), (1, 2, 2), (0, 1, 1))

CASES = [
    # name, (N, Cin, Cout, D, H, W), source, window
    _c3d("c3d-conv1", (2, 3, 64, 16, 112, 112), "C3D conv1+pool1; N 2 of 30", (1, 2, 2), quick=True,
         input_gradient=False),
    _c3d("c3d-conv2", (1, 64, 128, 16, 56, 56), "C3D conv2+pool2; N 1 of 30", (2, 2, 2)),
    _c3d("c3d-conv3a", (1, 128, 256, 8, 28, 28), "C3D conv3a; N 1 of 30"),
    _c3d("c3d-conv3b", (1, 256, 256, 8, 28, 28), "C3D conv3b+pool3; N 1 of 30", (2, 2, 2)),
    _c3d("c3d-conv4a", (2, 256, 512, 4, 14, 14), "C3D conv4a; N 2 of 30"),
    _c3d("c3d-conv4b", (2, 512, 512, 4, 14, 14), "C3D conv4b+pool4; N 2 of 30", (2, 2, 2), quick=True),
    _c3d("c3d-conv5a", (4, 512, 512, 2, 7, 7), "C3D conv5a; N 4 of 30"),
    _c3d("c3d-conv5b", (4, 512, 512, 2, 7, 7), "C3D conv5b+pool5; N 4 of 30", (2, 2, 2)),
    # Of clips of 64 frames of 224x224, which the stem halves; fewer where products are large.
    _i3d("i3d-1a", (1, 3, 64, 8, 224, 224), 7, "I3D Conv3d_1a+pool 2a; N 1, T 8 of 64", _SPATIAL,
         stride=2, input_gradient=False, quick=True),
    _i3d("i3d-2b", (1, 64, 64, 32, 56, 56), 1, "I3D Conv3d_2b; N 1"),
    _i3d("i3d-2c", (1, 64, 192, 4, 56, 56), 3, "I3D Conv3d_2c+pool 3a; N 1, T 4 of 32", _SPATIAL),
    _i3d("i3d-3b-b0", (1, 192, 64, 32, 28, 28), 1, "I3D Mixed_3b branch 0; N 1"),
    _i3d("i3d-3b-b1", (2, 96, 128, 4, 28, 28), 3, "I3D Mixed_3b branch 1; N 2, T 4 of 32"),
    _i3d("i3d-3c-b1", (2, 128, 192, 4, 28, 28), 3, "I3D Mixed_3c branch 1, with pool 4a 3x3x3/2; N 2, T 4 of 32",
         (3, 2, 1)),
    _i3d("i3d-4b-b1", (2, 96, 208, 4, 14, 14), 3, "I3D Mixed_4b branch 1; N 2, T 4 of 16"),
    _i3d("i3d-4f-b1", (2, 160, 320, 4, 14, 14), 3, "I3D Mixed_4f branch 1, with pool 5a 2x2x2; N 2, T 4 of 16",
         (2, 2, 0)),
    _i3d("i3d-5b-b1", (4, 160, 320, 4, 7, 7), 3, "I3D Mixed_5b branch 1; N 4, T 4 of 8"),
]  # fmt: skip
