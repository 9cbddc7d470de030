"""A convolution's weight as the compiled kernel takes it."""

from dataclasses import dataclass
from itertools import product

import torch
import torch.nn.functional as F


@dataclass(eq=False)
class Weight:
    """A convolution's weight. ``data`` (Co,Ci,kernel ...) itself, or ``reflected`` that with which a convolution at
    stride 1 takes the output's gradient to the input's: with few pixels a copy more would be most of the memory."""

    data: torch.Tensor
    reflected: bool = False

    @property
    def shape(self):
        c_out, c_in, *kernel = self.data.shape
        return (c_in, c_out, *kernel) if self.reflected else (c_out, c_in, *kernel)

    @property
    def kernel(self):
        """(kd,kh,kw); of a convolution of maps (H,W) one frame."""
        kernel = self.data.shape[2:]
        return (*(1,) * (3 - len(kernel)), *kernel)

    def dense(self):
        """The weight as a tensor of that shape."""
        if not self.reflected:
            return self.data
        turned, kernel = self.data.transpose(0, 1), self.shape[2:]
        return turned if all(k == 1 for k in kernel) else turned.flip(*range(2, 2 + len(kernel)))

    def strided(self):
        """Where its first value is, and the steps from there over outputs, inputs and the kernel's three axes."""
        outputs, inputs, *kernel = self.data.stride()
        kernel = [0] * (3 - len(kernel)) + kernel
        if not self.reflected:
            return self.data.data_ptr(), [outputs, inputs, *kernel]
        last = sum((n - 1) * step for n, step in zip(self.kernel, kernel, strict=True))
        return self.data.data_ptr() + last * self.data.element_size(), [inputs, outputs, *(-k for k in kernel)]

    def packed(self, block, together=1):
        """(blocks of outputs, kernel ..., Ci, outputs of a block), zeros behind the last output; with ``together`` 2
        (..., pairs of inputs, outputs of a block, 2), zeros behind an odd number of inputs."""
        ready = self._packed(block)
        if together == 1:
            return ready
        odd = ready.shape[-2] % together
        return F.pad(ready, (0, 0, 0, odd)).unflatten(-2, (-1, together)).transpose(-1, -2).contiguous()

    def _packed(self, block):
        c_out, c_in, *kernel = self.shape
        whole = c_out // block
        ready = self.data.new_empty(-(-c_out // block), *kernel, c_in, block)
        ready[whole:].zero_()
        full, rest = ready[:whole], ready[whole:, ..., : c_out % block]
        if not self.reflected:
            last = (*range(2, 2 + len(kernel)), 1, 0)
            split = self.data[: whole * block].unflatten(0, (whole, block))
            full.copy_(split.permute(0, *(d + 1 for d in last)))
            rest.copy_(self.data[whole * block :].permute(last))
            return ready
        for at in product(*map(range, kernel)):
            tap = self.data[(..., *(k - 1 - i for i, k in zip(at, kernel, strict=True)))]
            full[(slice(None), *at)].copy_(tap[:, : whole * block].unflatten(1, (whole, block)).movedim(1, 0))
            rest[(slice(None), *at)].copy_(tap[:, whole * block :])
        return ready
