"""The kernels of conv3d_relu_maxpool3d and batch_norm_relu_maxpool3d for ``benchmarks.aot``."""

import itertools
from unittest.mock import patch

import torch

from benchmarks.machine_code import POINTERS, analyse, compile_kernel
from fastrcn.ops.conv3d_relu_maxpool3d import triton_conv3d
from fastrcn.ops.conv3d_relu_maxpool3d.geometry import Conv
from fastrcn.ops.conv3d_relu_maxpool3d.method import use_method
from fastrcn.ops.conv3d_relu_maxpool3d.triton_config import shipped
from fastrcn.ops.conv_recurrent.triton_config import Config, use_config
from fastrcn.ops.relu_maxpool3d import triton_passes
from fastrcn.ops.relu_maxpool3d.geometry import Pool
from fastrcn.ops.triton_support import Launch

_SIZE = (8, 8, 8)


def launches(function, *arguments):
    """The launches that a call makes, none of which is carried out."""
    found: list[Launch] = []
    with patch.object(Launch, "run", lambda launch: found.append(launch)):
        function(*arguments)
    return found


def compile_launch(launch: Launch, arch):
    """A launch, compiled with what a just-in-time compilation would know of its arguments."""
    names = launch.kernel.arg_names
    hidden = {p.name for p in launch.kernel.params if p.do_not_specialize}
    signature, aligned = {}, []
    for k, (name, value) in enumerate(zip(names, (*launch.pointers, *launch.numbers), strict=False)):
        tensor = isinstance(value, torch.Tensor)
        signature[name] = POINTERS[value.dtype] if tensor else "i32" if isinstance(value, int) else "fp32"
        if tensor or (signature[name] == "i32" and value % 16 == 0 and name not in hidden):
            aligned.append(k)
    constants = {n: launch.constants[n] for n in names if n in launch.constants}
    options = {"num_warps": launch.warps, "num_stages": launch.stages}
    return compile_kernel(launch.kernel, signature, constants, aligned, arch, options)


def _maps(channels, size, dtype, last=True):
    maps = torch.zeros(2, channels, *size, dtype=dtype)
    return maps.contiguous(memory_format=torch.channels_last_3d) if last else maps


def convolutions(dtype, arch, channels, pool, largest):
    """(name, configuration, launch) of the fused kernels, from ``channels`` to as many, or twice for tiles as wide."""
    for backward in (False, True):
        for config in shipped(arch, dtype.itemsize, backward)[: 1 if largest else None]:
            width = max(channels, config.block_c)
            x, weight = _maps(width, _SIZE, dtype), torch.zeros(width, width, 3, 3, 3, dtype=dtype)
            conv = Conv((1, 1, 1), (1, 1, 1), (1, 1, 1), 1)
            with use_config(config), use_method("fused"):
                if backward:
                    grad = _maps(width, pool.output_size(_SIZE), dtype)
                    gate = grad.to(torch.uint8) if pool.cells > 1 else grad
                    arguments = (grad, x, weight, gate, conv, pool, [True, False, False])
                    found = launches(triton_conv3d.backward, *arguments)
                else:
                    bias = torch.zeros(width, dtype=dtype)
                    found = launches(triton_conv3d.forward, x, weight, bias, conv, True, pool, True)
            yield f"conv3d.{'bwd' if backward else 'fwd'}", config, found[0]


def passes(dtype, arch, channels, pool, largest):
    """(name, configuration, launch) of the passes in both layouts, or the ``largest``: channels-last."""
    for last in (True,) if largest else (True, False):
        x, grad = _maps(channels, _SIZE, dtype, last), _maps(channels, pool.output_size(_SIZE), dtype, last)
        index, row = grad.to(torch.uint8), torch.zeros(channels)
        for name, function, arguments in (
            ("fwd", triton_passes.forward, (x, row, row, True, pool, True)),
            ("bwd", triton_passes.backward, (grad, index, _SIZE, pool, last, row, x, row, row, row)),
            ("sums", triton_passes.sums, (grad, index, _SIZE, pool, last, x, row)),
            ("statistics", triton_passes.statistics, (x,)),
        ):
            (launch,) = launches(function, *arguments)
            config = Config(launch.constants["BLOCK_M"], launch.constants["BLOCK_C"], 0, launch.warps, launch.stages)
            yield f"pass.{name}.{'last' if last else 'contiguous'}", config, launch


def analyse_all(operation, dtypes, archs, channels, window, largest):
    """A row for every kernel and shipped configuration."""
    kernels = convolutions if operation == "conv3d_relu_maxpool3d" else passes
    for dtype, arch in itertools.product(dtypes, archs):
        for name, config, launch in kernels(dtype, arch, channels, Pool.of(window), largest):
            yield analyse(name, compile_launch(launch, arch), config, arch, dtype)
