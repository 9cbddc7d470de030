"""fastrcn: fused recurrent convolutional layers for PyTorch."""

from fastrcn import backends, cells, functional
from fastrcn._version import __version__
from fastrcn.backends import use_backend
from fastrcn.layers import (
    GRU,
    LSTM,
    RNN,
    ConvGRU,
    ConvGRUCell,
    ConvLSTM,
    ConvLSTMCell,
    ConvRecurrent,
    ConvRecurrentCell,
    ConvRNN,
    ConvRNNCell,
    StackedConvGRU,
)
from fastrcn.memory import empty_cache
from fastrcn.ops.conv_recurrent.input_schedule import use_schedule

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
    "__version__",
    "backends",
    "cells",
    "empty_cache",
    "functional",
    "use_backend",
    "use_schedule",
]
