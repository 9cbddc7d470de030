"""The sizes of a call by which its backend is chosen."""

from math import prod
from typing import NamedTuple


class Sizes(NamedTuple):
    """``inputs``, ``channels``: of what comes, per group of a convolution, and of the result. ``size``: (H,W) or
    (D,H,W) of a state, or of the maps before pooling. ``images``: the batch. ``cells``: of the kernel on states or
    clips; 1 without one."""

    inputs: int
    channels: int
    size: tuple[int, ...]
    images: int
    steps: int
    cells: int

    @property
    def pixels(self):
        """Of one image."""
        return prod(self.size)
