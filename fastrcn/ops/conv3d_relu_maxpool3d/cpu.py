"""The ``cpu`` backend.

Forward, where windows do not overlap and inputs are few, a compiled kernel convolves and pools strip by strip; else a
few clips at a time are convolved, with fewer multiplications where ``winograd.py`` can, as products of matrices where
``pointwise.py`` can, or by the library, and one compiled pass adds the bias, applies the ReLU and pools. So the tensor
before pooling is never there for the whole batch, neither forward nor backward. Without pooling the convolution's
result is that of the call.

Inside, maps are channels-last where they are pooled or compiled kernels convolve them, unless they are few. Where
nothing gains from it they stay as they are: the library's convolutions take about as long in both layouts.
"""

from typing import Any

import torch

from fastrcn import memory, native
from fastrcn.ops.conv3d_relu_maxpool3d.cpu_choice import (
    by_pointwise,
    by_winograd,
    converts,
    converts_unpooled,
    gradient_by_winograd,
    is_product,
    keeps_last,
    owns_weight_gradient,
    pools_in_strips,
    runs_in_strips,
)
from fastrcn.ops.conv3d_relu_maxpool3d.geometry import Conv
from fastrcn.ops.convolution import pointwise, winograd
from fastrcn.ops.convolution.weight import Weight
from fastrcn.ops.convolution.weight_gradient import conv_weight_gradient, empty_total, loses_taps, to_weight
from fastrcn.ops.relu_maxpool3d import cpu as passes
from fastrcn.ops.relu_maxpool3d.geometry import Pool
from fastrcn.ops.relu_maxpool3d.layout import dense, format_of, is_last

_SPAN_BYTES = 1 << 24


def can_run(what, dtype, device):
    """(whether this backend runs a call, why not or how)."""
    conv, _, pool = what
    ok, reason = passes.can_run(pool, dtype, device)
    if not ok:
        return ok, reason
    own = "in float32 one with fewer multiplications for 3x3 or 5x5 rows and columns, or a compiled product for 1x1x1"
    how = f"the library's convolution, or {own}, then {reason}"
    if pools_in_strips(conv, pool) and dtype != torch.bfloat16:
        how = "few inputs convolved and pooled strip by strip, with more " + how
    if dtype == torch.bfloat16 and not native.has_bfloat16_convolution():
        how += "; computed in float32: this processor has no bfloat16 convolution"
    return True, how


def _compute_type(dtype):
    return torch.float32 if dtype == torch.bfloat16 and not native.has_bfloat16_convolution() else dtype


def _cast(dtype, *tensors) -> list[Any]:
    return [None if t is None else t.to(dtype) for t in tensors]


def _spans(size, weight, batch, element):
    """The batch in parts whose convolution results are small."""
    clip = weight.shape[0] * size[0] * size[1] * size[2] * element
    step = max(1, _SPAN_BYTES // max(1, clip))
    return [slice(n, min(batch, n + step)) for n in range(0, batch, step)]


def forward(x, weight, bias, conv: Conv, relu, pool: Pool, keep):
    """(pooled maps, index or None)."""
    last, dtype = keeps_last(x, weight), x.dtype
    x, weight, bias = _cast(_compute_type(dtype), x, weight, bias)
    size = conv.output_size(x.shape[2:], weight.shape[2:])
    shape = (x.shape[0], weight.shape[0], *pool.output_size(size))
    strips = runs_in_strips(x, weight, conv, pool)
    convert = converts_unpooled if pool.identity else converts
    inside = last or (not strips and convert(x, weight, conv, size))
    convolve = torch.conv3d
    if by_winograd(x, weight, conv, size):
        convolve = _winograd
    elif by_pointwise(x, weight, conv, inside):
        convolve = _pointwise
    if not strips and pool.identity:
        y = dense(convolve(dense(x, inside, keep=True), weight, bias, *conv), last)
        return (y.relu_() if relu else y).to(dtype), None
    out = torch.empty(shape, dtype=x.dtype, memory_format=format_of(inside))
    index = torch.empty(shape, dtype=torch.uint8, memory_format=format_of(inside)) if keep else None
    x = dense(x, strips or inside, keep=True)
    if strips:
        _convolve_in_strips(x, weight, bias, conv, relu, pool, size, out, index)
    else:
        # In bfloat16 the bias belongs to the library's sum, which is rounded once.
        low = x.dtype.itemsize == 2
        shift = None if bias is None or low else bias.contiguous()
        for span in _spans(size, weight, x.shape[0], x.element_size()):
            y = dense(convolve(x[span], weight, bias if low else None, *conv), inside)
            passes.forward(y, None, shift, relu, pool, keep, out[span], None if index is None else index[span])
    return dense(out, last).to(dtype), dense(index, last)


def _winograd(x, weight, bias, stride, padding, dilation, groups):
    """``torch.conv3d`` of channels-last maps by compiled kernels, for what ``by_winograd`` names."""
    return winograd.convolve(x.movedim(1, -1), Weight(weight), padding, bias).movedim(-1, 1)


def _pointwise(x, weight, bias, stride, padding, dilation, groups):
    """``torch.conv3d`` of contiguous maps by compiled kernels, for what ``by_pointwise`` names."""
    return pointwise.convolve(x, weight, bias)


def _convolve_in_strips(x, weight, bias, conv: Conv, relu, pool: Pool, size, out, index):
    """The compiled kernel: writes ``out`` and, where it is given, ``index``. ``x`` is channels-last."""
    native_module, isa, number = native.module(), native.isa(), passes.TYPE_NUMBERS[x.dtype]
    packed = Weight(weight).packed(native_module.block_outputs(isa, number))
    numbers = [*weight.shape[2:], *conv.stride, *conv.padding, *conv.dilation]
    bias = None if bias is None else bias.contiguous()
    native_module.conv3d_relu_maxpool3d(
        isa, number, numbers, tuple(x.shape), (*out.shape[:2], *size), pool.numbers(), tuple(out.shape[2:]),
        is_last(out), relu, x.data_ptr(), packed.data_ptr(), native.address(bias), out.data_ptr(),
        native.address(index), torch.get_num_threads(),
    )  # fmt: skip


def backward(grad, x, weight, gate, conv: Conv, pool: Pool, needs):
    """[dx, dweight, dbias], None where not needed."""
    dtype, x_last, weight_last = x.dtype, is_last(x), is_last(weight)
    kind = torch.float32 if loses_taps(x, weight.shape) else _compute_type(dtype)
    grad, x, weight = _cast(kind, grad, x, weight)
    gate = gate if gate is None or gate.dtype == torch.uint8 else gate.to(x.dtype)
    size = conv.output_size(x.shape[2:], weight.shape[2:])
    own = needs[1] and owns_weight_gradient(x, weight, conv, size)
    last = x_last or weight_last or (own and converts(x, weight, conv, size))
    gradients = _Gradients(x, weight, conv, needs, last, own)
    alone = pool.identity and gate is None  # nothing to compute before the convolution's gradients
    for span in [slice(None)] if alone else _spans(size, weight, x.shape[0], x.element_size()):
        part = None if gate is None else gate[span]
        gradients.add(span, {k: _before_pooling(grad[span], part, size, pool, k) for k in gradients.layouts})
    dx = dense(gradients.dx, x_last)
    dbias = passes.sums(grad, gate, size, pool, is_last(grad))[0] if needs[2] else None
    return [None if f is None else f.to(dtype) for f in (dx, gradients.dweight(weight_last), dbias)]


def _before_pooling(grad, gate, size, pool: Pool, last):
    """The gradient of the convolution's result, in a layout."""
    grad = dense(grad, last, keep=True)
    if gate is None and pool.identity:
        return grad
    n, c = grad.shape[:2]
    shape = (n, *size, c) if last else (n, c, *size)
    dy = memory.empty(shape, grad.dtype, "cpu")
    dy = dy.movedim(-1, 1) if last else dy
    return passes.backward(grad, dense(gate, last, keep=True), size, pool, last, into=dy)


class _Gradients:
    """Gradients of input and weight, collected part by part of the batch: by matrix products, by compiled kernels (in
    channels-last), or by the library (in the layout ``last`` says)."""

    def __init__(self, x, weight, conv: Conv, needs, last, own):
        self.weight, self.conv, self.last = weight, conv, last
        needs_x, needs_weight, _ = needs
        self.product = not last and is_product(weight, conv)
        self.own_weight = own and not self.product
        self.own_x = needs_x and not self.product and gradient_by_winograd(x, weight, conv)
        library = [needs_x and not self.own_x, needs_weight and not self.own_weight, False]
        self.library = [needed and not self.product for needed in library]
        self.layouts = {True} if self.own_weight or self.own_x else set()
        self.layouts |= {last} if self.product or any(self.library) else set()
        self.x = {layout: dense(x, layout, keep=True) for layout in self.layouts}
        self.dx: Any = None
        if needs_x and (self.product or self.own_x):
            self.dx = torch.empty(x.shape, dtype=x.dtype, memory_format=format_of(self.own_x))
        self.total: Any = empty_total(weight.shape, x) if self.own_weight else None
        self.sum: Any = torch.zeros(weight.shape, dtype=x.dtype) if needs_weight and self.product else None

    def add(self, span, dy):
        """What a part of the batch contributes; ``dy``: the gradient of the convolution's result, by layout."""
        conv = self.conv
        if self.own_weight:
            maps = (self.x[True][span].movedim(1, -1), dy[True].movedim(1, -1))
            conv_weight_gradient(*maps, self.weight.shape, conv.stride, conv.padding, conv.dilation, self.total)
        if self.own_x:
            rest = [k - 1 - p for k, p in zip(self.weight.shape[2:], conv.padding, strict=True)]
            part, into = dy[True].movedim(1, -1), self.dx.movedim(1, -1)[span]
            winograd.convolve(part, Weight(self.weight, True), rest, out=into)
        if self.product:
            self._add_product(span, dy[False])
        if any(self.library):
            x = self.x[self.last]
            d_part, d_weight, _ = torch.ops.aten.convolution_backward(
                dy[self.last], x[span], self.weight, None, conv.stride, conv.padding, conv.dilation, False, [0, 0, 0],
                conv.groups, self.library,
            )  # fmt: skip
            if self.library[0] and len(d_part) == len(x):
                self.dx = d_part
            elif self.library[0]:
                self.dx = torch.empty_like(x) if self.dx is None else self.dx
                self.dx[span] = d_part
            if self.library[1]:
                self.sum = d_weight if self.sum is None else self.sum.add_(d_weight)

    def _add_product(self, span, dy):
        x, shape = self.x[False][span], self.weight.shape
        compiled = x.dtype, shape, x.shape[2:].numel()
        if self.sum is not None and pointwise.gradient_pays(*compiled):
            self.sum.add_(pointwise.weight_gradient(x, dy))
        elif self.sum is not None:
            for one, g in zip(x.flatten(2), dy.flatten(2), strict=True):
                self.sum.flatten(1).addmm_(g, one.t())
        if self.dx is not None and pointwise.pays(*compiled):
            pointwise.convolve(dy, self.weight, reflected=True, out=self.dx[span])
        elif self.dx is not None:
            for part, g in zip(self.dx[span].flatten(2), dy.flatten(2), strict=True):
                torch.mm(self.weight.flatten(1).t(), g, out=part)

    def dweight(self, last):
        """The weight's gradient in a layout, or None."""
        if self.own_weight:
            return to_weight(self.total, last)
        if self.library[1] and self.sum is None:  # an empty batch
            return torch.zeros_like(self.weight)
        return dense(self.sum, last)
