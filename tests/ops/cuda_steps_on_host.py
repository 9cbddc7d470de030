"""Run by test_cuda_stages_on_host.py: kernels of convolutions with their stages, compiled for the host."""

import os
from dataclasses import replace

import pytest
import torch

from tests.ops.cuda_on_host import step_cases
from tests.ops.cuda_on_host.stages import load
from tests.ops.cuda_on_host.step_cases import CASES, LARGE, STEPS, StepCase, check_step

KERNELS = load(os.environ["FASTRCN_HOST_STAGES"])
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
FORWARD = next(name for name, (_, sig) in STEPS.items() if len(sig.args) == 8 and not sig.backward)
"""An LSTM's, of four slots."""
(WITH_SUMS,) = (name for name, (_, sig) in STEPS.items() if any(arg.role == "d_param" for arg in sig.args))
"""The backward of an LSTM's with peepholes; the second of three sums is a map."""
LARGE_TILE, MEDIUM_TILE, SMALL_TILE = range(3)


@pytest.fixture(autouse=True, params=["warps", "warpgroups"])
def many_processors(request):
    """And products as either way of doing them has it."""
    KERNELS.forget_launches()
    KERNELS.set_steps(1000, False)
    KERNELS.set_products(request.param == "warpgroups")


# float16's kernels are bfloat16's but for the product's type and conversions.
@pytest.mark.parametrize(
    ("name", "dtype"), [(n, d) for k, n in enumerate(STEPS) for d in DTYPES if d != torch.float16 or k % 4 == 0]
)
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


OF_TILES = {
    "small": (72, 1000, SMALL_TILE, 64),
    "medium": (40, 1, MEDIUM_TILE, 128),
    "large": (136, 1, LARGE_TILE, 128),
}
"""Channels, processors, the tile that these are given, and its pixels."""


@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
@pytest.mark.parametrize("case", OF_TILES)
def test_sums_over_pixels(case, dtype):
    """Each tile adds to its own row, whichever comes first. Some have pixels of two images, one of which has ended, and
    the last is not full."""
    channels, processors, tile, pixels = OF_TILES[case]
    KERNELS.set_steps(processors, False)
    several = StepCase(channels, images=4, size=(1, 7, 9), kernel=(1, 1, 1), ended=True)
    trials = []
    for _ in range(2):
        torch.manual_seed(1)
        trials.append(check_step(KERNELS, WITH_SUMS, several, dtype))
    assert [tile for tile, _ in KERNELS.steps()] == [tile] * 2
    goes_on = (trials[0].lengths > 2).repeat_interleave(63)
    expected = [bool(part.any()) for part in goes_on.split(pixels)]
    for name, by_map in trials[0].by_map.items():
        assert torch.equal(*(trial.sums[name] for trial in trials))
        if not by_map:
            assert trials[0].change(name).any(1).tolist() == expected + [False] * (4 - len(expected))


def test_rows_of_sums_are_counted(monkeypatch):
    monkeypatch.setattr(step_cases, "FEWEST_PIXELS", 65)
    with pytest.raises(ValueError, match="expects a row of sums for every 64 pixels"):
        check_step(KERNELS, WITH_SUMS, StepCase(size=(1, 5, 13)), torch.bfloat16)


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
        KERNELS.launch_cuda_step(number, 0, rows, rows, [], ([(0, 8, 8)] * count, *axes), 8, 1, 1, 0, 0, [], 1, 0)
