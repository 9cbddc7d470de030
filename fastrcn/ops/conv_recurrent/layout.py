"""Maps with channels first, as PyTorch has them, and last, as everything inside has them."""

import torch

from fastrcn import memory, native


def maps_last(x):
    """(...,C,H,W) as dense (...,H,W,C); a view where it lies so already."""
    last = x.movedim(-3, -1)
    if last.is_contiguous():
        return last
    result = memory.empty(last.shape, x.dtype, x.device)
    size, (*lead, channels, height, width) = x.element_size(), x.shape
    if (
        native.module() is None
        or (x.device.type, size in (4, 8), x.dim() <= 5) != ("cpu", True, True)
        or (x.stride(-1), x.stride(-2)) != (1, width)
    ):
        return result.copy_(last)
    lead, steps = [1, 1, *lead][-2:], [0, 0, *x.stride()[:-3]][-2:]
    pixels = height * width
    to = (lead[1] * pixels * channels, pixels * channels, channels)
    native.module().copy_maps_last(
        x.data_ptr(), result.data_ptr(), lead, [s * size for s in (*steps, x.stride(-3))], [s * size for s in to],
        channels, pixels, size, torch.get_num_threads(),
    )  # fmt: skip
    return result


def maps_first(x):
    """(...,H,W,C) as (...,C,H,W), a view: channels-last in memory."""
    return x.movedim(-1, -3)
