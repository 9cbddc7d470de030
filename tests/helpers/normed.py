"""Cells with layer normalisation, and the hand-written steps that they must equal."""

import torch
import torch.nn.functional as F

from fastrcn import cells
from fastrcn.cells import Cell, conv, norm, sigmoid, tanh
from fastrcn.compiler.schedule import schedule_of
from fastrcn.functional import conv_recurrent
from tests.helpers.loops import run, same, spread
from tests.helpers.tolerances import assert_close


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
    "one_norm": (OneNorm(), one_norm),
}


def tensors_of(cell, steps=4, batch=3, size=(4, 3), channels=3, maps=False):
    blocks, inputs = schedule_of(cell.key).blocks, 2
    full = size if maps else ()
    shapes = {"x": (steps, batch, inputs, *size), "weight_ih": (blocks["x"] * channels, inputs, 3, 3)}
    shapes |= dict.fromkeys(cell.states, (batch, channels, *size))
    shapes |= {"weight_hh": (blocks["h"] * channels, channels, 3, 3)}
    shapes |= {"bias": (blocks["bias"] * channels, *(() if isinstance(cell, OneNorm) else full))}
    shapes |= {"weight_ch": ((blocks["peephole"] + blocks["scale"]) * channels, *full)}
    return {n: torch.randn(s, dtype=torch.float64, requires_grad=True) for n, s in shapes.items()}


def compare(
    name, backend, dtype, lengths=None, maps=False, size=(4, 3), steps=4, batch=3, channels=3, device="cpu", **options
):  # fmt: skip
    """One call of a cell against its loop: outputs, last states and all gradients."""
    cell, step = CELLS[name]
    exact = tensors_of(cell, steps, batch, size, channels, maps)
    leaves = {n: t.detach().to(device, dtype).requires_grad_() for n, t in exact.items()}
    lengths = None if lengths is None else torch.tensor(lengths)
    hx = tuple(exact[s] for s in cell.states)
    results = [run(step, exact, exact["x"], hx, lengths, options.get("reverse", False))]
    given = [leaves[n] for n in ("x", "weight_ih", "weight_hh", "bias", "weight_ch")]
    hx = tuple(leaves[s] for s in cell.states)
    results.append(conv_recurrent(cell, *given, hx, lengths=lengths, backend=backend, **options))
    flat = [[output, *states] for output, states in results]
    generator = [torch.randn_like(t) for t in flat[0]]
    grads = [
        torch.autograd.grad([(t * g.to(t)).sum() for t, g in zip(parts, generator, strict=True)], list(of.values()))
        for parts, of in zip(flat, (exact, leaves), strict=True)
    ]
    for n, truth, found in zip(["output", *cell.states], *flat, strict=True):
        assert_close(found.cpu(), truth, n)
    for n, truth, found in zip(exact, *grads, strict=True):
        assert_close(found.cpu(), truth, f"gradient of {n}")
