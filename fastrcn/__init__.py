"""fastrcn: fused layers for video models in PyTorch: recurrent convolution, 3-D convolution with pooling."""

from fastrcn import backends, cells, functional, interop
from fastrcn._version import __version__
from fastrcn.backends import use_backend
from fastrcn.compile_cell import compile_cell
from fastrcn.convert import convert
from fastrcn.fuse import fuse
from fastrcn.layers import (
    GRU,
    LSTM,
    RNN,
    BatchNormReLUPool3d,
    ConvBNReLUPool3d,
    ConvGRU,
    ConvGRU1d,
    ConvGRU3d,
    ConvGRU3dCell,
    ConvGRUCell,
    ConvLSTM,
    ConvLSTM1d,
    ConvLSTM3d,
    ConvLSTM3dCell,
    ConvLSTMCell,
    ConvRecurrent,
    ConvRecurrentCell,
    ConvReLUPool3d,
    ConvRNN,
    ConvRNN1d,
    ConvRNN3d,
    ConvRNN3dCell,
    ConvRNNCell,
    GRUCell,
    LSTMCell,
    RNNCell,
    StackedConvGRU,
)
from fastrcn.memory import empty_cache
from fastrcn.ops.autotune import use_autotune
from fastrcn.ops.conv_recurrent.cuda_method import use_method as use_cuda_method
from fastrcn.ops.conv_recurrent.directions import use_directions
from fastrcn.ops.conv_recurrent.input_schedule import use_schedule
from fastrcn.ops.conv_recurrent.triton_time_loop import use_time_loop
from fastrcn.ops.convolution.winograd import use_cpu_convolution

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
    "__version__",
    "backends",
    "cells",
    "compile_cell",
    "convert",
    "empty_cache",
    "functional",
    "fuse",
    "interop",
    "use_autotune",
    "use_backend",
    "use_cpu_convolution",
    "use_cuda_method",
    "use_directions",
    "use_schedule",
    "use_time_loop",
]
