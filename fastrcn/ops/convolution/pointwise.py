"""Convolutions of 1x1x1 over contiguous maps (N,C,D,H,W) on the CPU, in float32, by compiled products of matrices."""

import torch

from fastrcn import memory, native

_FEWEST_CHANNELS, _FEWEST_PIXELS = 16, 128
"""Inputs and outputs, and pixels of an image; of fewer, blocks and panels are half empty."""

_MOST_GRADIENT_WEIGHTS = 1 << 15
"""In the weight's gradient, where each thread has sums of its own for each of them; of more, the library's general
product is as fast."""


def pays(dtype, weight_shape, pixels):
    """Whether such a convolution is faster by the compiled kernels. ``weight_shape`` (Co,Ci,1,1,1)."""
    enough = min(weight_shape[:2]) >= _FEWEST_CHANNELS and pixels >= _FEWEST_PIXELS
    return dtype == torch.float32 and enough and native.module() is not None


def gradient_pays(dtype, weight_shape, pixels):
    """The same for the gradient of the weight."""
    return weight_shape.numel() <= _MOST_GRADIENT_WEIGHTS and pays(dtype, weight_shape, pixels)


def _call(x, outputs):
    """A compiled call, without its tensors."""
    images, inputs, *size = x.shape
    counts = images, size[0] * size[1] * size[2], inputs, outputs
    return native.module().Pointwise(native.isa(), counts, torch.get_num_threads())


def _room(call, gradient):
    return memory.scratch(call.room(gradient) // 4, torch.float32)


def convolve(x, weight, bias=None, reflected=False, out=None):
    """Convolution of ``x`` (N,Ci,D,H,W) with ``weight`` (Co,Ci,1,1,1) and ``bias``, written to ``out`` (N,Co,D,H,W)
    where that is given; ``reflected``: from the gradient of its output to that of its input."""
    outputs, step = (weight.shape[1], (1, 0)) if reflected else (weight.shape[0], (0, 1))
    if out is None:
        out = x.new_empty(x.shape[0], outputs, *x.shape[2:])
    if out.numel():
        call, bias = _call(x, outputs), None if bias is None else bias.contiguous()
        room, steps = _room(call, False), tuple(weight.stride(axis) for axis in step)
        call.convolve(x.data_ptr(), weight.data_ptr(), steps, native.address(bias), out.data_ptr(), room.data_ptr())
    return out


def weight_gradient(x, grad):
    """The gradient (Co,Ci,1,1,1) of the weight of a convolution of ``x`` (N,Ci,D,H,W) whose result has the gradient
    ``grad`` (N,Co,D,H,W)."""
    total = x.new_empty(grad.shape[1], x.shape[1], 1, 1, 1)
    if not grad.numel():
        return total.zero_()
    call = _call(x, grad.shape[1])
    room = _room(call, True)
    call.weight_gradient(x.data_ptr(), grad.data_ptr(), total.data_ptr(), room.data_ptr())
    return total
