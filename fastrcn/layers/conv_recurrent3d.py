"""ConvLSTM, ConvGRU and ConvRNN on volumes (C,D,H,W), and one step of each."""

from fastrcn import cells
from fastrcn.layers.lstm import LSTMWeights, check_forget_bias, lstm_cell
from fastrcn.layers.recurrent import ConvRecurrent, ConvRecurrentCell


class _Volumes(ConvRecurrent):
    def __init__(self, cell, input_size, hidden_size, kernel_size, num_layers, **options):
        super().__init__(cell, input_size, hidden_size, kernel_size, num_layers, _axes=3, **options)


class _VolumesCell(ConvRecurrentCell):
    def __init__(self, cell, input_size, hidden_size, kernel_size, **options):
        super().__init__(cell, input_size, hidden_size, kernel_size, _axes=3, **options)


class ConvLSTM3d(LSTMWeights, _Volumes):
    """``ConvLSTM`` (Shi et al. 2015, arXiv 1506.04214) on volumes: input (T,B,Cin,D,H,W), states
    (layers*directions,B,C,D',H',W'), weights (4C,Cin,kd,kh,kw) as those of ``torch.nn.Conv3d``. Sizes, stride,
    dilation, padding and ``map_size`` are ints or three of them; all else as ``ConvLSTM``."""

    def __init__(
        self, input_size, hidden_size, kernel_size=3, num_layers=1, *, peephole=None, forget_bias=0.0, **options
    ):
        cell, peephole = lstm_cell(peephole, ("channel", "full"), "conv")
        super().__init__(cell, input_size, hidden_size, kernel_size, num_layers, peephole=peephole, **options)
        self.forget_bias = check_forget_bias(forget_bias)


class ConvGRU3d(_Volumes):
    """``ConvGRU`` (Ballas et al. 2016, arXiv 1511.06432) on volumes: input (T,B,Cin,D,H,W), states
    (layers*directions,B,C,D',H',W'), weights (3C,Cin,kd,kh,kw). Sizes, stride, dilation and padding are ints or three
    of them; all else as ``ConvGRU``."""

    def __init__(self, input_size, hidden_size, kernel_size=3, num_layers=1, *, reset="before", **options):
        super().__init__(cells.ConvGRU(reset), input_size, hidden_size, kernel_size, num_layers, **options)


class ConvRNN3d(_Volumes):
    """``ConvRNN`` on volumes: input (T,B,Cin,D,H,W), states (layers*directions,B,C,D',H',W'), weights
    (C,Cin,kd,kh,kw). Sizes, stride, dilation and padding are ints or three of them; all else as ``ConvRNN``."""

    def __init__(self, input_size, hidden_size, kernel_size=3, num_layers=1, *, nonlinearity="tanh", **options):
        super().__init__(cells.ConvRNN(nonlinearity), input_size, hidden_size, kernel_size, num_layers, **options)


class ConvLSTM3dCell(LSTMWeights, _VolumesCell):
    """One step of ``ConvLSTM3d``: (input (B,Cin,D,H,W) or (Cin,D,H,W), (h, c)) -> (h, c)."""

    def __init__(self, input_size, hidden_size, kernel_size=3, *, peephole=None, forget_bias=0.0, **options):
        cell, peephole = lstm_cell(peephole, ("channel", "full"), "conv")
        super().__init__(cell, input_size, hidden_size, kernel_size, peephole=peephole, **options)
        self.forget_bias = check_forget_bias(forget_bias)


class ConvGRU3dCell(_VolumesCell):
    """One step of ``ConvGRU3d``: (input (B,Cin,D,H,W) or (Cin,D,H,W), h) -> h."""

    def __init__(self, input_size, hidden_size, kernel_size=3, *, reset="before", **options):
        super().__init__(cells.ConvGRU(reset), input_size, hidden_size, kernel_size, **options)


class ConvRNN3dCell(_VolumesCell):
    """One step of ``ConvRNN3d``: (input (B,Cin,D,H,W) or (Cin,D,H,W), h) -> h."""

    def __init__(self, input_size, hidden_size, kernel_size=3, *, nonlinearity="tanh", **options):
        super().__init__(cells.ConvRNN(nonlinearity), input_size, hidden_size, kernel_size, **options)
