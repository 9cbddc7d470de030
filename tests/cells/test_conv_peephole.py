"""The ConvLSTM whose gates see c through a convolution, and the LSTM that sees it through a matrix, against loops."""

import pytest
import torch

import fastrcn
from fastrcn import cells
from fastrcn.functional import conv_recurrent
from tests.helpers.loops import run, same
from tests.helpers.tolerances import assert_close


def step(p, x, state):
    h, c = state
    hi, ci, hf, cf, hg, ho, co = p["weight_hh"].chunk(7)
    i, f, g, o = same(x, p["weight_ih"], p["bias"]).chunk(4, 1)
    i = torch.sigmoid(i + same(h, hi) + same(c, ci))
    f = torch.sigmoid(f + same(h, hf) + same(c, cf))
    c = f * c + i * torch.tanh(g + same(h, hg))
    return torch.sigmoid(o + same(h, ho) + same(c, co)) * torch.tanh(c), c


def compare(backend, dtype, steps=4, **options):
    shapes = {"x": (steps, 2, 2, 4, 3), "h": (2, 3, 4, 3), "c": (2, 3, 4, 3)}
    shapes |= {"weight_ih": (12, 2, 3, 3), "weight_hh": (21, 3, 3, 3), "bias": (12,)}
    exact = {n: (0.5 * torch.randn(s, dtype=torch.float64)).requires_grad_() for n, s in shapes.items()}
    lengths = torch.tensor([steps, steps - 2])
    results = []
    output, states = run(step, exact, exact["x"], (exact["h"], exact["c"]), lengths, options.get("reverse", False))
    results.append([output, *states])
    leaves = {n: t.detach().to(dtype).requires_grad_() for n, t in exact.items()}
    weights = [leaves[n] for n in ("weight_ih", "weight_hh", "bias")]
    output, states = conv_recurrent(
        cells.ConvLSTM("conv"), leaves["x"], *weights, None, (leaves["h"], leaves["c"]), lengths=lengths,
        backend=backend, **options,
    )  # fmt: skip
    results.append([output, *states])
    grads = []
    for tensors, parts in zip((exact, leaves), results, strict=True):
        grads.append(torch.autograd.grad([part.square().sum() for part in parts], list(tensors.values())))
    for truth, found in (*zip(*results, strict=True), *zip(*grads, strict=True)):
        assert_close(found, truth, dtype=dtype)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("options", [{}, {"reverse": True, "recompute": True}], ids=["forward", "reverse"])
def test_equals_the_loop_with_all_gradients(backend, dtype, options, poisoned_memory, one_thread):
    compare(backend, dtype, **options)


@pytest.mark.parametrize("make", [fastrcn.ConvLSTM, fastrcn.ConvLSTM1d, fastrcn.LSTM])
def test_layers(make):
    layer = make(2, 3, peephole="full" if make is fastrcn.LSTM else "conv").double()
    x = torch.randn(4, 2, 2, *(5,) * layer.axes, dtype=torch.float64)
    p = {n.removesuffix("_l0"): v for n, v in layer.named_parameters()}
    p |= {n: p[n][(..., *(None,) * (4 - p[n].dim()))] for n in ("weight_ih", "weight_hh")}
    if layer.axes == 1:
        p |= {n: p[n].transpose(2, 3) for n in ("weight_ih", "weight_hh")}
    maps = {0: lambda t: t[..., None, None], 1: lambda t: t.unsqueeze(-2), 2: lambda t: t}[layer.axes](x)
    zero = torch.zeros(2, 3, *maps.shape[3:], dtype=torch.float64)
    truth, (_, c) = run(step, p, maps, (zero, zero))
    output, (_, c_n) = layer(x)
    assert_close(output, truth.reshape(output.shape))
    assert_close(c_n[0], c.reshape(c_n[0].shape))
    assert 'peephole="' in repr(layer)


def test_one_step_by_hand():
    """All weights zero but those of c: i = f = sigmoid(2 c0), o = sigmoid(3 c1), g = 0, so c1 = f c0."""
    cell = fastrcn.LSTMCell(1, 1, peephole="full", bias=False)
    with torch.no_grad():
        cell.weight_ih.zero_()
        cell.weight_hh.copy_(torch.tensor([[0.0], [2.0], [0.0], [2.0], [0.0], [0.0], [3.0]]))
    h, c = cell(torch.zeros(1, 1), (torch.zeros(1, 1), torch.full((1, 1), 0.5)))
    assert float(c.detach()) == pytest.approx(0.5 * 0.7310585786)
    assert float(h.detach()) == pytest.approx(0.7496202290 * 0.3500750547)
