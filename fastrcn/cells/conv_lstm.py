"""ConvLSTM: Shi et al. 2015, https://arxiv.org/abs/1506.04214; peepholes after Graves, https://arxiv.org/abs/1308.0850.

Gates are packed i, f, g, o as in torch.nn.LSTM; peepholes i, f, o. The output gate's peephole reads the new c.
Peepholes that are convolutions are blocks of the recurrent weight: i of h, i of c, f of h, f of c, g of h, o of h, o of
the new c.
"""

from typing import Any

from fastrcn.cells.cell import Cell, conv, peephole, relu, sigmoid, tanh


class ConvLSTM(Cell):
    """The ConvLSTM of Shi et al.; with ``peephole`` the gates also see the cell state: True, times a weight for each
    channel or pixel, or "conv", through a convolution."""

    peephole: bool | str

    def __init__(self, peephole: bool | str = False):
        super().__init__(peephole=peephole if peephole == "conv" else bool(peephole))

    def step(self, x, h, c):
        look: Any = {"conv": conv, True: peephole, False: lambda state: 0}[self.peephole]
        i = self.gate(conv(x) + conv(h) + look(c))
        f = self.gate(conv(x) + conv(h) + look(c))
        g = tanh(conv(x) + conv(h))
        c = f * c + i * g
        o = self.gate(conv(x) + conv(h) + look(c))
        return o * tanh(c), c

    def gate(self, x) -> Any:
        """What makes gates of the sums."""
        return sigmoid(x)


class HardSigmoidConvLSTM(ConvLSTM):
    """ConvLSTM whose gates are 0 to 1 along a line: ``slope * x + 0.5``, cut off at both ends; the ``hard_sigmoid`` of
    Keras 2 with slope 0.2, of Keras 3 with 1/6. Without peepholes."""

    peephole = False
    slope: float

    def __init__(self, slope):
        Cell.__init__(self, slope=float(slope))

    def gate(self, x):
        line = self.slope * x
        return relu(line + 0.5) - relu(line - 0.5)
