"""fastrcn.interop.torch_nn, by the fused operation, against torch.nn's own layers and cells."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pack_sequence

import fastrcn
from fastrcn.interop import torch_nn
from tests.helpers.tolerances import assert_close
from tests.interop.checks import assert_same, randomize

pytestmark = pytest.mark.usefixtures("one_thread", "fused")

KINDS = ("LSTM", "GRU", "RNN")
OPTIONS = {
    "one": {},
    "stacked": {"num_layers": 2, "bidirectional": True, "batch_first": True},
    "no bias": {"num_layers": 2, "bias": False},
}


@pytest.fixture
def fused():
    """Asked for by name, the fused operation runs whatever the sizes."""
    with fastrcn.use_backend("cpu"):
        yield


def pair(kind, **options):
    return randomize(getattr(nn, kind)(3, 4, **options)), getattr(torch_nn, kind)(3, 4, **options)


def states(kind, module, *batch):
    n = module.num_layers * (2 if module.bidirectional else 1)
    h = torch.randn(n, *batch, 4)
    return (h, torch.randn(n, *batch, 4)) if kind == "LSTM" else h


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", OPTIONS)
def test_layer(kind, options):
    theirs, ours = pair(kind, **OPTIONS[options])
    batch = 5 if theirs.batch_first else 2
    assert_same(theirs, ours, torch.randn(5, 2, 3), states(kind, theirs, batch))
    assert repr(ours) == repr(theirs)


@pytest.mark.parametrize("kind", KINDS)
def test_unbatched_without_state(kind):
    assert_same(*pair(kind, num_layers=2), torch.randn(5, 3))


@pytest.mark.parametrize("positional", [False, True])
def test_rnn_with_relu(positional):
    arguments = ((3, 4, 2, "relu", False), {}) if positional else ((3, 4), {"nonlinearity": "relu"})
    theirs, ours = (kind(*arguments[0], **arguments[1]) for kind in (nn.RNN, torch_nn.RNN))
    assert_same(randomize(theirs), ours, torch.randn(5, 2, 3))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("order", ["sorted", "unsorted", "of sequences"])
def test_packed_sequences(kind, batch_first, order):
    theirs, ours = pair(kind, num_layers=2, bidirectional=True, batch_first=batch_first)
    ours.load_state_dict(theirs.state_dict())
    x, hx = torch.randn(5, 4, 3), states(kind, theirs, 4)
    if order == "of sequences":
        packed = pack_sequence([x[:5, 0], x[:5, 1], x[:2, 2], x[:1, 3]])
    else:
        lengths = [5, 3, 3, 1] if order == "sorted" else [3, 1, 5, 3]
        packed = pack_padded_sequence(x, torch.tensor(lengths), enforce_sorted=order == "sorted")
    found, last = ours(packed, hx)
    truth, true_last = theirs(packed, hx)
    assert_close(found.data, truth.data)
    assert torch.equal(found.batch_sizes, truth.batch_sizes)
    for name in ("sorted_indices", "unsorted_indices"):
        a, b = getattr(found, name), getattr(truth, name)
        assert (a is None and b is None) or torch.equal(a, b)
    for a, b in zip(*((s if kind == "LSTM" else (s,)) for s in (last, true_last)), strict=True):
        assert_close(a, b)


def test_dropout_between_layers_in_training_only():
    theirs, ours = pair("LSTM", num_layers=2, dropout=1.0)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(5, 2, 3)
    assert_close(ours(x)[0], theirs(x)[0])  # the second layer sees zeros in both
    assert_close(ours.eval()(x)[0], theirs.eval()(x)[0])
    assert not torch.equal(ours(x)[0], ours.train()(x)[0])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", OPTIONS)
def test_plain_layer_and_back(kind, options):
    options = OPTIONS[options] | ({"nonlinearity": "relu"} if kind == "RNN" else {})
    theirs = randomize(getattr(nn, kind)(3, 4, **options)).double()
    x = torch.randn(5, 2, 3).double()
    layer = torch_nn.from_module(theirs)
    assert type(layer) is getattr(fastrcn, kind)
    assert_close(layer(x)[0], theirs(x)[0])
    again = getattr(nn, kind)(3, 4, **options).double()
    again.load_state_dict(torch_nn.to_state_dict(layer))
    assert_close(again(x)[0], theirs(x)[0])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch", [(2,), ()], ids=["batch", "unbatched"])
def test_cell(kind, batch):
    options = {"nonlinearity": "relu", "bias": False} if kind == "RNN" and batch else {}
    theirs, ours = pair(f"{kind}Cell", **options)
    h = torch.randn(*batch, 4)
    assert_same(theirs, ours, torch.randn(*batch, 3), (h, torch.randn(*batch, 4)) if kind == "LSTM" else h)
    assert_same(theirs, ours, torch.randn(*batch, 3))
    assert repr(ours) == repr(theirs)


@pytest.mark.parametrize("kind", [*KINDS, *(f"{kind}Cell" for kind in KINDS)])
def test_copies_and_pickles_add_no_attributes(kind):
    layer, x = getattr(torch_nn, kind)(3, 4), torch.randn(2, 3)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert vars(other).keys() == vars(layer).keys()
        assert repr(other) == repr(layer)
        for a, b in zip(other(x), layer(x), strict=True):
            assert all(torch.equal(p, q) for p, q in zip(a, b, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_plain_cell_and_back(kind):
    options = {"nonlinearity": "relu"} if kind == "RNN" else {}
    theirs = randomize(getattr(nn, f"{kind}Cell")(3, 4, **options)).double()
    x = torch.randn(2, 3).double()
    for module in (theirs, getattr(torch_nn, f"{kind}Cell")(3, 4, **options).double()):
        module.load_state_dict(theirs.state_dict())
        cell = torch_nn.from_module(module)
        assert type(cell) is getattr(fastrcn, f"{kind}Cell")
        again = getattr(nn, f"{kind}Cell")(3, 4, **options).double()
        again.load_state_dict(torch_nn.to_state_dict(cell))
        for found in (cell(x), again(x)):
            for a, b in zip(*((v if kind == "LSTM" else (v,)) for v in (found, theirs(x))), strict=True):
                assert_close(a, b)


def test_errors():
    for kind in ("GRU", "RNN"):
        with pytest.raises((ValueError, TypeError), match="proj_size"):
            getattr(torch_nn, kind)(3, 4, proj_size=2)
    with pytest.raises(ValueError, match=r"expected no projections \(proj_size\).*weight_hr_l0"):
        torch_nn.from_state_dict(nn.LSTM(3, 4, proj_size=2).state_dict())
    with pytest.raises(ValueError, match=r'nonlinearity: expected "tanh" or "relu", got .gelu'):
        torch_nn.RNN(3, 4, nonlinearity="gelu")
    with pytest.raises(ValueError, match=r'nonlinearity: expected "tanh" or "relu", got .gelu'):
        torch_nn.RNNCell(3, 4, nonlinearity="gelu")
    with pytest.raises(ValueError, match=r"input: expected 3 channels, got 2"):
        torch_nn.GRUCell(3, 4)(torch.zeros(5, 2))
    with pytest.raises(TypeError, match=r"module: expected a torch.nn.LSTM, GRU or RNN, or one's cell, got Linear"):
        torch_nn.from_module(nn.Linear(2, 3))
    with pytest.raises(ValueError, match=r"input: expected 3 channels, got 2"):
        torch_nn.GRU(3, 4)(torch.zeros(5, 2, 2))
    with pytest.raises(ValueError, match=r"hx \(h\): expected shape \(1, 2, 4\), got \(2, 4\)"):
        torch_nn.GRU(3, 4)(torch.zeros(5, 2, 3), torch.zeros(2, 4))
    with pytest.raises(ValueError, match=r'layer: expected reset="after"'):
        torch_nn.to_state_dict(fastrcn.GRU(3, 4))
    with pytest.raises(ValueError, match=r"layer: expected peephole=None"):
        torch_nn.to_state_dict(fastrcn.LSTM(3, 4, peephole="channel"))
    with pytest.raises(ValueError, match=r"layer: expected layer_norm=None"):
        torch_nn.to_state_dict(fastrcn.LSTM(3, 4, layer_norm="channel"))
    for name, value in {"forget_bias": 1.0, "zoneout": 0.5, "recurrent_dropout": 0.25}.items():
        with pytest.raises(ValueError, match=rf"layer: expected {name}=0\.0, the other layout has no other"):
            torch_nn.to_state_dict(fastrcn.LSTM(3, 4, **{name: value}))
    with pytest.raises(TypeError, match=r"layer: expected a fastrcn.LSTM, GRU or RNN, or one's cell, got ConvLSTM"):
        torch_nn.to_state_dict(fastrcn.ConvLSTM(3, 4))
    with pytest.raises(ValueError, match=r"expected 1, 3 or 4 gates"):
        torch_nn.from_state_dict({"weight_ih_l0": torch.zeros(8, 3), "weight_hh_l0": torch.zeros(8, 4)})
    with pytest.raises(ValueError, match=r"expected the key 'weight_ih_l0'"):
        torch_nn.from_state_dict({})
