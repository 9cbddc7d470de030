"""LSTM, GRU and RNN of torch.nn: two biases per layer and direction, of which the second is added to the first.

``torch.nn.GRU`` is the form that resets after the product with the state.
"""

from typing import Any

import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from fastrcn import cells, layers
from fastrcn.interop import packing
from fastrcn.layers.dense import merge_gru_biases
from fastrcn.layers.recurrent import ConvRecurrent
from fastrcn.layers.state_noise import StateNoise

_BIASES = ("bias_ih", "bias_hh")


def _built_in(kind, **options):
    """The cell that the package was built with; its key is known, which a compiler could not trace."""
    return next(c for c in cells.BUILT_IN if isinstance(c, kind) and c.options == options)


def _without_noise(cell):
    return StateNoise(cell, 0.0, 0.0, 0.0)


class _Layer(ConvRecurrent, nn.RNNBase):
    """The parameters and constructor of ``torch.nn``'s layers, run as the recurrent layers here are.

    Not a subclass of ``torch.nn.LSTM``, GRU or RNN, which ``torch.compile`` refuses. What ``ConvRecurrent`` needs
    beyond their attributes is fixed here, so that their objects can become one of these.
    """

    axes, kernel_size, stride, dilation, padding = 0, (1, 1), (1, 1), (1, 1), "same"
    recompute, backend = False, None
    cell: Any
    reset_parameters: Any = nn.RNNBase.reset_parameters
    extra_repr: Any = nn.RNNBase.extra_repr
    _mode: str

    def __init__(self, *args, **kwargs):
        nn.RNNBase.__init__(self, self._mode, *args, **kwargs)
        if self.proj_size:
            raise ValueError(f"proj_size: expected 0, projections of the state are missing here, got {self.proj_size}")

    def _merge(self, bias_ih, bias_hh):
        return bias_ih + bias_hh

    def _arguments(self, suffix) -> Any:
        weight_ih, weight_hh = (getattr(self, f"weight_{side}{suffix}")[:, :, None, None] for side in ("ih", "hh"))
        bias = self._merge(*(getattr(self, name + suffix) for name in _BIASES)) if self.bias else None
        return (weight_ih,), weight_hh, bias, None

    def forward(self, input, hx=None) -> Any:
        """As the layer of ``torch.nn``, for tensors and for packed sequences."""
        if not isinstance(input, PackedSequence):
            return super().forward(input, hx)
        padded, lengths = pad_packed_sequence(input, self.batch_first)
        output, last = super().forward(padded, hx, lengths=lengths)
        order = input.sorted_indices
        if order is not None:
            output, lengths = output.index_select(0 if self.batch_first else 1, order), lengths[order.cpu()]
        data = pack_padded_sequence(output, lengths, self.batch_first).data
        return PackedSequence(data, input.batch_sizes, order, input.unsorted_indices), last


class LSTM(_Layer):
    """``torch.nn.LSTM``, computed by ``fastrcn.functional.conv_recurrent``: the same arguments, parameters, results.

    ``proj_size`` raises ValueError.
    """

    cell, _mode = _built_in(cells.ConvLSTM, peephole=False), "LSTM"
    _noise = _without_noise(cell)


class GRU(_Layer):
    """``torch.nn.GRU``, computed by ``fastrcn.functional.conv_recurrent``: the same arguments, parameters, results."""

    cell, _mode = _built_in(cells.ConvGRU, reset="after"), "GRU"
    _noise = _without_noise(cell)

    def _merge(self, bias_ih, bias_hh):
        return merge_gru_biases(bias_ih, bias_hh)


class RNN(_Layer):
    """``torch.nn.RNN``, computed by ``fastrcn.functional.conv_recurrent``: the same arguments, parameters, results."""

    _CELLS = {name: _built_in(cells.ConvRNN, nonlinearity=name) for name in ("tanh", "relu")}  # noqa: RUF012
    _NOISES = {name: _without_noise(cell) for name, cell in _CELLS.items()}  # noqa: RUF012

    def __init__(self, input_size, hidden_size, num_layers=1, nonlinearity="tanh", *args, **kwargs):
        if nonlinearity not in self._CELLS:
            raise ValueError(f'nonlinearity: expected "tanh" or "relu", got {nonlinearity!r}')
        nn.RNNBase.__init__(self, f"RNN_{nonlinearity.upper()}", input_size, hidden_size, num_layers, *args, **kwargs)
        if self.proj_size:
            raise ValueError(f"proj_size: expected 0, as torch.nn.RNN does, got {self.proj_size}")
        self.nonlinearity = nonlinearity

    @property
    def cell(self) -> Any:
        return self._CELLS[self.nonlinearity]

    @property
    def _noise(self) -> Any:
        return self._NOISES[self.nonlinearity]


_PLAIN = {4: layers.LSTM, 3: layers.GRU, 1: layers.RNN}
"""The plain layers, by the number of their gates."""


def from_state_dict(state, **options):
    """A ``fastrcn.LSTM``, GRU(reset="after") or RNN with the weights of a state dict of ``torch.nn``'s layers.

    Which one, the shapes tell; options as for that layer: ``batch_first``, ``dropout``, an RNN's ``nonlinearity``, ...
    Raises ValueError for a state dict with projections (``proj_size``).
    """
    projections = [key for key in state if key.startswith("weight_hr")]
    if projections:
        raise ValueError(f"state: expected no projections (proj_size), which are missing here, got {projections}")
    first = packing.take(state, "weight_ih_l0")
    hidden_size = packing.take(state, "weight_hh_l0").shape[1]
    gates = first.shape[0] // hidden_size
    if gates not in _PLAIN:
        raise ValueError(f"state: expected 1, 3 or 4 gates, got weight_ih_l0 of {tuple(first.shape)}")
    n = len([key for key in state if key.startswith("weight_hh_l") and not key.endswith("_reverse")])
    if gates == 3:
        options = {"reset": "after", **options}
    layer = _PLAIN[gates](
        first.shape[1], hidden_size, n, bias="bias_ih_l0" in state, bidirectional="weight_ih_l0_reverse" in state,
        device=first.device, dtype=first.dtype, **options,
    )  # fmt: skip
    layer.load_state_dict(state)
    return layer


def _check_plain(layer):
    if not isinstance(layer, tuple(_PLAIN.values())):
        raise TypeError(f"layer: expected a fastrcn.LSTM, GRU or RNN, got {type(layer).__name__}")
    packing.check_plain_options(layer, {"peephole": None})
    if isinstance(layer, layers.GRU) and layer.cell.reset != "after":
        raise ValueError(f'layer: expected reset="after", torch.nn.GRU has no other, got {layer.cell.reset!r}')


def to_state_dict(layer):
    """The state dict of ``torch.nn``'s layer with the weights of a ``fastrcn.LSTM``, GRU(reset="after") or RNN.

    The one bias becomes the first of two; of the second only what a GRU's candidate has of its own is not zero.
    """
    _check_plain(layer)
    state = {}
    for name, value in layer.state_dict().items():
        if not name.startswith("bias"):
            state[name] = value
            continue
        suffix, rows = name.removeprefix("bias"), value.shape[0]
        own = layer.hidden_size if isinstance(layer, layers.GRU) else 0
        state[f"bias_ih{suffix}"] = value[: rows - own].clone()
        zeros = value.new_zeros(rows - 2 * own)
        state[f"bias_hh{suffix}"] = torch.cat([zeros, value[rows - own :]])
    return state


def from_module(module, **options):
    """A ``fastrcn.LSTM``, GRU(reset="after") or RNN like a ``torch.nn`` layer or one of this file."""
    if type(module) not in (nn.LSTM, nn.GRU, nn.RNN, LSTM, GRU, RNN):
        raise TypeError(f"module: expected a torch.nn.LSTM, GRU or RNN, got {type(module).__name__}")
    options = {"batch_first": module.batch_first, "dropout": module.dropout, **options}
    if isinstance(module, (nn.RNN, RNN)):
        options = {"nonlinearity": module.nonlinearity, **options}
    return from_state_dict(module.state_dict(), **options)
