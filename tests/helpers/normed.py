"""Cells with layer normalisation, and the hand-written steps that they must equal."""

import torch
import torch.nn.functional as F

from fastrcn import cells
from fastrcn.cells import Cell, conv, norm, sigmoid, tanh
from fastrcn.compiler.schedule import schedule_of
from fastrcn.functional import conv_recurrent
from tests.helpers.loops import run, same, spread
from tests.helpers.tolerances import RELATIVE, assert_draws_close, draws


def normed(maps, scale, eps=1e-5):
    return spread(scale, maps) * F.layer_norm(maps, maps.shape[1:], eps=eps)


def lstm(p, x, state):
    h, c = state
    of_x, of_h = p["weight_ch"].chunk(2)
    a = normed(same(x, p["weight_ih"]), of_x) + normed(same(h, p["weight_hh"]), of_h) + spread(p["bias"], h)
    i, f, g, o = a.chunk(4, 1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


def peephole_lstm(p, x, state):
    h, c = state
    n = 3 * h.shape[1]
    wi, wf, wo = (spread(w, h) for w in p["weight_ch"][:n].chunk(3))
    of_x, of_h = p["weight_ch"][n:].chunk(2)
    a = normed(same(x, p["weight_ih"]), of_x, 0.1) + normed(same(h, p["weight_hh"]), of_h, 0.1) + spread(p["bias"], h)
    i, f, g, o = a.chunk(4, 1)
    c = torch.sigmoid(f + wf * c) * c + torch.sigmoid(i + wi * c) * torch.tanh(g)
    return torch.sigmoid(o + wo * c) * torch.tanh(c), c


def gru(p, x, state):
    """The candidate's recurrent convolution is normalised by itself: it is of another operand."""
    (h,) = state
    n = h.shape[1]
    w_rz, w_n = p["weight_hh"].split([2 * n, n])
    of_x, of_rz, of_n = p["weight_ch"].split([3 * n, 2 * n, n])
    r, z, x_n = (normed(same(x, p["weight_ih"]), of_x) + spread(p["bias"], h)).chunk(3, 1)
    h_r, h_z = normed(same(h, w_rz), of_rz).chunk(2, 1)
    r, z = torch.sigmoid(r + h_r), torch.sigmoid(z + h_z)
    return ((1 - z) * h + z * torch.tanh(x_n + normed(same(r * h, w_n), of_n)),)


def gru_after(p, x, state):
    """The reset gate acts on the candidate's normalised recurrent convolution and its bias."""
    (h,) = state
    of_x, of_h = p["weight_ch"].chunk(2)
    of_gates, of_reset = p["bias"].split([3 * h.shape[1], h.shape[1]])
    x_r, x_z, x_n = (normed(same(x, p["weight_ih"]), of_x) + spread(of_gates, h)).chunk(3, 1)
    h_r, h_z, h_n = normed(same(h, p["weight_hh"]), of_h).chunk(3, 1)
    r, z = torch.sigmoid(x_r + h_r), torch.sigmoid(x_z + h_z)
    return ((1 - z) * torch.tanh(x_n + r * (h_n + spread(of_reset, h))) + z * h,)


def rnn(p, x, state):
    (h,) = state
    of_x, of_h = p["weight_ch"].chunk(2)
    return (
        torch.tanh(
            normed(same(x, p["weight_ih"]), of_x) + normed(same(h, p["weight_hh"]), of_h) + spread(p["bias"], h)
        ),
    )


class OneNorm(Cell):
    """Only the recurrent convolution of the gate is normalised; the others of h and x merge as ever."""

    def step(self, x, h):
        f = sigmoid(conv(x) + norm(conv(h)))
        return (1 - f) * h + f * tanh(conv(x) + conv(h))


def one_norm(p, x, state):
    (h,) = state
    f, n = (same(x, p["weight_ih"]) + p["bias"].view(-1, 1, 1)).chunk(2, 1)
    of_f, of_n = p["weight_hh"].chunk(2)
    f = torch.sigmoid(f + normed(same(h, of_f), p["weight_ch"]))
    return ((1 - f) * h + f * torch.tanh(n + same(h, of_n)),)


CELLS = {
    "lstm": (cells.LayerNorm(cells.ConvLSTM()), lstm),
    "peephole_lstm": (cells.LayerNorm(cells.ConvLSTM(True), eps=0.1), peephole_lstm),
    "gru": (cells.LayerNorm(cells.ConvGRU()), gru),
    "gru_after": (cells.LayerNorm(cells.ConvGRU("after")), gru_after),
    "rnn": (cells.LayerNorm(cells.ConvRNN()), rnn),
    "one_norm": (OneNorm(), one_norm),
}


def tensors_of(cell, steps=4, batch=3, size=(4, 3), channels=3, maps=False, kernel=(3, 3), seed=None):
    """Random leaves by name; ``maps``: a factor and a bias for each value of a map."""
    blocks, inputs = schedule_of(cell.key).blocks, 2
    full = size if maps else ()
    shapes = {"x": (steps, batch, inputs, *size), "weight_ih": (blocks["x"] * channels, inputs, *kernel)}
    shapes |= dict.fromkeys(cell.states, (batch, channels, *size))
    shapes |= {"weight_hh": (blocks["h"] * channels, channels, *kernel)}
    shapes |= {"bias": (blocks["bias"] * channels, *(() if isinstance(cell, OneNorm) else full))}
    shapes |= {"weight_ch": ((blocks["peephole"] + blocks["scale"]) * channels, *full)}
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    return {n: torch.randn(s, dtype=torch.float64, generator=generator).requires_grad_() for n, s in shapes.items()}


def _results(call, tensors, used, seed):
    """Outputs and last states of a call on these tensors and, of a random sum of them, the gradients of those used."""
    output, states = call(tensors)
    generator, parts = torch.Generator().manual_seed(seed), [output, *states]
    weights = [torch.randn(t.shape, dtype=torch.float64, generator=generator).to(t) for t in parts]
    loss = sum((t * w).sum() for t, w in zip(parts, weights, strict=True))
    named = {"output": output} | {f"last state {k}": s for k, s in enumerate(states)}
    grads = torch.autograd.grad(loss, [tensors[n] for n in used])
    named |= {f"gradient of {n}": g for n, g in zip(used, grads, strict=True)}
    return {n: t.detach().cpu() for n, t in named.items()}


def compare(name, backend, dtype, lengths=None, states=True, reverse=False, recompute=False, device="cpu", **sizes):
    """Calls of a cell against its loop: outputs, last states and all gradients; low precision at most twice as far from
    float64 as the loop in that type, over several draws. ``states``: whether initial ones are given; ``sizes``: see
    ``tensors_of``."""
    (cell, step), results = CELLS[name], []
    lengths = None if lengths is None else torch.tensor(lengths)

    def loop(t):
        hx = tuple(t[s] if states else torch.zeros_like(t[s]) for s in cell.states)
        return run(step, t, t["x"], hx, lengths, reverse)

    def package(t):
        hx = tuple(t[s] for s in cell.states) if states else None
        given = [t[n] for n in ("x", "weight_ih", "weight_hh", "bias", "weight_ch")]
        return conv_recurrent(cell, *given, hx, lengths=lengths, backend=backend, reverse=reverse, recompute=recompute)

    for seed in draws(dtype):
        tensors = {n: t.detach().to(dtype) for n, t in tensors_of(cell, seed=seed, **sizes).items()}
        own, exact, low = (
            {n: t.to(to, copy=True).requires_grad_() for n, t in tensors.items()}
            for to in (device, torch.float64, dtype)
        )
        used = [n for n in tensors if states or n not in cell.states]
        plain = {} if dtype in RELATIVE else _results(loop, low, used, seed)
        results.append((_results(package, own, used, seed), _results(loop, exact, used, seed), plain))
    assert_draws_close(results, dtype)


def train(cell, backend, **sizes):
    """A training step in float32 by a backend."""
    tensors = {n: t.detach().float().requires_grad_() for n, t in tensors_of(cell, **sizes).items()}
    given = [tensors[n] for n in ("x", "weight_ih", "weight_hh", "bias", "weight_ch")]
    output, _ = conv_recurrent(cell, *given, tuple(tensors[s] for s in cell.states), backend=backend)
    output.sum().backward()
