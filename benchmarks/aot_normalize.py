"""The kernels that normalise whole images in conv_recurrent for ``benchmarks.aot``."""

import itertools

import torch

from benchmarks.aot_conv3d import compile_launch
from benchmarks.machine_code import analyse
from fastrcn.ops.conv_recurrent.program import Buffer, Normalize, NormalizeBackward
from fastrcn.ops.conv_recurrent.triton_config import Config
from fastrcn.ops.conv_recurrent.triton_normalize import NormLaunch
from fastrcn.ops.triton_support import Launch

_IMAGES = 2


def kernels(dtype, channels):
    """(name, launch) of the kernels for small images, and for large ones in slices."""
    for size in (4, 64):
        maps, grads = (torch.zeros(_IMAGES, size, size, 4 * channels, dtype=dtype) for _ in range(2))
        made, scale = Buffer(maps, width=4 * channels), Buffer(torch.zeros(_IMAGES, 1, 1, 1), width=1)
        for step in (Normalize(made, scale, 1e-5), NormalizeBackward(Buffer(grads, width=4 * channels), made, scale)):
            norm = NormLaunch(_IMAGES, step)
            for call in filter(None, (norm.first, norm.second)):
                count = len(call.kernel.arg_names) - len(call.tensors) - len(call.numbers) - len(call.constants)
                numbers = (*[0] * count, *call.numbers)  # at time 0
                launch = Launch(call.kernel, call.grid[0], tuple(call.tensors), numbers, call.constants, call.warps)
                yield f"{call.kernel.__name__}.{'slices' if norm.first else 'whole'}", launch


def analyse_all(dtypes, archs, channels):
    """A row for every kernel."""
    for dtype, arch in itertools.product(dtypes, archs):
        for name, launch in kernels(dtype, channels):
            config = Config(launch.constants["BLOCK"], 1, 1, launch.warps, launch.stages)
            yield analyse(name, compile_launch(launch, arch), config, arch, dtype)
