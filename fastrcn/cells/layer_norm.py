"""Layer normalisation of a cell's convolutions, as a cell around a cell: Ba et al. 2016, https://arxiv.org/abs/1607.06450.

As in their LSTM and GRU the input's convolution and the state's are normalised apart from each other.
"""

from fastrcn.cells.around import Around
from fastrcn.compiler.trace import record


class LayerNorm(Around):
    """Every convolution of ``cell`` is normalised (see ``norm``): those of the input together, over their gates,
    channels and the map of an image, and those of each operand made of states likewise.

    The learned factors follow the peepholes in ``weight_ch``: one block for each block of the inputs' weights, then one
    for each of the recurrent weight.
    """

    eps: float

    def __init__(self, cell, eps=1e-5):
        super().__init__(cell=cell, eps=eps)

    def step(self, *operands):
        with record().normalizing(self.eps):
            return self.cell.step(*operands)
