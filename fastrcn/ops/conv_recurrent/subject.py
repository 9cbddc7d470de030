"""What the backend of a call of conv_recurrent is chosen by."""

from math import prod

from fastrcn.ops.conv_recurrent.geometry import output_map
from fastrcn.ops.sizes import Sizes

Subject = tuple[str, int]
"""A cell's key, and how many axes its maps have: 2 (H,W) or 3 (D,H,W). A plain tuple, which compilers can trace."""


def subject_of(key, input) -> Subject:
    """That of a cell, by its key, on a sequence (T,B,C,H,W) or (T,B,C,D,H,W)."""
    return key, 3 if input.dim() == 6 else 2


def sizes_of(inputs, weight_ih, weight_hh, stride, dilation, padding) -> Sizes:
    """The sizes of a call; ``inputs`` and ``weight_ih``: sequences of tensors."""
    steps, batch, _, *maps = inputs[0].shape
    size = output_map(maps, weight_ih[0].shape[2:], stride, dilation, padding)
    channels = sum(x.shape[2] for x in inputs), weight_hh.shape[1]
    return Sizes(*channels, tuple(size), batch, steps, prod(weight_hh.shape[2:]))
