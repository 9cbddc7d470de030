"""Block sizes of the Triton kernels: a short table, and the choice from it by shape."""

from contextlib import contextmanager
from dataclasses import dataclass

import torch

from fastrcn.ops import autotune
from fastrcn.ops.triton_support import interpreting, processors


@dataclass(frozen=True)
class Config:
    """Tile of a program: pixels, channels of the state (in every slot), channels of the source per step of the loop.
    What follows the products takes ``width`` channels at a time, or all."""

    block_m: int
    block_c: int
    block_k: int
    warps: int
    stages: int
    width: int = 0

    @property
    def parts(self):
        return self.block_c // self.width if 0 < self.width < self.block_c else 1


SMALLEST = 64, 16
"""Pixels and channels of the smallest tiles."""

MOST_SLOTS = 16
"""Accumulators of a phase for which there is a configuration."""

_override: list[Config] = []


@contextmanager
def use_config(config: Config):
    """Within this context every new program uses ``config``."""
    _override.append(config)
    try:
        yield
    finally:
        _override.pop()


def config_asked_for():
    """That of the innermost ``use_config``, or None."""
    return _override[-1] if _override else None


def inputs_in_loop(pixels, channels, device):
    """Whether each step's kernel convolves the inputs too: where tiles of 128 pixels by 64 channels fill the processors
    of the device twice."""
    if device.type != "cuda":
        return False
    return -(-pixels // 128) * -(-channels // 64) >= 2 * processors(device)


def joins_directions(pixels, channels, device):
    """Whether the two directions of a layer share their launches: where the smallest tiles of one do not fill the
    processors of the device."""
    if device.type != "cuda":
        return False
    return smallest_tiles(pixels, channels) < processors(device)


def smallest_tiles(pixels, channels):
    """How many of the smallest tiles there are."""
    return -(-pixels // SMALLEST[0]) * -(-channels // SMALLEST[1])


def has_many_maps(maps):
    """Whether a stage with so many maps is a phase of its own: beside a convolution's accumulators it would spill
    registers even of the smallest tile, and take the compiler minutes of the largest. Of the cells of this package only
    a normalised LSTM's backward is one, for its factors and biases."""
    return maps > 32


def shipped(capability: int, itemsize: int, slots: int, exact: bool = False, maps: int = 0) -> tuple[Config, ...]:
    """Configurations for a compute capability (80, 90, 100), bytes of the data type, number of accumulators and of the
    stage's maps, large tiles first.

    All keep their accumulators, and the stage's maps sixteen channels at a time, in registers: eight values of each map
    in a thread, four where the maps are many. Where operands pass through registers too, on sm_80 and in ``exact``
    float32 (without tensor cores), four accumulators of 64 channels do not fit, and more than four nowhere; in
    ``exact`` float32 these do not of 32 channels. More than eight, up to ``MOST_SLOTS``, fit in the smallest tiles.

    Triton 3.7 has the compiler of sm_100 take a cheaper allocation of registers (``--regAllocOptLevel=2``, against an
    error of that compiler), which keeps two programs of 256 threads to a processor at the price of a spill where it
    could do without: one address of 8 bytes, after the main loop, in the backward of the ConvLSTM with convolved
    peepholes at 128 by 64. With more registers nothing spills and one program is left; eight channels at a time the
    stage's loads and stores are half as wide, 8 bytes, and twice as many. So it stays.
    """
    k = 64 if itemsize == 2 else 32
    if has_many_maps(maps):
        return (Config(32, 16, k, 4, 3),)
    if slots > 8:
        return (Config(32 if exact else 64, 16, k, 4, 2),)
    narrow = (Config(128, 16, k, 8, 3), Config(64, 16, k, 4, 3))
    if slots > 4 and exact:
        return narrow
    small = (Config(64, 32, k, 4, 3, 16), *narrow)
    if slots <= 2:
        return (Config(128, 64, k, 8, 3, 16), *small)
    large = (Config(128, 64, k, 8, 3, 16),) if slots <= 4 and capability >= 90 and not exact else ()
    return (*large, Config(128, 32, k, 8, 3, 16), *small)


def power(n, smallest=16):
    """The power of two at or above ``n``; products of matrices need 16."""
    return max(smallest, 1 << (max(1, n) - 1).bit_length())


def choose(tensor, dtype, slots, maps, channels, pixels, exact, key, start) -> Config:
    """The configuration of a phase: narrow states take narrow tiles, few pixels take small ones."""

    def table_of(capability):
        return shipped(capability, dtype.itemsize, slots, exact, maps)

    return pick(table_of, tensor, channels, pixels, key, start)


def pick(table_of, tensor, channels, pixels, key, start) -> Config:
    """From the table for the compute capability of the tensor's device the first configuration whose tiles are no wider
    than the channels and fill the processors, else the smallest; where kernels are measured the fastest (``key`` and
    ``start``: see ``autotune.fastest``)."""
    if _override:
        return _override[-1]
    if interpreting() and autotune.timer() is None:
        # Programs run one after another, each operation at a fixed cost: few, large tiles.
        return Config(min(256, power(pixels)), min(64, power(channels)), 256, 4, 1)
    gpu = torch.cuda.get_device_properties(tensor.device)
    fitting = [c for c in table_of(10 * gpu.major + gpu.minor) if c.block_c <= power(channels)]
    usual = min(fitting, key=lambda c: c.block_m * c.block_c)
    for config in fitting:
        if -(-pixels // config.block_m) * -(-channels // config.block_c) >= gpu.multi_processor_count:
            usual = config
            break
    return autotune.fastest(tensor, key, fitting, usual, start)
