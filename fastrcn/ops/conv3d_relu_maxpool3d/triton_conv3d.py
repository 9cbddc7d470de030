"""The ``triton`` backend: one kernel for all, or the library's convolution and a pass, by shape (see ``method.py``).
Importing this does not need Triton."""

from math import prod

import torch

from fastrcn.ops.conv3d_relu_maxpool3d.geometry import Conv
from fastrcn.ops.conv3d_relu_maxpool3d.method import fuses_forward, fuses_input_gradient
from fastrcn.ops.conv3d_relu_maxpool3d.triton_config import choose
from fastrcn.ops.conv_recurrent.triton_config import power
from fastrcn.ops.relu_maxpool3d import triton_passes as passes
from fastrcn.ops.relu_maxpool3d.geometry import Pool, gate_kind
from fastrcn.ops.relu_maxpool3d.layout import dense, is_last
from fastrcn.ops.tf32 import is_exact
from fastrcn.ops.triton_support import Launch, check_pixels, interpreting


def can_run(what, dtype, device):
    """(whether this backend runs a call, why not or how)."""
    _, _, pool = what
    ok, reason = passes.can_run(pool, dtype, device)
    return ok, f"one kernel, or the library's convolution and then {reason}, by shape" if ok else reason


def _constants(weight, conv: Conv, pool: Pool):
    """Numbers of the convolution and of the window as the kernels name them."""
    numbers = (*weight.shape[2:], *conv.stride, *conv.padding, *conv.dilation)
    names = [name + axis for name in ("T", "CS", "CP", "CD") for axis in "DHW"]
    return dict(zip(names, numbers, strict=True)) | passes.window_constants(pool)


def _run(kernel, backward, tensors, sizes, pixels, constants, channels, summed):
    """Start ``kernel`` on tiles of pixels and ``channels`` that sum over ``summed`` channels."""
    data, kernel_sizes = tensors[0], [n for size in sizes for n in size]
    exact = is_exact(data.dtype)
    precision = "tf32" if data.dtype == torch.float32 and not exact else "ieee"

    def key():
        name = "conv3d_relu_maxpool3d_bwd" if backward else "conv3d_relu_maxpool3d_fwd"
        numbers = [f"{n}={v}" for n, v in constants.items()]
        return " ".join([name, str(data.dtype), precision, *map(str, kernel_sizes), *numbers])

    def start(config):
        blocks = {"BLOCK_M": config.block_m, "BLOCK_N": config.block_c, "BLOCK_K": min(config.block_k, power(summed))}
        named = constants | blocks | {"PRECISION": precision, "INTERPRET": interpreting()}
        named = {n: v for n, v in named.items() if n in kernel.arg_names}
        programs = -(-pixels // config.block_m) * -(-channels // config.block_c)
        numbers = (pixels, *kernel_sizes)
        return Launch(kernel, programs, tensors, numbers, named, config.warps, config.stages).run

    # What the kernel writes it does not read, so it may run as often as it takes to choose.
    start(choose(data, backward, channels, pixels, exact, key, start))()


def _forward_fused(x, weight, bias, conv: Conv, relu, pool: Pool, keep):
    """The results, channels-last."""
    from fastrcn.ops.conv3d_relu_maxpool3d.triton_kernels import conv3d_relu_maxpool3d_fwd_kernel

    x, weight = dense(x, True), dense(weight, True)
    size = conv.output_size(x.shape[2:], weight.shape[2:])
    pooled = pool.output_size(size)
    (n, ci), co = x.shape[:2], weight.shape[0]
    place = {"device": x.device, "memory_format": torch.channels_last_3d}
    out = torch.empty((n, co, *pooled), dtype=x.dtype, **place)
    index = torch.empty(out.shape, dtype=torch.uint8, **place) if keep else None
    for count, what in ((prod(x.shape[2:]), "input"), (prod(pooled), "the pooled maps")):
        check_pixels(n * count, what)
    if out.numel():
        options = {"CI": ci, "CO": co, "BIAS": bias is not None, "RELU": relu, "KEEP": keep}
        _run(
            conv3d_relu_maxpool3d_fwd_kernel, False, (x, weight, bias, out, index), (x.shape[2:], size, pooled),
            n * prod(pooled), _constants(weight, conv, pool) | options, co, ci,
        )  # fmt: skip
    return out, index


def forward(x, weight, bias, conv: Conv, relu, pool: Pool, keep):
    """(pooled maps, index or None)."""
    last = is_last(x) or is_last(weight)
    bias = None if bias is None else bias.contiguous()
    if fuses_forward(conv, pool, x, weight, is_exact(x.dtype)):
        out, index = _forward_fused(x, weight, bias, conv, relu, pool, keep)
        return dense(out, last), dense(index, last)
    # In two bytes the bias belongs to the library's sum, which is rounded once.
    low = x.dtype.itemsize == 2
    y = dense(torch.conv3d(dense(x, last), dense(weight, last), bias if low else None, *conv), last)
    return passes.forward(y, None, None if low else bias, relu, pool, keep)


def _input_gradient_fused(grad, x, weight, gate, conv: Conv, pool: Pool):
    """The gradient of x, channels-last."""
    from fastrcn.ops.conv3d_relu_maxpool3d.triton_kernels import conv3d_relu_maxpool3d_bwd_kernel

    grad, gate = dense(grad, True), dense(gate, True)
    (n, ci, *size), (co, _, *kernel) = x.shape, weight.shape
    dx = torch.empty(x.shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last_3d)
    pixels = n * prod(size)
    check_pixels(pixels, "input")
    if dx.numel():
        # Products in tf32 want what is summed side by side.
        turned = weight.permute(1, 2, 3, 4, 0).contiguous()
        sizes = (size, conv.output_size(size, kernel), grad.shape[2:])
        options = {"CI": ci, "CO": co, "GATE": gate_kind(gate, pool)}
        _run(
            conv3d_relu_maxpool3d_bwd_kernel, True, (grad, gate, turned, dx), sizes, pixels,
            _constants(weight, conv, pool) | options, ci, co,
        )  # fmt: skip
    return dx


def backward(grad, x, weight, gate, conv: Conv, pool: Pool, needs):
    """[dx, dweight, dbias], None where not needed; the first two in the layout of what they are the gradient of."""
    last = is_last(x) or is_last(weight)
    size = conv.output_size(x.shape[2:], weight.shape[2:])
    dx = dweight = dbias = None
    if needs[2]:
        dbias = passes.sums(grad, gate, size, pool, last)[0].to(weight.dtype)
    fused = fuses_input_gradient(conv, pool, needs, is_exact(x.dtype))
    if fused:
        dx = _input_gradient_fused(grad, x, weight, gate, conv, pool)
    mask = [needs[0] and not fused, needs[1], False]
    if any(mask):
        dy = grad if pool.identity and gate is None else passes.backward(grad, gate, size, pool, last)
        found = torch.ops.aten.convolution_backward(
            dense(dy, last), dense(x, last), dense(weight, last), None, conv.stride, conv.padding, conv.dilation, False,
            [0, 0, 0], conv.groups, mask,
        )  # fmt: skip
        dx, dweight = dx if fused else found[0], found[1]
    return [dense(dx, is_last(x)), dense(dweight, is_last(weight)), dbias]
