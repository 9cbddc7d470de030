"""ConvLSTM of github.com/ndrplz/ConvLSTM_pytorch.

One convolution of [x, h] per layer, with the gates i, f, o, g; keys ``cell_list.{i}.conv.weight`` (4H,Cin+H,kh,kw) and
``cell_list.{i}.conv.bias``.
"""

from typing import Any

import torch
from torch import nn

from fastrcn import layers
from fastrcn.checks import check_kernel
from fastrcn.functional import conv_lstm
from fastrcn.interop import packing
from fastrcn.interop.structure import Convention, check_maps, check_states, skeleton

_ORDER = (0, 1, 3, 2)


def each_layer(value, name, num_layers):
    """A list with one value for each layer."""
    values = list(value) if isinstance(value, list) else [value] * num_layers
    if len(values) != num_layers:
        raise ValueError(f"{name}: expected {num_layers} values, one for each layer, got {len(values)}")
    return values


class ConvLSTMCell(Convention):
    """One step: (input_tensor (B,Cin,H,W), (h, c) each (B,C,H,W)) -> (h, c)."""

    def __init__(self, input_dim, hidden_dim, kernel_size, bias):
        super().__init__()
        check_kernel(kernel_size, "kernel_size")
        self.input_dim, self.hidden_dim, self.kernel_size = input_dim, hidden_dim, kernel_size
        self.padding = kernel_size[0] // 2, kernel_size[1] // 2
        self.bias = bias
        self.conv = nn.Conv2d(input_dim + hidden_dim, 4 * hidden_dim, kernel_size, padding=self.padding, bias=bias)

    @classmethod
    def like(cls, module):
        return cls(module.input_dim, module.hidden_dim, module.kernel_size, module.bias)

    def example_inputs(self, draw):
        state = draw(2, self.hidden_dim, 4, 5), draw(2, self.hidden_dim, 4, 5)
        return draw(2, self.input_dim, 4, 5), state

    def packed(self):
        """(weight_ih, weight_hh, bias) as ``fastrcn.functional.conv_lstm`` takes them."""
        return packing.pack([self.conv], self.input_dim, order=_ORDER)

    def unpack(self, packed):
        """Write such weights."""
        packing.unpack([self.conv], packed, order=_ORDER)

    def forward(self, input_tensor, cur_state):
        check_maps(input_tensor, "input_tensor", "BCHW", self.input_dim)
        h, c = check_states(cur_state, "cur_state", 2)
        _, (h, c) = conv_lstm(input_tensor[None], *self.packed(), hx=(h, c))
        return h.contiguous(), c.contiguous()

    def init_hidden(self, batch_size, image_size):
        """States of zeros, of the weight's type and on its device."""
        zeros = self.conv.weight.new_zeros(batch_size, self.hidden_dim, *image_size)
        return zeros, torch.zeros_like(zeros)


class ConvLSTM(Convention):
    """The project's ConvLSTM; computed by ``fastrcn.functional.conv_lstm``.

    Args:
        input_dim: channels of the input. hidden_dim: channels of the states, one number or a list for the layers.
        kernel_size: a pair of odd numbers, or a list of such for the layers.
        num_layers, batch_first, bias, return_all_layers: as there.
    Shapes:
        input_tensor (T,B,Cin,H,W), or (B,T,Cin,H,W) with ``batch_first``. Returns (layer_output_list, last_state_list):
        outputs (B,T,C,H,W) whatever ``batch_first``, states [h, c] each (B,C,H,W); of the last layer alone, or of all
        with ``return_all_layers``.
    Differs: ``hidden_state``, which the project does not implement, is a list of (h, c), one for each layer.
    Raises: ValueError or TypeError naming the argument.
    """

    def __init__(
        self, input_dim, hidden_dim, kernel_size, num_layers, batch_first=False, bias=True, return_all_layers=False
    ):
        super().__init__()
        pairs = kernel_size if isinstance(kernel_size, list) else [kernel_size]
        if not all(isinstance(pair, tuple) and len(pair) == 2 for pair in pairs):
            raise ValueError(f"kernel_size: expected a pair or a list of pairs (tuples), got {kernel_size!r}")
        self.input_dim = input_dim
        self.hidden_dim = each_layer(hidden_dim, "hidden_dim", num_layers)
        self.kernel_size = each_layer(kernel_size, "kernel_size", num_layers)
        self.num_layers, self.batch_first, self.bias = num_layers, batch_first, bias
        self.return_all_layers = return_all_layers
        sizes = zip([input_dim, *self.hidden_dim], self.hidden_dim, self.kernel_size, strict=False)
        self.cell_list: Any = nn.ModuleList([ConvLSTMCell(*size, bias) for size in sizes])

    @classmethod
    def like(cls, module):
        return cls(
            module.input_dim, module.hidden_dim, module.kernel_size, module.num_layers, module.batch_first, module.bias,
            module.return_all_layers,
        )  # fmt: skip

    def example_inputs(self, draw):
        return (draw(2, 2, self.input_dim, 4, 5),)

    def forward(self, input_tensor, hidden_state=None):
        check_maps(input_tensor, "input_tensor", "BTCHW" if self.batch_first else "TBCHW", self.input_dim)
        states = [None] * self.num_layers
        if hidden_state is not None:
            states = check_states(hidden_state, "hidden_state", self.num_layers)
        x = input_tensor.transpose(0, 1) if self.batch_first else input_tensor
        outputs, last = [], []
        for cell, state in zip(self.cell_list, states, strict=True):
            hx = None if state is None else tuple(check_states(state, "hidden_state", 2))
            x, final = conv_lstm(x, *cell.packed(), hx=hx)
            outputs.append(x)
            last.append([s.contiguous() for s in final])
        if not self.return_all_layers:
            outputs, last = outputs[-1:], last[-1:]
        return [output.transpose(0, 1).contiguous() for output in outputs], last


def from_state_dict(state, **options):
    """A ``fastrcn.ConvLSTM`` with the weights of a state dict of ``ConvLSTM``; options as for ``fastrcn.ConvLSTM``."""
    n = packing.count_layers(state, "cell_list.")
    weights = [packing.take(state, f"cell_list.{k}.conv.weight") for k in range(n)]
    hidden = [weight.shape[0] // 4 for weight in weights]
    kernels = [tuple(weight.shape[2:]) for weight in weights]
    bias = "cell_list.0.conv.bias" in state
    module = ConvLSTM(weights[0].shape[1] - hidden[0], hidden, kernels, n, bias=bias)
    cells = packing.loaded(module, state).cell_list
    return packing.plain_layer(layers.ConvLSTM, [cell.packed() for cell in cells], **options)


def to_state_dict(layer):
    """The state dict of ``ConvLSTM`` with the weights of a ``fastrcn.ConvLSTM``."""
    packed = packing.packed_of(layer, layers.ConvLSTM)
    module = ConvLSTM(layer.input_size, layer.hidden_size, layer.kernel_size, layer.num_layers, bias=layer.has_bias)
    return packing.state_dict_with(module, module.cell_list, packed)


def from_module(module, **options):
    """A ``fastrcn.ConvLSTM`` like a ``ConvLSTM`` of the project or of this file."""
    skeleton(module, ConvLSTM)
    return from_state_dict(module.state_dict(), batch_first=module.batch_first, **options)
