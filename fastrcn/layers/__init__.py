"""Recurrent and convolutional layers as modules."""

from fastrcn.layers.conv import ConvGRU, ConvGRUCell, ConvLSTM, ConvLSTMCell, ConvRNN, ConvRNNCell, StackedConvGRU
from fastrcn.layers.conv1d import ConvGRU1d, ConvLSTM1d, ConvRNN1d
from fastrcn.layers.conv3d import BatchNormReLUPool3d, ConvBNReLUPool3d, ConvReLUPool3d
from fastrcn.layers.dense import GRU, LSTM, RNN, GRUCell, LSTMCell, RNNCell
from fastrcn.layers.markers import run_with_markers
from fastrcn.layers.recurrent import ConvRecurrent, ConvRecurrentCell

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "BatchNormReLUPool3d",
    "ConvBNReLUPool3d",
    "ConvGRU",
    "ConvGRU1d",
    "ConvGRUCell",
    "ConvLSTM",
    "ConvLSTM1d",
    "ConvLSTMCell",
    "ConvRNN",
    "ConvRNN1d",
    "ConvRNNCell",
    "ConvReLUPool3d",
    "ConvRecurrent",
    "ConvRecurrentCell",
    "GRUCell",
    "LSTMCell",
    "RNNCell",
    "StackedConvGRU",
    "run_with_markers",
]
