"""What all layers of the LSTM share: their cell's peepholes, and a number added to the forget gate.

The number is added when the layer runs, as flax does; Jozefowicz et al. 2015 found 1 to help.
"""

import math

import torch.nn.functional as F

from fastrcn import cells
from fastrcn.layers.weights import Weights


def lstm_cell(peephole, elementwise, whole):
    """(the cell, its option ``peephole`` of ``Weights``); ``elementwise``: names of peepholes that multiply, ``whole``:
    the name of those that are convolutions or, of vectors, matrices."""
    if peephole == whole:
        return cells.ConvLSTM("conv"), None
    if peephole not in (None, *elementwise):
        names = ", ".join(f'"{name}"' for name in elementwise)
        raise ValueError(f'peephole: expected None, {names} or "{whole}", got {peephole!r}')
    return cells.ConvLSTM(peephole is not None), peephole


def check_forget_bias(value):
    """The offset as a float, if it is a finite number."""
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not math.isfinite(value):
        raise ValueError(f"forget_bias: expected a finite number, got {value!r}")
    return float(value)


class LSTMWeights(Weights):
    """A layer with gates packed i, f, g, o whose bias reaches the operator with ``forget_bias`` added to that of f.

    The offset is no parameter: ``state_dict`` does not have it, and it is there with ``bias=False`` too.
    """

    forget_bias = 0.0

    def _arguments(self, suffix):
        weight_ih, weight_hh, bias, weight_ch = super()._arguments(suffix)
        if self.forget_bias:
            n = self.hidden_size
            offset = F.pad(weight_hh.new_full((n,), self.forget_bias), (n, 2 * n))
            bias = offset if bias is None else bias + offset.view(-1, *(1 for _ in bias.shape[1:]))
        return weight_ih, weight_hh, bias, weight_ch

    def extra_repr(self):
        text = super().extra_repr()
        if self.cell.peephole == "conv":
            text += f', peephole="{"conv" if self.axes else "full"}"'
        return text + (f", forget_bias={self.forget_bias}" if self.forget_bias else "")
