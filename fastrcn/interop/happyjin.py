"""ConvGRU of github.com/happyjin/ConvGRU-pytorch.

Per layer a convolution of [x, h] for the gates r, z and one of [x, r*h] for the candidate; h' = (1 - z) h + z n. Keys
``cell_list.{i}.conv_gates`` (2H rows) and ``cell_list.{i}.conv_can`` (H rows).
"""

from typing import Any

from torch import nn

from fastrcn import layers
from fastrcn.checks import check_kernel
from fastrcn.functional import conv_gru
from fastrcn.interop import packing
from fastrcn.interop.structure import Convention, check_maps, check_states, skeleton


def _check_map(tensor, name, size):
    if tuple(tensor.shape[-2:]) != tuple(size):
        raise ValueError(f"{name}: expected maps of {tuple(size)}, the module's input_size, got {tuple(tensor.shape)}")


class ConvGRUCell(Convention):
    """One step: (input_tensor (B,Cin,H,W), h_cur (B,C,H,W)) -> h_next."""

    def __init__(self, input_size, input_dim, hidden_dim, kernel_size, bias, dtype):
        super().__init__()
        check_kernel(kernel_size, "kernel_size")
        self.height, self.width = input_size
        self.padding = kernel_size[0] // 2, kernel_size[1] // 2
        self.hidden_dim, self.bias, self.dtype = hidden_dim, bias, dtype
        columns = input_dim + hidden_dim
        self.conv_gates = nn.Conv2d(columns, 2 * hidden_dim, kernel_size, padding=self.padding, bias=bias)
        self.conv_can = nn.Conv2d(columns, hidden_dim, kernel_size, padding=self.padding, bias=bias)

    @classmethod
    def like(cls, module):
        conv, size = module.conv_gates, (module.height, module.width)
        return cls(
            size, conv.in_channels - module.hidden_dim, module.hidden_dim, conv.kernel_size, module.bias, module.dtype
        )

    def example_inputs(self, draw):
        size = self.height, self.width
        return draw(2, self._input_dim, *size), draw(2, self.hidden_dim, *size)

    @property
    def _input_dim(self):
        return self.conv_can.in_channels - self.hidden_dim

    def packed(self):
        """(weight_ih, weight_hh, bias) as ``fastrcn.functional.conv_gru`` takes them."""
        return packing.pack([self.conv_gates, self.conv_can], self._input_dim)

    def unpack(self, packed):
        """Write such weights."""
        packing.unpack([self.conv_gates, self.conv_can], packed)

    def forward(self, input_tensor, h_cur):
        check_maps(input_tensor, "input_tensor", "BCHW", self._input_dim)
        _, (h,) = conv_gru(input_tensor[None], *self.packed(), hx=(h_cur,))
        return h.contiguous()

    def init_hidden(self, batch_size):
        """A state of zeros, of the weights' type and on their device."""
        return self.conv_can.weight.new_zeros(batch_size, self.hidden_dim, self.height, self.width)


class ConvGRU(Convention):
    """The project's ConvGRU; computed by ``fastrcn.functional.conv_gru``.

    Args:
        input_size: (H,W) of the maps. input_dim: channels of the input.
        hidden_dim, kernel_size: lists, one number and one pair of odd numbers for each layer.
        dtype: a tensor type such as ``torch.FloatTensor``; kept, but states are of the weights' type and device.
        num_layers, batch_first, bias, return_all_layers: as there.
    Shapes:
        input_tensor (T,B,Cin,H,W), or (B,T,Cin,H,W) with ``batch_first``. Returns (layer_output_list, last_state_list):
        outputs (B,T,C,H,W) whatever ``batch_first``, states [h] (B,C,H,W); of the last layer alone, or of all with
        ``return_all_layers``.
    Differs: ``hidden_state``, which the project does not implement, is a list of [h], one for each layer.
    Raises: ValueError or TypeError naming the argument.
    """

    def __init__(
        self, input_size, input_dim, hidden_dim, kernel_size, num_layers, dtype, batch_first=False, bias=True,
        return_all_layers=False,
    ):  # fmt: skip
        super().__init__()
        for name, value in {"hidden_dim": hidden_dim, "kernel_size": kernel_size}.items():
            if not isinstance(value, list) or len(value) != num_layers:
                raise ValueError(f"{name}: expected a list of {num_layers}, one for each layer, got {value!r}")
        self.height, self.width = input_size
        self.input_dim, self.hidden_dim, self.kernel_size, self.dtype = input_dim, hidden_dim, kernel_size, dtype
        self.num_layers, self.batch_first, self.bias = num_layers, batch_first, bias
        self.return_all_layers = return_all_layers
        sizes = zip([input_dim, *hidden_dim], hidden_dim, kernel_size, strict=False)
        self.cell_list: Any = nn.ModuleList([ConvGRUCell(input_size, *size, bias, dtype) for size in sizes])

    @classmethod
    def like(cls, module):
        return cls(
            (module.height, module.width), module.input_dim, module.hidden_dim, module.kernel_size, module.num_layers,
            module.dtype, module.batch_first, module.bias, module.return_all_layers,
        )  # fmt: skip

    def example_inputs(self, draw):
        return (draw(2, 2, self.input_dim, self.height, self.width),)

    def forward(self, input_tensor, hidden_state=None):
        check_maps(input_tensor, "input_tensor", "BTCHW" if self.batch_first else "TBCHW", self.input_dim)
        _check_map(input_tensor, "input_tensor", (self.height, self.width))
        states = [None] * self.num_layers
        if hidden_state is not None:
            states = check_states(hidden_state, "hidden_state", self.num_layers)
        x = input_tensor.transpose(0, 1) if self.batch_first else input_tensor
        outputs, last = [], []
        for cell, state in zip(self.cell_list, states, strict=True):
            hx = None if state is None else tuple(check_states(state, "hidden_state", 1))
            x, (h,) = conv_gru(x, *cell.packed(), hx=hx)
            outputs.append(x)
            last.append([h.contiguous()])
        if not self.return_all_layers:
            outputs, last = outputs[-1:], last[-1:]
        return [output.transpose(0, 1).contiguous() for output in outputs], last


def _module(input_dim, hidden, kernels, bias):
    """With maps of one pixel: no weight knows their size."""
    return ConvGRU((1, 1), input_dim, hidden, kernels, len(hidden), None, bias=bias)


def from_state_dict(state, **options):
    """A ``fastrcn.ConvGRU`` with the weights of a state dict of ``ConvGRU``; options as for ``fastrcn.ConvGRU``."""
    n = packing.count_layers(state, "cell_list.")
    weights = [packing.take(state, f"cell_list.{k}.conv_can.weight") for k in range(n)]
    hidden = [weight.shape[0] for weight in weights]
    kernels = [tuple(weight.shape[2:]) for weight in weights]
    module = _module(weights[0].shape[1] - hidden[0], hidden, kernels, "cell_list.0.conv_can.bias" in state)
    cells = packing.loaded(module, state).cell_list
    return packing.plain_layer(layers.ConvGRU, [cell.packed() for cell in cells], **options)


def to_state_dict(layer):
    """The state dict of ``ConvGRU`` with the weights of a ``fastrcn.ConvGRU``."""
    packed = packing.packed_of(layer, layers.ConvGRU)
    n = layer.num_layers
    module = _module(layer.input_size, [layer.hidden_size] * n, [layer.kernel_size] * n, layer.has_bias)
    return packing.state_dict_with(module, module.cell_list, packed)


def from_module(module, **options):
    """A ``fastrcn.ConvGRU`` like a ``ConvGRU`` of the project or of this file."""
    skeleton(module, ConvGRU)
    return from_state_dict(module.state_dict(), batch_first=module.batch_first, **options)
