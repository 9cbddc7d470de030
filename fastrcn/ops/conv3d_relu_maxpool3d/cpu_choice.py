"""What the ``cpu`` backend does itself and what it leaves to the library, by shape."""

import torch

from fastrcn import native
from fastrcn.ops.conv3d_relu_maxpool3d.geometry import Conv
from fastrcn.ops.convolution import pointwise, winograd
from fastrcn.ops.relu_maxpool3d.geometry import Pool
from fastrcn.ops.relu_maxpool3d.layout import is_last

_MOST_STRIP_INPUTS = 16
"""The library's kernels with more inputs reach the processor's peak; with few they spend their time on layouts."""

_FEWEST_OWN_PIXELS = 160
"""Of a weight gradient by the compiled kernel: its sum is brought into the weight's layout once, which fewer do not pay
for (512x512x27 weights: 98 pixels 8 ms slower than the library, 392 pixels 34 ms faster)."""

_FEWEST_DIRECT_INPUTS = 16
"""Of a weight gradient by the library's direct kernel, which fills a vector with them."""

_MOST_LOOP_VALUES = 20480
"""PyTorch convolves one clip with so many values N*C*D*H by loops of its own, at a third of oneDNN's speed."""


def pools_in_strips(conv: Conv, pool: Pool):
    """Whether the compiled kernel has such a convolution and pooling."""
    return conv.groups == 1 and not pool.overlaps()


def runs_in_strips(x, weight, conv: Conv, pool: Pool):
    """Whether it is the faster one: for few inputs. With AVX-512 the library is where layouts stay as they are."""
    few = weight.shape[1] <= _MOST_STRIP_INPUTS and x.dtype.itemsize >= 4
    stays = pool.identity and keeps_last(x, weight) and _has_fast_library(x)
    return few and pools_in_strips(conv, pool) and not stays


def keeps_last(x, weight):
    """Whether a call is computed in channels-last because its tensors are."""
    return is_last(x) or is_last(weight)


def _described(x, weight, conv: Conv, size):
    return x.dtype, weight.shape, x.shape[0], size, conv.stride, conv.dilation, conv.groups


def by_winograd(x, weight, conv: Conv, size):
    """Whether a convolution is computed with fewer multiplications. ``size``: its (D,H,W)."""
    return winograd.pays(*_described(x, weight, conv, size))


def gradient_by_winograd(x, weight, conv: Conv):
    """The same for the gradient of its input, a convolution with the reflected weight."""
    inside = all(p < k for p, k in zip(conv.padding, weight.shape[2:], strict=True))
    return inside and by_winograd(x, weight, conv, x.shape[2:])


def by_pointwise(x, weight, conv: Conv, last):
    """Whether a convolution and the gradient of its input are compiled products of contiguous maps."""
    return not last and is_product(weight, conv) and pointwise.pays(x.dtype, weight.shape, x.shape[2:].numel())


def gains(x, weight, conv: Conv, trains):
    """Whether a convolution without ReLU and pooling is worth the operator: for fewer multiplications or a faster
    product; in training for the gradient of the weight, for another layout, or, with types below float32, for computing
    in float32 where the processor has no such convolution."""
    size = conv.output_size(x.shape[2:], weight.shape[2:])
    if by_winograd(x, weight, conv, size) or by_pointwise(x, weight, conv, keeps_last(x, weight)):
        return True
    if not trains:
        return False
    if x.dtype != torch.float32 or owns_weight_gradient(x, weight, conv, size):
        return True
    return not keeps_last(x, weight) and (is_product(weight, conv) or converts_unpooled(x, weight, conv, size))


def is_product(weight, conv: Conv):
    """Whether the convolution is a matrix product over the pixels as they lie."""
    one = (1, 1, 1)
    return tuple(weight.shape[2:]) == conv.stride == one and conv.padding == (0, 0, 0) and conv.groups == 1


def converts(x, weight, conv: Conv, size):
    """Whether maps are worth a change to channels-last where they are pooled or the compiled kernel takes the weight's
    gradient: for fewer multiplications always, else not for a mere product, and not where they are smaller than the
    weights, which the library would then have to change too. ``size``: (D,H,W) after the convolution."""
    if by_winograd(x, weight, conv, size):
        return True
    return not is_product(weight, conv) and _maps(x, weight, size) > weight.numel()


def converts_unpooled(x, weight, conv: Conv, size):
    """Whether they are worth it for a convolution alone: for fewer multiplications. With AVX-512 the library makes
    blocks of 16 outputs of contiguous maps and keeps two to five of these in registers, if that divides their number:
    else channels-last is faster, as long as the maps are not much smaller than the weights."""
    if by_winograd(x, weight, conv, size):
        return True
    blocks, rest = divmod(weight.shape[0], 16)
    filled = rest == 0 and (blocks == 1 or any(blocks % n == 0 for n in (2, 3, 4, 5)))
    if filled or conv.groups > 1 or is_product(weight, conv) or not _has_fast_library(x):
        return False
    return 2 * _maps(x, weight, size) > weight.numel()


def converts_chain(x, weight, conv: Conv):
    """Whether contiguous float32 maps are worth a change to channels-last before a convolution alone and back only
    behind the operator that takes its result: where the convolution changes them for itself, and with few inputs where
    the library is done with channels-last maps sooner than the compiled kernel with others."""
    if x.dtype != torch.float32 or keeps_last(x, weight):
        return False
    size = conv.output_size(x.shape[2:], weight.shape[2:])
    few = _has_fast_library(x) and runs_in_strips(x, weight, conv, Pool())
    return few or converts_unpooled(x, weight, conv, size)


def _maps(x, weight, size):
    return x.numel() + x.shape[0] * weight.shape[0] * size[0] * size[1] * size[2]


def owns_weight_gradient(x, weight, conv: Conv, size):
    """Whether the compiled kernel takes the gradient of the weight, or the library, together with that of the input."""
    pixels = x.shape[0] * size[0] * size[1] * size[2]
    if conv.groups > 1 or x.dtype.itemsize < 4:
        return False
    if winograd.gradient_pays(*_described(x, weight, conv, size)):
        return True
    # The library's direct kernel leaves taps of some kernels unwritten where a stride goes over frames.
    return conv.stride[0] > 1 or (pixels >= _FEWEST_OWN_PIXELS and not _has_direct_kernel(x, weight, conv))


def _has_fast_library(x):
    """Whether the library's products are the faster ones in all layouts."""
    return x.dtype == torch.float32 and native.module() is not None and native.isa().startswith("avx512")


def _has_direct_kernel(x, weight, conv: Conv):
    """Whether the library takes the gradient of the weight without unfolding the maps, at the processor's peak: only
    with AVX-512, undilated, and with as many frames as the kernel has."""
    if not _has_fast_library(x) or conv.dilation != (1, 1, 1):
        return False
    inputs, *kernel = weight.shape[1:]
    by_loops = x.shape[0] == 1 and min(kernel[1:]) <= 3 and x.shape[1:4].numel() <= _MOST_LOOP_VALUES
    return inputs >= _FEWEST_DIRECT_INPUTS and x.shape[2] >= kernel[0] and not by_loops
