"""LSTM, GRU and RNN, and one step of each: the same cells on vectors, which are 1x1 maps; drop-ins for torch.nn's."""

import torch

from fastrcn import cells
from fastrcn.layers.lstm import LSTMWeights, check_forget_bias, lstm_cell
from fastrcn.layers.recurrent import ConvRecurrent, ConvRecurrentCell
from fastrcn.layers.weights import Weights


def merge_gru_biases(bias_ih, bias_hh):
    """The bias of the "after" form from torch.nn's two: r, z and n of the input, n of the state."""
    n = bias_ih.shape[0] // 3 * 2
    return torch.cat([bias_ih[:n] + bias_hh[:n], bias_ih[n:], bias_hh[n:]])


class _Dense(Weights):
    """Weights (rows, features) and one bias; loads state dicts of its torch.nn namesake, which has two."""

    def _suffixes(self):
        """Endings of the parameters' names."""
        return [""]

    def _merge(self, bias_ih, bias_hh):
        """The one bias: torch.nn's two are only ever added."""
        return bias_ih + bias_hh

    @property
    def _same_math(self):
        """Whether torch.nn's namesake computes the same."""
        return True

    def _load_from_state_dict(self, state_dict, prefix, *args):
        for suffix in self._suffixes():
            pair = [f"{prefix}bias_{side}{suffix}" for side in ("ih", "hh")]
            if self.has_bias and self._same_math and all(key in state_dict for key in pair):
                state_dict[f"{prefix}bias{suffix}"] = self._merge(*(state_dict.pop(key) for key in pair))
        super()._load_from_state_dict(state_dict, prefix, *args)


def _without_maps(options):
    for name in ("kernel_size", "recurrent_kernel_size", "stride", "dilation", "padding", "map_size"):
        if name in options:
            raise TypeError(f"{name}: a layer of vectors has no maps, got {options[name]!r}")
    return options


class _Layer(_Dense, ConvRecurrent):
    def __init__(self, cell, input_size, hidden_size, num_layers, **options):
        super().__init__(cell, input_size, hidden_size, 1, num_layers, _axes=0, **_without_maps(options))

    def _suffixes(self):
        return [self._suffix(layer, d) for layer in range(self.num_layers) for d in range(self._directions)]


class _Cell(_Dense, ConvRecurrentCell):
    def __init__(self, cell, input_size, hidden_size, **options):
        super().__init__(cell, input_size, hidden_size, 1, _axes=0, **_without_maps(options))


class _GRU(_Dense):
    @property
    def _same_math(self):
        return self.cell.reset == "after"

    def _merge(self, bias_ih, bias_hh):
        return merge_gru_biases(bias_ih, bias_hh)


class LSTM(LSTMWeights, _Layer):
    """LSTM, drop-in for ``torch.nn.LSTM``; ``peephole="channel"`` gives that of Graves 2013, arXiv 1308.0850; "full"
    has matrices in place of its diagonals, blocks of ``weight_hh_l0`` (7H,H): i of h, i of c, f of h, f of c, g of h, o
    of h, o of the new c.

    Input (T,B,F), (B,T,F) with ``batch_first`` or (T,F); states (h, c), each (layers*directions,B,H). One bias
    ``bias_l0`` (4H,) per layer; state dicts of ``torch.nn.LSTM``, with two, load too. ``forget_bias``: a number added
    to the forget gate before its sigmoid whenever the layer runs, beside the learned bias.
    """

    def __init__(self, input_size, hidden_size, num_layers=1, *, peephole=None, forget_bias=0.0, **options):
        cell, peephole = lstm_cell(peephole, ("channel",), "full")
        super().__init__(cell, input_size, hidden_size, num_layers, peephole=peephole, **options)
        self.forget_bias = check_forget_bias(forget_bias)


class GRU(_GRU, _Layer):
    """GRU. ``reset="before"`` is Cho et al. 2014, arXiv 1406.1078; "after" equals ``torch.nn.GRU``.

    State dicts of ``torch.nn.GRU`` load into the "after" form.
    Input (T,B,F), (B,T,F) with ``batch_first`` or (T,F); state (layers*directions,B,H).
    """

    def __init__(self, input_size, hidden_size, num_layers=1, *, reset="before", **options):
        super().__init__(cells.ConvGRU(reset), input_size, hidden_size, num_layers, **options)


class RNN(_Layer):
    """RNN, drop-in for ``torch.nn.RNN``, whose state dicts it loads. Input (T,B,F); state (layers*directions,B,H)."""

    def __init__(self, input_size, hidden_size, num_layers=1, *, nonlinearity="tanh", **options):
        super().__init__(cells.ConvRNN(nonlinearity), input_size, hidden_size, num_layers, **options)


class LSTMCell(LSTMWeights, _Cell):
    """One step of ``LSTM``: (input (B,F) or (F,), (h, c)) -> (h, c). Loads state dicts of ``torch.nn.LSTMCell``."""

    def __init__(self, input_size, hidden_size, *, peephole=None, forget_bias=0.0, **options):
        cell, peephole = lstm_cell(peephole, ("channel",), "full")
        super().__init__(cell, input_size, hidden_size, peephole=peephole, **options)
        self.forget_bias = check_forget_bias(forget_bias)


class GRUCell(_GRU, _Cell):
    """One step of ``GRU``: (input (B,F) or (F,), h) -> h. "after" loads state dicts of ``torch.nn.GRUCell``."""

    def __init__(self, input_size, hidden_size, *, reset="before", **options):
        super().__init__(cells.ConvGRU(reset), input_size, hidden_size, **options)


class RNNCell(_Cell):
    """One step of ``RNN``: (input (B,F) or (F,), h) -> h. Loads state dicts of ``torch.nn.RNNCell``."""

    def __init__(self, input_size, hidden_size, *, nonlinearity="tanh", **options):
        super().__init__(cells.ConvRNN(nonlinearity), input_size, hidden_size, **options)
