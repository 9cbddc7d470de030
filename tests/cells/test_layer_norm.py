"""Layer normalisation of the convolutions against hand-written loops with ``F.layer_norm``."""

import pytest
import torch

from fastrcn import cells
from fastrcn.cells import Cell, conv, norm, tanh
from fastrcn.compiler.schedule import make_schedule
from fastrcn.functional import conv_recurrent
from fastrcn.ops.conv_recurrent import input_schedule
from tests.helpers.loops import run
from tests.helpers.normed import CELLS, compare, tensors_of
from tests.helpers.tolerances import assert_close

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_equals_the_loop_with_all_gradients(name, backend, poisoned_memory):
    for schedule in input_schedule.NAMES if backend == "cpu" else ("hoisted",):
        with input_schedule.use_schedule(schedule):
            compare(name, backend, torch.float64, lengths=(4, 2, 0))
            compare(name, backend, torch.float64, maps=True, reverse=True, recompute=True)
            compare(name, backend, torch.float64, size=(1, 1), steps=1)
            compare(name, backend, torch.float32, maps=True, lengths=(1, 3, 4), recompute=True)


@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_many_chunks_and_threads(name, poisoned_memory):
    """Threads share out pixels, or channels where there are few pixels; sums are put together from all of them."""
    torch.set_num_threads(3)
    for schedule in input_schedule.NAMES:
        with input_schedule.use_schedule(schedule):
            compare(name, "cpu", torch.float32, steps=19, batch=2, size=(24, 25), channels=5, maps=True)
            compare(name, "cpu", torch.float64, steps=3, batch=2, size=(3, 3), channels=64)
            compare(name, "cpu", torch.float64, steps=3, batch=40, size=(2, 1), channels=32, recompute=True)


def test_bfloat16(poisoned_memory):
    """As near to float64 as a plain loop in bfloat16."""
    cell, step = CELLS["lstm"]
    exact = tensors_of(cell)
    low = {n: t.detach().bfloat16() for n, t in exact.items()}
    truth, _ = run(step, exact, exact["x"], (exact["h"], exact["c"]))
    plain, _ = run(step, low, low["x"], (low["h"], low["c"]))
    given = [low[n] for n in ("x", "weight_ih", "weight_hh", "bias", "weight_ch")]
    for backend in ("reference", "cpu"):
        found, _ = conv_recurrent(cell, *given, (low["h"], low["c"]), backend=backend)
        assert_close(found, truth, backend, plain=plain)


def test_opcheck():
    cell = CELLS["lstm"][0]
    t = {n: v.detach() for n, v in tensors_of(cell, maps=True).items()}
    common = ([t["x"]], [t["weight_ih"]], t["weight_hh"], t["bias"], t["weight_ch"], [t["h"], t["c"]], [], None)
    options = ([1, 1], [1, 1], None, False)
    forward, backward = (getattr(torch.ops.fastrcn, f"conv_recurrent_{name}").default for name in ("fwd", "bwd"))
    for save in (1, 2):
        arguments = ("cpu", cell.key, *common, *options, save)
        assert set(torch.library.opcheck(forward, arguments).values()) == {"SUCCESS"}
        output, *rest = forward(*arguments)
        grads = [torch.ones_like(output), None, None]
        arguments = ("cpu", cell.key, grads, *common, output, rest[2:], *options, [True] * 7)
        assert set(torch.library.opcheck(backward, arguments).values()) == {"SUCCESS"}


def test_one_step_by_hand():
    """1x1 kernels, one channel, two pixels: (1, 3) -> (-1, 1) whatever weight and bias of the convolution."""
    cell = cells.LayerNorm(cells.ConvRNN("relu"), eps=1e-30)
    x = torch.tensor([1.0, 3.0]).view(1, 1, 1, 1, 2)
    weight = torch.full((1, 1, 1, 1), 7.0)
    bias, weight_ch = torch.tensor([0.5]), torch.tensor([2.0, 9.0])
    output, _ = conv_recurrent(cell, x, weight, weight, bias, weight_ch)
    assert torch.allclose(output.flatten(), torch.tensor([0.0, 2.5]))


def test_schedule():
    """The convolutions of x are one group, those of h another; each block has a factor, inputs' first."""
    schedule = make_schedule(cells.LayerNorm(cells.ConvLSTM(True), eps=0.5))
    assert [(g.inputs, g.operands, len(g.slots), g.eps) for g in schedule.groups] == [
        (("x",), (), 4, 0.5),
        ((), (0,), 4, 0.5),
    ]
    assert schedule.blocks == {"x": 4, "h": 4, "bias": 4, "peephole": 3, "scale": 8}
    names = [symbol.name for symbol, kind, _ in schedule.params if kind == "peephole"]
    assert names[3:] == [f"scale_conv_{source}_{k}" for source in ("x", "state") for k in range(4)]


def test_errors():
    class Twice(Cell):
        def step(self, x, h):
            return tanh(norm(norm(conv(x))) + conv(h))

    class Beside(Cell):
        def step(self, x, h):
            a = conv(h)
            return tanh(conv(x) + a * norm(a))

    class Eps(Cell):
        def step(self, x, h):
            return tanh(norm(conv(x), -1) + conv(h))

    class Two(Cell):
        def step(self, x, h):
            return tanh(norm(conv(x), 0.1) * norm(conv(x), 0.2) + conv(h))

    for kind, words in [
        (Twice, "norm: expected what conv"),
        (Beside, "used through it alone"),
        (Eps, "norm: expected eps above 0, got -1"),
        (Two, "one eps for all norms of the convolutions of x"),
    ]:
        with pytest.raises(ValueError, match=words):
            make_schedule(kind())
    x, w, u = torch.randn(1, 1, 2, 3, 3), torch.randn(12, 2, 3, 3), torch.randn(12, 3, 3, 3)
    cell, factors = cells.LayerNorm(cells.ConvLSTM()), torch.ones(24)
    with pytest.raises(ValueError, match=r"weight_ch: expected 0\*3 peepholes and 8\*3 factors of norms .*got none"):
        conv_recurrent(cell, x, w, u)
    with pytest.raises(ValueError, match=r"bias: expected shape \(4\*3,\) or \(12, 3, 3\), got \(12, 2, 3\)"):
        conv_recurrent(cell, x, w, u, torch.zeros(12, 2, 3), factors)
    with pytest.raises(ValueError, match=r"bias: expected shape \(4\*3,\), got \(12, 3, 3\)"):
        conv_recurrent(cells.ConvLSTM(), x, w, u, torch.zeros(12, 3, 3))
