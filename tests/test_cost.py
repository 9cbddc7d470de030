"""The model of cost, on GPUs that are made up: which backend it finds the faster one, and why."""

import itertools

import pytest

from fastrcn.cost import Device, Steps, Workload, estimate, in_order
from fastrcn.ops.relu_maxpool3d.geometry import Pool
from fastrcn.ops.sizes import Sizes

LSTM, GRU = Steps(1, 4, 4, 4, 1, False, True), Steps(2, 3, 3, 3, 2, False, True)
BACKENDS = ("triton", "cuda", "reference")
GPU = Device(90, 132)


def cell(kind=LSTM, numbers="16 bits", training=True, channels=64, size=(64, 64), steps=10, images=4, cells=9):
    sizes = Sizes(channels, channels, size, images, steps, cells)
    return Workload("conv_recurrent", kind, numbers, training, sizes)


def clip(pool=2, numbers="16 bits", training=False, channels=64, size=(16, 224, 224), cells=27, norm=False):
    operation = "batch_norm_relu_maxpool3d" if norm else "conv3d_relu_maxpool3d"
    sizes = Sizes(channels, channels, size, 2, 1, 1 if norm else cells)
    return Workload(operation, Pool.of(pool), numbers, training, sizes)


def best(work, device=GPU, backends=BACKENDS):
    return in_order(work, backends, device)[0][1:]


def test_short_sums_are_fused_and_long_ones_are_the_library():
    """A fused kernel saves bytes, the library is the faster product."""
    assert best(cell(channels=32)) == ("triton", "fused")
    assert best(cell(channels=256, cells=25)) == ("cuda", "convolution and stage")


def test_small_maps_are_bound_by_launches():
    tiny = cell(channels=16, size=(8, 8), images=1, steps=20)
    assert {estimate(tiny, name, GPU)[1] for name in ("triton", "cuda")} == {"persistent"}
    # One kernel after the other is as long as the host takes; plain PyTorch has the most.
    assert estimate(tiny, "reference", GPU)[0] == pytest.approx(0.35e-3 + 20 * 39 * 5e-6)
    assert best(tiny)[1] == "persistent"
    # All tiles of a larger map do not run at once; a GPU with more processors has them all.
    larger = cell(channels=16, size=(128, 128), images=1)
    assert best(larger) == ("triton", "fused")
    assert best(larger, Device(90, 256))[1] == "persistent"


@pytest.mark.parametrize(("kind", "fewest"), [(LSTM, 5), (GRU, 6), (LSTM._replace(slots=1), 9)])
def test_few_steps_are_not_worth_a_call(kind, fewest):
    """As the host needs for it. In inference it takes fewer steps than in training."""
    small = {"kind": kind, "channels": 16, "size": (8, 8), "images": 1}
    found = [best(cell(steps=n, **small))[0] != "reference" for n in range(1, 20)]
    assert found == [n >= fewest for n in range(1, 20)]
    found = [best(cell(steps=n, training=False, **small))[0] != "reference" for n in range(1, 20)]
    assert found.index(True) + 1 < fewest
    assert best(clip(size=(2, 8, 8))) == ("reference", "plain")


def test_the_generation_decides_where_cuda_fuses():
    work = cell(channels=32, size=(256, 256))
    found = {capability: estimate(work, "cuda", Device(capability, 132))[1] for capability in (80, 90, 100)}
    assert found == {80: "fused", 90: "convolution and stage", 100: "convolution and stage"}


def test_without_tensor_cores_the_library_is_the_faster_one():
    assert best(cell(numbers="float32"))[0] == "cuda"
    assert best(cell(numbers="float64"), backends=("cuda", "reference"))[0] == "cuda"
    assert best(cell(numbers="tf32", channels=32))[0] == "triton"


def test_channels_that_are_not_aligned_are_not_fused_by_cuda():
    assert estimate(cell(channels=20, images=1), "cuda", GPU)[1] == "convolution and stage"
    assert estimate(cell(channels=24, images=1), "cuda", GPU)[1] == "persistent"


def test_normalised_cells_and_cells_that_were_not_compiled():
    normed = LSTM._replace(normalizes=True)
    assert {estimate(cell(normed), name, GPU)[1] for name in BACKENDS[:2]} == {"convolution and stage"}
    own = cell(LSTM._replace(compiled=False))
    assert best(own)[0] == "triton"
    assert estimate(own, "cuda", GPU) == estimate(own, "reference", GPU)


def test_clips():
    """Few products for a value of the result: one kernel; else backends do the same, and the first is taken."""
    assert best(clip(cells=1)) == ("triton", "fused")
    for work in (clip(channels=256), clip(numbers="float32", cells=1), clip(norm=True)):
        assert best(work) == ("triton", "convolution and pass")
        assert best(work, backends=("cuda", "triton")) == ("cuda", "convolution and pass")
        assert estimate(work, "reference", GPU)[0] > estimate(work, "cuda", GPU)[0]


GROWING = {
    "channels": [{"channels": 16 * n} for n in range(1, 20)],
    "pixels": [{"size": (n, n)} for n in range(1, 160)],
    "steps": [{"steps": n} for n in range(1, 30)],
    "images": [{"images": n} for n in range(1, 30)],
    "cells": [{"cells": n * n} for n in (1, 3, 5, 7)],
    "training": [{"training": False}, {"training": True}],
}


@pytest.mark.parametrize("name", GROWING)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", [LSTM, GRU], ids=["lstm", "gru"])
def test_more_work_takes_no_less_time(kind, backend, name):
    fixed = {"size": (64, 64), "channels": 64}
    times = [estimate(cell(kind, **fixed | more), backend, GPU)[0] for more in GROWING[name]]
    assert all(a <= b for a, b in itertools.pairwise(times))
    assert times[0] < times[-1]


@pytest.mark.parametrize("backend", BACKENDS)
def test_more_processors_take_no_more_time(backend):
    for work in (cell(), clip(), clip(norm=True), cell(channels=16, size=(8, 8))):
        times = [estimate(work, backend, Device(90, n))[0] for n in range(16, 200, 8)]
        assert all(a >= b for a, b in itertools.pairwise(times))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("norm", [False, True])
def test_larger_clips_take_no_less_time(norm, backend):
    times = [estimate(clip(size=(8, n, n), norm=norm), backend, GPU)[0] for n in range(1, 60)]
    assert all(a <= b for a, b in itertools.pairwise(times))
