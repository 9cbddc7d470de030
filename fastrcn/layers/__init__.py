"""Recurrent and convolutional layers as modules."""

from fastrcn.layers.conv import ConvGRU, ConvGRUCell, ConvLSTM, ConvLSTMCell, ConvRNN, ConvRNNCell, StackedConvGRU
from fastrcn.layers.conv1d import ConvGRU1d, ConvLSTM1d, ConvRNN1d
from fastrcn.layers.conv3d import BatchNormReLUPool3d, ConvBNReLUPool3d, ConvReLUPool3d
from fastrcn.layers.conv_recurrent3d import (
    ConvGRU3d,
    ConvGRU3dCell,
    ConvLSTM3d,
    ConvLSTM3dCell,
    ConvRNN3d,
    ConvRNN3dCell,
)
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
    "ConvGRU3d",
    "ConvGRU3dCell",
    "ConvGRUCell",
    "ConvLSTM",
    "ConvLSTM1d",
    "ConvLSTM3d",
    "ConvLSTM3dCell",
    "ConvLSTMCell",
    "ConvRNN",
    "ConvRNN1d",
    "ConvRNN3d",
    "ConvRNN3dCell",
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
