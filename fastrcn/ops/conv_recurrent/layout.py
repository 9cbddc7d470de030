"""Maps with channels first, as PyTorch has them, and last, as everything inside has them. ``axes``: how many a map has,
2 (H,W) or 3 (D,H,W)."""

from math import prod

import torch

from fastrcn import memory, native


def maps_last(x, axes):
    """(...,C,H,W) as dense (...,H,W,C); a view where it lies so already."""
    last = x.movedim(-1 - axes, -1)
    if last.is_contiguous():
        return last
    result = memory.empty(last.shape, x.dtype, x.device)
    size, split = x.element_size(), x.dim() - axes - 1
    lead, channels, map_size = x.shape[:split], x.shape[split], x.shape[split + 1 :]
    if (
        native.module() is None
        or (x.device.type, size in (2, 4, 8), split <= 2) != ("cpu", True, True)
        or x.stride()[split + 1 :] != tuple(prod(map_size[k:]) for k in range(1, axes + 1))
    ):
        return result.copy_(last)
    lead, steps = [1, 1, *lead][-2:], [0, 0, *x.stride()[:split]][-2:]
    pixels = prod(map_size)
    to = (lead[1] * pixels * channels, pixels * channels, channels)
    native.module().copy_maps_last(
        x.data_ptr(), result.data_ptr(), lead, [s * size for s in (*steps, x.stride(split))], [s * size for s in to],
        channels, pixels, size, torch.get_num_threads(),
    )  # fmt: skip
    return result


def maps_first(x, axes):
    """(...,H,W,C) as (...,C,H,W), a view: channels-last in memory."""
    return x.movedim(-1, -1 - axes)
