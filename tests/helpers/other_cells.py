"""Cells as a user would write them, with schedules unlike those of the package's own."""

import torch

from fastrcn.cells import Cell, conv, relu, sigmoid, tanh
from fastrcn.compiler.schedule import schedule_of
from fastrcn.functional import conv_recurrent
from tests.helpers.tolerances import assert_close


class TwoMaps(Cell):
    """Both states are convolved, so without a backward one is overwritten in place while its neighbours are read."""

    def step(self, x, h, s):
        n = sigmoid(conv(x) + conv(h) + conv(s))
        s = n * s + (1 - n) * tanh(conv(x) + conv(s))
        return n * tanh(s), s


class StageFirst(Cell):
    """Begins with a stage: there is nothing to join across the end of the backward's list."""

    def step(self, x, h):
        return tanh(conv(x) + conv(relu(h) * h)) + h


class Deep(Cell):
    """Three levels, and names that are the kernel's own."""

    def step(self, x, acc, tl):
        mask = sigmoid(conv(x) + conv(acc))
        y = tanh(conv(x) + conv(mask * acc))
        tl = tl * mask + conv(y * tl)
        return acc + tanh(tl), tl


class StateAndOperand(Cell):
    """A sum over a state and an operand that no convolution comes before: in backward the last phase fills the
    operand's gradient, which its convolutions come to second."""

    def step(self, x, h):
        return tanh(conv(x) + conv(h) + conv(h * h))


class NewState(Cell):
    """Convolves the new state into a sum that the inputs and the old state are in already, and into one that it begins:
    in the loop that one's fill comes first."""

    def step(self, x, h, c):
        c = c * tanh(conv(x) + conv(h))
        return sigmoid(conv(x) + conv(h) + conv(c)) * tanh(conv(c)), c


OTHER_CELLS = {
    "two_maps": TwoMaps(),
    "stage_first": StageFirst(),
    "deep": Deep(),
    "state_and_operand": StateAndOperand(),
    "new_state": NewState(),
}


def random_leaves(cell, steps=3, channels=3):
    """Random float64 tensors for a cell: x, weight_ih, weight_hh, bias, initial states."""
    blocks, c = schedule_of(cell.key).blocks, channels
    shapes = [(steps, 2, 2, 5, 4), (blocks["x"] * c, 2, 3, 3), (blocks["h"] * c, c, 3, 3), (blocks["bias"] * c,)]
    shapes += [(2, c, 5, 4)] * len(schedule_of(cell.key).states)
    return [0.4 * torch.randn(shape, dtype=torch.float64) for shape in shapes]


def results(cell, tensors, backend):
    """Output, last states and, where the tensors want them, all gradients of a scalar of these."""
    x, weight_ih, weight_hh, bias, *hx = tensors
    output, states = conv_recurrent(cell, x, weight_ih, weight_hh, bias, None, tuple(hx), backend=backend)
    found = [output, *states]
    if x.requires_grad:
        found += torch.autograd.grad(torch.stack([r.square().sum() for r in found]).sum(), tensors)
    return found


def compare_with_reference(cell, backend, dtype, training=True):
    """Assert that a backend in ``dtype`` gives what the reference gives in float64."""
    leaves = [t.to(dtype).requires_grad_(training) for t in random_leaves(cell)]
    exact = [t.detach().double().requires_grad_(training) for t in leaves]
    pairs = zip(results(cell, leaves, backend), results(cell, exact, "reference"), strict=True)
    for n, (found, truth) in enumerate(pairs):
        assert_close(found, truth, f"result {n}")
