"""Block sizes of the Triton kernels: a short table, and the choice from it by shape."""

from contextlib import contextmanager
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Config:
    """Tile of a program: pixels, channels of the state (in every slot), channels of the source per step of the loop.
    The stage takes ``width`` channels at a time, or all."""

    block_m: int
    block_c: int
    block_k: int
    warps: int
    stages: int
    width: int = 0

    @property
    def parts(self):
        return self.block_c // self.width if 0 < self.width < self.block_c else 1


_override: list[Config] = []

FEW_TILES = 132
"""Below so many tiles, about the processors of a large GPU, smaller ones are chosen."""


@contextmanager
def use_config(config: Config):
    """Within this context every new program uses ``config``."""
    _override.append(config)
    try:
        yield
    finally:
        _override.pop()


def shipped(capability: int, itemsize: int, slots: int) -> tuple[Config, ...]:
    """Configurations for a compute capability (80, 90, 100), bytes of the data type and number of accumulators,
    large tiles first.

    With four accumulators 64 channels need more registers than there are: 640 spills with four warps.
    """
    stages = 2 if capability < 90 else 3
    k = 64 if itemsize == 2 else 32
    if slots > 2:
        return (
            Config(128, 32, k, 8, stages),
            Config(64, 32, k, 4, stages),
            Config(128, 16, k, 8, stages),
        )
    return (
        Config(128, 64, k, 8, stages),
        Config(64, 64, k, 4, stages),
        Config(64, 32, k, 4, stages),
    )


def power(n, smallest=16):
    """The power of two at or above ``n``; products of matrices need 16."""
    return max(smallest, 1 << (max(1, n) - 1).bit_length())


def choose(device, dtype, slots, channels, pixels, interpreted) -> Config:
    """The configuration of a phase: narrow states take narrow tiles, few pixels take small ones."""
    if _override:
        return _override[-1]
    if interpreted:
        # Programs run one after another, each operation at a fixed cost: few, large tiles.
        return Config(min(256, power(pixels)), min(64, power(channels)), 256, 4, 1)
    major, minor = torch.cuda.get_device_capability(device)
    table = shipped(10 * major + minor, dtype.itemsize, slots)
    fitting = [c for c in table if c.block_c <= power(channels)] or [min(table, key=lambda c: c.block_c)]
    for config in fitting:
        tiles = -(-pixels // config.block_m) * -(-channels // config.block_c)
        if tiles >= FEW_TILES:
            return config
    return min(fitting, key=lambda c: c.block_m * c.block_c)
