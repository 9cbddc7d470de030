"""The ConvGRUs of fastrcn.interop's happyjin, jacobkimmel and rvm against loops written from the conventions."""

import pytest
import torch

import fastrcn
from fastrcn.interop import happyjin, jacobkimmel, rvm
from tests.helpers.tolerances import assert_close
from tests.interop.checks import assert_same, randomize
from tests.interop.projects import RVM, Happyjin, JacobKimmel

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("with_state", [False, True])
@pytest.mark.parametrize(
    "arguments",
    [
        ((5, 4), 3, [4], [(3, 3)], 1, torch.FloatTensor),
        ((5, 4), 2, [3, 5], [(3, 3), (5, 1)], 2, torch.FloatTensor, True, False, True),
    ],
    ids=["one", "two"],
)
def test_happyjin(arguments, with_state):
    theirs, ours = randomize(Happyjin.ConvGRU(*arguments)), happyjin.ConvGRU(*arguments)
    inputs = [torch.randn(2, 3, theirs.input_dim, 5, 4)]
    if with_state:
        inputs.append([[torch.randn(2 if theirs.batch_first else 3, c, 5, 4)] for c in theirs.hidden_dim])
    assert_same(theirs, ours, *inputs)


def test_happyjin_cell():
    arguments = (5, 4), 3, 4, (3, 5), True, torch.FloatTensor
    ours = happyjin.ConvGRUCell(*arguments)
    x, h = torch.randn(2, 3, 5, 4), torch.randn(2, 4, 5, 4)
    assert_same(randomize(Happyjin.ConvGRUCell(*arguments)), ours, x, h)
    assert ours.init_hidden(2).shape == (2, 4, 5, 4)


@pytest.mark.parametrize("arguments", [(3, 4, 3, 1), (3, [4, 5], [3, 5], 2)], ids=["one", "two"])
@pytest.mark.parametrize("state", ["none", "all", "some"])
def test_jacobkimmel(arguments, state):
    theirs, ours = randomize(JacobKimmel.ConvGRU(*arguments)), jacobkimmel.ConvGRU(*arguments)
    hidden = None if state == "none" else [torch.randn(2, c, 5, 4) for c in theirs.hidden_sizes]
    if state == "some":
        hidden[-1] = None
    assert_same(theirs, ours, torch.randn(2, 3, 5, 4), hidden)


def test_jacobkimmel_starts_orthogonal_without_bias():
    conv = jacobkimmel.ConvGRU(3, 4, 3, 1).ConvGRUCell_00.out_gate
    rows = conv.weight.detach().flatten(1)
    assert_close(rows @ rows.T, torch.eye(4))
    assert not conv.bias.any()


@pytest.mark.parametrize("shape", [(2, 3, 5, 4), (2, 3, 3, 5, 4)], ids=["frame", "sequence"])
@pytest.mark.parametrize("with_state", [False, True])
@pytest.mark.parametrize("options", [{}, {"kernel_size": 5, "padding": 2}], ids=["k3", "k5"])
def test_rvm(shape, with_state, options):
    theirs, ours = randomize(RVM.ConvGRU(3, **options)), rvm.ConvGRU(3, **options)
    assert_same(theirs, ours, torch.randn(shape), torch.randn(2, 3, 5, 4) if with_state else None)


def made(name, bias=True):
    """A module of each project, with two layers of 3 channels where it can, and what runs it over (B,T,C,H,W)."""
    if name == "happyjin":
        module = Happyjin.ConvGRU((5, 4), 3, [3, 3], [(3, 5)] * 2, 2, torch.FloatTensor, True, bias)
        return module, lambda x: module(x)[0][0]
    if name == "rvm":
        module = RVM.ConvGRU(3)
        return module, lambda x: module(x, None)[0]
    module = JacobKimmel.ConvGRU(3, 3, 3, 2)

    def run(x):
        hidden, found = None, []
        for frame in x.unbind(1):
            hidden = module(frame, hidden)
            found.append(hidden[-1])
        return torch.stack(found, 1)

    return module, run


@pytest.mark.parametrize("name", ["happyjin", "jacobkimmel", "rvm"])
def test_plain_layer_and_back(name):
    convention = {"happyjin": happyjin, "jacobkimmel": jacobkimmel, "rvm": rvm}[name]
    module, run = made(name)
    randomize(module).double()
    x = torch.randn(2, 4, 3, 5, 4).double()
    truth = run(x)
    options = {} if name == "rvm" or name == "happyjin" else {"batch_first": True}
    for layer in (
        convention.from_state_dict(module.state_dict(), batch_first=True),
        convention.from_module(module, **options),
    ):
        assert type(layer) is fastrcn.ConvGRU
        assert_close(layer(x)[0], truth)
        state = convention.to_state_dict(layer)
        assert list(state) == list(module.state_dict())
        assert all(torch.equal(state[key], value) for key, value in module.state_dict().items())


def test_happyjin_without_bias_and_back():
    module, run = made("happyjin", bias=False)
    x = torch.randn(2, 4, 3, 5, 4)
    layer = happyjin.from_module(module)
    assert not layer.has_bias
    assert_close(layer(x)[0], run(x))
    assert list(happyjin.to_state_dict(layer)) == list(module.state_dict())


@pytest.mark.parametrize("convention", [jacobkimmel, rvm])
def test_layer_without_bias_gets_zeros(convention):
    layer = fastrcn.ConvGRU(3, 3, bias=False)
    again = convention.from_state_dict(convention.to_state_dict(layer))
    x = torch.randn(3, 2, 3, 5, 4)
    assert_close(again(x)[0], layer(x)[0])


def test_gates_by_hand():
    """One pixel, gates from the bias alone: r = 1/4, z = 3/4; the candidate tanh(ln 2 + r h) has h = 0: h' = 9/20."""
    ours = rvm.ConvGRU(1, 1, 0)
    for p in ours.parameters():
        torch.nn.init.zeros_(p)
    with torch.no_grad():
        ours.ih[0].bias[:] = torch.tensor([1 / 3, 3]).log()
        ours.hh[0].bias[:] = torch.tensor(2.0).log()
        ours.hh[0].weight[0, 1] = 1.0  # of r * h
    x = torch.zeros(1, 1, 1, 1)
    assert_close(ours(x, None)[1], torch.full_like(x, 0.45))
    h = torch.full_like(x, 4.0)
    assert_close(ours(x, h)[1], 1 + 0.75 * torch.tanh(torch.tensor(2.0).log() + 0.25 * h))


def test_errors():
    with pytest.raises(ValueError, match=r"hidden_dim: expected a list of 2.*got \[3\]"):
        happyjin.ConvGRU((5, 4), 3, [3], [(3, 3)] * 2, 2, None)
    with pytest.raises(ValueError, match=r"input_tensor: expected maps of \(5, 4\)"):
        happyjin.ConvGRU((5, 4), 3, [3], [(3, 3)], 1, None)(torch.zeros(2, 2, 3, 6, 4))
    with pytest.raises(ValueError, match=r"hidden_state: expected a list of 1, got Tensor"):
        happyjin.ConvGRU((5, 4), 3, [3], [(3, 3)], 1, None)(torch.zeros(2, 2, 3, 5, 4), torch.zeros(1))
    with pytest.raises(ValueError, match=r"hidden_sizes: expected 2 values"):
        jacobkimmel.ConvGRU(3, [4], 3, 2)
    with pytest.raises(ValueError, match=r"kernel_size: expected odd kernel sizes"):
        jacobkimmel.ConvGRU(3, 4, 4, 2)
    with pytest.raises(ValueError, match=r"hidden: expected a list of 2, got 1"):
        jacobkimmel.ConvGRU(3, 4, 3, 2)(torch.zeros(2, 3, 5, 4), [None])
    with pytest.raises(ValueError, match=r"padding: expected.*kernel_size=3 and padding=0"):
        rvm.ConvGRU(3, padding=0)
    with pytest.raises(ValueError, match=r"x: expected 3 channels, got 2"):
        rvm.ConvGRU(3)(torch.zeros(2, 2, 5, 4), None)
    with pytest.raises(ValueError, match=r"layer: expected one layer with as many inputs as states"):
        rvm.to_state_dict(fastrcn.ConvGRU(2, 3))
    with pytest.raises(ValueError, match=r'layer: expected reset="before"'):
        jacobkimmel.to_state_dict(fastrcn.ConvGRU(2, 3, reset="after"))
    with pytest.raises(ValueError, match=r"expected the key 'hh.0.weight'"):
        rvm.from_state_dict({})
    module = RVM.ConvGRU(3)
    module.hh[1] = torch.nn.ReLU()
    with pytest.raises(ValueError, match=r"hh.1: expected Tanh\(\), got ReLU\(\)"):
        rvm.from_module(module)
