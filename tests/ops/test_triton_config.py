"""The choice of block sizes, which asks a GPU only for its generation and its number of processors."""

from types import SimpleNamespace

import pytest
import torch

from fastrcn.ops.conv_recurrent.triton_config import (
    MOST_SLOTS,
    Config,
    choose,
    inputs_in_loop,
    joins_directions,
    shipped,
    use_config,
)

CPU, GPU = torch.device("cpu"), torch.device("cuda", 1)


@pytest.fixture(autouse=True)
def gpu(monkeypatch):
    """The second of several, and what CPU tensors are taken to be on; the others have fewer processors."""

    def properties(device):
        return SimpleNamespace(major=9, minor=0, multi_processor_count=132 if device in (GPU, CPU) else 4)

    monkeypatch.setattr(torch.cuda, "get_device_properties", properties)


def chosen(slots=4, channels=64, pixels=1 << 20, dtype=torch.bfloat16, exact=False, maps=20):
    return choose(torch.empty(0), dtype, slots, maps, channels, pixels, exact, None, None)


def test_many_pixels_take_the_largest_tile():
    assert chosen() == shipped(90, 2, 4)[0]
    assert chosen(slots=1) == shipped(90, 2, 1)[0]


def test_few_pixels_take_the_smallest_tile():
    config = chosen(pixels=256)
    assert config.block_m * config.block_c == min(c.block_m * c.block_c for c in shipped(90, 2, 4))


def test_tiles_fill_the_processors():
    pixels = 132 * 64
    config = chosen(pixels=pixels, channels=32)
    assert -(-pixels // config.block_m) * -(-32 // config.block_c) >= 132


@pytest.mark.parametrize("channels", [1, 5, 16, 17, 32, 48, 64, 512])
def test_tiles_are_no_wider_than_the_state(channels):
    assert chosen(channels=channels).block_c < 2 * max(16, channels)


def test_without_tensor_cores_tiles_are_smaller():
    large = chosen(dtype=torch.float32)
    exact = chosen(dtype=torch.float32, exact=True)
    assert exact.block_m * exact.block_c < large.block_m * large.block_c


def shared(config, slots, itemsize):
    """Bytes that the stages of a phase's pipeline hold at most."""
    return config.stages * (config.block_m + slots * config.block_c) * config.block_k * itemsize


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("itemsize", [2, 4])
@pytest.mark.parametrize("slots", range(1, MOST_SLOTS + 1))
def test_every_tile_fits(slots, itemsize, exact):
    """In shared memory, and its accumulators in half of a thread's registers."""
    for arch, limit in {80: 163 << 10, 90: 227 << 10, 100: 227 << 10}.items():
        for config in shipped(arch, itemsize, slots, exact):
            assert shared(config, slots, itemsize) <= limit
            assert slots * config.block_m * config.block_c <= 128 * 32 * config.warps


@pytest.mark.parametrize(("slots", "expected"), [(4, (128, 64)), (5, (128, 32)), (8, (128, 32)), (9, (64, 16))])
def test_more_gates_take_smaller_tiles(slots, expected):
    config = chosen(slots=slots)
    assert (config.block_m, config.block_c) == expected


def test_parts_are_powers_of_two():
    for arch in (80, 90, 100):
        for slots in (1, 2, 4, 8, 16):
            for config in shipped(arch, 2, slots):
                assert config.block_c % config.parts == 0
                assert config.parts & (config.parts - 1) == 0


def test_directions_share_launches_where_one_does_not_fill_the_processors():
    assert not joins_directions(1, 16, CPU)  # there is no GPU to fill
    assert joins_directions(131 * 64, 16, GPU)
    assert not joins_directions(131 * 64 + 1, 16, GPU)
    assert not joins_directions(131 * 64, 17, GPU)


def test_inputs_are_convolved_in_the_loop_where_its_tiles_fill_the_processors_twice():
    assert not inputs_in_loop(1 << 20, 64, CPU)
    assert not inputs_in_loop(263 * 128, 64, GPU)
    assert inputs_in_loop(263 * 128 + 1, 64, GPU)
    assert not inputs_in_loop(131 * 128, 128, GPU)
    assert inputs_in_loop(131 * 128 + 1, 65, GPU)


def test_stages_of_many_maps_take_small_tiles():
    """Four values of each map in a thread."""
    usual, small = chosen(slots=0, maps=32), chosen(slots=0, maps=33)
    assert usual == chosen(slots=0, maps=0)
    assert (small.block_m, small.block_c, small.warps) == (32, 16, 4)


def test_override():
    config = Config(16, 16, 16, 4, 1)
    with use_config(config):
        assert chosen() == config
    assert chosen() != config
