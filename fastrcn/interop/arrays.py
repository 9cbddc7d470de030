"""Kernels of channels-last arrays, (kh,kw,Cin,Cout) or (k,Cin,Cout), as weights (Cout,Cin,kh,kw), and back.

A kernel over one dimension becomes one of height 1, for maps of height 1.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch


def entry(state, *keys) -> Any:
    """A value of nested dicts. Raises ValueError naming the key that is missing, and what there is."""
    for depth, key in enumerate(keys):
        if not isinstance(state, Mapping) or key not in state:
            there = sorted(state) if isinstance(state, Mapping) else type(state).__name__
            raise ValueError(f"state: expected {' / '.join(keys[: depth + 1])}, got {there}")
        state = state[key]
    return state


def tensor(array, name):
    """A floating point array, of whichever package, as a tensor of its own."""
    array = np.asarray(array)
    if array.dtype not in (np.float16, np.float32, np.float64):
        raise TypeError(f"{name}: expected float16, float32 or float64, got {array.dtype}")
    return torch.from_numpy(array.copy())


def weight_of(kernel, name):
    """A kernel as a weight."""
    kernel = tensor(kernel, name)
    if kernel.dim() not in (3, 4):
        raise ValueError(f"{name}: expected (kh,kw,Cin,Cout) or (k,Cin,Cout), got shape {tuple(kernel.shape)}")
    kernel = kernel if kernel.dim() == 4 else kernel[None]
    return kernel.permute(3, 2, 0, 1)


def check_rank(layer, rank):
    """Whether kernels over ``rank`` dimensions hold a layer's."""
    if rank not in (1, 2):
        raise ValueError(f"rank: expected 1 or 2, got {rank!r}")
    if rank == 1 and layer.kernel_size[0] != 1:
        raise ValueError(f"rank: expected 2 for a layer with kernels of {layer.kernel_size}, got 1")


def kernel_of(weight, rank):
    """A weight as a kernel over ``rank`` dimensions."""
    kernel = weight.permute(2, 3, 1, 0).contiguous().cpu().numpy()
    return kernel if rank == 2 else kernel[0]
