"""Zoneout and recurrent dropout of the layers: which masks they draw. The equations: tests/cells/test_noise.py."""

import copy
import pickle

import pytest
import torch

import fastrcn
from tests.helpers.tolerances import assert_close

OPTIONS = {
    "zoneout": {"zoneout": 0.3, "zoneout_cell": 0.4},
    "recurrent_dropout": {"recurrent_dropout": 0.5},
    "both": {"zoneout_cell": 0.4, "recurrent_dropout": 0.5},
}


def step(layer, d, keep, x, h, c):
    """``d``: factor of what the recurrent weight reads; ``keep``: zoneout of h and c."""
    i, f, g, o = (x @ layer.weight_ih_l0.T + (d * h) @ layer.weight_hh_l0.T + layer.bias_l0).chunk(4, 1)
    new_c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    new_h = torch.sigmoid(o) * torch.tanh(new_c)
    return keep[0] * h + (1 - keep[0]) * new_h, keep[1] * c + (1 - keep[1]) * new_c


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_evaluation_is_the_expectation(name, backend):
    layer = fastrcn.LSTM(2, 3, backend=backend, **OPTIONS[name]).double().eval()
    keep = [OPTIONS[name].get(n, 0.0) for n in ("zoneout", "zoneout_cell")]
    x, h, c = torch.randn(4, 2, 2).double(), torch.zeros(2, 3).double(), torch.zeros(2, 3).double()
    found, (_, last) = layer(x)
    for t in range(4):
        h, c = step(layer, 1, keep, x[t], h, c)
        assert_close(found[t], h)
    assert_close(last[0], c)


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("bidirectional", [False, True])
def test_a_seed_gives_all_backends_the_same_masks(name, bidirectional, one_thread):
    options = OPTIONS[name] | {"num_layers": 2, "bidirectional": bidirectional, "padding": "valid", "stride": 2}
    layer = fastrcn.ConvLSTM(2, 3, **options)
    x = torch.randn(5, 2, 2, 9, 7)
    results = []
    for backend in ("reference", "cpu", "cpu"):
        layer.backend = backend
        torch.manual_seed(3)
        output, _ = layer(x, lengths=[5, 3])
        results.append([output, *torch.autograd.grad(output.square().sum(), list(layer.parameters()))])
    for reference, cpu, again in zip(*results, strict=True):
        assert_close(cpu, reference)
        assert torch.equal(cpu, again)
    assert (layer(x)[0] - results[0][0])[:, 0].abs().max() > 1e-2
    if bidirectional:  # with the same weights and input in both directions, only the masks differ
        weights = {n: v for n, v in layer.state_dict().items() if not n.endswith("_reverse")}
        layer.load_state_dict(weights | {f"{n}_reverse": v for n, v in weights.items()})
        one, other = layer(x[:1].expand(5, -1, -1, -1, -1))[0].chunk(2, 2)
        assert not torch.equal(one, other.flip(0))


def test_zoneout_keeps_units_of_the_step_before_with_its_probability():
    layer = fastrcn.ConvGRU(2, 8, zoneout=0.3)
    output, _ = layer(torch.randn(20, 2, 2, 9, 9))
    kept = (output[1:] == output[:-1]).float()
    assert kept.mean() == pytest.approx(0.3, abs=0.02)
    assert kept.mean((1, 2, 3, 4)).std() > 0  # a mask for each step
    lstm = fastrcn.LSTM(2, 64, zoneout_cell=0.25)
    _, (_, c) = lstm(torch.randn(1, 50, 2), (torch.zeros(1, 50, 64), torch.full((1, 50, 64), 7.0)))
    assert (c == 7).float().mean() == pytest.approx(0.25, abs=0.03)


def test_recurrent_dropout_has_one_mask_for_all_steps():
    """h = relu(h d) with h0 = 1 and identity weights: each unit is zero or grows by 1 / (1 - p) at every step."""
    layer = fastrcn.RNN(1, 200, nonlinearity="relu", bias=False, recurrent_dropout=0.2).double()
    with torch.no_grad():
        layer.weight_ih_l0.zero_()
        layer.weight_hh_l0.copy_(torch.eye(200))
    output, _ = layer(torch.zeros(3, 10, 1).double(), torch.ones(1, 10, 200).double())
    alive = output[0] > 0
    assert alive.double().mean() == pytest.approx(0.8, abs=0.03)
    for t in range(3):
        assert_close(output[t], 1.25 ** (t + 1) * alive)


def test_cell_is_one_step_of_the_layer():
    cell = fastrcn.ConvLSTMCell(2, 3, zoneout=0.3, zoneout_cell=0.4).eval()
    layer = fastrcn.ConvLSTM(2, 3, zoneout=0.3, zoneout_cell=0.4).eval()
    layer.load_state_dict({f"{n}_l0": v for n, v in cell.state_dict().items()})
    x, state = torch.randn(3, 2, 2, 4, 5), None
    for t in range(3):
        state = cell(x[t], state)
    for found, expected in zip(state, layer(x)[1], strict=True):
        assert_close(found, expected[0])
    h, c = torch.zeros(2, 3, 4, 5), torch.full((2, 3, 4, 5), 7.0)
    assert (cell.train()(x[0], (h, c))[1] == 7).any()


def test_each_sequence_between_resets_has_its_own_dropout():
    layer = fastrcn.RNN(1, 64, nonlinearity="relu", recurrent_dropout=0.5)
    reset = torch.tensor([0, 0, 1, 0], dtype=torch.bool)[:, None]
    output, _ = layer(torch.ones(1, 1, 1).expand(4, 1, 1), reset=reset)
    assert torch.equal(output[0], output[2])
    assert not torch.equal(output[1], output[3])


@pytest.mark.parametrize("training", [True, False])
def test_compiled_and_autocast(training):
    torch._dynamo.reset()
    layer = fastrcn.ConvLSTM(2, 3, zoneout=0.3, zoneout_cell=0.4, recurrent_dropout=0.5, bidirectional=True)
    layer.train(training)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    x = torch.randn(3, 2, 2, 4, 5, requires_grad=True)
    torch.manual_seed(0)
    output = layer(x)[0]
    (truth,) = torch.autograd.grad(output.sum(), x)
    torch.manual_seed(0)
    again = compiled(x)[0]
    assert_close(again, output)
    assert_close(torch.autograd.grad(again.sum(), x)[0], truth)
    torch.manual_seed(0)
    with torch.autocast("cpu", torch.bfloat16):
        low = layer(x)[0]
    assert low.dtype == torch.bfloat16
    assert (low - output).abs().max() < 0.05


def test_double_backward(one_thread):
    layer = fastrcn.ConvGRU(1, 2, zoneout=0.3, recurrent_dropout=0.4, backend="cpu").double()
    x = torch.randn(2, 1, 1, 2, 1, dtype=torch.float64, requires_grad=True)

    def function(x):
        torch.manual_seed(0)
        return layer(x)[0]

    assert torch.autograd.gradgradcheck(function, (x,))


def test_same_parameters_copies_and_repr():
    layer, plain = fastrcn.ConvLSTM(2, 3, zoneout=0.3, recurrent_dropout=0.5), fastrcn.ConvLSTM(2, 3)
    layer.load_state_dict(plain.state_dict())
    x = torch.randn(3, 2, 2, 4, 5)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        results = []
        for one in (layer, other):
            torch.manual_seed(0)
            results.append(one(x)[0])
        assert torch.equal(*results)
    assert "zoneout=0.3, recurrent_dropout=0.5" in repr(layer)
    assert "zoneout" not in repr(plain)
    output, _ = fastrcn.ConvLSTM(2, 3, zoneout=0.3, recurrent_dropout=0.5)(torch.randn(3, 0, 2, 4, 5))
    assert output.shape == (3, 0, 3, 4, 5)


@pytest.mark.parametrize(
    ("make", "options", "words"),
    [
        (fastrcn.ConvLSTM, {"zoneout": 1}, "zoneout: expected a probability .*below 1, got 1"),
        (fastrcn.ConvLSTM, {"zoneout_cell": -0.1}, "zoneout_cell: expected a probability"),
        (fastrcn.ConvLSTMCell, {"zoneout": True}, "zoneout: expected a probability.*got True"),
        (fastrcn.LSTM, {"recurrent_dropout": "0.5"}, "recurrent_dropout: expected a probability.*got '0.5'"),
        (fastrcn.ConvGRU, {"zoneout_cell": 0.1}, "zoneout_cell: expected 0 for a cell with the state h alone, got 0.1"),
    ],
)
def test_errors(make, options, words):
    with pytest.raises(ValueError, match=words):
        make(2, 3, **options)
