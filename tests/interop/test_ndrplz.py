"""fastrcn.interop.ndrplz against a loop written from the project's convention."""

import pytest
import torch

import fastrcn
from fastrcn.interop import ndrplz
from tests.helpers.tolerances import assert_close
from tests.interop.checks import assert_same, randomize
from tests.interop.projects import Ndrplz

pytestmark = pytest.mark.usefixtures("one_thread")

LAYERS = {
    "one": (3, 4, (3, 3), 1),
    "two": (3, 4, (3, 5), 2, True, False, True),
    "sizes": (2, [3, 5], [(3, 3), (5, 1)], 2, True, True, True),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("with_state", [False, True])
def test_layer(name, with_state):
    arguments = LAYERS[name]
    theirs, ours = randomize(Ndrplz.ConvLSTM(*arguments)), ndrplz.ConvLSTM(*arguments)
    inputs = [torch.randn(2, 3, theirs.input_dim, 5, 4)]
    batch = 2 if theirs.batch_first else 3
    if with_state:
        inputs.append([(torch.randn(batch, c, 5, 4), torch.randn(batch, c, 5, 4)) for c in theirs.hidden_dim])
    assert_same(theirs, ours, *inputs)


def test_cell():
    ours = ndrplz.ConvLSTMCell(3, 4, (3, 5), True)
    state = torch.randn(2, 4, 5, 4), torch.randn(2, 4, 5, 4)
    assert_same(randomize(Ndrplz.ConvLSTMCell(3, 4, (3, 5), True)), ours, torch.randn(2, 3, 5, 4), state)
    zeros = ours.init_hidden(2, (5, 4))
    assert [z.shape for z in zeros] == [(2, 4, 5, 4)] * 2
    assert all(z.dtype == torch.float64 and not z.any() for z in zeros)


def test_random_start_is_the_projects():
    torch.manual_seed(1)
    theirs = Ndrplz.ConvLSTM(3, [4, 5], (3, 3), 2).state_dict()
    torch.manual_seed(1)
    for name, value in ndrplz.ConvLSTM(3, [4, 5], (3, 3), 2).state_dict().items():
        assert torch.equal(value, theirs[name])


@pytest.mark.parametrize("bias", [False, True])
def test_plain_layer_and_back(bias):
    theirs = randomize(Ndrplz.ConvLSTM(3, 4, (3, 5), 2, True, bias)).double()
    x = torch.randn(2, 3, 3, 5, 4).double()
    truth, last = theirs(x)
    layer = ndrplz.from_state_dict(theirs.state_dict(), batch_first=True)
    assert type(layer) is fastrcn.ConvLSTM
    output, (h, c) = layer(x)
    assert_close(output, truth[0])
    assert_close(h[1], last[0][0])
    assert_close(c[1], last[0][1])
    state = ndrplz.to_state_dict(layer)
    assert state.keys() == theirs.state_dict().keys()
    assert all(torch.equal(state[name], value) for name, value in theirs.state_dict().items())
    assert_close(ndrplz.from_module(theirs)(x)[0], truth[0])


def test_gates_by_hand():
    """One pixel, gates from the bias alone: i = 3/4, f = 1/4, o = 1/2, g = tanh(ln 2) = 3/5; so c = 2/4 + 9/20."""
    ours = ndrplz.ConvLSTM(1, 1, (1, 1), 1)
    for p in ours.parameters():
        torch.nn.init.zeros_(p)
    with torch.no_grad():
        ours.cell_list[0].conv.bias[:] = torch.tensor([3, 1 / 3, 1, 2]).log()  # i, f, o, g
    c0 = torch.full((1, 1, 1, 1), 2.0)
    _, [[h, c]] = ours(torch.zeros(1, 1, 1, 1, 1), [(torch.zeros_like(c0), c0)])
    assert_close(c, torch.full_like(c0, 0.95))
    assert_close(h, 0.5 * torch.tanh(torch.full_like(c0, 0.95)))


def test_errors():
    module = ndrplz.ConvLSTM(3, 4, (3, 3), 2)
    with pytest.raises(ValueError, match=r"kernel_size: expected a pair"):
        ndrplz.ConvLSTM(3, 4, 3, 1)
    with pytest.raises(ValueError, match=r"kernel_size: expected odd kernel sizes.*\(2, 3\)"):
        ndrplz.ConvLSTM(3, 4, (2, 3), 1)
    with pytest.raises(ValueError, match=r"hidden_dim: expected 2 values.*got 3"):
        ndrplz.ConvLSTM(3, [4, 4, 4], (3, 3), 2)
    with pytest.raises(ValueError, match=r"input_tensor: expected \(T,B,C,H,W\), got shape \(2, 3, 5, 5\)"):
        module(torch.zeros(2, 3, 5, 5))
    with pytest.raises(ValueError, match=r"input_tensor: expected 3 channels, got 2"):
        module(torch.zeros(2, 2, 2, 5, 5))
    with pytest.raises(TypeError, match=r"input_tensor: expected a tensor"):
        module([1])
    with pytest.raises(ValueError, match=r"hidden_state: expected a list of 2, got 1"):
        module(torch.zeros(2, 2, 3, 5, 5), [(None, None)])
    state = Ndrplz.ConvLSTM(3, [4, 5], (3, 3), 2).state_dict()
    with pytest.raises(ValueError, match=r"one hidden size and kernel.*\[4, 5\]"):
        ndrplz.from_state_dict(state)
    with pytest.raises(ValueError, match=r"keys that begin with 'cell_list.'"):
        ndrplz.from_state_dict({"a": torch.zeros(1)})
    with pytest.raises(RuntimeError, match=r"Unexpected key.*extra"):
        ndrplz.from_state_dict(ndrplz.ConvLSTM(3, 4, (3, 3), 1).state_dict() | {"extra": torch.zeros(1)})


@pytest.mark.parametrize(
    "options",
    [
        {"bidirectional": True}, {"stride": 2}, {"dilation": 2}, {"peephole": "channel"}, {"recurrent_kernel_size": 5},
        {"num_layers": 2, "dropout": 0.5},
    ],
    ids=lambda options: list(options)[-1],
)  # fmt: skip
def test_what_the_layout_cannot_hold(options):
    name = list(options)[-1]
    with pytest.raises(ValueError, match=f"layer: expected {name}"):
        ndrplz.to_state_dict(fastrcn.ConvLSTM(2, 3, **options))


def test_other_layers_and_modules():
    with pytest.raises(TypeError, match=r"layer: expected a fastrcn.ConvLSTM, got ConvGRU"):
        ndrplz.to_state_dict(fastrcn.ConvGRU(2, 3))
    with pytest.raises(ValueError, match=r"no attribute 'input_dim'"):
        ndrplz.from_module(torch.nn.Linear(2, 3))
    changed = Ndrplz.ConvLSTM(3, 4, (3, 3), 1)
    changed.cell_list[0].conv.padding_mode = "reflect"
    with pytest.raises(ValueError, match=r"cell_list.0.conv: expected Conv2d"):
        ndrplz.from_module(changed)
