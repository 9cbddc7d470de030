"""ConvLSTMs of channels-last arrays, and back: kernels (kh,kw,Cin,Cout) as weights (Cout,Cin,kh,kw) of a
``fastrcn.ConvLSTM``, kernels of one more or one fewer dimension as those of a ``ConvLSTM3d`` or ``ConvLSTM1d``."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from fastrcn import layers
from fastrcn.interop import packing

_KINDS = {3: layers.ConvLSTM1d, 4: layers.ConvLSTM, 5: layers.ConvLSTM3d}
"""The layer by the dimensions of its weights."""


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
    if kernel.dim() not in _KINDS:
        shapes = "(k,Cin,Cout), (kh,kw,Cin,Cout) or (kd,kh,kw,Cin,Cout)"
        raise ValueError(f"{name}: expected {shapes}, got shape {tuple(kernel.shape)}")
    return kernel.movedim((-1, -2), (0, 1))


def kernel_of(weight):
    """A weight as a kernel."""
    return weight.movedim((0, 1), (-1, -2)).contiguous().cpu().numpy()


def plain_layer(packed, **options):
    """The layer with packed weights."""
    ranks = [weight.dim() - 2 for weight in packed[:2]]
    if ranks[0] != ranks[1]:
        raise ValueError(f"state: expected kernels over equally many dimensions, got {ranks[0]} and {ranks[1]}")
    return packing.plain_layer(_KINDS[packed[0].dim()], [packed], **options)


def packed_of(layer, free=()):
    """The packed weights of a ``fastrcn.ConvLSTM``, 1d or 3d of one layer. ``free``: options of which the other layout
    has other values than the usual too.

    Raises TypeError for anything else, ValueError for options that other projects' layers do not have.
    """
    kinds = tuple(_KINDS.values())
    if not isinstance(layer, kinds):
        raise TypeError(f"layer: expected a fastrcn.ConvLSTM, ConvLSTM1d or ConvLSTM3d, got {type(layer).__name__}")
    return packing.packed_one(layer, next(kind for kind in kinds if isinstance(layer, kind)), free)
