"""conv3d_relu_maxpool3d as PyTorch operators, forward and backward. They know nothing of autograd."""

import torch

from fastrcn.ops.conv3d_relu_maxpool3d import cpu, cuda, triton_conv3d
from fastrcn.ops.conv3d_relu_maxpool3d.geometry import Conv
from fastrcn.ops.registration import register
from fastrcn.ops.relu_maxpool3d.geometry import Pool, keeps_index
from fastrcn.ops.relu_maxpool3d.layout import format_of, is_last

_BACKENDS = {"cpu": cpu, "triton": triton_conv3d, "cuda": cuda}

_OPTIONS = "int[] stride, int[] padding, int[] dilation, int groups, bool relu, int[] pool, bool ceil_mode"
_FORWARD = f"str backend, Tensor x, Tensor weight, Tensor? bias, {_OPTIONS}, bool keep"
_BACKWARD = f"str backend, Tensor grad, Tensor x, Tensor weight, Tensor? bias, Tensor? gate, {_OPTIONS}, bool[] needs"


def forward(backend, x, weight, bias, stride, padding, dilation, groups, relu, pool, ceil_mode, keep):
    """The operator's body: [pooled maps (N,Co,D',H',W')] and, where it is kept, [uint8 index] of the same shape."""
    conv, pool = Conv(tuple(stride), tuple(padding), tuple(dilation), groups), Pool.from_numbers(pool, ceil_mode)
    found = _BACKENDS[backend].forward(x, weight, bias, conv, relu, pool, keeps_index(pool, keep))
    return [t for t in found if t is not None]


def forward_fake(backend, x, weight, bias, stride, padding, dilation, groups, relu, pool, ceil_mode, keep):
    """Shapes, strides and types of what ``forward`` returns."""
    conv, pool = Conv(tuple(stride), tuple(padding), tuple(dilation), groups), Pool.from_numbers(pool, ceil_mode)
    size = pool.output_size(conv.output_size(x.shape[2:], weight.shape[2:]))
    last = format_of(is_last(x) or is_last(weight))
    shape = (x.shape[0], weight.shape[0], *size)
    found = [torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=last)]
    if keeps_index(pool, keep):
        found.append(torch.empty(shape, dtype=torch.uint8, device=x.device, memory_format=last))
    return found


def backward(backend, grad, x, weight, bias, gate, stride, padding, dilation, groups, relu, pool, ceil_mode, needs):
    """The operator's body: the gradients of x, weight and bias that ``needs`` asks for, the others left out.

    ``gate``: the index; for a window of one cell the result of forward, or None without a ReLU."""
    conv, pool = Conv(tuple(stride), tuple(padding), tuple(dilation), groups), Pool.from_numbers(pool, ceil_mode)
    found = _BACKENDS[backend].backward(grad, x, weight, gate if relu or pool.cells > 1 else None, conv, pool, needs)
    return [g for g in found if g is not None]


def backward_fake(
    backend, grad, x, weight, bias, gate, stride, padding, dilation, groups, relu, pool, ceil_mode, needs
):
    """Shapes, strides and types of what ``backward`` returns."""
    return [torch.empty_like(t) for t, need in zip((x, weight, bias), needs, strict=True) if need]


conv3d_relu_maxpool3d_fwd = register("conv3d_relu_maxpool3d_fwd", _FORWARD, forward, forward_fake)
conv3d_relu_maxpool3d_bwd = register("conv3d_relu_maxpool3d_bwd", _BACKWARD, backward, backward_fake)
