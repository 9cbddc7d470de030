"""fastrcn.interop's raft and torchvision_raft against torchvision's own classes and loops written from RAFT's."""

import pytest
import torch
from torch import nn

import fastrcn
from fastrcn.interop import raft, torchvision_raft
from tests.helpers.tolerances import assert_close
from tests.helpers.torchvision_models import models
from tests.interop.checks import assert_same, randomize
from tests.interop.projects import RAFT

pytestmark = pytest.mark.usefixtures("one_thread")

torchvision = models.optical_flow.raft
SIZES = {"input_size": 3, "hidden_size": 4}
ONE = {"kernel_size": ((3, 5),), "padding": ((1, 2),)}


def pair(name):
    """(the project's, ours, the convention)."""
    if name == "torchvision cell":
        options = {**SIZES, "kernel_size": (1, 5), "padding": (0, 2)}
        return torchvision.ConvGRU(**options), torchvision_raft.ConvGRU(**options), torchvision_raft
    if name.startswith("torchvision block"):
        options = SIZES | (ONE if "of one" in name else {})
        return torchvision.RecurrentBlock(**options), torchvision_raft.RecurrentBlock(**options), torchvision_raft
    kind = "ConvGRU" if name == "small" else "SepConvGRU"
    return getattr(RAFT, kind)(4, 3), getattr(raft, kind)(4, 3), raft


NAMES = ("torchvision cell", "torchvision block", "torchvision block of one", "small", "separable")


@pytest.mark.parametrize("name", NAMES)
def test_layer(name):
    theirs, ours, _ = pair(name)
    assert_same(randomize(theirs), ours, torch.randn(2, 4, 6, 5), torch.randn(2, 3, 6, 5))


@pytest.mark.parametrize("name", NAMES)
def test_plain_cells_and_back(name):
    theirs, _, convention = pair(name)
    randomize(theirs).double()
    h, x = torch.randn(2, 4, 6, 5).double(), torch.randn(2, 3, 6, 5).double()
    truth = theirs(h, x)
    for cells in (convention.from_state_dict(theirs.state_dict()), convention.from_module(theirs)):
        found = h
        for cell in cells if isinstance(cells, nn.ModuleList) else [cells]:
            assert type(cell) is fastrcn.ConvGRUCell
            found = cell(x, found)
        assert_close(found, truth)
        state = convention.to_state_dict([cells] if "of one" in name else cells)
        assert state.keys() == theirs.state_dict().keys()
        assert all(torch.equal(state[key], value) for key, value in theirs.state_dict().items())


def test_random_start_is_torchvisions():
    torch.manual_seed(1)
    theirs = torchvision.RecurrentBlock(**SIZES).state_dict()
    torch.manual_seed(1)
    for name, value in torchvision_raft.RecurrentBlock(**SIZES).state_dict().items():
        assert torch.equal(value, theirs[name])


def test_defaults_are_the_papers():
    assert raft.SepConvGRU().convq2.weight.shape == (128, 448, 5, 1)
    assert raft.ConvGRU().convz.weight.shape == (128, 448, 3, 3)


def test_in_torchvisions_model():
    """raft_large's own update block gives the same with our recurrent block in it."""
    block = models.optical_flow.raft_large(weights=None).update_block.recurrent_block
    ours = torchvision_raft.RecurrentBlock(input_size=256, hidden_size=128)
    ours.load_state_dict(block.state_dict())
    h, x = torch.randn(1, 128, 6, 7), torch.randn(1, 256, 6, 7)
    assert_close(ours(h, x), block.double()(h.double(), x.double()))


def test_errors():
    with pytest.raises(ValueError, match=r"padding: expected an odd kernel and half of it.*padding=0"):
        torchvision_raft.ConvGRU(**SIZES, kernel_size=3, padding=0)
    with pytest.raises(ValueError, match=r"kernel_size, padding: expected one or two of each, got 1 and 2"):
        torchvision_raft.RecurrentBlock(**SIZES, kernel_size=((1, 5),))
    with pytest.raises(ValueError, match=r"h: expected 4 channels, got 3"):
        raft.SepConvGRU(4, 3)(torch.zeros(1, 3, 5, 5), torch.zeros(1, 3, 5, 5))
    with pytest.raises(ValueError, match=r"x: expected \(B,C,H,W\), got shape \(3, 5, 5\)"):
        raft.ConvGRU(4, 3)(torch.zeros(1, 4, 5, 5), torch.zeros(3, 5, 5))
    with pytest.raises(ValueError, match=r"hx \(h\): expected shape \(1, 4, 5, 5\)"):
        raft.ConvGRU(4, 3)(torch.zeros(1, 4, 5, 6), torch.zeros(1, 3, 5, 5))
    with pytest.raises(ValueError, match=r"layer: expected one cell of 3x3, or a 1x5 and a 5x1.*\(5, 5\)"):
        raft.to_state_dict(fastrcn.ConvGRUCell(3, 4, 5))
    with pytest.raises(ValueError, match=r"layer: expected cells of the same sizes.*\(4, 2\).*\(4, 3\)"):
        torchvision_raft.to_state_dict([fastrcn.ConvGRUCell(3, 4), fastrcn.ConvGRUCell(2, 4)])
    with pytest.raises(TypeError, match=r"layer: expected a fastrcn.ConvGRUCell, got ConvLSTMCell"):
        torchvision_raft.to_state_dict([fastrcn.ConvLSTMCell(3, 4)])
    with pytest.raises(ValueError, match=r"expected the key 'convz.weight'"):
        torchvision_raft.from_state_dict({})
