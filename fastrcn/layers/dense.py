"""LSTM, GRU and RNN: the same cells on vectors, which are 1x1 maps; drop-ins for torch.nn.LSTM, GRU and RNN."""

import torch

from fastrcn import cells
from fastrcn.layers.recurrent import ConvRecurrent


class _Dense(ConvRecurrent):
    """A recurrent layer of vectors: weights (rows, features); loads state dicts of its torch.nn namesake."""

    def __init__(self, cell, input_size, hidden_size, num_layers, **options):
        for name in ("kernel_size", "recurrent_kernel_size", "stride", "dilation", "map_size"):
            if name in options:
                raise TypeError(f"{name}: a layer of vectors has no maps, got {options[name]!r}")
        super().__init__(cell, input_size, hidden_size, 1, num_layers, _maps=False, **options)

    def _merge(self, bias_ih, bias_hh):
        return bias_ih + bias_hh

    def _load_from_state_dict(self, state_dict, prefix, *args):
        # torch.nn's layers hold two biases that are only ever added; this one holds their sum.
        for layer in range(self.num_layers):
            for direction in range(self._directions):
                suffix = self._suffix(layer, direction)
                pair = [f"{prefix}bias_{side}{suffix}" for side in ("ih", "hh")]
                if self.has_bias and self._same_math and all(key in state_dict for key in pair):
                    state_dict[f"{prefix}bias{suffix}"] = self._merge(*(state_dict.pop(key) for key in pair))
        super()._load_from_state_dict(state_dict, prefix, *args)

    @property
    def _same_math(self):
        """Whether torch.nn's layer of the same name computes the same."""
        return True


class LSTM(_Dense):
    """LSTM, drop-in for ``torch.nn.LSTM``; ``peephole="channel"`` gives that of Graves 2013, arXiv 1308.0850.

    Input (T,B,F), (B,T,F) with ``batch_first`` or (T,F); states (h, c), each (layers*directions,B,H). One bias
    ``bias_l0`` (4H,) per layer; state dicts of ``torch.nn.LSTM``, with two, load too.
    """

    def __init__(self, input_size, hidden_size, num_layers=1, *, peephole=None, **options):
        if peephole not in (None, "channel"):
            raise ValueError(f'peephole: expected None or "channel", got {peephole!r}')
        cell = cells.ConvLSTM(peephole is not None)
        super().__init__(cell, input_size, hidden_size, num_layers, peephole=peephole, **options)


class GRU(_Dense):
    """GRU. ``reset="before"`` is Cho et al. 2014, arXiv 1406.1078; "after" equals ``torch.nn.GRU``.

    State dicts of ``torch.nn.GRU`` load into the "after" form.
    Input (T,B,F), (B,T,F) with ``batch_first`` or (T,F); state (layers*directions,B,H).
    """

    def __init__(self, input_size, hidden_size, num_layers=1, *, reset="before", **options):
        super().__init__(cells.ConvGRU(reset), input_size, hidden_size, num_layers, **options)

    @property
    def _same_math(self):
        return self.cell.reset == "after"

    def _merge(self, bias_ih, bias_hh):
        n = 2 * self.hidden_size
        return torch.cat([bias_ih[:n] + bias_hh[:n], bias_ih[n:], bias_hh[n:]])


class RNN(_Dense):
    """RNN, drop-in for ``torch.nn.RNN``, whose state dicts it loads. Input (T,B,F); state (layers*directions,B,H)."""

    def __init__(self, input_size, hidden_size, num_layers=1, *, nonlinearity="tanh", **options):
        super().__init__(cells.ConvRNN(nonlinearity), input_size, hidden_size, num_layers, **options)
