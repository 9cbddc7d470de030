"""Shapes and weight blocks of one conv_recurrent call."""

from dataclasses import dataclass
from math import prod

import torch

from fastrcn.compiler.schedule import Schedule


def same_padding(kernel, dilation):
    """Padding that keeps the map's size at stride 1, per dimension."""
    return [d * (k - 1) // 2 for k, d in zip(kernel, dilation, strict=True)]


def output_map(size, kernel, stride, dilation, padding=None):
    """The map's size after the input convolution; ``padding`` None for that which keeps the map at stride 1."""
    padding = same_padding(kernel, dilation) if padding is None else padding
    return [
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, p, k, s, d in zip(size, padding, kernel, stride, dilation, strict=True)
    ]


def of_three_axes(values, missing=1):
    """What a convolution has per axis, for frames, rows and columns: one on (...,H,W) is one on a single frame."""
    return (missing,) * (3 - len(values)) + tuple(values)


def accumulate_type(dtype):
    """Type in which states that no convolution reads are kept, and in which sums are made."""
    return torch.float32 if dtype in (torch.bfloat16, torch.float16) else dtype


def blocks_of(tensor, blocks, channels):
    """The blocks of ``channels`` rows of a packed parameter, in the order asked for; a view where they adjoin."""
    first = blocks[0]
    if tuple(blocks) == tuple(range(first, first + len(blocks))):
        return tensor[first * channels : (first + len(blocks)) * channels]
    return torch.cat([tensor[b * channels : (b + 1) * channels] for b in blocks])


def group_bias(group, bias, channels):
    """The bias of a group's slots, packed as they are; None where there is none at all."""
    if bias is None or not any(slot.bias_blocks for slot in group.slots):
        return None
    if all(len(slot.bias_blocks) == 1 for slot in group.slots):
        return blocks_of(bias, [slot.bias_blocks[0] for slot in group.slots], channels).contiguous()
    rows = []
    for slot in group.slots:
        parts = [bias[b * channels : (b + 1) * channels] for b in slot.bias_blocks]
        rows.append(sum(parts[1:], parts[0]) if parts else bias.new_zeros(channels))
    return torch.cat(rows)


@dataclass(frozen=True)
class Geometry:
    """Sizes of a call: ``steps`` T, ``batch`` B, ``channels`` of the state, ``size`` (H,W) or (D,H,W) of its map, and
    the options of the input's convolution; ``padding`` None keeps the map at stride 1."""

    schedule: Schedule
    steps: int
    batch: int
    channels: int
    size: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: tuple[int, ...] | None
    reverse: bool

    @classmethod
    def of(cls, schedule, inputs, weight_ih, weight_hh, stride, dilation, padding, reverse):
        steps, batch = inputs[0].shape[:2]
        size = output_map(inputs[0].shape[3:], weight_ih[0].shape[2:], stride, dilation, padding)
        padding = None if padding is None else tuple(padding)
        return cls(
            schedule, steps, batch, weight_hh.shape[1], tuple(size), tuple(stride), tuple(dilation), padding, reverse
        )

    def input_padding(self, kernel):
        """Padding of an input's convolution, per dimension of its kernel."""
        return tuple(same_padding(kernel, self.dilation) if self.padding is None else self.padding)

    @property
    def axes(self):
        """How many a map has."""
        return len(self.size)

    @property
    def map(self):
        """Shape of one state: (B, H, W, C) or (B, D, H, W, C), as it lies in memory."""
        return (self.batch, *self.size, self.channels)

    def is_timed(self, maps):
        """Whether maps are those of several steps: with an axis of time before the others."""
        return maps.dim() > len(self.size) + 2

    @property
    def map_pixels(self):
        """Pixels of one map."""
        return prod(self.size)

    @property
    def pixels(self):
        """Pixels of one step, over the batch."""
        return self.batch * self.map_pixels

    @property
    def direction(self):
        return -1 if self.reverse else 1

    def time_order(self):
        """Steps in the order in which the recurrence takes them."""
        return range(self.steps - 1, -1, -1) if self.reverse else range(self.steps)
