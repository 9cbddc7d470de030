"""The two layouts of a (N,C,D,H,W) tensor that the kernels take: contiguous and channels-last."""

from typing import Any

import torch

from fastrcn import memory, native


def is_last(x):
    """Whether the channels of a pixel lie side by side. Where both layouts fit, contiguous is meant."""
    return not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last_3d)


def format_of(last):
    """PyTorch's name of the layout."""
    return torch.channels_last_3d if last else torch.contiguous_format


def dense(x, last, keep=False) -> Any:
    """``x`` in the layout; itself where it lies so already, or is None. ``keep``: in memory that is used again once
    nobody holds it, for what does not leave an operator."""
    if x is None or x.is_contiguous(memory_format=format_of(last)):
        return x
    from_other = x.is_contiguous(memory_format=format_of(not last))
    if x.device.type != "cpu" or native.module() is None or not from_other or not x.numel():
        return x.contiguous(memory_format=format_of(last))
    n, c, *size = x.shape
    pixels = size[0] * size[1] * size[2]
    shape = (n, *size, c) if last else (n, c, *size)
    result = memory.empty(shape, x.dtype, x.device) if keep else torch.empty(shape, dtype=x.dtype)
    rows, columns = (c, pixels) if last else (pixels, c)
    element = x.element_size()
    whole = c * pixels * element
    native.module().copy_maps_last(
        x.data_ptr(), result.data_ptr(), (n, 1), (whole, 0, columns * element), (whole, 0, rows * element), rows,
        columns, element, torch.get_num_threads(),
    )  # fmt: skip
    return result.movedim(-1, 1) if last else result


class InLayout(torch.autograd.Function):
    """``dense`` for what is differentiated: ``InLayout.apply(x, last)``. Gradients come back in the other layout."""

    @staticmethod
    def forward(ctx, x, last):
        ctx.last = last
        return dense(x, last)

    @staticmethod
    def backward(ctx, *grads):
        return InLayout.apply(grads[0], not ctx.last), None
