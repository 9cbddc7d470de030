"""ConvLSTM of github.com/automan000/Convolutional_LSTM_PyTorch.

Convolutions of x (with bias) and of h (without) for each gate; keys ``cell{i}.Wx{i,f,c,o}``, ``cell{i}.Wh{i,f,c,o}``.
Its peepholes Wci, Wcf, Wco are set to zero by every call and are no parameters: they are left out.
"""

import torch
from torch import nn

from fastrcn import layers
from fastrcn.checks import check_kernel
from fastrcn.functional import conv_lstm
from fastrcn.interop import packing
from fastrcn.interop.structure import Convention, check_maps, skeleton

_GATES = "ifco"


class ConvLSTMCell(Convention):
    """One step: (x (B,Cin,H,W), h, c each (B,C,H,W)) -> (h, c). ``bias`` has no effect, as there: Wx have biases."""

    def __init__(self, input_channels, hidden_channels, kernel_size, bias=True):
        super().__init__()
        if hidden_channels % 2:
            raise ValueError(f"hidden_channels: expected even numbers, as the project does, got {hidden_channels}")
        check_kernel((kernel_size,), "kernel_size")
        self.input_channels, self.hidden_channels = input_channels, hidden_channels
        self.bias, self.kernel_size, self.num_features = bias, kernel_size, 4
        self.padding = (kernel_size - 1) // 2
        for gate in _GATES:
            for side, channels in (("x", input_channels), ("h", hidden_channels)):
                conv = nn.Conv2d(channels, hidden_channels, kernel_size, 1, self.padding, bias=side == "x")
                setattr(self, f"W{side}{gate}", conv)
        self.Wci = self.Wcf = self.Wco = None

    @classmethod
    def like(cls, module):
        return cls(module.input_channels, module.hidden_channels, module.kernel_size, module.bias)

    def example_inputs(self, draw):
        state = draw(2, self.hidden_channels, 4, 5), draw(2, self.hidden_channels, 4, 5)
        return draw(2, self.input_channels, 4, 5), *state

    def _convs(self):
        """Those of x and those of h."""
        return [getattr(self, f"Wx{gate}") for gate in _GATES], [getattr(self, f"Wh{gate}") for gate in _GATES]

    def packed(self):
        """(weight_ih, weight_hh, bias) as ``fastrcn.functional.conv_lstm`` takes them."""
        return packing.pack_apart(*self._convs())

    def unpack(self, packed):
        """Write such weights."""
        packing.unpack_apart(*self._convs(), packed)

    def forward(self, x, h, c):
        check_maps(x, "x", "BCHW", self.input_channels)
        _, (h, c) = conv_lstm(x[None], *self.packed(), hx=(h, c))
        return h.contiguous(), c.contiguous()

    def init_hidden(self, batch_size, hidden, shape):
        """States of zeros (h, c), of the weights' type and on their device."""
        zeros = self.Wxi.weight.new_zeros(batch_size, hidden, *shape)
        return zeros, torch.zeros_like(zeros)


class ConvLSTM(Convention):
    """The project's ConvLSTM, which reads one image ``step`` times; computed by ``fastrcn.functional.conv_lstm``.

    Args:
        input_channels: of the image. hidden_channels: a list, even numbers, one for each layer.
        kernel_size: an odd number. step: how many steps are made.
        effective_step: the steps, from 0, whose outputs are returned; with the default [1] and one step there are none.
        bias: has no effect, as there.
    Shapes:
        input (B,Cin,H,W); returns (outputs, (x, new_c)): a list of (B,C,H,W) of the last layer, one for each effective
        step, and the last layer's states after the last step. As there, states begin at zero in every call.
    Differs: runs on the CPU too; the attributes Wci, Wcf and Wco of the cells stay None.
    Raises: ValueError or TypeError naming the argument.
    """

    def __init__(self, input_channels, hidden_channels, kernel_size, step=1, effective_step=(1,), bias=True):
        super().__init__()
        if not isinstance(hidden_channels, list) or not hidden_channels:
            raise TypeError(f"hidden_channels: expected a list of one or more numbers, got {hidden_channels!r}")
        if step < 1:
            raise ValueError(f"step: expected at least 1, got {step}")
        self.input_channels, self.hidden_channels = [input_channels, *hidden_channels], hidden_channels
        self.kernel_size, self.num_layers, self.step = kernel_size, len(hidden_channels), step
        self.bias, self.effective_step = bias, list(effective_step)
        self._all_layers = []
        for k, sizes in enumerate(zip(self.input_channels, hidden_channels, strict=False)):
            setattr(self, f"cell{k}", ConvLSTMCell(*sizes, kernel_size, bias))
            self._all_layers.append(getattr(self, f"cell{k}"))

    @classmethod
    def like(cls, module):
        return cls(
            module.input_channels[0], module.hidden_channels, module.kernel_size, module.step, module.effective_step,
            module.bias,
        )  # fmt: skip

    def example_inputs(self, draw):
        return (draw(2, self.input_channels[0], 4, 5),)

    def cells(self):
        """The layers' cells."""
        return [getattr(self, f"cell{k}") for k in range(self.num_layers)]

    def forward(self, input):
        check_maps(input, "input", "BCHW", self.input_channels[0])
        x, states = input.expand(self.step, *input.shape), ()
        for cell in self.cells():
            x, states = conv_lstm(x, *cell.packed())
        h, c = (state.contiguous() for state in states)
        return [x[k].contiguous() for k in range(self.step) if k in self.effective_step], (h, c)


def _n_layers(state):
    return len({key.split(".")[0] for key in state})


def from_state_dict(state, **options):
    """A ``fastrcn.ConvLSTM`` with the weights of a state dict of ``ConvLSTM``; options as for ``fastrcn.ConvLSTM``.

    It reads a sequence: repeat the image ``step`` times for what the project computes.
    """
    first = packing.take(state, "cell0.Wxi.weight")
    hidden = [packing.take(state, f"cell{k}.Wxi.weight").shape[0] for k in range(_n_layers(state))]
    module = packing.loaded(ConvLSTM(first.shape[1], hidden, first.shape[2]), state)
    return packing.plain_layer(layers.ConvLSTM, [cell.packed() for cell in module.cells()], **options)


def to_state_dict(layer):
    """The state dict of ``ConvLSTM`` with the weights of a ``fastrcn.ConvLSTM``; biases of zeros where it has none.

    Raises ValueError for a kernel that is not square, which the project does not have.
    """
    packed = [packing.with_bias(weights) for weights in packing.packed_of(layer, layers.ConvLSTM)]
    module = ConvLSTM(layer.input_size, [layer.hidden_size] * layer.num_layers, packing.square(layer))
    return packing.state_dict_with(module, module.cells(), packed)


def from_module(module, **options):
    """A ``fastrcn.ConvLSTM`` like a ``ConvLSTM`` of the project or of this file."""
    skeleton(module, ConvLSTM)
    return from_state_dict(module.state_dict(), **options)
