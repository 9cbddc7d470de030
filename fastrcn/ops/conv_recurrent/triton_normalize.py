"""Layer normalisation in the time loop with Triton kernels. Importing this does not need Triton.

A small image is one program's, which reads it once for its sums and once more, from the cache, to write it. A large one
would keep one processor busy and the others waiting: it is taken in slices, by one launch that reads them for their
sums and a second that reads and writes them. Either way memory is read twice and written once.
"""

from typing import Any

import torch

from fastrcn.ops.conv_recurrent.program import Normalize
from fastrcn.ops.conv_recurrent.triton_config import power
from fastrcn.ops.conv_recurrent.triton_work import Norm
from fastrcn.ops.triton_support import interpreting, processors

_BLOCK = 1 << 12
"""Values that a program has under way at once: sixteen for each of 256 threads."""
_ONE_SLICE = 1 << 15
"""Values of an image that one program normalises about as fast as a second launch begins."""
_SMALLEST_SLICE = 1 << 13
_LARGEST_SLICE = 1 << 30
_PROGRAMS = 4
"""On each processor, where there are enough slices: so much must be under way to fill the memory's pipes."""


def slices_of(values, images, device):
    """(slices of an image, values of each but the last) for images of ``values`` values on a device. Slices are whole
    blocks."""
    wanted = 1
    if values > _ONE_SLICE:
        wanted = min(-(-_PROGRAMS * processors(device) // max(1, images)), values // _SMALLEST_SLICE)
    size = -(-values // max(1, wanted, -(-values // _LARGEST_SLICE)))
    size = -(-size // _BLOCK) * _BLOCK
    return -(-values // size), size


class _Call:
    """A kernel with the tensors, numbers and constants that it has at every launch."""

    def __init__(self, kernel, programs, tensors, numbers, constants):
        self.kernel, self.grid = kernel, (programs, 1, 1)
        self.tensors, self.numbers, self.constants = tensors, numbers, constants
        self.addresses = [t.data_ptr() for t in tensors]
        self.warps = max(1, constants["BLOCK"] // 512)
        self.compiled: Any = None

    @property
    def identity(self):
        """Equal for calls that pass the same at the same times."""
        types = tuple(t.dtype for t in self.tensors)
        return id(self.kernel), self.grid, tuple(self.addresses), types, self.numbers, tuple(self.constants.values())

    def __call__(self, times):
        if self.compiled is not None:
            self.compiled(*self.addresses, *times, *self.numbers, *self.constants.values())
            return
        options = self.constants | {"num_warps": self.warps}
        compiled = self.kernel[self.grid](*self.tensors, *times, *self.numbers, **options)
        if compiled is not None:
            # As a phase's: later launches need not be matched to a compilation. The interpreter returns None.
            self.compiled = compiled[self.grid]


class NormLaunch:
    """A normalisation, or its gradient, of all images of one step bound to its buffers: one launch, or two."""

    walks = False

    def __init__(self, images, step: Norm):
        from fastrcn.ops.conv_recurrent import triton_normalize_kernels as kernels

        forward = isinstance(step, Normalize)
        self.maps = [step.target] if forward else [step.target, step.normalized]
        self.buffers = [*self.maps, step.scale]
        for buffer in self.buffers:
            if not buffer.data.is_contiguous() or buffer.first is not None or buffer.width != buffer.data.shape[-1]:
                raise ValueError("expected dense maps of all channels, the same at every step")
        self.tensors = [b.data for b in self.buffers]
        values = step.target.data[0].numel() // (images if step.target.timed else 1)
        slices, size = slices_of(values, images, self.tensors[0].device)
        numbers, block = (images, values, slices, size), {"BLOCK": min(_BLOCK, power(values))}
        constants = {"SLICES": power(slices, 1)} | block | {"INTERPRET": interpreting()}
        sums = self.tensors[-1]
        self.first: _Call | None = None
        if slices > 1:
            sums = torch.empty(images * slices, 2, dtype=torch.float32, device=sums.device)
            first = kernels.moments_kernel if forward else kernels.products_kernel
            self.first = _Call(first, images * slices, [*self.tensors[:-1], sums], numbers, block)
        second = kernels.normalize_kernel if forward else kernels.normalize_backward_kernel
        if isinstance(step, Normalize):
            numbers = (*numbers, step.eps)
        self.second = _Call(second, images * slices, [*self.tensors, sums], numbers, constants)

    def __call__(self, convolution_time, time, convolution_first, first):
        """Launch for ``time``; what else a phase is told does not matter here."""
        times = [time + b.shift - b.origin if b.timed else 0 for b in self.buffers]
        if self.first is not None:
            self.first(times[:-1])
        self.second(times)

    @property
    def resident(self):
        """Whether all programs of a launch run at once."""
        return self.second.grid[0] <= processors(self.tensors[0].device)

    @property
    def identity(self):
        """Equal for launches of the same kernels that pass the same at the same times."""
        calls = tuple(call.identity for call in (self.first, self.second) if call is not None)
        return calls, tuple((b.timed, b.shift - b.origin) for b in self.buffers)

    def add_parameter_sums(self):
        """There are none: factors and biases of a norm belong to the stages."""
