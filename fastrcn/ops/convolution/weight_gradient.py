"""Weight gradient of a convolution, for channels-last maps (N,D,H,W,C); a 2-D convolution has one frame.

On the CPU, oneDNN's own weight gradient runs at a third to two thirds of the speed of a large matrix product on AVX2,
so compiled kernels take its place: one with fewer multiplications for 3x3 rows and columns, one for few input channels,
where threads share out the rows, and one that packs its operands, where they share out the outputs. Elsewhere the
library's own gradient serves.
"""

import torch

from fastrcn import native
from fastrcn.ops.convolution import winograd

_MOST_INPUTS_OF_ROWS = 64
_FEWEST_PAIRED_PIXELS = 1024
"""From so many on, a product of bfloat16 is faster by the compiled kernel than as one of float32."""
_TYPE_NUMBERS = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2}


def conv_weight_gradient(x, grad, weight_shape, stride, padding, dilation, total):
    """Add to ``total`` (kd,kh,kw,Ci,Co) the weight gradient of a convolution.

    ``x`` (N,D,H,W,Ci) is the convolution's input, ``grad`` (N,D',H',W',Co) the gradient of its output, both dense;
    ``weight_shape`` (Co,Ci,kd,kh,kw).
    """
    if tuple(weight_shape[2:]) == (1, 1, 1) and not any(padding):
        # Only these pixels are read. oneDNN's own gradient of such a convolution writes past its buffers.
        if any(s > 1 for s in stride):
            x, stride = x[:, :: stride[0], :: stride[1], :: stride[2]].contiguous(), (1, 1, 1)
        if x.device.type == "cpu" and _is_compiled(x.dtype, stride):
            if x.dtype == torch.bfloat16 and x.shape[:4].numel() >= _FEWEST_PAIRED_PIXELS:
                own = torch.zeros_like(total, memory_format=torch.contiguous_format)
                _compiled(x, grad, weight_shape, stride, padding, dilation, own)
                return total.add_(own)
            x, grad = (t.flatten(0, 3).to(total.dtype) for t in (x, grad))
            return total[0, 0, 0].addmm_(x.t(), grad)
    compiled = x.device.type == "cpu" and _is_compiled(x.dtype, stride) and total.is_contiguous()
    if compiled and winograd.gradient_pays(x.dtype, weight_shape, x.shape[0], grad.shape[1:4], stride, dilation):
        return winograd.add_weight_gradient(x, grad, padding, total)
    return (_compiled if compiled else _library)(x, grad, weight_shape, stride, padding, dilation, total)


def _is_compiled(dtype, stride):
    if dtype == torch.bfloat16:  # whose kernel takes neighbouring pixels in pairs
        return native.convolves_bfloat16() and stride[2] == 1
    return dtype in (torch.float32, torch.float64) and native.module() is not None


def _compiled(x, grad, weight_shape, stride, padding, dilation, total):
    threads = torch.get_num_threads()
    by_rows = x.dtype != torch.float64 and weight_shape[1] <= _MOST_INPUTS_OF_ROWS
    sums = total.new_zeros(threads, *total.shape) if by_rows else total
    native.module().weight_gradient(
        native.isa(), _TYPE_NUMBERS[x.dtype], by_rows, x.data_ptr(), grad.data_ptr(), sums.data_ptr(),
        (x.shape[0], x.shape[4], grad.shape[4]), tuple(x.shape[1:4]), tuple(grad.shape[1:4]), tuple(weight_shape[2:]),
        tuple(stride), tuple(dilation), tuple(padding), threads,
    )  # fmt: skip
    if by_rows:
        total += sums.sum(0)


def loses_taps(x, weight_shape):
    """Whether the library leaves taps of a weight's gradient unwritten: of bfloat16 on the CPU, where the kernel has
    more frames than the clip ``x`` (N,C,D,H,W)."""
    return x.device.type == "cpu" and x.dtype == torch.bfloat16 and x.shape[2] < weight_shape[2]


def _library(x, grad, weight_shape, stride, padding, dilation, total):
    grad, x = (t.movedim(-1, 1) for t in (grad, x))
    if loses_taps(x, weight_shape):
        grad, x = grad.float(), x.float()
    weight = x.new_empty(weight_shape)
    if weight_shape[2] == x.shape[2] == grad.shape[2] == 1:  # a 2-D convolution, for which libraries have more kernels
        weight, grad, x, stride, padding, dilation = (
            weight[:, :, 0], grad[:, :, 0], x[:, :, 0], stride[1:], padding[1:], dilation[1:],
        )  # fmt: skip
    _, dweight, _ = torch.ops.aten.convolution_backward(
        grad, x, weight, None, stride, padding, dilation, False, [0] * len(stride), 1, [False, True, False],
    )  # fmt: skip
    total += dweight.view(weight_shape).permute(2, 3, 4, 1, 0)


def empty_total(weight_shape, like):
    """Zeroed sum for ``conv_weight_gradient``."""
    c_out, c_in, *kernel = weight_shape
    dtype = torch.float32 if like.dtype.itemsize == 2 else like.dtype
    if tuple(kernel) == (1, 1, 1):  # one product of matrices, which may as well write the weight's layout
        return torch.zeros(c_out, c_in, dtype=dtype, device=like.device).t()[None, None, None]
    return torch.zeros(*kernel, c_in, c_out, dtype=dtype, device=like.device)


def as_weight(total):
    """The sum in the layout of the weight, (Co,Ci,kd,kh,kw): a view."""
    return total.permute(4, 3, 0, 1, 2)


def to_weight(total, last):
    """The sum as a weight of its own, (Co,Ci,kd,kh,kw), contiguous or channels-last."""
    memory_format = torch.channels_last_3d if last else torch.contiguous_format
    if as_weight(total).is_contiguous(memory_format=memory_format):
        return as_weight(total)
    weight = torch.empty(as_weight(total).shape, dtype=total.dtype, device=total.device, memory_format=memory_format)
    if total.device.type != "cpu" or native.module() is None:
        return weight.copy_(as_weight(total))
    *kernel, c_in, c_out = total.shape
    taps, size = kernel[0] * kernel[1] * kernel[2], total.element_size()
    if last:
        maps, source, target, rows = (1, 1), (0, 0, c_out), (0, 0, taps * c_in), taps * c_in
    else:
        maps, source, target, rows = (1, c_in), (0, c_out, c_in * c_out), (0, taps, c_in * taps), taps
    native.module().copy_maps_last(
        total.data_ptr(), weight.data_ptr(), maps, [n * size for n in source], [n * size for n in target], rows, c_out,
        size, torch.get_num_threads(),
    )  # fmt: skip
    return weight
