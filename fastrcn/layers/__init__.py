"""Recurrent layers as modules."""

from fastrcn.layers.conv import ConvGRU, ConvGRUCell, ConvLSTM, ConvLSTMCell, ConvRNN, ConvRNNCell, StackedConvGRU
from fastrcn.layers.dense import GRU, LSTM, RNN
from fastrcn.layers.recurrent import ConvRecurrent, ConvRecurrentCell

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "ConvGRU",
    "ConvGRUCell",
    "ConvLSTM",
    "ConvLSTMCell",
    "ConvRNN",
    "ConvRNNCell",
    "ConvRecurrent",
    "ConvRecurrentCell",
    "StackedConvGRU",
]
