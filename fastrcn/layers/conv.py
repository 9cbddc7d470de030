"""ConvLSTM, ConvGRU, ConvRNN and the stacked ConvGRU as layers, and the first three as cells of one step."""

from fastrcn import cells
from fastrcn.layers.kinds import GRULayer, GRUStep, LSTMLayer, LSTMStep, RNNLayer, RNNStep
from fastrcn.layers.recurrent import ConvRecurrent


class ConvLSTM(LSTMLayer):
    """ConvLSTM (Shi et al. 2015, arXiv 1506.04214), gates packed i, f, g, o; states (h, c).

    ``peephole``: None, "channel" (one weight per channel, the published models'), "full" (a map; needs ``map_size``) or
    "conv" (a convolution of c, whose weights are blocks of ``weight_hh_l0`` (7C,C,kh,kw): i of h, i of c, f of h, f of
    c, g of h, o of h, o of the new c; on the CPU its stages are PyTorch code until ``fastrcn.compile_cell``).
    ``forget_bias``: a number added to the forget gate before its sigmoid whenever the layer runs, beside the learned
    bias (flax adds 1). All other arguments, shapes and errors as ``ConvRecurrent``.
    """


class ConvGRU(GRULayer):
    """ConvGRU (Ballas et al. 2016, arXiv 1511.06432), gates packed r, z, n; state h.

    ``reset``: "before" (the paper: on the state, before its convolution; h' = (1-z) h + z n) or "after" (cuDNN: on the
    convolved state, which has a bias of its own; h' = (1-z) n + z h). All other arguments, shapes and errors as
    ``ConvRecurrent``.
    """


class ConvRNN(RNNLayer):
    """ConvRNN, h' = tanh(Wx + Uh + b), or relu by ``nonlinearity``; state h.

    All other arguments, shapes and errors as ``ConvRecurrent``.
    """


class StackedConvGRU(ConvRecurrent):
    """One level of the stacked ConvGRU (Ballas et al. 2016, section 3.2): its gates also see the level below.

    ``input_size`` is (channels of x, channels of the level below); the input is the tuple (x, below), both
    (T,B,C,H,W) with the same map: pool the level below to it first. ``bottom_up_in_candidate`` adds the term to the
    candidate too.
    """

    def __init__(self, input_size, hidden_size, kernel_size=3, *, bottom_up_in_candidate=False, **options):
        cell = cells.StackedConvGRU(bottom_up_in_candidate)
        super().__init__(cell, input_size, hidden_size, kernel_size, **options)


class ConvLSTMCell(LSTMStep):
    """One step of ``ConvLSTM``: (input, (h, c)) -> (h, c)."""


class ConvGRUCell(GRUStep):
    """One step of ``ConvGRU``: (input, h) -> h."""


class ConvRNNCell(RNNStep):
    """One step of ``ConvRNN``: (input, h) -> h."""
