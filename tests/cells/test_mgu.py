"""A cell written outside the package, as a user would, trains at once and on every backend."""

import pytest
import torch
from torch.autograd import gradcheck

import fastrcn
from fastrcn.cells import Cell, conv, sigmoid, tanh
from tests.helpers import loops
from tests.helpers.tolerances import assert_close


class MGU(Cell):
    """Minimal gated unit: Zhou et al. 2016, arXiv 1603.09420."""

    def step(self, x, h):
        f = sigmoid(conv(x) + conv(h))
        n = tanh(conv(x) + conv(f * h))
        return (1 - f) * h + f * n


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_equals_hand_written_loop(backend):
    layer = fastrcn.ConvRecurrent(MGU(), 3, 4, backend=backend).double()
    x = torch.randn(5, 2, 3, 6, 5, dtype=torch.float64)
    p = {n.removesuffix("_l0"): v for n, v in layer.named_parameters()}
    truth, _ = loops.run(loops.mgu_step, p, x, (torch.zeros(2, 4, 6, 5, dtype=torch.float64),))
    output, _ = layer(x)
    assert_close(output, truth)
    found = torch.autograd.grad(output.square().sum(), list(layer.parameters()))
    exact = torch.autograd.grad(truth.square().sum(), list(layer.parameters()))
    for a, b in zip(found, exact, strict=True):
        assert_close(a, b)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_gradcheck(backend):
    layer = fastrcn.ConvRecurrent(MGU(), 2, 2, backend=backend).double()
    x = torch.randn(3, 1, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    h = torch.randn(1, 1, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    names, values = zip(*layer.named_parameters(), strict=True)

    def function(x, h, *values):
        return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (x, h))

    assert gradcheck(function, (x, h, *values))
