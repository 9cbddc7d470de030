"""What is constant in a 3-D convolution, and the sizes that follow."""

from math import prod
from typing import Any, NamedTuple

from fastrcn.checks import check_same, triple
from fastrcn.ops.relu_maxpool3d.geometry import Pool, Triple, check_pooled
from fastrcn.ops.sizes import Sizes


class Conv(NamedTuple):
    """A convolution as ``torch.nn.functional.conv3d`` takes it."""

    stride: Triple
    padding: Triple
    dilation: Triple
    groups: int

    @classmethod
    def of(cls, stride: Any, padding: Any, dilation: Any, groups):
        """From the arguments of ``torch.nn.functional.conv3d``."""
        return cls(triple(stride, "stride", 1), triple(padding, "padding", 0), triple(dilation, "dilation", 1), groups)

    def output_size(self, size, kernel):
        """(D,H,W) after the convolution."""
        return tuple(
            (n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in zip(size, kernel, *self[:3], strict=True)
        )

    def sizes(self, x, weight):
        """Of a call, by which the backend is chosen."""
        outputs, inputs, *kernel = weight.shape
        return Sizes(inputs, outputs, self.output_size(x.shape[2:], kernel), x.shape[0], 1, prod(kernel))


def check_conv(conv: Conv, pool: Pool, x, weight, bias):
    """Check one call: ranks, sizes, types, devices."""
    if x.dim() != 5:
        raise ValueError(f"input: expected 5 dimensions (N,C,D,H,W), got shape {tuple(x.shape)}")
    if weight.dim() != 5:
        raise ValueError(f"weight: expected 5 dimensions (Cout,Cin/groups,kd,kh,kw), got shape {tuple(weight.shape)}")
    outputs, inputs, *kernel = weight.shape
    if not isinstance(conv.groups, int) or conv.groups < 1 or outputs % conv.groups:
        raise ValueError(f"groups: expected a positive int that divides {outputs} channels, got {conv.groups!r}")
    if x.shape[1] != inputs * conv.groups:
        raise ValueError(f"input: expected {inputs * conv.groups} channels, got {x.shape[1]} in shape {tuple(x.shape)}")
    named = {"weight": weight}
    if bias is not None:
        named["bias"] = bias
        if tuple(bias.shape) != (outputs,):
            raise ValueError(f"bias: expected shape ({outputs},), got {tuple(bias.shape)}")
    check_same(named, x)
    size = conv.output_size(x.shape[2:], kernel)
    if any(n < 1 for n in size):
        raise ValueError(
            f"weight: expected a kernel that fits the input's (D,H,W) = {tuple(x.shape[2:])} with padding "
            f"{conv.padding}, got {tuple(kernel)} with dilation {conv.dilation}"
        )
    check_pooled(pool, size, "the convolution's")


def describe(input, weight, bias=None, *, stride=1, padding=0, dilation=1, groups=1, relu=True, **window):
    """What a call's backend is chosen by: (what is constant in it, the tensor that gives data type and device, its
    sizes)."""
    conv, pool = Conv.of(stride, padding, dilation, groups), Pool.of_options(**window)
    check_conv(conv, pool, input, weight, bias)
    return (conv, bool(relu), pool), input, conv.sizes(input, weight)
