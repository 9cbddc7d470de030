"""Block sizes of the Triton kernels: short tables, and the choice from them by shape."""

from fastrcn.ops.conv_recurrent.triton_config import Config, pick


def shipped(capability: int, itemsize: int, backward: bool, exact: bool = False) -> tuple[Config, ...]:
    """Configurations for a compute capability (80, 90, 100) and bytes of the data type, large tiles first: windows,
    output channels and channels of the sum per step; ``backward``: pixels, input channels and output channels.

    The forward keeps three values for each of its tile's, the backward one, so only its tiles may be wider. On sm_80
    operands pass through registers too: there the forward's large tiles take half as many channels per step.
    """
    k = 64 if itemsize == 2 else 32
    small = (Config(64, 32, k, 4, 3), Config(64, 16, k, 4, 3))
    if exact:
        return small
    if capability < 90 and not backward:
        k //= 2
    wide = (Config(128, 128, k, 8, 3),) if backward and itemsize == 2 else ()
    return (*wide, Config(128, 64, k, 8, 3), Config(64, 64, k, 4, 3), *small)


def choose(tensor, backward, channels, pixels, exact, key, start) -> Config:
    """The configuration of a call: narrow maps take narrow tiles, few pixels take small ones."""

    def table_of(capability):
        return shipped(capability, tensor.dtype.itemsize, backward, exact)

    return pick(table_of, tensor, channels, pixels, key, start)
