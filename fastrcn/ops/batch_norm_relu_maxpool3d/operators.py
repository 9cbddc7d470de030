"""batch_norm_relu_maxpool3d as PyTorch operators, forward and backward. They know nothing of autograd."""

from typing import Any

import torch

from fastrcn.ops.registration import register
from fastrcn.ops.relu_maxpool3d import cpu, cuda, triton_passes
from fastrcn.ops.relu_maxpool3d.geometry import Pool, keeps_index
from fastrcn.ops.relu_maxpool3d.layout import dense, format_of, is_last

_BACKENDS = {"cpu": cpu, "triton": triton_passes, "cuda": cuda}

_OPTIONS = "bool training, float eps, bool relu, int[] pool, bool ceil_mode"
_FORWARD = f"str backend, Tensor x, Tensor? weight, Tensor? bias, Tensor? mean, Tensor? var, {_OPTIONS}, bool keep"
_BACKWARD = (
    "str backend, Tensor grad, Tensor x, Tensor? weight, Tensor? bias, Tensor mean, "
    f"Tensor var, Tensor? gate, {_OPTIONS}, bool[] needs"
)


def _statistics_type(x):
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def forward(backend, x, weight, bias, mean, var, training, eps, relu, pool, ceil_mode, keep):
    """The operator's body: [pooled maps (N,C,D',H',W')], in training [mean (C,), variance (C,), biased], and, where it
    is kept, [uint8 index] of the maps' shape."""
    kernels, pool, kind = _BACKENDS[backend], Pool.from_numbers(pool, ceil_mode), _statistics_type(x)
    x = dense(x, is_last(x))
    if training:
        mean, var = kernels.statistics(x)
    scale = torch.rsqrt(var.to(kind) + eps)
    scale = scale if weight is None else scale.mul_(weight)
    shift = -mean * scale if bias is None else torch.addcmul(bias.to(kind), mean.to(kind), scale, value=-1)
    out, index = kernels.forward(x, scale, shift, relu, pool, keeps_index(pool, keep))
    return [out, *([mean, var] if training else []), *([] if index is None else [index])]


def forward_fake(backend, x, weight, bias, mean, var, training, eps, relu, pool, ceil_mode, keep):
    """Shapes, strides and types of what ``forward`` returns."""
    pool = Pool.from_numbers(pool, ceil_mode)
    shape, last = (*x.shape[:2], *pool.output_size(x.shape[2:])), format_of(is_last(x))
    found = [torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=last)]
    if training:
        found += [torch.empty(x.shape[1], dtype=_statistics_type(x), device=x.device) for _ in range(2)]
    if keeps_index(pool, keep):
        found.append(torch.empty(shape, dtype=torch.uint8, device=x.device, memory_format=last))
    return found


def backward(backend, grad, x, weight, bias, mean, var, gate, training, eps, relu, pool, ceil_mode, needs):
    """The operator's body: the gradients of x, weight and bias that ``needs`` asks for, the others left out.

    With z the normalised and y the scaled value, and g a window's gradient led to the cell that it chose:
    dbias = sum g, dweight = sum g z, dx = weight / std * (g - (dbias + z dweight) / n); the last term in training only.
    """
    kernels, pool, kind, last = _BACKENDS[backend], Pool.from_numbers(pool, ceil_mode), _statistics_type(x), is_last(x)
    x, grad = dense(x, last), dense(grad, last)
    gate = gate if relu or pool.cells > 1 else None
    mean, invstd = mean.to(kind), torch.rsqrt(var.to(kind) + eps)
    scale = invstd if weight is None else invstd * weight
    dbias: Any = None
    dweight: Any = None
    dx = None
    if training or needs[1] or needs[2]:
        dbias, centred = kernels.sums(grad, gate, x.shape[2:], pool, last, x, mean)
        dweight = centred * invstd
    if needs[0] and training:
        share = scale * (-x.shape[1] / x.numel())
        slope, offset = share * invstd * dweight, share * dbias
        dx = kernels.backward(grad, gate, x.shape[2:], pool, last, scale, x, mean, slope, offset)
    elif needs[0]:
        dx = kernels.backward(grad, gate, x.shape[2:], pool, last, scale)
    found = [dx]
    for parameter, total in ((weight, dweight), (bias, dbias)):
        found.append(None if parameter is None or total is None else total.to(parameter.dtype))
    return [g for g, need in zip(found, needs, strict=True) if need]


def backward_fake(backend, grad, x, weight, bias, mean, var, gate, training, eps, relu, pool, ceil_mode, needs):
    """Shapes, strides and types of what ``backward`` returns."""
    dx = torch.empty_like(x, memory_format=format_of(is_last(x)))
    parameters = [None if p is None else torch.empty_like(p) for p in (weight, bias)]
    return [t for t, need in zip((dx, *parameters), needs, strict=True) if need]


batch_norm_relu_maxpool3d_fwd = register("batch_norm_relu_maxpool3d_fwd", _FORWARD, forward, forward_fake)
batch_norm_relu_maxpool3d_bwd = register("batch_norm_relu_maxpool3d_bwd", _BACKWARD, backward, backward_fake)
