"""ConvLSTMCell of OpenSTL, github.com/chengtan9907/OpenSTL (Tan et al. 2023, arXiv 2306.11249).

``conv_x.0`` convolves x and ``conv_h.0`` h, gates i, f, g, o, no bias; with layer norm ``conv_x.1`` and ``conv_h.1``
normalise what they give over (4C,H,W), with a factor and a shift for each value. Its ``conv_o`` and ``conv_last`` are
never used.

A cell called for each step has little to gain: on a CPU it trains at 0.7 to 0.9 of the plain cell's speed, so
``fastrcn.convert`` leaves it. Where the inputs are all known, a ``fastrcn.ConvLSTM`` with the cell's weights runs the
whole sequence in one call.
"""

from typing import Any

import torch
from torch import nn

from fastrcn import cells, layers
from fastrcn.checks import check_kernel
from fastrcn.functional import conv_lstm, conv_recurrent
from fastrcn.interop import packing
from fastrcn.interop.structure import Convention, check_maps, skeleton

_NORMALIZED = cells.LayerNorm(cells.ConvLSTM())


class ConvLSTMCell(Convention):
    """The project's ConvLSTMCell; computed by ``fastrcn.functional.conv_recurrent``.

    Args:
        in_channel, num_hidden: channels of input and states. height, width: of their maps; no effect without layer
            norm, as there.
        filter_size: odd. stride: 1; with another the state would not fit its own next step.
        layer_norm: whether the convolved input and state are normalised over channels and map before the gates.
    Shapes: x_t (B,Cin,H,W), h_t and c_t (B,C,H,W); returns (h, c).
    The unused ``conv_o`` and ``conv_last`` are parameters here too, so that checkpoints load; they get no gradient.
    Raises: ValueError or TypeError naming the argument.
    """

    def __init__(self, in_channel, num_hidden, height, width, filter_size, stride, layer_norm):
        super().__init__()
        if stride != 1:
            raise ValueError(f"stride: expected 1, with another the state does not fit its next step, got {stride!r}")
        check_kernel((filter_size,), "filter_size")
        self.num_hidden, self.padding, self._forget_bias = num_hidden, filter_size // 2, 1.0

        def conv(inputs, outputs):
            norms = [nn.LayerNorm([outputs, height, width])] if layer_norm else []
            return nn.Sequential(nn.Conv2d(inputs, outputs, filter_size, stride, self.padding, bias=False), *norms)

        self.conv_x, self.conv_h = conv(in_channel, 4 * num_hidden), conv(num_hidden, 4 * num_hidden)
        self.conv_o = conv(2 * num_hidden, num_hidden)
        self.conv_last = nn.Conv2d(2 * num_hidden, num_hidden, 1, bias=False)

    @classmethod
    def like(cls, module):
        conv, norm = module.conv_x[0], len(module.conv_x) > 1
        height, width = module.conv_x[1].normalized_shape[1:] if norm else (None, None)
        return cls(conv.in_channels, module.num_hidden, height, width, conv.kernel_size[0], 1, norm)

    @property
    def _norms(self) -> list[Any]:
        """The normalisations of the input's and of the state's convolution, if there are any."""
        return [conv[1] for conv in (self.conv_x, self.conv_h) if len(conv) > 1]

    def example_inputs(self, draw):
        size = self._norms[0].normalized_shape[1:] if self._norms else (4, 5)
        return draw(2, self.conv_x[0].in_channels, *size), *(draw(2, self.num_hidden, *size) for _ in range(2))

    def packed(self):
        """(weight_ih, weight_hh, None) as ``fastrcn.functional.conv_lstm`` takes them."""
        return packing.pack_apart([self.conv_x[0]], [self.conv_h[0]])

    def unpack(self, packed):
        """Write such weights."""
        packing.unpack_apart([self.conv_x[0]], [self.conv_h[0]], packed)

    def forward(self, x_t, h_t, c_t):
        check_maps(x_t, "x_t", "BCHW", self.conv_x[0].in_channels)
        norms = self._norms
        if norms and tuple(x_t.shape[1:]) != (size := (self.conv_x[0].in_channels, *norms[0].normalized_shape[1:])):
            raise ValueError(f"x_t: expected shape (B, {', '.join(map(str, size))}), got {tuple(x_t.shape)}")
        weight_ih, weight_hh, bias = self.packed()
        if norms:
            bias, factors = norms[0].bias + norms[1].bias, torch.cat([norm.weight for norm in norms])
            _, (h, c) = conv_recurrent(_NORMALIZED, x_t[None], weight_ih, weight_hh, bias, factors, (h_t, c_t))
        else:
            _, (h, c) = conv_lstm(x_t[None], weight_ih, weight_hh, bias, hx=(h_t, c_t))
        return h.contiguous(), c.contiguous()


def from_state_dict(state, **options):
    """A ``fastrcn.ConvLSTMCell`` with the weights of a state dict of ``ConvLSTMCell``; the unused ones are left out.

    With layer norm it has ``layer_norm="full"``, and one bias in place of two shifts that are only ever added.
    """
    weight_x, weight_h = packing.take(state, "conv_x.0.weight"), packing.take(state, "conv_h.0.weight")
    norm = "conv_x.1.weight" in state
    height, width = state["conv_x.1.weight"].shape[1:] if norm else (None, None)
    module = ConvLSTMCell(weight_x.shape[1], weight_h.shape[1], height, width, weight_x.shape[2], 1, norm)
    weight_ih, weight_hh, bias = packing.loaded(module, state).packed()
    if not norm:
        return packing.plain_layer(layers.ConvLSTMCell, [(weight_ih, weight_hh, bias)], **options)
    of_x, of_h = module._norms
    packed, factors = (weight_ih, weight_hh, of_x.bias + of_h.bias), {"norm_ih": of_x.weight, "norm_hh": of_h.weight}
    norm_options = {"layer_norm": "full", "map_size": (height, width)}
    return packing.plain_layer(layers.ConvLSTMCell, [packed], factors, **norm_options, **options)


def to_state_dict(layer):
    """The state dict of ``ConvLSTMCell`` with the weights of a ``fastrcn.ConvLSTMCell``; unused weights are zeros.

    The bias of a layer with ``layer_norm="full"`` becomes the shift of the input's norm. Raises ValueError for a bias
    without norm, factors per channel or a kernel that is not square, which the project does not have.
    """
    norm = isinstance(layer, layers.ConvLSTMCell) and layer.layer_norm == "full" and layer.layer_norm_eps == 1e-5
    packed = packing.packed_of(layer, layers.ConvLSTMCell, norms=("norm_ih", "norm_hh") if norm else ())
    if layer.has_bias and not norm:
        raise ValueError("layer: expected bias=False, the other layout has none, got a layer with a bias")
    height, width = (layer.map_size if norm else None) or (None, None)
    module = ConvLSTMCell(layer.input_size, layer.hidden_size, height, width, packing.square(layer), 1, norm)
    for unused in (module.conv_o, module.conv_last):
        for weight in unused.parameters():
            nn.init.zeros_(weight)
    if norm:
        weight_ih, weight_hh, bias = packed[0]
        packed = [(weight_ih, weight_hh, None)]
        for part, factor, shift in zip(module._norms, (layer.norm_ih, layer.norm_hh), (bias, None), strict=True):
            with torch.no_grad():
                part.weight.copy_(factor)
                part.bias.copy_(torch.zeros(()) if shift is None else shift)
    return packing.state_dict_with(module, [module], packed)


def from_module(module, **options):
    """A ``fastrcn.ConvLSTMCell`` like a ``ConvLSTMCell`` of the project or of this file."""
    skeleton(module, ConvLSTMCell)
    return from_state_dict(module.state_dict(), **options)
