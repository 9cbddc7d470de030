"""Cells with more gates than those of the package, whose sums take more of a processor."""

from fastrcn.cells import Cell, conv, sigmoid, tanh


def _gates(count, *maps):
    """The sums of as many gates, each over the convolutions of the maps."""
    return [sum(map(conv, maps[1:]), conv(maps[0])) for _ in range(count)]


def _lstm(x, h, c):
    i, f, g, o = _gates(4, x, h)
    c = sigmoid(f) * c + sigmoid(i) * tanh(g)
    return sigmoid(o) * tanh(c), c


class HighwayLSTM(Cell):
    """Five gates: an LSTM's and that of a highway past it."""

    def step(self, x, h, c):
        new, c = _lstm(x, h, c)
        r = sigmoid(conv(x) + conv(h))
        return r * new + (1 - r) * h, c


class STLSTM(Cell):
    """PredRNN's spatio-temporal LSTM: seven gates of the input, to which not all states add."""

    def step(self, x, h, c, m):
        i, f, g = _gates(3, x, h)
        c = sigmoid(f) * c + sigmoid(i) * tanh(g)
        i, f, g = _gates(3, x, m)
        m = sigmoid(f) * m + sigmoid(i) * tanh(g)
        return sigmoid(conv(x) + conv(h) + conv(c) + conv(m)) * tanh(conv(c) + conv(m)), c, m


class TwoLSTMs(Cell):
    """Eight gates."""

    def step(self, x, h, c, d):
        first, c = _lstm(x, h, c)
        second, d = _lstm(x, h, d)
        return first + second, c, d


class FourLSTMs(Cell):
    """Sixteen gates."""

    def step(self, x, h, c, d, e, f):
        first, c = _lstm(x, h, c)
        second, d = _lstm(x, h, d)
        third, e = _lstm(x, h, e)
        fourth, f = _lstm(x, h, f)
        return first + second + third + fourth, c, d, e, f


class TwoLevels(Cell):
    """Twenty gates, ten of which wait for the other ten."""

    def step(self, x, h):
        inner = sum(map(tanh, _gates(10, x, h))) / 10
        return sum(map(tanh, _gates(10, x, inner))) / 10


MANY_GATES = {
    "highway_lstm": HighwayLSTM(),
    "st_lstm": STLSTM(),
    "two_lstms": TwoLSTMs(),
    "four_lstms": FourLSTMs(),
    "two_levels": TwoLevels(),
}
