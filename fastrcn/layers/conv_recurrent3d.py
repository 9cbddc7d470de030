"""ConvLSTM, ConvGRU and ConvRNN on volumes (C,D,H,W), and one step of each."""

from fastrcn.layers.kinds import GRULayer, GRUStep, LSTMLayer, LSTMStep, RNNLayer, RNNStep
from fastrcn.layers.recurrent import ConvRecurrent, ConvRecurrentCell


class _Volumes(ConvRecurrent):
    def __init__(self, cell, input_size, hidden_size, kernel_size, num_layers, **options):
        super().__init__(cell, input_size, hidden_size, kernel_size, num_layers, _axes=3, **options)


class _VolumesCell(ConvRecurrentCell):
    def __init__(self, cell, input_size, hidden_size, kernel_size, **options):
        super().__init__(cell, input_size, hidden_size, kernel_size, _axes=3, **options)


class ConvLSTM3d(LSTMLayer, _Volumes):
    """``ConvLSTM`` (Shi et al. 2015, arXiv 1506.04214) on volumes: input (T,B,Cin,D,H,W), states
    (layers*directions,B,C,D',H',W'), weights (4C,Cin,kd,kh,kw) as those of ``torch.nn.Conv3d``. Sizes, stride,
    dilation, padding and ``map_size`` are ints or three of them; all else as ``ConvLSTM``."""


class ConvGRU3d(GRULayer, _Volumes):
    """``ConvGRU`` (Ballas et al. 2016, arXiv 1511.06432) on volumes: input (T,B,Cin,D,H,W), states
    (layers*directions,B,C,D',H',W'), weights (3C,Cin,kd,kh,kw). Sizes, stride, dilation and padding are ints or three
    of them; all else as ``ConvGRU``."""


class ConvRNN3d(RNNLayer, _Volumes):
    """``ConvRNN`` on volumes: input (T,B,Cin,D,H,W), states (layers*directions,B,C,D',H',W'), weights
    (C,Cin,kd,kh,kw). Sizes, stride, dilation and padding are ints or three of them; all else as ``ConvRNN``."""


class ConvLSTM3dCell(LSTMStep, _VolumesCell):
    """One step of ``ConvLSTM3d``: (input (B,Cin,D,H,W) or (Cin,D,H,W), (h, c)) -> (h, c)."""


class ConvGRU3dCell(GRUStep, _VolumesCell):
    """One step of ``ConvGRU3d``: (input (B,Cin,D,H,W) or (Cin,D,H,W), h) -> h."""


class ConvRNN3dCell(RNNStep, _VolumesCell):
    """One step of ``ConvRNN3d``: (input (B,Cin,D,H,W) or (Cin,D,H,W), h) -> h."""
