"""A call of batch_norm_relu_maxpool3d, fused and plain."""

from typing import NamedTuple

import torch

from fastrcn.ops.batch_norm_relu_maxpool3d import operators
from fastrcn.ops.relu_maxpool3d.geometry import Pool, check_pooled
from fastrcn.ops.relu_maxpool3d.layout import is_last
from fastrcn.ops.sizes import Sizes


class Call(NamedTuple):
    """What is constant in a call (see ``autograd.Call``). The tensors: x, weight, bias and, where ``training`` is
    false, mean and variance; the results: the pooled maps and, where it is true, the batch's mean and variance."""

    backend: str
    training: bool
    eps: float
    relu: bool
    pool: Pool
    keep: bool
    kept: int
    differentiable: int = 1

    def words(self, tensors):
        """What is constant in a call of these tensors, whatever batch and time."""
        x = tensors[0]
        return f"{(x.shape[1], *x.shape[3:])} {is_last(x)} {self[1:]}"

    def sizes(self, tensors):
        """By which the backend is chosen."""
        return _sizes(tensors[0])

    def forward(self, tensors):
        """The operator's results: the pooled maps, in training mean and variance, and, where it is kept, the cell of
        each window."""
        return operators.batch_norm_relu_maxpool3d_fwd(self.backend, *tensors, *self._options(), self.keep)

    def backward(self, needs, grads, tensors, kept):
        """The operator's gradients."""
        if grads[0] is None:
            return [torch.zeros_like(t) for t, need in zip(tensors, needs, strict=True) if need]
        kept = list(kept)
        out = kept.pop(0) if self.kept else None
        mean, var = (kept.pop(0), kept.pop(0)) if self.training else tensors[3:]
        gate = kept.pop(0) if kept else out
        return operators.batch_norm_relu_maxpool3d_bwd(
            self.backend, *grads, *tensors[:3], mean, var, gate, *self._options(), needs[:3]
        )

    def plain(self, tensors, momentum=0.0):
        """The plain form. In training it updates the running statistics that stand in mean's and variance's place."""
        x, weight, bias, mean, var = tensors
        if not self.training:  # PyTorch has no gradient for them, and a second-order one asks
            mean, var = mean.detach(), var.detach()
        y = torch.nn.functional.batch_norm(x, mean, var, weight, bias, self.training, momentum, self.eps)
        return (self.pool.plain(torch.relu(y) if self.relu else y),)

    def _options(self):
        return self.training, self.eps, self.relu, self.pool.numbers(), self.pool.ceil_mode


def _sizes(x):
    return Sizes(x.shape[1], x.shape[1], tuple(x.shape[2:]), x.shape[0], 1, 1)


def check_batch_norm(x, running_mean, running_var, weight, bias, training, pool: Pool):
    """Check one call: ranks, sizes, devices."""
    if x.dim() != 5:
        raise ValueError(f"input: expected 5 dimensions (N,C,D,H,W), got shape {tuple(x.shape)}")
    if not x.is_floating_point():
        raise TypeError(f"input: expected a floating point type, got {x.dtype}")
    if (running_mean is None) != (running_var is None) or (running_mean is None and not training):
        raise ValueError("running_mean, running_var: expected both, or neither in training")
    named = {"running_mean": running_mean, "running_var": running_var, "weight": weight, "bias": bias}
    for name, tensor in named.items():
        if tensor is None:
            continue
        if tuple(tensor.shape) != (x.shape[1],):
            raise ValueError(f"{name}: expected shape ({x.shape[1]},), the input's channels, got {tuple(tensor.shape)}")
        if tensor.device != x.device:
            raise RuntimeError(f"{name}: expected device {x.device}, the input's, got {tensor.device}")
        if tensor.dtype not in (x.dtype, torch.float32):
            raise TypeError(f"{name}: expected {x.dtype}, the input's type, or float32, got {tensor.dtype}")
        if name.startswith("running") and tensor.requires_grad:
            raise RuntimeError(f"{name}: expected a tensor without gradient, got one that requires it")
    if training and x.shape[0] * x.shape[2] * x.shape[3] * x.shape[4] == 1:
        raise ValueError(f"input: expected more than 1 value per channel when training, got shape {tuple(x.shape)}")
    check_pooled(pool, x.shape[2:], "the input's")


def describe(
    input, running_mean, running_var, weight=None, bias=None, *, training=False, momentum=0.1, eps=1e-5, relu=True,
    **window,
):  # fmt: skip
    """What a call's backend is chosen by: (what is constant in it, the tensor that gives data type and device, its
    sizes)."""
    pool = Pool.of_options(**window)
    check_batch_norm(input, running_mean, running_var, weight, bias, training, pool)
    return (bool(relu), pool), input, _sizes(input)
