"""ConvGRU of RobustVideoMatting, github.com/PeterL1n/RobustVideoMatting (Lin et al. 2021, arXiv 2108.11515).

As many channels of the input as of the state; ``ih.0`` convolves [x, h] for the gates r, z, ``hh.0`` [x, r*h] for the
candidate; h' = (1 - z) h + z c.
"""

from typing import Any

import torch
from torch import nn

from fastrcn import layers
from fastrcn.functional import conv_gru
from fastrcn.interop import packing
from fastrcn.interop.structure import Convention, check_maps, check_padding, skeleton


class ConvGRU(Convention):
    """The project's ConvGRU; computed by ``fastrcn.functional.conv_gru``.

    Args:
        channels: of the input and of the state. kernel_size: odd. padding: half of it.
    Shapes:
        x (B,C,H,W), one frame, or (B,T,C,H,W); h (B,C,H,W) or None for zeros. Returns (o, h): the states at each step,
        shaped as x, and the last one.
    Raises: ValueError or TypeError naming the argument.
    """

    def __init__(self, channels, kernel_size: Any = 3, padding: Any = 1):
        super().__init__()
        check_padding(kernel_size, padding)
        self.channels = channels
        self.ih = nn.Sequential(nn.Conv2d(2 * channels, 2 * channels, kernel_size, padding=padding), nn.Sigmoid())
        self.hh = nn.Sequential(nn.Conv2d(2 * channels, channels, kernel_size, padding=padding), nn.Tanh())

    @classmethod
    def like(cls, module):
        return cls(module.channels, module.hh[0].kernel_size, module.hh[0].padding)

    def example_inputs(self, draw):
        return draw(2, 2, self.channels, 4, 5), draw(2, self.channels, 4, 5)

    def packed(self):
        """(weight_ih, weight_hh, bias) as ``fastrcn.functional.conv_gru`` takes them."""
        return packing.pack([self.ih[0], self.hh[0]], self.channels)

    def unpack(self, packed):
        """Write such weights."""
        packing.unpack([self.ih[0], self.hh[0]], packed)

    def forward_single_frame(self, x, h):
        """(x (B,C,H,W), h) -> (h, h)."""
        check_maps(x, "x", "BCHW", self.channels)
        _, (h,) = conv_gru(x[None], *self.packed(), hx=None if h is None else (h,))
        h = h.contiguous()
        return h, h

    def forward_time_series(self, x, h):
        """(x (B,T,C,H,W), h) -> (o, h)."""
        check_maps(x, "x", "BTCHW", self.channels)
        output, (h,) = conv_gru(x.transpose(0, 1), *self.packed(), hx=None if h is None else (h,))
        return output.transpose(0, 1).contiguous(), h.contiguous()

    def forward(self, x, h):
        one_frame = isinstance(x, torch.Tensor) and x.dim() == 4
        return self.forward_single_frame(x, h) if one_frame else self.forward_time_series(x, h)


def from_state_dict(state, **options):
    """A ``fastrcn.ConvGRU`` with the weights of a state dict of ``ConvGRU``; options as for ``fastrcn.ConvGRU``."""
    weight = packing.take(state, "hh.0.weight")
    kernel = tuple(weight.shape[2:])
    module = ConvGRU(weight.shape[0], kernel, tuple(k // 2 for k in kernel))
    return packing.plain_layer(layers.ConvGRU, [packing.loaded(module, state).packed()], **options)


def to_state_dict(layer):
    """The state dict of ``ConvGRU`` with the weights of a ``fastrcn.ConvGRU``; a bias of zeros where it has none.

    Raises ValueError for several layers, or for another number of channels in the input than in the state.
    """
    packed = [packing.with_bias(weights) for weights in packing.packed_of(layer, layers.ConvGRU)]
    if layer.num_layers != 1 or layer.input_size != layer.hidden_size:
        raise ValueError(f"layer: expected one layer with as many inputs as states, got {layer!r}")
    module = ConvGRU(layer.hidden_size, layer.kernel_size, tuple(k // 2 for k in layer.kernel_size))
    return packing.state_dict_with(module, [module], packed)


def from_module(module, **options):
    """A ``fastrcn.ConvGRU`` like a ``ConvGRU`` of the project or of this file, with ``batch_first``, as there."""
    skeleton(module, ConvGRU)
    return from_state_dict(module.state_dict(), batch_first=True, **options)
