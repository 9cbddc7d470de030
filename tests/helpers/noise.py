"""Cells with zoneout and recurrent dropout, and the hand-written steps that they must equal for the same masks."""

import torch

from fastrcn import cells
from fastrcn.functional import conv_recurrent
from fastrcn.ops.conv_recurrent.geometry import accumulate_type
from tests.helpers.cells import SUBJECTS, Case, gradients, make_tensors
from tests.helpers.loops import same
from tests.helpers.tolerances import RELATIVE, assert_close

CASE = Case(steps=5, batch=3, inputs=2, channels=3, height=4, width=3, lengths=(5, 2, 0))
REVERSED = Case(steps=4, inputs=2, channels=3, height=4, width=3, reverse=True, bias=False, states=False)


def lstm(p, x, h, c, hx):
    """``hx``: what the recurrent convolution reads."""
    i, f, g, o = (same(x, p["weight_ih"], p.get("bias")) + same(hx, p["weight_hh"])).chunk(4, 1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


def gru(p, x, h, d):
    """``d``: factor of what the recurrent convolutions read."""
    xr, xz, xn = same(x, p["weight_ih"], p.get("bias")).chunk(3, 1)
    hr, hz = same(d * h, p["weight_hh"][: 2 * h.shape[1]]).chunk(2, 1)
    r, z = torch.sigmoid(xr + hr), torch.sigmoid(xz + hz)
    return (1 - z) * h + z * torch.tanh(xn + same(d * r * h, p["weight_hh"][2 * h.shape[1] :]))


def zoned_lstm(p, x, state, masks):
    h, c = state
    new_h, new_c = lstm(p, x, h, c, h)
    return masks[0] * h + (1 - masks[0]) * new_h, masks[1] * c + (1 - masks[1]) * new_c


def zoned_gru(p, x, state, masks):
    (h,) = state
    return (masks[0] * h + (1 - masks[0]) * gru(p, x, h, 1),)


def dropped_gru(p, x, state, masks):
    return (gru(p, x, state[0], masks[0]),)


def dropped_zoned_lstm(p, x, state, masks):
    """Dropout of h, zoneout of c alone: the new h is made of the c that zoneout has not touched."""
    h, c = state
    new_h, new_c = lstm(p, x, h, c, masks[0] * h)
    return new_h, masks[1] * c + (1 - masks[1]) * new_c


OF_LSTM = (zoned_lstm, dropped_zoned_lstm)

NOISY = {
    "zoned_lstm": (cells.Zoneout(cells.ConvLSTM()), "lstm", zoned_lstm, "ss"),
    "zoned_gru": (cells.Zoneout(cells.ConvGRU()), "gru_before", zoned_gru, "s"),
    "zoned_in_evaluation": (cells.Zoneout(cells.ConvLSTM()), "lstm", zoned_lstm, "rr"),
    "dropped_gru": (cells.RecurrentDropout(cells.ConvGRU()), "gru_before", dropped_gru, "q"),
    "both": (cells.Zoneout(cells.RecurrentDropout(cells.ConvLSTM()), ["c"]), "lstm", dropped_zoned_lstm, "qs"),
}
"""A cell, the subject whose tensors it takes, its step, and its masks: s a map for each step, q one, r a row."""


def make_masks(kinds, case):
    shapes = {
        "s": (case.steps, case.batch, case.channels, *case.map),
        "r": (1, 1, case.channels, *(1 for _ in case.map)),
    }
    shapes["q"] = (1, *shapes["s"][1:])
    draw = {"r": lambda u: u, "s": lambda u: (u < 0.4).double(), "q": lambda u: (u < 0.8).double() / 0.8}
    return [draw[k](torch.rand(shapes[k], dtype=torch.float64)) for k in kinds]


def loop(step, case, p, masks):
    """(output, last states)."""
    zero, n_states = p["weight_hh"].new_zeros(case.batch, case.channels, *case.map), 2 if step in OF_LSTM else 1
    states = tuple(p.get(name, zero) for name in ("h0", "c0")[:n_states])
    lengths, outputs, steps = torch.tensor(case.lengths or (case.steps,) * case.batch), {}, range(case.steps)
    for t in reversed(steps) if case.reverse else steps:
        new = step(p, p["x"][t], states, [m[t if len(m) > 1 else 0] for m in masks])
        running = (t < lengths).view(-1, *(1,) * (zero.dim() - 1))
        states = tuple(torch.where(running, n, s) for n, s in zip(new, states, strict=True))
        outputs[t] = states[0] * running
    return torch.stack([outputs[t] for t in steps]), states


def compare_noisy(name, case, backend, dtype, recompute=False):
    """Outputs and all gradients against the float64 loop on the same values, as ``compare_with_loop`` does."""
    cell, subject, step, kinds = NOISY[name]
    masks, leaves = make_masks(kinds, case), make_tensors(SUBJECTS[subject], case, dtype)
    exact = {n: t.detach().double().requires_grad_() for n, t in leaves.items()}
    truth = gradients(*loop(step, case, exact, masks), exact)
    plain = {}
    if dtype not in RELATIVE:
        plain = gradients(*loop(step, case, leaves, [m.to(dtype) for m in masks]), leaves)
    hx = tuple(leaves[n] for n in ("h0", "c0") if n in leaves) or None
    result = conv_recurrent(
        cell, leaves["x"], leaves["weight_ih"], leaves["weight_hh"], leaves.get("bias"), None, hx,
        masks=[m.to(accumulate_type(dtype)) for m in masks], lengths=case.lengths, reverse=case.reverse,
        recompute=recompute, backend=backend,
    )  # fmt: skip
    found = gradients(*result, leaves)
    for part, value in truth.items():
        assert_close(found[part], value, part, dtype, plain.get(part))
