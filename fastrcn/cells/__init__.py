"""Recurrent cells, each written once as its equations. A new cell is a subclass of ``Cell`` with a ``step``."""

from fastrcn.cells.cell import Cell, bias, conv, exp, mask, norm, peephole, relu, sigmoid, tanh
from fastrcn.cells.conv_gru import ConvGRU
from fastrcn.cells.conv_lstm import ConvLSTM, HardSigmoidConvLSTM
from fastrcn.cells.conv_rnn import ConvRNN
from fastrcn.cells.layer_norm import LayerNorm
from fastrcn.cells.noise import RecurrentDropout, Zoneout
from fastrcn.cells.stacked_conv_gru import StackedConvGRU

BUILT_IN = (
    ConvRNN("tanh"),
    ConvRNN("relu"),
    ConvLSTM(),
    ConvLSTM(peephole=True),
    ConvGRU("before"),
    ConvGRU("after"),
    StackedConvGRU(False),
    StackedConvGRU(True),
    LayerNorm(ConvLSTM()),
    LayerNorm(ConvLSTM(peephole=True)),
    LayerNorm(ConvGRU("before")),
    LayerNorm(ConvGRU("after")),
    LayerNorm(ConvRNN("tanh")),
)
"""The cells whose C++ code is emitted when the package is built."""

__all__ = [
    "BUILT_IN",
    "Cell",
    "ConvGRU",
    "ConvLSTM",
    "ConvRNN",
    "HardSigmoidConvLSTM",
    "LayerNorm",
    "RecurrentDropout",
    "StackedConvGRU",
    "Zoneout",
    "bias",
    "conv",
    "exp",
    "mask",
    "norm",
    "peephole",
    "relu",
    "sigmoid",
    "tanh",
]
