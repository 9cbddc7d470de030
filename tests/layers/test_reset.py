"""``reset`` against a loop over steps that zeroes the states where the mask is True; further cases: test_markers.py."""

from typing import Any

import pytest
import torch

import fastrcn
from tests.helpers import loops
from tests.helpers.tolerances import assert_close

RESET = torch.tensor(
    [[1, 0, 0, 1, 0, 0], [0, 0, 1, 1, 1, 0], [0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 1]], dtype=torch.bool
).t()
# (T,B): at the first step, pieces of one step, none at all, at the last step


def loop(step, p, x, states, reset, lengths, reverse):
    """One layer and direction, step by step."""
    outputs, steps = {}, range(len(x))
    for t in reversed(steps) if reverse else steps:
        running = (t < lengths).view(-1, 1, 1, 1)
        if reverse:
            begins = reset[t + 1] & (t + 1 < lengths) if t + 1 < len(x) else torch.zeros(len(lengths), dtype=torch.bool)
        else:
            begins = reset[t] & (t < lengths)
        states = tuple(s * ~begins.view(-1, 1, 1, 1) for s in states)
        new = step(p, x[t], states)
        states = tuple(torch.where(running, n, s) for n, s in zip(new, states, strict=True))
        outputs[t] = states[0] * running
    return torch.stack([outputs[t] for t in steps]), states


LAYERS = {"conv_lstm": (fastrcn.ConvLSTM, loops.lstm_step, 2), "gru": (fastrcn.GRU, loops.gru_step, 1)}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("lengths", [None, [6, 4, 0, 5]])
@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_equals_the_loop_with_all_gradients(name, bidirectional, lengths, backend, dtype, one_thread):
    make, step, n_states = LAYERS[name]
    options = {"num_layers": 2, "bidirectional": bidirectional, "batch_first": True, "backend": backend}
    layer, directions = make(2, 3, **options).double(), 2 if bidirectional else 1
    tail = (4, 5) if layer.axes else ()
    x = torch.randn(6, 4, 2, *tail, dtype=torch.float64, requires_grad=True)
    hx = [torch.randn(2 * directions, 4, 3, *tail, dtype=torch.float64, requires_grad=True) for _ in range(n_states)]
    exact = [x, *layer.parameters(), *hx]

    def maps(tensor):
        return tensor if layer.axes else tensor[..., None, None]

    below, last = maps(x), []
    for k in range(2):
        parts = []
        for d in range(directions):
            suffix = f"_l{k}" + "_reverse" * d
            p = {n.removesuffix(suffix): v for n, v in layer.named_parameters() if n.endswith(suffix)}
            p = {n: v if layer.axes or v.dim() == 1 else v[..., None, None] for n, v in p.items()}
            begin = tuple(maps(s[k * directions + d]) for s in hx)
            ends = torch.tensor([6] * 4 if lengths is None else lengths)
            found, states = loop(step, p, below, begin, RESET, ends, d == 1)
            parts.append(found)
            last.append(states)
        below = torch.cat(parts, 2)
    truth = [below, *(torch.stack(s) for s in zip(*last, strict=True))]
    truth = truth if layer.axes else [t[..., 0, 0] for t in truth]
    weights = [torch.randn_like(t) for t in truth]
    true_loss: Any = sum((w * t).sum() for w, t in zip(weights, truth, strict=True))
    expected = torch.autograd.grad(true_loss, exact)

    layer = layer.to(dtype)
    x, *hx = (t.detach().to(dtype).requires_grad_() for t in (x, *hx))
    given = tuple(hx) if n_states > 1 else hx[0]
    output, states = layer(x.transpose(0, 1), given, lengths=lengths, reset=RESET.t())
    results = [output.transpose(0, 1), *(states if n_states > 1 else (states,))]
    for found, value in zip(results, truth, strict=True):
        assert_close(found, value, dtype=dtype)
    loss: Any = sum((w.to(dtype) * r).sum() for w, r in zip(weights, results, strict=True))
    found = torch.autograd.grad(loss, [x, *layer.parameters(), *hx])
    for k, (gradient, value) in enumerate(zip(found, expected, strict=True)):
        assert_close(gradient, value, f"gradient {k}", dtype=dtype)


def test_nothing_passes_a_reset():
    """Neither values, not even NaN, nor gradients."""
    layer = fastrcn.ConvLSTM(2, 3, num_layers=2)
    x, nan = torch.randn(5, 1, 2, 3, 3, requires_grad=True), torch.full((2, 1, 3, 3, 3), torch.nan)
    reset = torch.tensor([0, 0, 0, 1, 0], dtype=torch.bool)[:, None]
    output, (h, _) = layer(x, reset=reset)
    assert_close(output[3:], layer(x[3:])[0])
    (gradient,) = torch.autograd.grad(output[3:].sum() + h.sum(), x)
    assert gradient[:3].count_nonzero() == 0
    assert gradient[3].count_nonzero() > 0
    begun, _ = layer(x, (nan, nan), reset=torch.ones(5, 1, dtype=torch.bool))
    assert begun.isfinite().all()


def test_streaming_step_by_step_equals_the_whole():
    layer = fastrcn.ConvGRU(2, 3, num_layers=2)
    x, h, outputs = torch.randn(6, 4, 2, 3, 3), None, []
    for t in range(6):
        output, h = layer(x[t : t + 1], h, reset=RESET[t : t + 1])
        outputs.append(output)
    whole, last = layer(x, reset=RESET)
    assert_close(torch.cat(outputs), whole)
    assert_close(h, last)


@pytest.mark.parametrize(
    ("shape", "reset", "kind", "words"),
    [
        ((5, 2, 2), torch.zeros(5, 2), TypeError, r"reset: expected booleans.*float32"),
        ((5, 2, 2), torch.zeros(2, 5, dtype=torch.bool), ValueError, r"reset: expected shape \(5, 2\).*got \(2, 5\)"),
        ((5, 2), torch.zeros(5, dtype=torch.bool), ValueError, "reset: expected None with unbatched input"),
        ((0, 2, 2), torch.zeros(0, 2, dtype=torch.bool), ValueError, "input: expected at least one step"),
    ],
)
def test_errors(shape, reset, kind, words):
    with pytest.raises(kind, match=words):
        fastrcn.LSTM(2, 3)(torch.randn(shape), reset=reset)
