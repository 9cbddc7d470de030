"""What the layers of each cell take, and its cells of one step: the same for lines, maps and volumes."""

from fastrcn import cells
from fastrcn.layers.lstm import LSTMWeights, check_forget_bias, lstm_cell
from fastrcn.layers.recurrent import ConvRecurrent, ConvRecurrentCell


class LSTMLayer(LSTMWeights, ConvRecurrent):
    """The constructor of ConvLSTMs."""

    def __init__(
        self, input_size, hidden_size, kernel_size=3, num_layers=1, *, peephole=None, forget_bias=0.0, **options
    ):
        cell, peephole = lstm_cell(peephole, ("channel", "full"), "conv")
        super().__init__(cell, input_size, hidden_size, kernel_size, num_layers, peephole=peephole, **options)
        self.forget_bias = check_forget_bias(forget_bias)


class GRULayer(ConvRecurrent):
    """The constructor of ConvGRUs."""

    def __init__(self, input_size, hidden_size, kernel_size=3, num_layers=1, *, reset="before", **options):
        super().__init__(cells.ConvGRU(reset), input_size, hidden_size, kernel_size, num_layers, **options)


class RNNLayer(ConvRecurrent):
    """The constructor of ConvRNNs."""

    def __init__(self, input_size, hidden_size, kernel_size=3, num_layers=1, *, nonlinearity="tanh", **options):
        super().__init__(cells.ConvRNN(nonlinearity), input_size, hidden_size, kernel_size, num_layers, **options)


class LSTMStep(LSTMWeights, ConvRecurrentCell):
    """The constructor of one step of ConvLSTMs."""

    def __init__(self, input_size, hidden_size, kernel_size=3, *, peephole=None, forget_bias=0.0, **options):
        cell, peephole = lstm_cell(peephole, ("channel", "full"), "conv")
        super().__init__(cell, input_size, hidden_size, kernel_size, peephole=peephole, **options)
        self.forget_bias = check_forget_bias(forget_bias)


class GRUStep(ConvRecurrentCell):
    """The constructor of one step of ConvGRUs."""

    def __init__(self, input_size, hidden_size, kernel_size=3, *, reset="before", **options):
        super().__init__(cells.ConvGRU(reset), input_size, hidden_size, kernel_size, **options)


class RNNStep(ConvRecurrentCell):
    """The constructor of one step of ConvRNNs."""

    def __init__(self, input_size, hidden_size, kernel_size=3, *, nonlinearity="tanh", **options):
        super().__init__(cells.ConvRNN(nonlinearity), input_size, hidden_size, kernel_size, **options)
