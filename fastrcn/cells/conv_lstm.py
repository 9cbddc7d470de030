"""ConvLSTM: Shi et al. 2015, https://arxiv.org/abs/1506.04214; peepholes after Graves, https://arxiv.org/abs/1308.0850.

Gates are packed i, f, g, o as in torch.nn.LSTM; peepholes i, f, o. The output gate's peephole reads the new c.
"""

from fastrcn.cells.cell import Cell, conv, peephole, sigmoid, tanh


class ConvLSTM(Cell):
    """The ConvLSTM of Shi et al.; with ``peephole`` the gates also see the cell state."""

    peephole: bool

    def __init__(self, peephole=False):
        super().__init__(peephole=bool(peephole))

    def step(self, x, h, c):
        look = peephole if self.peephole else lambda state: 0
        i = sigmoid(conv(x) + conv(h) + look(c))
        f = sigmoid(conv(x) + conv(h) + look(c))
        g = tanh(conv(x) + conv(h))
        c = f * c + i * g
        o = sigmoid(conv(x) + conv(h) + look(c))
        return o * tanh(c), c
