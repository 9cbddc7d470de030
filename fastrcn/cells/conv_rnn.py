"""ConvRNN: the recurrent convolutional network of J. Johnson's video lecture (after Ballas et al. 2016).

h_t = tanh(W_x * x_t + W_h * h_{t-1} + b)
"""

from fastrcn.cells.cell import Cell, conv, relu, tanh


class ConvRNN(Cell):
    """h' = tanh(Wx + Uh + b); ``nonlinearity`` is "tanh" or "relu"."""

    nonlinearity: str

    def __init__(self, nonlinearity="tanh"):
        if nonlinearity not in ("tanh", "relu"):
            raise ValueError(f'nonlinearity: expected "tanh" or "relu", got {nonlinearity!r}')
        super().__init__(nonlinearity=nonlinearity)

    def step(self, x, h):
        f = {"tanh": tanh, "relu": relu}[self.nonlinearity]
        return f(conv(x) + conv(h))
