"""One small case of each kind of Triton kernel of conv_recurrent on a GPU, for compute-sanitizer, under which a kernel
takes many times as long: every precision, both schedules, launched and walked."""

from contextlib import ExitStack
from dataclasses import replace

import pytest
import torch

import fastrcn
from fastrcn.ops.conv_recurrent import input_schedule, triton_time_loop
from tests.helpers import normed
from tests.helpers.cells import Case, compare_in_tf32, compare_with_loop
from tests.helpers.tolerances import assert_close

pytestmark = [pytest.mark.gpu, pytest.mark.triton, pytest.mark.sanitizer]

DEVICE = "cuda"
# More than one tile, in pixels and in channels, and the last of them not full.
MAPS = Case(steps=4, inputs=20, channels=40, height=9, width=17, scale=0.1, lengths=(4, 2))
VOLUMES = replace(MAPS, depth=3, height=5, width=6, kernel=(3, 3, 3))
EXACT, TF32, HALF, BFLOAT = "float32", "tf32", "float16", "bfloat16"
LAUNCHED, WALKED = "launched", "persistent"

KERNELS = [
    ("lstm_full", MAPS, EXACT, "hoisted", LAUNCHED),
    ("lstm_full", MAPS, BFLOAT, "in_loop", WALKED),
    ("lstm_full", MAPS, TF32, "hoisted", WALKED),
    ("lstm_full", VOLUMES, BFLOAT, "hoisted", LAUNCHED),
    ("gru_before", MAPS, BFLOAT, "hoisted", WALKED),
    ("gru_before", MAPS, HALF, "in_loop", LAUNCHED),
    ("gru_before", VOLUMES, HALF, "in_loop", WALKED),
    ("gru_after", MAPS, TF32, "in_loop", LAUNCHED),
    ("gru_after", MAPS, BFLOAT, "hoisted", WALKED),
    ("stacked", MAPS, HALF, "in_loop", WALKED),
    ("stacked", MAPS, BFLOAT, "hoisted", LAUNCHED),
]


@pytest.mark.parametrize(
    ("name", "case", "precision", "schedule", "loop"),
    [
        pytest.param(
            *kernel,
            id="-".join([kernel[0], "maps" if kernel[1] is MAPS else "volumes", *kernel[2:]]),
            marks=[pytest.mark.walk] if kernel[-1] == WALKED else [],
        )
        for kernel in KERNELS
    ],
)
def test_cell(name, case, precision, schedule, loop, monkeypatch):
    walks, plain = [], triton_time_loop.walk
    monkeypatch.setattr(triton_time_loop, "walk", lambda *a: walks.append(a) or plain(*a))
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", precision == TF32)
    with ExitStack() as asked:
        asked.enter_context(input_schedule.use_schedule(schedule))
        asked.enter_context(fastrcn.use_time_loop(loop))
        if precision == TF32:
            compare_in_tf32(name, case, "triton", DEVICE)
        else:
            compare_with_loop(name, case, "triton", getattr(torch, precision), DEVICE)
    assert bool(walks) is (loop == WALKED)


@pytest.mark.parametrize(
    ("layer", "loop"),
    [(fastrcn.ConvGRU, LAUNCHED), pytest.param(fastrcn.ConvLSTM, WALKED, marks=pytest.mark.walk)],
    ids=["gru", "lstm"],
)
def test_both_directions(layer, loop):
    """Against one direction after the other."""
    net = layer(5, 24, bidirectional=True, backend="triton", device=DEVICE, dtype=torch.bfloat16)
    x, found = torch.randn(5, 2, 5, 9, 11, device=DEVICE, dtype=torch.bfloat16), []
    for way in ("in_turn", "together"):
        with fastrcn.use_directions(way), fastrcn.use_time_loop(loop):
            output, _ = net(x, lengths=[5, 3])
            found.append([output, *torch.autograd.grad(output.square().sum(), list(net.parameters()))])
    for truth, other in zip(*found, strict=True):
        assert_close(other, truth, plain=truth)


@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_normalisation_of_small_images(name):
    normed.compare(name, "triton", torch.float32, lengths=(4, 2, 0), maps=True, device=DEVICE)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_normalisation_of_large_images(dtype):
    """By several programs each, forward and backward."""
    normed.compare("peephole_lstm", "triton", dtype, steps=2, batch=2, size=(65, 63), channels=17, device=DEVICE)
