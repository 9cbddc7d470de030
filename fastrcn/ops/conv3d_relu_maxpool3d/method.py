"""How a backend with kernels of its own runs a call: "fused", a kernel that never has the convolution's result in
memory, or "library", the library's convolution and a pass over its result. Chosen by shape.

The library is the faster matrix product, the fused kernel saves a write and a read of the convolution's result. Both
grow with the result's size, so what decides is the length K of the sums. In units of the time that the library takes
for one operation a value costs 2 K again / ``EFFICIENCY`` fused, where ``again`` counts how often it is computed, and
2 K + 2 bytes ``OPERATIONS_PER_BYTE`` by the library.
"""

from math import prod

from fastrcn.ops.choice import Choice
from fastrcn.ops.conv3d_relu_maxpool3d.geometry import Conv
from fastrcn.ops.estimates import OPERATIONS_PER_BYTE
from fastrcn.ops.relu_maxpool3d.geometry import Pool

NAMES = ("fused", "library")

EFFICIENCY = 0.85
"""Estimated speed of the fused kernel's product, as a part of the library's. Not measured yet."""

_BLOCK = 32
"""Channels that a step of the sum takes at least, zeros among them."""

_method = Choice("method", NAMES)


def use_method(name):
    """Within this context every call runs by the method "fused" or "library", whatever its shape, where it can."""
    return _method.use(name)


def fuses_forward(conv: Conv, pool: Pool, x, weight, exact) -> bool:
    """Whether the forward is one kernel. ``exact``: float32 without tensor cores, in which only the library is fast."""
    if conv.groups != 1:
        return False
    if _method.asked:
        return _method.asked == "fused"
    if exact:
        return False
    channels, kernel = weight.shape[1], weight.shape[2:]
    again = repeats(pool, conv.output_size(x.shape[2:], kernel), channels)
    operations = channels * prod(kernel)
    saved = x.element_size() * OPERATIONS_PER_BYTE[x.element_size()]
    return operations * (again / EFFICIENCY - 1) < saved


def repeats(pool: Pool, size, channels):
    """Operations of the fused kernel over those of a convolution of so many channels whose result is (D,H,W) ``size``:
    windows that overlap compute their common cells again, cells that no window covers are left out, and channels are
    filled up with zeros."""
    again = prod(pool.output_size(size)) * pool.cells / prod(size)
    return again * -(-channels // _BLOCK) * _BLOCK / channels


def fuses_input_gradient(conv: Conv, pool: Pool, needs, exact) -> bool:
    """Whether the gradient of x is one kernel that reads the pooled gradient. It can be for a convolution of stride 1
    and windows without a common cell and without dilation.

    The weight's gradient needs the one before pooling in memory; where it is there, the library reads it faster."""
    simple = conv.groups == 1 and conv.stride == (1, 1, 1) and not pool.overlaps() and pool.dilation == (1, 1, 1)
    if not needs[0] or not simple:
        return False
    if _method.asked:
        return _method.asked == "fused"
    return not needs[1] and not exact and not pool.identity
