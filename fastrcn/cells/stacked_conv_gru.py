"""Stacked ConvGRU: Ballas et al. 2016, section 3.2, https://arxiv.org/abs/1511.06432.

The gates of a level also see the level below, at the same step. The paper's candidate does not.
"""

from fastrcn.cells.cell import Cell, conv, sigmoid, tanh


class StackedConvGRU(Cell):
    """ConvGRU with a bottom-up term in the gates and, by option, in the candidate."""

    inputs = ("x", "below")

    bottom_up_in_candidate: bool

    def __init__(self, bottom_up_in_candidate=False):
        super().__init__(bottom_up_in_candidate=bool(bottom_up_in_candidate))

    def step(self, x, below, h):
        r = sigmoid(conv(x) + conv(below) + conv(h))
        z = sigmoid(conv(x) + conv(below) + conv(h))
        up = conv(below) if self.bottom_up_in_candidate else 0
        n = tanh(conv(x) + up + conv(r * h))
        return (1 - z) * h + z * n
