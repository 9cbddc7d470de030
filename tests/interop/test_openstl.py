"""fastrcn.interop.openstl against a step written from the project's convention."""

import pytest
import torch

import fastrcn
from fastrcn.interop import openstl
from tests.helpers.tolerances import assert_close
from tests.interop.checks import assert_same, randomize
from tests.interop.projects import OpenSTL

pytestmark = pytest.mark.usefixtures("one_thread")


def inputs(n=3):
    return torch.randn(2, n, 5, 4), torch.randn(2, 4, 5, 4), torch.randn(2, 4, 5, 4)


@pytest.mark.parametrize("filter_size", [3, 5])
def test_cell(filter_size):
    """The unused parameters stay without a gradient, and move as little in training as there."""
    arguments = 3, 4, 5, 4, filter_size, 1, 0
    assert_same(randomize(OpenSTL.ConvLSTMCell(*arguments)), openstl.ConvLSTMCell(*arguments), *inputs())


def test_plain_cell_and_back():
    theirs = randomize(OpenSTL.ConvLSTMCell(3, 4, 5, 4, 5, 1, False)).double()
    x, h, c = (v.double() for v in inputs())
    for cell in (openstl.from_state_dict(theirs.state_dict()), openstl.from_module(theirs)):
        assert type(cell) is fastrcn.ConvLSTMCell
        for found, truth in zip(cell(x, (h, c)), theirs(x, h, c), strict=True):
            assert_close(found, truth)
        state = openstl.to_state_dict(cell)
        assert list(state) == list(theirs.state_dict())
        for name, value in theirs.state_dict().items():
            used = name.startswith(("conv_x", "conv_h"))
            assert torch.equal(state[name], value if used else torch.zeros_like(value))


def test_errors():
    with pytest.raises(ValueError, match=r"layer_norm: expected False, the normalisation.*is missing here"):
        openstl.ConvLSTMCell(3, 4, 5, 4, 3, 1, True)
    with pytest.raises(ValueError, match=r"stride: expected 1.*got 2"):
        openstl.ConvLSTMCell(3, 4, 5, 4, 3, 2, False)
    with pytest.raises(ValueError, match=r"filter_size: expected odd"):
        openstl.ConvLSTMCell(3, 4, 5, 4, 4, 1, False)
    normed = OpenSTL.ConvLSTMCell(3, 4, 5, 4, 3, 1, True)
    with pytest.raises(ValueError, match=r"state: expected no layer norm.*conv_x.1.weight"):
        openstl.from_state_dict(normed.state_dict())
    with pytest.raises(ValueError, match=r"layer_norm: expected False"):
        openstl.from_module(normed)
    with pytest.raises(ValueError, match=r"layer: expected bias=False"):
        openstl.to_state_dict(fastrcn.ConvLSTMCell(3, 4))
    with pytest.raises(ValueError, match=r"x_t: expected 3 channels, got 2"):
        openstl.ConvLSTMCell(3, 4, 5, 4, 3, 1, False)(*inputs(2))
