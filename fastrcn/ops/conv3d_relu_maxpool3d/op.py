"""A call of conv3d_relu_maxpool3d, fused and plain."""

from typing import NamedTuple

import torch

from fastrcn.ops.conv3d_relu_maxpool3d import operators
from fastrcn.ops.conv3d_relu_maxpool3d.geometry import Conv
from fastrcn.ops.relu_maxpool3d.geometry import Pool
from fastrcn.ops.relu_maxpool3d.layout import is_last


class Call(NamedTuple):
    """What is constant in a call (see ``autograd.Call``). The tensors: x, weight, bias; the result: the pooled maps."""

    backend: str
    conv: Conv
    relu: bool
    pool: Pool
    keep: bool
    kept: int
    differentiable: int = 1

    def words(self, tensors):
        """What is constant in a call of these tensors, whatever batch and time."""
        x, weight, _ = tensors
        sizes, layouts = (x.shape[1], *x.shape[3:], *weight.shape), (is_last(x), is_last(weight))
        return f"{sizes} {layouts} {self[1:]}"

    def sizes(self, tensors):
        """By which the backend is chosen."""
        x, weight, _ = tensors
        return self.conv.sizes(x, weight)

    def forward(self, tensors):
        """The operator's results: the pooled maps and, where it is kept, the cell of each window."""
        return operators.conv3d_relu_maxpool3d_fwd(self.backend, *tensors, *self._options(), self.keep)

    def backward(self, needs, grads, tensors, kept):
        """The operator's gradients."""
        if grads[0] is None or tensors[0].shape[0] == 0:
            return [torch.zeros_like(t) for t, need in zip(tensors, needs, strict=True) if need]
        gate = kept[0] if kept else None
        return operators.conv3d_relu_maxpool3d_bwd(self.backend, *grads, *tensors, gate, *self._options(), needs)

    def plain(self, tensors):
        """The plain form."""
        x, weight, bias = tensors
        y = torch.nn.functional.conv3d(x, weight, bias, *self.conv)
        return (self.pool.plain(torch.relu(y) if self.relu else y),)

    def _options(self):
        stride, padding, dilation, groups = self.conv
        return stride, padding, dilation, groups, self.relu, self.pool.numbers(), self.pool.ceil_mode
