"""fastrcn.interop.automan000 against a loop written from the project's convention."""

import pytest
import torch

import fastrcn
from fastrcn.interop import automan000
from tests.helpers.tolerances import assert_close
from tests.interop.checks import assert_same, randomize
from tests.interop.projects import Automan000

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(
    "arguments", [(3, [4], 3), (3, [4, 2, 6], 3, 4, [0, 3]), (2, [4], 5, 2)], ids=["defaults", "steps", "k5"]
)
def test_layer(arguments):
    theirs, ours = randomize(Automan000.ConvLSTM(*arguments)), automan000.ConvLSTM(*arguments)
    assert_same(theirs, ours, torch.randn(2, arguments[0], 5, 4))
    outputs, _ = ours(torch.randn(2, arguments[0], 5, 4).double())
    assert len(outputs) == len([k for k in ours.effective_step if k < ours.step])


def test_cell():
    ours = automan000.ConvLSTMCell(3, 4, 3)
    state = torch.randn(2, 4, 5, 4), torch.randn(2, 4, 5, 4)
    assert_same(randomize(Automan000.ConvLSTMCell(3, 4, 3)), ours, torch.randn(2, 3, 5, 4), *state)
    assert [z.shape for z in ours.init_hidden(2, 4, (5, 4))] == [(2, 4, 5, 4)] * 2


def test_plain_layer_and_back():
    theirs = randomize(Automan000.ConvLSTM(3, [4, 4], 3, 3, [0, 1, 2])).double()
    image = torch.randn(2, 3, 5, 4).double()
    outputs, (h, c) = theirs(image)
    for layer in (automan000.from_state_dict(theirs.state_dict()), automan000.from_module(theirs)):
        assert type(layer) is fastrcn.ConvLSTM
        found, (h_n, c_n) = layer(image.expand(3, 2, 3, 5, 4))
        assert_close(found, torch.stack(outputs))
        assert_close(h_n[1], h)
        assert_close(c_n[1], c)
        state = automan000.to_state_dict(layer)
        assert list(state) == list(theirs.state_dict())
        assert all(torch.equal(state[name], value) for name, value in theirs.state_dict().items())


def test_layer_without_bias_gets_zeros():
    layer = fastrcn.ConvLSTM(3, 4, bias=False).double()
    module = automan000.ConvLSTM(3, [4], 3).double()
    module.load_state_dict(automan000.to_state_dict(layer))
    x = torch.randn(2, 3, 5, 4).double()
    assert_close(module(x)[1][0], layer(x[None])[1][0][0])


def test_errors():
    with pytest.raises(ValueError, match=r"hidden_channels: expected even numbers.*got 3"):
        automan000.ConvLSTM(2, [3], 3)
    with pytest.raises(TypeError, match=r"hidden_channels: expected a list.*got 4"):
        automan000.ConvLSTM(2, 4, 3)
    with pytest.raises(ValueError, match=r"step: expected at least 1, got 0"):
        automan000.ConvLSTM(2, [4], 3, step=0)
    with pytest.raises(ValueError, match=r"kernel_size: expected odd kernel sizes"):
        automan000.ConvLSTM(2, [4], 2)
    with pytest.raises(ValueError, match=r"input: expected \(B,C,H,W\), got shape \(1, 1, 2, 4, 4\)"):
        automan000.ConvLSTM(2, [4], 3)(torch.zeros(1, 1, 2, 4, 4))
    with pytest.raises(ValueError, match=r"expected the key 'cell0.Wxi.weight'"):
        automan000.from_state_dict({"a": torch.zeros(1)})
    with pytest.raises(RuntimeError, match=r"Unexpected key.*cell0.Wci"):
        automan000.from_state_dict(automan000.ConvLSTM(2, [4], 3).state_dict() | {"cell0.Wci": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"square kernel.*\(1, 5\)"):
        automan000.to_state_dict(fastrcn.ConvLSTM(2, 4, (1, 5)))
