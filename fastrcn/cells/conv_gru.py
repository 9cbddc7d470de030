"""ConvGRU: Ballas et al. 2016, https://arxiv.org/abs/1511.06432; the cuDNN form after torch.nn.GRU.

Gates are packed r, z, n as in torch.nn.GRU.
"""

from fastrcn.cells.cell import Cell, bias, conv, sigmoid, tanh


class ConvGRU(Cell):
    """Gated recurrent unit; ``reset`` says where the reset gate acts.

    - "before" (the paper): on the state before its convolution; h' = (1 - z) h + z n.
    - "after" (cuDNN, torch.nn.GRU): on the convolved state, which has a bias of its own; h' = (1 - z) n + z h.
    """

    reset: str

    def __init__(self, reset="before"):
        if reset not in ("before", "after"):
            raise ValueError(f'reset: expected "before" or "after", got {reset!r}')
        super().__init__(reset=reset)

    def step(self, x, h):
        r = sigmoid(conv(x) + conv(h))
        z = sigmoid(conv(x) + conv(h))
        if self.reset == "after":
            n = tanh(conv(x) + r * (conv(h) + bias()))
            return (1 - z) * n + z * h
        n = tanh(conv(x) + conv(r * h))
        return (1 - z) * h + z * n
