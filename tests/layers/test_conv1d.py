"""Layers on lines of pixels against loops over ``torch.nn.functional.conv1d``."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F

import fastrcn
from tests.helpers.tolerances import assert_close


def lstm(p, x, state, **options):
    h, c = state
    a = F.conv1d(x, p["weight_ih"], p["bias"], **options) + F.conv1d(h, p["weight_hh"], padding="same")
    i, f, g, o = a.chunk(4, 1)
    wi, wf, wo = p["weight_ch"].chunk(3, 0)
    c = torch.sigmoid(f + wf * c) * c + torch.sigmoid(i + wi * c) * torch.tanh(g)
    return torch.sigmoid(o + wo * c) * torch.tanh(c), c


def gru(p, x, state, **options):
    (h,) = state
    n = h.shape[1]
    xr, xz, xn = F.conv1d(x, p["weight_ih"], p["bias"], **options).chunk(3, 1)
    hr, hz = F.conv1d(h, p["weight_hh"][: 2 * n], padding="same").chunk(2, 1)
    r, z = torch.sigmoid(xr + hr), torch.sigmoid(xz + hz)
    return ((1 - z) * h + z * torch.tanh(xn + F.conv1d(r * h, p["weight_hh"][2 * n :], padding="same")),)


def rnn(p, x, state, **options):
    a = F.conv1d(x, p["weight_ih"], p["bias"], **options) + F.conv1d(state[0], p["weight_hh"], padding="same")
    return (torch.relu(a),)


LAYERS = {
    "lstm": (fastrcn.ConvLSTM1d, {"peephole": "full", "map_size": 4}, lstm, 2),
    "gru": (fastrcn.ConvGRU1d, {}, gru, 1),
    "rnn": (fastrcn.ConvRNN1d, {"nonlinearity": "relu"}, rnn, 1),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_equals_the_loop_with_all_gradients(name, backend, dtype, one_thread):
    make, options, step, n_states = LAYERS[name]
    options: Any = options | {"stride": 2, "padding": 1, "dilation": 2, "recurrent_kernel_size": 3}
    layer = make(2, 3, 5, bidirectional=True, backend=backend, **options).double()
    with torch.no_grad():
        for p in layer.parameters():
            p.uniform_(-0.5, 0.5)
    x = torch.randn(5, 2, 2, 13, dtype=torch.float64, requires_grad=True)
    hx = [torch.randn(2, 2, 3, 4, dtype=torch.float64, requires_grad=True) for _ in range(n_states)]
    truth, last = [], []
    for d in range(2):
        p = {n.split("_l0")[0]: v for n, v in layer.named_parameters() if n.endswith("_reverse") == bool(d)}
        states, outputs = tuple(s[d] for s in hx), {}
        for t in reversed(range(5)) if d else range(5):
            states = step(p, x[t], states, stride=2, padding=1, dilation=2)
            outputs[t] = states[0]
        truth.append(torch.stack([outputs[t] for t in range(5)]))
        last.append(states)
    truth = [torch.cat(truth, 2), *(torch.stack(s) for s in zip(*last, strict=True))]
    weights = [torch.randn_like(t) for t in truth]
    leaves = [x, *layer.parameters(), *hx]
    expected = torch.autograd.grad([(w * t).sum() for w, t in zip(weights, truth, strict=True)], leaves)

    layer = layer.to(dtype)
    x, *hx = (t.detach().to(dtype).requires_grad_() for t in (x, *hx))
    output, states = layer(x, tuple(hx) if n_states > 1 else hx[0])
    results = [output, *(states if n_states > 1 else (states,))]
    for found, value in zip(results, truth, strict=True):
        assert_close(found, value, dtype=dtype)
    losses = [(w.to(dtype) * r).sum() for w, r in zip(weights, results, strict=True)]
    for found, value in zip(torch.autograd.grad(losses, [x, *layer.parameters(), *hx]), expected, strict=True):
        assert_close(found, value, dtype=dtype)


def test_shapes_options_and_names():
    layer = fastrcn.ConvLSTM1d(
        2, 3, 3, num_layers=2, peephole="channel", batch_first=True, padding="valid", zoneout=0.1
    )
    assert layer.weight_ih_l0.shape == (12, 2, 3)
    assert layer.weight_hh_l1.shape == (12, 3, 3)
    assert layer.weight_ch_l0.shape == (9,)
    reset = torch.tensor([[False, True, False], [False] * 3])
    output, (h, c) = layer(torch.randn(2, 3, 2, 8), lengths=[3, 2], reset=reset)
    assert output.shape == (2, 3, 3, 6)
    assert h.shape == c.shape == (2, 2, 3, 6)
    assert layer(torch.randn(3, 2, 8))[0].shape == (3, 3, 6)
    assert "2, 3, kernel_size=(3,)" in repr(layer)
    lines = torch.randn(3, 2, 2, 8)
    output, state = fastrcn.ConvGRU1d(2, 3)(lines)
    assert torch.equal(output[-1], state[0])


def test_errors():
    two: Any = (3, 3)
    with pytest.raises(
        ValueError, match=r"input: expected \(T,B,C,L\) or unbatched \(T,C,L\), got shape \(2, 3, 2, 4, 4\)"
    ):
        fastrcn.ConvGRU1d(2, 3)(torch.randn(2, 3, 2, 4, 4))
    with pytest.raises(ValueError, match=r"kernel_size: expected an int for lines of pixels, got \(3, 3\)"):
        fastrcn.ConvGRU1d(2, 3, kernel_size=two)
    with pytest.raises(ValueError, match=r"stride: expected an int for lines"):
        fastrcn.ConvLSTM1d(2, 3, stride=(1, 2))
    with pytest.raises(ValueError, match="kernel_size: expected odd"):
        fastrcn.ConvRNN1d(2, 3, 4)
    with pytest.raises(ValueError, match=r"hx \(h\): expected shape \(1, 2, 3, 8\), got \(1, 2, 3, 7\)"):
        fastrcn.ConvRNN1d(2, 3)(torch.randn(2, 2, 2, 8), torch.zeros(1, 2, 3, 7))
