"""Weight gradient of a convolution, for channels-last maps.

On the CPU, oneDNN's own channels-last weight gradient runs at a third to two thirds of the speed of a large matrix
product on AVX2. So it is made of matrix products there: the input is unfolded along one axis only (each row holds its
kernel_width neighbours); a shift along the other axis is then a shift of rows, so each row of the kernel is one
product per image, accumulated in place. With few input channels a compiled kernel does without unfolding. Elsewhere
the library's own gradient serves.
"""

import torch

from fastrcn import native
from fastrcn.ops.conv_recurrent.geometry import accumulate_type, same_padding

_FEWEST_INPUTS = 8
_MOST_INPUTS_IN_REGISTERS = 32
_FEWEST_ROWS = 1024


def conv_weight_gradient(x, grad, weight_shape, stride, dilation, total):
    """Add to ``total`` (kh, Co, kw*Ci) the weight gradient of a padded convolution.

    ``x`` (N,H,W,Ci) is the convolution's input, ``grad`` (N,Ho,Wo,Co) the gradient of its output, both dense.
    """
    c_out, c_in, kh, kw = weight_shape
    if kh == kw == 1 and tuple(stride) != (1, 1):
        # Only these pixels are read. oneDNN's own gradient of such a convolution writes past its buffers.
        x, stride = x[:, :: stride[0], :: stride[1]].contiguous(), (1, 1)
    if tuple(stride) != (1, 1) or x.device.type != "cpu" or x.dtype.itemsize == 2:
        return _library(x, grad, weight_shape, stride, dilation, total)
    if x.dtype == torch.float32 and c_in <= _MOST_INPUTS_IN_REGISTERS and native.module() is not None:
        return _in_registers(x, grad, weight_shape, dilation, total)
    if c_in < _FEWEST_INPUTS:
        return _library(x, grad, weight_shape, stride, dilation, total)
    if kh == kw == 1:
        total[0].addmm_(grad.flatten(0, 2).t(), x.flatten(0, 2))
        return total
    n, h, w, _ = x.shape
    ph, pw = same_padding((kh, kw), dilation)
    # Several small images at a time: their products are gathered into one with enough rows.
    group = max(1, min(n, _FEWEST_ROWS // (h * w)))
    padded = x.new_zeros(group, h + 2 * ph, w + 2 * pw, c_in)
    columns = x.new_empty(h + 2 * ph, group, w, kw, c_in)
    s = padded.stride()
    neighbours = padded.as_strided((h + 2 * ph, group, w, kw, c_in), (s[1], s[0], c_in, dilation[1] * c_in, 1))
    for first in range(0, n, group):
        count = min(group, n - first)
        padded[:count, ph : ph + h, pw : pw + w].copy_(x[first : first + count])
        if count < group:
            padded[count:].zero_()
        columns.copy_(neighbours)
        g = grad[first : first + count]
        rows = columns.flatten(1, 2).flatten(2)
        if group == 1:
            left = g.reshape(h * w, c_out).t()
        else:
            left = g.new_zeros(h, group, w, c_out) if count < group else g.new_empty(h, group, w, c_out)
            left[:, :count].copy_(g.transpose(0, 1))
            left = left.view(-1, c_out).t()
        for i in range(kh):
            start = i * dilation[0]
            total[i].addmm_(left, rows[start : start + h].reshape(-1, kw * c_in))
    return total


def _in_registers(x, grad, weight_shape, dilation, total):
    """The compiled kernel for few input channels, which needs neither unfolding nor packing."""
    c_out, c_in, kh, kw = weight_shape
    threads = torch.get_num_threads()
    sums = x.new_zeros(threads, kh, kw, c_in, c_out)
    native.module().weight_gradient(
        native.isa(), x.data_ptr(), grad.data_ptr(), sums.data_ptr(), tuple(x.shape[:3]), (c_in, c_out), (kh, kw),
        tuple(dilation), threads,
    )  # fmt: skip
    total += sums.sum(0).permute(0, 3, 1, 2).reshape(total.shape)
    return total


def _library(x, grad, weight_shape, stride, dilation, total):
    c_out, c_in, kh, kw = weight_shape
    weight = x.new_empty(weight_shape)
    padding = same_padding((kh, kw), dilation)
    _, dweight, _ = torch.ops.aten.convolution_backward(
        grad.permute(0, 3, 1, 2), x.permute(0, 3, 1, 2), weight, None, stride, padding, dilation,
        False, [0, 0], 1, [False, True, False],
    )  # fmt: skip
    total += dweight.permute(2, 0, 3, 1).reshape(kh, c_out, kw * c_in)
    return total


def empty_total(weight_shape, like):
    """Zeroed sum for ``conv_weight_gradient``."""
    c_out, c_in, kh, kw = weight_shape
    return torch.zeros(kh, c_out, kw * c_in, dtype=accumulate_type(like.dtype), device=like.device)


def as_weight(total, weight_shape):
    """The sum in the layout of the weight, (Co,Ci,kh,kw)."""
    c_out, c_in, kh, kw = weight_shape
    return total.view(kh, c_out, kw, c_in).permute(1, 3, 0, 2)
