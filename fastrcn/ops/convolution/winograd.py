"""Convolutions with fewer multiplications on the CPU: Winograd's minimal filtering (Lavin and Gray 2016, arXiv
1509.09308) over rows and columns, the kernel's frames as they are; F(2x2,3x3) has 16 products in the place of 36,
F(2x2,5x5) 36 in the place of 100.

For float32, channels-last maps (N,D,H,W,C), kernels (k,3,3) and (k,5,5), stride and dilation 1. Rounding errors are
those of a direct sum for 3x3, two to four times as large in its weight's gradient and for 5x5. A value that is not
finite reaches all pixels of a tile of 2x2 whose windows it touches.
"""

import torch

from fastrcn import memory, native
from fastrcn.ops.choice import Choice
from fastrcn.ops.convolution.weight import Weight

_FEWEST_CHANNELS, _FEWEST_WEIGHTS = {3: 16, 5: 32}, 512
"""Inputs and outputs by the kernel's rows, and their product; of fewer, transforms take longer than the products."""

_FEWEST_GRADIENT_CHANNELS = 24, 32
"""Inputs and outputs in the weight's gradient, where both maps are transformed and products are shared out by them."""

_FEWEST_TILES = 32
"""Of fewer tiles, transforming the weight takes longer than the products."""

NAMES = ("direct", "winograd")

_method = Choice("convolution", NAMES)


def use_cpu_convolution(name):
    """Within this context convolutions on the CPU are "direct", with all multiplications, or "winograd" wherever they
    can be, whatever the sizes. A backward pass goes by where it is called."""
    return _method.use(name)


def has_kernel(rows, columns):
    """Whether kernels of so many rows and columns can be computed so."""
    return rows == columns and rows in _FEWEST_CHANNELS


def _can_run(dtype, weight_shape, stride, dilation, groups):
    of_kernel = has_kernel(*weight_shape[3:]) and {*stride, *dilation} == {1} and groups == 1
    return of_kernel and dtype == torch.float32 and native.module() is not None


def pays(dtype, weight_shape, images, size, stride, dilation, groups=1):
    """Whether a convolution can be computed so, and faster than directly. ``weight_shape`` (Co,Ci,kd,kh,kw); ``size``:
    (D,H,W) of its result."""
    asked = _method.asked
    if asked == "direct" or not _can_run(dtype, weight_shape, stride, dilation, groups):
        return False
    (c_out, c_in), (frames, height, width) = weight_shape[:2], size
    enough = min(c_in, c_out) >= _FEWEST_CHANNELS[weight_shape[3]] and c_in * c_out >= _FEWEST_WEIGHTS
    tiles = images * frames * -(-height // 2) * -(-width // 2)
    # Tiles reach over odd edges: where half of their pixels are outside, nothing is left of 2.25 times fewer products.
    filled = tiles >= _FEWEST_TILES and 2 * tiles <= images * frames * height * width
    return asked == "winograd" or (enough and filled)


def gradient_pays(dtype, weight_shape, *call):
    """The same for the gradient of the weight, of 3x3 rows and columns: for 5x5 its errors would be ten times a direct
    sum's."""
    inputs, outputs = _FEWEST_GRADIENT_CHANNELS
    enough = weight_shape[1] >= inputs and weight_shape[0] >= outputs
    asked = _method.asked == "winograd"
    return weight_shape[3] == 3 and (enough or asked) and pays(dtype, weight_shape, *call)


def _call(counts, source_size, size, kernel, padding):
    """A compiled call, without its maps and weights. ``counts``: images, inputs, outputs."""
    threads = torch.get_num_threads()
    return native.module().Winograd(native.isa(), counts, source_size, size, tuple(kernel), tuple(padding), threads)


def room(call, gradient=False):
    """The memory that a call works in."""
    return memory.scratch(call.room(gradient) // 4, torch.float32)


def _size(source_size, weight: Weight, padding):
    """(D,H,W) after the convolution."""
    return tuple(n + 2 * p - k + 1 for n, p, k in zip(source_size, padding, weight.kernel, strict=True))


def _convolution(images, source_size, weight: Weight, padding):
    c_out, c_in, *_ = weight.shape
    size = _size(source_size, weight, padding)
    return _call((images, c_in, c_out), tuple(source_size), size, weight.kernel, padding)


def prepared(images, source_size, weight: Weight, padding, points=None):
    """(the call, the weight's points): a convolution of whose rows each thread computes some by itself. The points must
    outlive the call. ``points``: from an earlier one with the same weight."""
    call = _convolution(images, source_size, weight, padding)
    if points is None:
        points = memory.empty((call.points(),), torch.float32, "cpu")
        call.transform_weight(*weight.strided(), points.data_ptr())
    call.set_points(points.data_ptr())
    return call, points


def convolve(x, weight: Weight, padding, bias=None, out=None, add=False):
    """Convolution of ``x`` (N,D,H,W,Ci) with ``weight`` and ``bias``, written to ``out`` (N,D',H',W',Co) where that is
    given, or with ``add`` added to it."""
    images, *source_size, _ = x.shape
    if out is None:
        out = x.new_empty(images, *_size(source_size, weight, padding), weight.shape[0])
    if not out.numel():
        return out
    if weight.kernel[0] == 1 and not padding[0]:  # frames are images then, and their rows fit a thread's cache
        images, source_size[0] = images * source_size[0], 1
        call, _points = prepared(images, source_size, weight, padding)
    else:
        call = _convolution(images, source_size, weight, padding)
        call.set_weight(*weight.strided())
    bias, own = None if bias is None else bias.contiguous(), room(call)
    call.convolve(x.data_ptr(), native.address(bias), out.data_ptr(), add, own.data_ptr())
    return out


def add_weight_gradient(x, grad, padding, total):
    """Add to ``total`` (kd,3,3,Ci,Co), dense, the weight gradient of the convolution of ``x`` (N,D,H,W,Ci) whose result
    has the gradient ``grad`` (N,D',H',W',Co)."""
    if not grad.numel():
        return
    counts = x.shape[0], x.shape[4], grad.shape[4]
    call = _call(counts, tuple(x.shape[1:4]), tuple(grad.shape[1:4]), total.shape[:3], padding)
    own = room(call, True)
    call.weight_gradient(x.data_ptr(), grad.data_ptr(), total.data_ptr(), own.data_ptr())
