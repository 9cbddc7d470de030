"""Run by test_cuda_stages_on_host.py: kernels of convolutions with their stages, compiled for the host."""

import os
from dataclasses import replace

import pytest
import torch

from tests.ops.cuda_on_host.stages import load
from tests.ops.cuda_on_host.step_cases import CASES, LARGE, STEPS, StepCase, check_step

KERNELS = load(os.environ["FASTRCN_HOST_STAGES"])
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
FORWARD = next(name for name, (_, sig) in STEPS.items() if len(sig.args) == 8 and not sig.backward)
"""An LSTM's, of four slots."""
LARGE_TILE, MEDIUM_TILE, SMALL_TILE = range(3)


@pytest.fixture(autouse=True, params=["warps", "warpgroups"])
def many_processors(request):
    """And products as either way of doing them has it."""
    KERNELS.forget_launches()
    KERNELS.set_steps(1000, False)
    KERNELS.set_products(request.param == "warpgroups")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", STEPS)
def test_every_stage(name, dtype):
    check_step(KERNELS, name, CASES["small"], dtype)
    assert [tile for tile, _ in KERNELS.steps()] == [SMALL_TILE]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", sorted(set(CASES) - {"small"}))
def test_shapes(case, dtype):
    check_step(KERNELS, FORWARD, CASES[case], dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("channels", "tile"), [(64, LARGE_TILE), (16, MEDIUM_TILE)])
@pytest.mark.parametrize("second", [0, 40], ids=["one", "two"])
def test_tiles(second, channels, tile, dtype):
    KERNELS.set_steps(1, False)
    check_step(KERNELS, FORWARD, replace(LARGE, channels=channels, second=second), dtype)
    assert [tile for tile, _ in KERNELS.steps()] == [tile]


@pytest.mark.parametrize(("processors", "channels"), [(1, 64), (1, 16), (1000, 16)])
def test_copies_that_are_done_at_once(processors, channels):
    """What is copied early must not be in use any more: the products of warpgroups that read it are done late."""
    KERNELS.set_steps(processors, True)
    check_step(KERNELS, FORWARD, replace(LARGE, channels=channels), torch.bfloat16)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"channels": 12}, "whole packs of 16 bytes"),
        ({"inputs": 20}, "whole packs of 16 bytes"),
        ({"second": 20}, "whole packs of 16 bytes"),
    ],
)
def test_what_does_not_fit(change, message):
    with pytest.raises(ValueError, match=message):
        check_step(KERNELS, FORWARD, replace(StepCase(), **change), torch.bfloat16)


@pytest.mark.parametrize("count", [0, 3])
def test_sources_are_counted(count):
    schedule, sig = STEPS[FORWARD]
    rows, axes = [0] * len(sig.args), [(1, 1, 1), (1, 1, 1), (0, 0, 0), (1, 1, 1)]
    number = KERNELS.cuda_stage(schedule.fingerprint, sig.stage, sig.backward)
    with pytest.raises(ValueError, match="expects one source or two"):
        KERNELS.launch_cuda_step(number, 0, rows, rows, [], ([(0, 8, 8)] * count, *axes), 8, 1, 1, 0, 0, 0)
