"""The filters of a first 3-D convolution as small clips: each filter is a pattern in space that moves over time."""

import torch


def filter_clips(weight) -> torch.Tensor:
    """Filters min-max scaled to frames: a filter's smallest weight is 0 (black), its largest 1.

    The scale is the same over a filter's channels, frames and places, so colours and changes over time are kept. A
    filter whose weights are all equal is 0.5.

    Args:
        weight: (Cout,Cin,T,k,k) of a layer that reads frames: Cin is 3 (RGB) or 1 (gray).
    Shapes: -> (Cout,Cin,T,k,k), from 0 to 1, without a gradient.
    Raises: ValueError naming the argument.
    """
    if weight.dim() != 5 or weight.shape[1] not in (1, 3):
        raise ValueError(f"weight: expected (Cout,3,T,k,k) or (Cout,1,T,k,k), got shape {tuple(weight.shape)}")
    weight = weight.detach()
    low, high = (f(weight, dim=(1, 2, 3, 4), keepdim=True) for f in (torch.amin, torch.amax))
    span = high - low
    return torch.where(span > 0, (weight - low) / torch.where(span > 0, span, 1), 0.5)
