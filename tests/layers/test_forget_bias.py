"""forget_bias against steps that add it to the forget gate, with and without a learned bias; flax: tests/oracles."""

import copy
import pickle

import pytest
import torch

import fastrcn
from tests.helpers import loops
from tests.helpers.tolerances import assert_close

LAYERS = {
    "conv_lstm": lambda **o: fastrcn.ConvLSTM(2, 3, num_layers=2, bidirectional=True, peephole="channel", **o),
    "lstm": lambda **o: fastrcn.LSTM(2, 3, num_layers=2, bidirectional=True, **o),
}


def step(p, x, state, forget_bias):
    h, c = state
    i, f, g, o = (loops.same(x, p["weight_ih"], p["bias"]) + loops.same(h, p["weight_hh"])).chunk(4, 1)
    wi, wf, wo = (loops.spread(w, c) for w in p["weight_ch"].chunk(3, 0))
    i, f = torch.sigmoid(i + wi * c), torch.sigmoid(f + forget_bias + wf * c)
    c = f * c + i * torch.tanh(g)
    return torch.sigmoid(o + wo * c) * torch.tanh(c), c


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_equals_the_loop_with_all_gradients(name, bias, backend, one_thread):
    layer = LAYERS[name](bias=bias, backend=backend, forget_bias=1.5).double()
    with torch.no_grad():
        for p in layer.parameters():
            p.uniform_(-0.5, 0.5)
    x = torch.randn(4, 2, 2, *((4, 5) if layer.axes else ()), dtype=torch.float64, requires_grad=True)
    output, (_, c_n) = layer(x)

    def maps(tensor):
        return tensor if layer.axes else tensor[..., None, None]

    below, cells = maps(x), []
    zero = x.new_zeros(2, 3, *below.shape[3:])
    for k in range(2):
        parts = []
        for d in range(2):
            suffix = f"_l{k}" + "_reverse" * d
            p = {n: getattr(layer, n + suffix, None) for n in ("weight_ih", "weight_hh", "bias", "weight_ch")}
            p |= {n: maps(p[n]) for n in ("weight_ih", "weight_hh")}
            p["weight_ch"] = x.new_zeros(9) if p["weight_ch"] is None else p["weight_ch"]
            found, (_, c) = loops.run(step, p, below, (zero, zero), reverse=d == 1, forget_bias=1.5)
            parts.append(found)
            cells.append(c)
        below = torch.cat(parts, 2)
    truth, true_c = (below, torch.stack(cells)) if layer.axes else (below[..., 0, 0], torch.stack(cells)[..., 0, 0])
    assert_close(output, truth)
    assert_close(c_n, true_c)
    leaves, to_output = [x, *layer.parameters()], torch.randn_like(truth)
    losses = [(o * to_output).sum() + c.square().sum() for o, c in ((output, c_n), (truth, true_c))]
    grads = [torch.autograd.grad(loss, leaves) for loss in losses]
    for k, (found, expected) in enumerate(zip(*grads, strict=True)):
        assert_close(found, expected, f"gradient {k}")


@pytest.mark.parametrize("make", [fastrcn.ConvLSTMCell, fastrcn.LSTMCell])
def test_one_step_by_hand(make):
    """Only the offset differs from zero: f = sigmoid(2), i = o = 1/2, g = 0, so c = f c0 and h = tanh(c) / 2."""
    cell = make(1, 1, bias=False, forget_bias=2.0)
    for p in cell.parameters():
        torch.nn.init.zeros_(p)
    shape = (1, 1, 1, 1) if make is fastrcn.ConvLSTMCell else (1, 1)
    h, c = cell(torch.zeros(shape), (torch.zeros(shape), torch.full(shape, 3.0)))
    assert float(c.detach()) == pytest.approx(3 * 0.8807970780)
    assert float(h.detach()) == pytest.approx(0.5 * 0.98991484)


def test_no_parameter_and_kept_by_copies():
    layer, plain = fastrcn.ConvLSTM(2, 3, forget_bias=1), fastrcn.ConvLSTM(2, 3)
    layer.load_state_dict(plain.state_dict())
    x = torch.randn(4, 2, 2, 3, 3)
    assert not torch.equal(layer(x)[0], plain(x)[0])
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(other(x)[0], layer(x)[0])
    assert "forget_bias=1.0" in repr(layer)
    assert "forget_bias" not in repr(plain)


@pytest.mark.parametrize("make", [fastrcn.ConvLSTM, fastrcn.ConvLSTMCell, fastrcn.LSTM, fastrcn.LSTMCell])
@pytest.mark.parametrize("value", ["1", True, float("nan"), None])
def test_errors(make, value):
    with pytest.raises(ValueError, match=r"forget_bias: expected a finite number, got"):
        make(2, 3, forget_bias=value)
