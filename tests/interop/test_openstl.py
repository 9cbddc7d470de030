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


def test_layer_norm():
    """With a step of 0 the state's norm sees zeros alone, as there."""
    arguments = 3, 4, 5, 4, 3, 1, 1
    theirs, ours = randomize(OpenSTL.ConvLSTMCell(*arguments)), openstl.ConvLSTMCell(*arguments)
    x, h, c = inputs()
    assert_same(theirs, ours, x, h, c)
    assert_same(theirs, ours, x, 0 * h, 0 * c)


def test_plain_cell_with_layer_norm_and_back():
    theirs = randomize(OpenSTL.ConvLSTMCell(3, 4, 5, 4, 3, 1, True)).double()
    x, h, c = (v.double() for v in inputs())
    for cell in (openstl.from_state_dict(theirs.state_dict()), openstl.from_module(theirs)):
        assert cell.layer_norm == "full"
        for found, truth in zip(cell(x, (h, c)), theirs(x, h, c), strict=True):
            assert_close(found, truth)
        back = OpenSTL.ConvLSTMCell(3, 4, 5, 4, 3, 1, True).double()
        back.load_state_dict(openstl.to_state_dict(cell))
        for found, truth in zip(back(x, h, c), theirs(x, h, c), strict=True):
            assert_close(found, truth)
    unbiased = fastrcn.ConvLSTMCell(3, 4, layer_norm="full", map_size=(5, 4), bias=False).double()
    back.load_state_dict(openstl.to_state_dict(unbiased))
    for found, truth in zip(back(x, h, c), unbiased(x, (h, c)), strict=True):
        assert_close(found, truth)


def test_errors():
    with pytest.raises(ValueError, match=r"stride: expected 1.*got 2"):
        openstl.ConvLSTMCell(3, 4, 5, 4, 3, 2, False)
    with pytest.raises(ValueError, match=r"filter_size: expected odd"):
        openstl.ConvLSTMCell(3, 4, 5, 4, 4, 1, False)
    with pytest.raises(ValueError, match=r"x_t: expected shape \(B, 3, 4, 4\), got \(2, 3, 5, 4\)"):
        openstl.ConvLSTMCell(3, 4, 4, 4, 3, 1, True)(*inputs())
    with pytest.raises(ValueError, match=r"layer: expected layer_norm=None"):
        openstl.to_state_dict(fastrcn.ConvLSTMCell(3, 4, layer_norm="channel"))
    with pytest.raises(ValueError, match=r"layer: expected layer_norm=None"):
        openstl.to_state_dict(fastrcn.ConvLSTMCell(3, 4, layer_norm="full", layer_norm_eps=0.1, map_size=(5, 4)))
    with pytest.raises(ValueError, match=r"layer: expected bias=False"):
        openstl.to_state_dict(fastrcn.ConvLSTMCell(3, 4))
    with pytest.raises(ValueError, match=r"x_t: expected 3 channels, got 2"):
        openstl.ConvLSTMCell(3, 4, 5, 4, 3, 1, False)(*inputs(2))
