"""The ``cuda`` backend: the library's convolution in the layout of its arguments, then one kernel that adds the bias,
applies the ReLU and pools. Of the tensor before pooling nothing is kept for backward."""

import torch

from fastrcn.ops.conv3d_relu_maxpool3d.geometry import Conv
from fastrcn.ops.relu_maxpool3d import cuda as passes
from fastrcn.ops.relu_maxpool3d.geometry import Pool
from fastrcn.ops.relu_maxpool3d.layout import dense, is_last


def can_run(what, dtype, device):
    """(whether this backend runs a call, why not or how)."""
    _, _, pool = what
    ok, reason = passes.can_run(pool, dtype, device)
    return ok, ("the library's convolution, then " if ok else "") + reason


def forward(x, weight, bias, conv: Conv, relu, pool: Pool, keep):
    """(pooled maps, index or None)."""
    last = is_last(x) or is_last(weight)
    # In two bytes the bias belongs to the library's sum, which is rounded once.
    low = x.dtype.itemsize == 2
    y = dense(torch.conv3d(dense(x, last), weight, bias if low else None, *conv), last)
    shift = None if bias is None or low else bias.contiguous()
    out, index = passes.forward(y, None, shift, relu, pool, keep)
    # Where both layouts fit y, its own says contiguous.
    return dense(out, last), dense(index, last)


def backward(grad, x, weight, gate, conv: Conv, pool: Pool, needs):
    """[dx, dweight, dbias], None where not needed."""
    last = is_last(x) or is_last(weight)
    size = conv.output_size(x.shape[2:], weight.shape[2:])
    needs_x, needs_weight, needs_bias = needs
    grad, gate = dense(grad, last), dense(gate, last)
    dx = dweight = dbias = None
    if needs_x or needs_weight:
        dy = passes.backward(grad, gate, size, pool, last)
        dx, dweight, _ = torch.ops.aten.convolution_backward(
            dy, dense(x, last), weight, None, conv.stride, conv.padding, conv.dilation, False, [0, 0, 0], conv.groups,
            [needs_x, needs_weight, False],
        )  # fmt: skip
    if needs_bias:
        dbias = passes.sums(grad, gate, size, pool, last)[0].to(x.dtype)
    return [dense(dx, is_last(x)), dense(dweight, is_last(weight)), dbias]
