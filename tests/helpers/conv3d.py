"""Cases of conv3d_relu_maxpool3d and batch_norm_relu_maxpool3d, and their truth by PyTorch's own operations."""

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F

from fastrcn.functional import batch_norm_relu_maxpool3d, conv3d_relu_maxpool3d
from tests.helpers.tolerances import assert_close


@dataclass(frozen=True)
class Case:
    """Arguments of one call. ``window``: those of the pooling, as ``torch.nn.functional.max_pool3d`` names them, or
    None; ``last``: which of x and weight are channels-last; ``coarse``: values are multiples of a power of two, so that
    sums are exact in float32. In large maps two cells are else so close that rounding decides which is the larger."""

    batch: int = 2
    inputs: int = 5
    outputs: int = 7
    size: tuple[int, int, int] = (4, 6, 5)
    kernel: tuple[int, int, int] = (3, 3, 3)
    conv: dict[str, Any] = field(default_factory=lambda: {"padding": 1})
    window: dict[str, Any] | None = field(default_factory=lambda: {"kernel_size": 2})
    bias: bool = True
    relu: bool = True
    last: str = ""
    coarse: bool = False

    def on_grid(self, tensor, step):
        """The tensor, or its nearest values on the grid."""
        return (tensor / step).round() * step if self.coarse else tensor

    def fused_window(self):
        """The window as the package names it."""
        return {n if n == "ceil_mode" else f"pool_{n}": v for n, v in (self.window or {}).items()}

    def pool(self, y):
        """ReLU and pooling by PyTorch."""
        y = torch.relu(y) if self.relu else y
        return y if self.window is None else F.max_pool3d(y, **self.window)


CASES = {
    "plain": Case(),
    "channels_last": Case(last="x weight"),
    "only_x_last": Case(last="x"),
    "only_weight_last": Case(last="weight"),
    "window_1x2x2": Case(window={"kernel_size": (1, 2, 2)}),
    "no_window": Case(window=None),
    "no_window_no_relu": Case(window=None, relu=False),
    "no_relu": Case(relu=False),
    "no_bias": Case(bias=False, last="x weight"),
    "ceil_mode": Case(size=(5, 7, 5), window={"kernel_size": 2, "ceil_mode": True}),
    "cut_borders": Case(size=(5, 7, 5)),
    "overlapping": Case(
        size=(5, 6, 5), kernel=(1, 1, 1), conv={}, window={"kernel_size": 3, "stride": 2, "padding": 1}
    ),
    "dilated_window": Case(
        size=(5, 7, 6), kernel=(1, 1, 1), conv={},
        window={"kernel_size": (2, 3, 2), "stride": (1, 2, 1), "padding": (1, 1, 0), "dilation": (2, 1, 3)},
    ),
    "window_over_borders": Case(
        size=(2, 3, 2), kernel=(1, 3, 3), conv={"padding": (0, 1, 1)},
        window={"kernel_size": (2, 4, 4), "stride": (2, 4, 4), "padding": (1, 2, 2)},
    ),
    "wide_window_stride": Case(size=(5, 6, 8), window={"kernel_size": 2, "stride": 3, "ceil_mode": True}),
    "kernel_1": Case(kernel=(1, 1, 1), conv={}),
    "kernel_3x1x1": Case(kernel=(3, 1, 1), conv={"padding": (1, 0, 0)}),
    "kernel_7": Case(size=(3, 4, 3), kernel=(7, 7, 7), conv={"padding": 3}, window=None),
    "kernel_1x7x7": Case(kernel=(1, 7, 7), conv={"padding": (0, 3, 3)}, window={"kernel_size": (1, 2, 2)}),
    "stride": Case(size=(6, 7, 9), conv={"padding": 1, "stride": (1, 2, 2)}, window={"kernel_size": (2, 2, 1)}),
    "dilation": Case(size=(6, 8, 7), conv={"padding": (1, 2, 0), "dilation": (1, 2, 2)}),
    "groups": Case(inputs=6, outputs=9, conv={"padding": 1, "groups": 3}),
    "one_frame": Case(size=(1, 5, 6), kernel=(1, 3, 3), conv={"padding": (0, 1, 1)}, window={"kernel_size": (1, 2, 2)}),
    "one_pixel": Case(batch=1, size=(1, 1, 1), window=None),
    "one_channel": Case(inputs=1, outputs=1),
}  # fmt: skip


def close(found, truth, dtype, plain=None):
    """Compare dicts of tensors by the table of tolerances."""
    for name, value in truth.items():
        assert_close(found[name], value, name, dtype, plain and plain[name])


def _layout(tensor, last):
    return tensor.contiguous(memory_format=torch.channels_last_3d) if last else tensor


def leaves(tensors, dtype, device="cpu"):
    """Copies that require gradients, in their layout."""
    return {n: t.detach().to(device, dtype, copy=True).requires_grad_() for n, t in tensors.items()}


def backpropagate(y, named, grad):
    """The output and all gradients."""
    found = torch.autograd.grad(y, list(named.values()), grad.to(y.device, y.dtype))
    return {"output": y} | {f"d{n}": g for n, g in zip(named, found, strict=True)}


def make_conv(case: Case, dtype=torch.float32):
    """The tensors of a call."""
    groups = case.conv.get("groups", 1)
    weight = torch.randn(case.outputs, case.inputs // groups, *case.kernel) * 0.2
    x = torch.randn(case.batch, case.inputs, *case.size)
    tensors = {
        "input": _layout(case.on_grid(x, 1 / 4), "x" in case.last.split()),
        "weight": _layout(case.on_grid(weight, 1 / 32), "weight" in case.last.split()),
    }
    if case.bias:
        tensors["bias"] = case.on_grid(torch.randn(case.outputs) * 0.3, 1 / 128)
    return {n: t.to(dtype) for n, t in tensors.items()}


def plain_conv(case: Case, tensors):
    return case.pool(F.conv3d(tensors["input"], tensors["weight"], tensors.get("bias"), **case.conv))


def fused_conv(case: Case, tensors, backend):
    return conv3d_relu_maxpool3d(**tensors, **case.conv, relu=case.relu, **case.fused_window(), backend=backend)


def make_batch_norm(case: Case, dtype=torch.float32):
    """The tensors of a call; far from zero, where sums of squares cancel."""
    c = case.inputs
    x = torch.randn(case.batch, c, *case.size) + torch.arange(c).view(-1, 1, 1, 1) * 3.0
    x = _layout(case.on_grid(x, 1 / 64), "x" in case.last.split())
    tensors = {"input": x, "weight": torch.randn(c), "bias": torch.randn(c)}
    return {n: t.to(dtype) for n, t in tensors.items()}


def running(case: Case, dtype, device="cpu"):
    """Running mean and variance."""
    c = torch.arange(case.inputs, dtype=dtype, device=device)
    return c, 1 + c / 2


def plain_batch_norm(case: Case, tensors, statistics, training):
    x, weight, bias = tensors.values()
    return case.pool(F.batch_norm(x, *statistics, weight, bias, training))


def fused_batch_norm(case: Case, tensors, statistics, training, backend):
    x, weight, bias = tensors.values()
    return batch_norm_relu_maxpool3d(
        x, *statistics, weight, bias, training=training, relu=case.relu, **case.fused_window(), backend=backend
    )


def compare_conv(case: Case, dtype=torch.float32, device="cpu"):
    """The triton backend against float64, output and all gradients; low precision at most twice as far from it as
    PyTorch's own operations."""
    tensors = make_conv(case, dtype)
    exact = leaves(tensors, torch.float64)
    y = plain_conv(case, exact)
    grad = torch.randn_like(y).to(dtype).double()
    truth, plain = backpropagate(y, exact, grad), None
    if dtype != torch.float32:
        rough = leaves(tensors, dtype)
        plain = backpropagate(plain_conv(case, rough), rough, grad)
    named = leaves(tensors, dtype, device)
    found = backpropagate(fused_conv(case, named, "triton"), named, grad)
    close({n: t.cpu() for n, t in found.items()}, truth, dtype, plain)
    return found


def compare_batch_norm(case: Case, training, dtype=torch.float32, device="cpu"):
    """The same for batch_norm_relu_maxpool3d; the running statistics too."""
    tensors = make_batch_norm(case, dtype)
    exact, statistics = leaves(tensors, torch.float64), running(case, torch.float64)
    y = plain_batch_norm(case, exact, statistics, training)
    grad = torch.randn_like(y).to(dtype).double()
    truth, plain = backpropagate(y, exact, grad), None
    if dtype != torch.float32:
        rough = leaves(tensors, dtype)
        plain = backpropagate(plain_batch_norm(case, rough, running(case, dtype), training), rough, grad)
    named, ours = leaves(tensors, dtype, device), running(case, torch.float32, device)
    found = backpropagate(fused_batch_norm(case, named, ours, training, "triton"), named, grad)
    close({n: t.cpu() for n, t in found.items()}, truth, dtype, plain)
    for a, b in zip(ours, statistics, strict=True):
        assert_close(a.cpu(), b, "running statistics")
    return found
