"""Zoneout and recurrent dropout against hand-written loops with the same masks; the layers: test_state_noise.py."""

import pytest
import torch

from fastrcn import cells
from fastrcn.compiler.schedule import schedule_of
from fastrcn.functional import conv_recurrent
from fastrcn.ops.conv_recurrent import input_schedule
from tests.helpers.cells import MGU, Case
from tests.helpers.noise import CASE, NOISY, REVERSED, compare_noisy
from tests.helpers.tolerances import assert_close


@pytest.mark.parametrize("name", NOISY)
@pytest.mark.parametrize("case", [CASE, REVERSED], ids=["lengths", "reversed"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_equals_the_loop_with_all_gradients(name, case, dtype, poisoned_memory, one_thread):
    compare_noisy(name, case, "reference", dtype)
    for schedule in input_schedule.NAMES:
        with input_schedule.use_schedule(schedule):
            compare_noisy(name, case, "cpu", dtype)
            compare_noisy(name, case, "cpu", dtype, recompute=True)


@pytest.mark.parametrize("name", ["zoned_lstm", "both"])
def test_many_chunks(name, poisoned_memory, one_thread):
    compare_noisy(
        name, Case(steps=19, batch=1, height=24, width=24, inputs=2, channels=3, scale=0.2), "cpu", torch.float32
    )


@pytest.mark.parametrize("make", [MGU, cells.ConvRNN, lambda: cells.ConvGRU("after"), lambda: cells.ConvLSTM(True)])
def test_masks_that_do_nothing(make):
    """Around any cell: no zoneout is the cell itself, full zoneout keeps the states, full dropout has no conv(h)."""
    cell, c = make(), 3
    n = len(cell.states)
    blocks = schedule_of(cell.key).blocks
    x, hx = torch.randn(4, 2, 2, 3, 3).double(), tuple(torch.randn(2, c, 3, 3).double() for _ in range(n))
    weights = [torch.randn(blocks[k] * c, size, 3, 3).double() for k, size in (("x", 2), ("h", c))]
    weight_ch = torch.randn(blocks["peephole"] * c).double() if blocks["peephole"] else None
    ones = torch.ones(1, 1, c, 1, 1).double()

    def run(cell, masks, weights=weights):
        return conv_recurrent(cell, x, *weights, None, weight_ch, hx, masks=masks)

    truth = run(cell, ())
    assert_close(run(cells.Zoneout(cell), [0 * ones] * n)[0], truth[0])
    assert_close(run(cells.RecurrentDropout(cell), [ones])[0], truth[0])
    for before, after in zip(hx, run(cells.Zoneout(cell), [ones] * n)[1], strict=True):
        assert torch.equal(before, after)
    alone = run(cell, (), [weights[0], 0 * weights[1]])
    assert_close(run(cells.RecurrentDropout(cell), [0 * ones])[0], alone[0])


def test_errors():
    x, weights = torch.randn(3, 2, 2, 4, 4), (torch.randn(9, 2, 3, 3), torch.randn(9, 3, 3, 3))
    cell, good = cells.Zoneout(cells.ConvGRU()), torch.zeros(3, 2, 3, 4, 4)
    for masks, kind, words in [
        ((), ValueError, "masks: expected 1 for .*, got 0"),
        (
            (good[:2],),
            ValueError,
            r"masks \(0\): expected one of .*\(3, 2, 3, 4, 4\), .*got \(2, 2, 3, 4, 4\)",
        ),
        ((good.double(),), TypeError, r"masks \(0\): expected torch.float32.*float64"),
        ((good.to("meta"),), RuntimeError, r"masks \(0\): expected device cpu"),
        ((good.clone().requires_grad_(),), ValueError, r"masks \(0\): expected a tensor without gradient"),
    ]:
        with pytest.raises(kind, match=words):
            conv_recurrent(cell, x, *weights, masks=masks)
    with pytest.raises(ValueError, match="masks: expected 0 for"):
        conv_recurrent(cells.ConvGRU(), x, *weights, masks=(good,))
    with pytest.raises(ValueError, match=r"zoned: expected some of the states \('h', 'c'\), got \('s',\)"):
        cells.Zoneout(cells.ConvLSTM(), ("s",))
