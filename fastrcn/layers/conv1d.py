"""ConvLSTM, ConvGRU and ConvRNN on lines of pixels (C,L): maps of height 1, with kernels (1,k)."""

from typing import Any

from fastrcn.layers.kinds import GRULayer, LSTMLayer, RNNLayer
from fastrcn.layers.recurrent import ConvRecurrent

_ACROSS = {"recurrent_kernel_size": 1, "stride": 1, "dilation": 1, "padding": 0, "map_size": 1}
"""What an option of two axes is across the line."""


def _of_maps(value, name) -> Any:
    """An option of lines as that of maps."""
    if value is None or isinstance(value, str):
        return value
    if not isinstance(value, int):
        raise ValueError(f"{name}: expected an int for lines of pixels, got {value!r}")
    return (_ACROSS.get(name, 1), value)


class _Lines(ConvRecurrent):
    def __init__(self, cell, input_size, hidden_size, kernel_size, num_layers, **options):
        of_maps: Any = {name: _of_maps(v, name) if name in _ACROSS else v for name, v in options.items()}
        kernel_size = _of_maps(kernel_size, "kernel_size")
        super().__init__(cell, input_size, hidden_size, kernel_size, num_layers, _axes=1, **of_maps)


class ConvLSTM1d(LSTMLayer, _Lines):
    """``ConvLSTM`` on lines of pixels: input (T,B,C,L), states (layers*directions,B,C,L'), weights (4C,Cin,k) as those
    of ``torch.nn.Conv1d``. Sizes, stride, dilation, padding and ``map_size`` are ints; all else as ``ConvLSTM``."""


class ConvGRU1d(GRULayer, _Lines):
    """``ConvGRU`` on lines of pixels: input (T,B,C,L), states (layers*directions,B,C,L'), weights (3C,Cin,k). Sizes,
    stride, dilation and padding are ints; all else as ``ConvGRU``."""


class ConvRNN1d(RNNLayer, _Lines):
    """``ConvRNN`` on lines of pixels: input (T,B,C,L), states (layers*directions,B,C,L'), weights (C,Cin,k). Sizes,
    stride, dilation and padding are ints; all else as ``ConvRNN``."""
