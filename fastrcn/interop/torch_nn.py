"""LSTM, GRU and RNN of torch.nn, and one step of each: two biases, of which the second is added to the first.

``torch.nn.GRU`` is the form that resets after the product with the state.

A call is computed by the fused operation where that was the faster one in measurements on CPUs in float32 (``python -m
benchmarks vectors``, benchmarks/results), else by torch.nn's own code. The fused operation takes sequences of a GRU of
at least 64 steps, 32 where gradients may be asked for; of an RNN of 128 and 64; and single steps of an LSTM with at
least 512 units. ``fastrcn.use_backend`` asks for it whatever the sizes; compiled, exported and under autocast it always
runs.

Layers with ``proj_size`` always run torch.nn's own code. The projected state is a convolution after the last stage,
read by the next step's convolutions and of other channels than c: the cells' equations have no such state. To merge the
projection into the recurrent weights would be the same sum, but 4 H H products a step in place of 5 H P.
"""

from typing import Any

import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from fastrcn import cells, layers
from fastrcn.interop import packing, torch_choice
from fastrcn.layers.dense import merge_gru_biases
from fastrcn.layers.recurrent import ConvRecurrent, ConvRecurrentCell
from fastrcn.layers.state_noise import StateNoise
from fastrcn.ops.autograd import tracked

_BIASES = ("bias_ih", "bias_hh")


def _built_in(kind, **options):
    """The cell that the package was built with; its key is known, which a compiler could not trace."""
    return next(c for c in cells.BUILT_IN if isinstance(c, kind) and c.options == options)


def _without_noise(cell):
    return StateNoise(cell, 0.0, 0.0, 0.0)


class _Vectors:
    """What the recurrent layers here need beyond the attributes of ``torch.nn``'s: fixed, so that their objects can
    become one of these. Not a subclass of ``torch.nn.LSTM``, GRU or RNN, which ``torch.compile`` refuses."""

    axes, kernel_size, stride, dilation, padding = 0, (1, 1), (1, 1), (1, 1), "same"
    recompute, backend = False, None
    cell: Any
    bias: Any
    _own: Any
    """torch.nn's class."""

    def _merge(self, bias_ih, bias_hh):
        return bias_ih + bias_hh

    def _arguments(self, suffix) -> Any:
        weight_ih, weight_hh = (getattr(self, f"weight_{side}{suffix}")[:, :, None, None] for side in ("ih", "hh"))
        bias = self._merge(*(getattr(self, name + suffix) for name in _BIASES)) if self.bias else None
        return (weight_ih,), weight_hh, bias, None


class _Layer(_Vectors, ConvRecurrent, nn.RNNBase):
    """The parameters and constructor of ``torch.nn``'s layers, run as the recurrent layers here are."""

    reset_parameters: Any = nn.RNNBase.reset_parameters
    extra_repr: Any = nn.RNNBase.extra_repr
    _mode: str

    def __init__(self, *args, **kwargs):
        nn.RNNBase.__init__(self, self._mode, *args, **kwargs)

    def _fits(self, input, hx):
        """Whether the shapes are right; where they are not, the fused operation's errors say what is wrong."""
        x = input.data if isinstance(input, PackedSequence) else input
        packed = x is not input
        if not isinstance(x, torch.Tensor) or x.dim() not in ((2,) if packed else (2, 3)) or not x.numel():
            return False
        if hx is not None:
            states = (hx,) if isinstance(hx, torch.Tensor) else tuple(hx)
            unbatched = not packed and x.dim() == 2
            batch = int(input.batch_sizes[0]) if packed else x.shape[0 if self.batch_first else 1]
            shape = (self.num_layers * self._directions, *(() if unbatched else (batch,)), self.hidden_size)
            if len(states) != len(self.cell.states) or any(tuple(s.shape) != shape for s in states):
                return False
        return x.shape[-1] == self.input_size

    def _is_fused(self, input, hx):
        """Whether the fused operation computes a call."""
        if self.proj_size:
            return False
        weights: Any = self._flat_weights
        if torch_choice.is_needed(weights[0].device.type) or not self._fits(input, hx):
            return True
        if isinstance(input, PackedSequence):
            x, steps = input.data, len(input.batch_sizes)
        else:
            x, steps = input, input.shape[1 if self.batch_first and input.dim() == 3 else 0]
        states = () if hx is None else (hx,) if isinstance(hx, torch.Tensor) else hx
        return torch_choice.is_faster(self._own, self.hidden_size, steps, weights[0], tracked((x, *states, *weights)))

    def forward(self, input, hx=None) -> Any:
        """As the layer of ``torch.nn``, for tensors and for packed sequences."""
        if not self._is_fused(input, hx):
            return self._own.forward(self, input, hx)
        if not isinstance(input, PackedSequence):
            return super().forward(input, hx)
        padded, lengths = pad_packed_sequence(input, self.batch_first)
        output, last = super().forward(padded, hx, lengths=lengths)
        order = input.sorted_indices
        if order is not None:
            output, lengths = output.index_select(0 if self.batch_first else 1, order), lengths[order.cpu()]
        data = pack_padded_sequence(output, lengths, self.batch_first).data
        return PackedSequence(data, input.batch_sizes, order, input.unsorted_indices), last


class _Cell(_Vectors, ConvRecurrentCell, nn.RNNCellBase):
    """The parameters and constructor of ``torch.nn``'s cells."""

    reset_parameters: Any = nn.RNNCellBase.reset_parameters
    extra_repr: Any = nn.RNNCellBase.extra_repr
    _gates: int

    def __init__(self, input_size, hidden_size, bias=True, device=None, dtype=None):
        nn.RNNCellBase.__init__(self, input_size, hidden_size, bias, self._gates, device, dtype)

    def forward(self, input, hx=None) -> Any:
        """As the cell of ``torch.nn``."""
        return super().forward(input, hx) if torch_choice.is_asked_for() else self._own.forward(self, input, hx)


class _OfLSTM:
    cell = _built_in(cells.ConvLSTM, peephole=False)
    _noise = _without_noise(cell)


class _OfGRU:
    cell = _built_in(cells.ConvGRU, reset="after")
    _noise = _without_noise(cell)

    def _merge(self, bias_ih, bias_hh):
        return merge_gru_biases(bias_ih, bias_hh)


class _OfRNN:
    _CELLS = {name: _built_in(cells.ConvRNN, nonlinearity=name) for name in ("tanh", "relu")}  # noqa: RUF012
    _NOISES = {name: _without_noise(cell) for name, cell in _CELLS.items()}  # noqa: RUF012
    nonlinearity: str

    @property
    def cell(self) -> Any:
        return self._CELLS[self.nonlinearity]

    @property
    def _noise(self) -> Any:
        return self._NOISES[self.nonlinearity]

    def _check_nonlinearity(self, nonlinearity):
        if nonlinearity not in self._CELLS:
            raise ValueError(f'nonlinearity: expected "tanh" or "relu", got {nonlinearity!r}')


class LSTM(_OfLSTM, _Layer):
    """``torch.nn.LSTM``: the same arguments, parameters and results; see the module for what computes a call."""

    _own, _mode = nn.LSTM, "LSTM"
    check_forward_args: Any = nn.LSTM.check_forward_args
    get_expected_cell_size: Any = nn.LSTM.get_expected_cell_size
    permute_hidden: Any = nn.LSTM.permute_hidden


class GRU(_OfGRU, _Layer):
    """``torch.nn.GRU``: the same arguments, parameters and results; see the module for what computes a call."""

    _own, _mode = nn.GRU, "GRU"

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if self.proj_size:
            raise ValueError(f"proj_size: expected 0, as torch.nn.GRU does, got {self.proj_size}")


class RNN(_OfRNN, _Layer):
    """``torch.nn.RNN``: the same arguments, parameters and results; see the module for what computes a call."""

    _own = nn.RNN

    def __init__(self, input_size, hidden_size, num_layers=1, nonlinearity="tanh", *args, **kwargs):
        self._check_nonlinearity(nonlinearity)
        nn.RNNBase.__init__(self, f"RNN_{nonlinearity.upper()}", input_size, hidden_size, num_layers, *args, **kwargs)
        if self.proj_size:
            raise ValueError(f"proj_size: expected 0, as torch.nn.RNN does, got {self.proj_size}")
        self.nonlinearity = nonlinearity


class LSTMCell(_OfLSTM, _Cell):
    """``torch.nn.LSTMCell``: the same arguments, parameters and results, by its own code unless a backend is asked for
    by name: on CPUs the fused operation makes a single step at 0.1 to 1.0 of that speed."""

    _own, _gates = nn.LSTMCell, 4


class GRUCell(_OfGRU, _Cell):
    """``torch.nn.GRUCell``, computed as ``LSTMCell`` is."""

    _own, _gates = nn.GRUCell, 3


class RNNCell(_OfRNN, _Cell):
    """``torch.nn.RNNCell``, computed as ``LSTMCell`` is."""

    _own, _gates = nn.RNNCell, 1

    def __init__(self, input_size, hidden_size, bias=True, nonlinearity="tanh", device=None, dtype=None):
        self._check_nonlinearity(nonlinearity)
        super().__init__(input_size, hidden_size, bias, device, dtype)
        self.nonlinearity = nonlinearity


_PLAIN = {4: (layers.LSTM, layers.LSTMCell), 3: (layers.GRU, layers.GRUCell), 1: (layers.RNN, layers.RNNCell)}
"""The plain layers and cells, by the number of their gates."""


def from_state_dict(state, **options):
    """A ``fastrcn.LSTM``, GRU(reset="after") or RNN with the weights of a state dict of ``torch.nn``'s layers; of its
    cells, a ``fastrcn.LSTMCell``, GRUCell(reset="after") or RNNCell.

    Which one, the shapes tell; options as for that layer: ``batch_first``, ``dropout``, an RNN's ``nonlinearity``, ...
    Raises ValueError for a state dict with projections (``proj_size``).
    """
    projections = [key for key in state if key.startswith("weight_hr")]
    if projections:
        raise ValueError(f"state: expected no projections (proj_size), which are missing here, got {projections}")
    is_cell = "weight_ih" in state
    suffix = "" if is_cell else "_l0"
    first = packing.take(state, f"weight_ih{suffix}")
    hidden_size = packing.take(state, f"weight_hh{suffix}").shape[1]
    gates = first.shape[0] // hidden_size
    if gates not in _PLAIN:
        raise ValueError(f"state: expected 1, 3 or 4 gates, got weight_ih{suffix} of {tuple(first.shape)}")
    if gates == 3:
        options = {"reset": "after", **options}
    options |= {"bias": f"bias_ih{suffix}" in state, "device": first.device, "dtype": first.dtype}
    if not is_cell:
        n = len([key for key in state if key.startswith("weight_hh_l") and not key.endswith("_reverse")])
        options |= {"num_layers": n, "bidirectional": "weight_ih_l0_reverse" in state}
    layer = _PLAIN[gates][is_cell](first.shape[1], hidden_size, **options)
    layer.load_state_dict(state)
    return layer


def _check_plain(layer):
    if not isinstance(layer, sum(_PLAIN.values(), ())):
        raise TypeError(f"layer: expected a fastrcn.LSTM, GRU or RNN, or one's cell, got {type(layer).__name__}")
    packing.check_plain_options(layer, {"peephole": None})
    if isinstance(layer, _PLAIN[3]) and layer.cell.reset != "after":
        raise ValueError(f'layer: expected reset="after", torch.nn.GRU has no other, got {layer.cell.reset!r}')


def to_state_dict(layer):
    """The state dict of ``torch.nn``'s layer or cell with the weights of a ``fastrcn.LSTM``, GRU(reset="after") or RNN,
    or of a cell of these.

    The one bias becomes the first of two; of the second only what a GRU's candidate has of its own is not zero.
    """
    _check_plain(layer)
    state = {}
    for name, value in layer.state_dict().items():
        if not name.startswith("bias"):
            state[name] = value
            continue
        suffix, rows = name.removeprefix("bias"), value.shape[0]
        own = layer.hidden_size if isinstance(layer, _PLAIN[3]) else 0
        state[f"bias_ih{suffix}"] = value[: rows - own].clone()
        zeros = value.new_zeros(rows - 2 * own)
        state[f"bias_hh{suffix}"] = torch.cat([zeros, value[rows - own :]])
    return state


def from_module(module, **options):
    """A ``fastrcn.LSTM``, GRU(reset="after") or RNN like a ``torch.nn`` layer or one of this file; or one's cell."""
    kinds = (LSTM, GRU, RNN, LSTMCell, GRUCell, RNNCell)
    if type(module) not in (*kinds, *(kind._own for kind in kinds)):
        raise TypeError(f"module: expected a torch.nn.LSTM, GRU or RNN, or one's cell, got {type(module).__name__}")
    if isinstance(module, nn.RNNBase):
        options = {"batch_first": module.batch_first, "dropout": module.dropout, **options}
    if isinstance(module, (nn.RNN, nn.RNNCell, RNN, RNNCell)):
        options = {"nonlinearity": module.nonlinearity, **options}
    return from_state_dict(module.state_dict(), **options)
