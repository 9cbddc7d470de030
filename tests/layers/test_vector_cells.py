"""LSTM with peepholes and GRU on vectors: the equations of Graves 2013 and Cho et al. 2014, unrolled by hand."""

import pytest
import torch
from torch import nn

import fastrcn
from tests.helpers.tolerances import assert_close


def peephole_lstm(x, h, c, w, u, b, v):
    """Gates i, f, g, o; v: peepholes of i, f, o."""
    hidden = h.shape[1]
    vi, vf, vo = v.split(hidden)
    outputs = []
    for x_t in x:
        i, f, g, o = (x_t @ w.T + h @ u.T + b).split(hidden, 1)
        i, f = torch.sigmoid(i + vi * c), torch.sigmoid(f + vf * c)
        c = f * c + i * torch.tanh(g)
        h = torch.sigmoid(o + vo * c) * torch.tanh(c)
        outputs.append(h)
    return torch.stack(outputs), h, c


def cho_gru(x, h, w, u, b):
    """Gates r, z, n; the reset acts before the product, z weighs the candidate."""
    hidden = h.shape[1]
    wr, wz, wn = w.split(hidden)
    ur, uz, un = u.split(hidden)
    br, bz, bn = b.split(hidden)
    outputs = []
    for x_t in x:
        r = torch.sigmoid(x_t @ wr.T + h @ ur.T + br)
        z = torch.sigmoid(x_t @ wz.T + h @ uz.T + bz)
        n = torch.tanh(x_t @ wn.T + (r * h) @ un.T + bn)
        h = (1 - z) * h + z * n
        outputs.append(h)
    return torch.stack(outputs), h


def randomize(layer):
    with torch.no_grad():
        for p in layer.parameters():
            p.uniform_(-0.8, 0.8)
    return layer


def assert_same_with_gradients(found, truth, inputs):
    weights = [torch.randn_like(t) for t in truth]
    grads = []
    for k, (a, b) in enumerate(zip(found, truth, strict=True)):
        assert_close(a, b, f"result {k}")
    for results in (found, truth):
        loss = sum((w * r).sum() for w, r in zip(weights, results, strict=True))
        grads.append(torch.autograd.grad(loss, inputs))
    for k, (a, b) in enumerate(zip(*grads, strict=True)):
        assert_close(a, b, f"gradient {k}")


def test_peephole_lstm_equals_the_equations():
    layer = randomize(fastrcn.LSTM(3, 4, peephole="channel").double())
    x, h, c = (torch.randn(*s, dtype=torch.float64, requires_grad=True) for s in ((5, 2, 3), (1, 2, 4), (1, 2, 4)))
    output, (last_h, last_c) = layer(x, (h, c))
    p = [layer.weight_ih_l0, layer.weight_hh_l0, layer.bias_l0, layer.weight_ch_l0]
    truth = peephole_lstm(x, h[0], c[0], *p)
    assert_same_with_gradients((output, last_h[0], last_c[0]), truth, [x, h, c, *p])


def test_gru_equals_the_equations():
    layer = randomize(fastrcn.GRU(3, 4).double())
    x, h = (torch.randn(*s, dtype=torch.float64, requires_grad=True) for s in ((5, 2, 3), (1, 2, 4)))
    output, last = layer(x, h)
    p = [layer.weight_ih_l0, layer.weight_hh_l0, layer.bias_l0]
    assert_same_with_gradients((output, last[0]), cho_gru(x, h[0], *p), [x, h, *p])


def test_zero_peepholes_are_torch_nn():
    theirs = nn.LSTM(3, 4, 5, bidirectional=True).double()
    ours = fastrcn.LSTM(3, 4, 5, bidirectional=True, peephole="channel").double()
    zero = {n: torch.zeros_like(p) for n, p in ours.named_parameters() if n.startswith("weight_ch")}
    ours.load_state_dict(theirs.state_dict() | zero)
    x = torch.randn(6, 2, 3, dtype=torch.float64)
    assert_close(ours(x)[0], theirs(x)[0])


def test_output_gate_of_vectors_reads_the_new_cell_state():
    layer = fastrcn.LSTM(1, 1, peephole="channel").double()
    for p in layer.parameters():
        nn.init.zeros_(p)
    with torch.no_grad():
        layer.bias_l0[2] = 9.0  # g = 1, i = 1/2: c changes from 0
        layer.weight_ch_l0[2] = 5.0
        h, c = layer(torch.zeros(1, 1, 1, dtype=torch.float64))[1]
    assert float(c) == pytest.approx(0.5, abs=1e-6)
    assert_close(h, torch.sigmoid(5 * c) * torch.tanh(c))
    assert float((h - 0.5 * torch.tanh(c)).abs()) > 0.1  # what reading the old state, 0, would give


def test_forms_of_the_gru_agree_with_torch_nn_for_a_diagonal_u():
    """Reset before or after the product is the same then, and z means 1 - z: a negated gate."""
    ours, theirs = fastrcn.GRU(3, 4, bias=False).double(), nn.GRU(3, 4, bias=False).double()
    randomize(ours)
    with torch.no_grad():
        ours.weight_hh_l0[8:] = torch.diag(torch.randn(4, dtype=torch.float64))
        for name, p in theirs.named_parameters():
            p.copy_(getattr(ours, name))
            p[4:8] *= -1
    x = torch.randn(5, 2, 3, dtype=torch.float64)
    assert_close(ours(x)[0], theirs(x)[0])
    with torch.no_grad():
        for layer in (ours, theirs):
            layer.weight_hh_l0[8:] = torch.linspace(-1, 1, 16, dtype=torch.float64).view(4, 4)
    assert (ours(x)[0] - theirs(x)[0]).abs().max() > 1e-2


@pytest.mark.parametrize("layers", [3, 4])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_deep_lstm_equals_torch_nn_with_all_gradients(layers, bidirectional):
    theirs = nn.LSTM(3, 4, layers, bidirectional=bidirectional).double()
    ours = fastrcn.LSTM(3, 4, layers, bidirectional=bidirectional).double()
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(5, 2, 3, dtype=torch.float64)
    weight = torch.randn(5, 2, 4 * (1 + bidirectional), dtype=torch.float64)
    output, truth = ours(x)[0], theirs(x)[0]
    assert_close(output, truth)
    (output * weight).sum().backward()
    (truth * weight).sum().backward()
    for name, p in ours.named_parameters():
        assert_close(p.grad, getattr(theirs, name.replace("bias", "bias_ih")).grad, name)
