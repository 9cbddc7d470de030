"""A fused operator under autograd, as two nested functions: the first runs the forward operator and, in backward, the
second; the second runs the backward operator and, when it is itself differentiated, goes through the plain form.
Both can be mapped over by ``torch.vmap``.
"""

import inspect
from abc import abstractmethod
from typing import Any, Protocol

import torch
from torch.autograd import forward_ad

from fastrcn.ops.autocast import without_autocast
from fastrcn.ops.sizes import Sizes


class Call(Protocol):
    """What is constant in a call of an operator; a NamedTuple. The tensors follow as one flat list, None where absent.

    ``differentiable``: so many of the results, the first, have gradients; the others are kept for the backward
    operator.
    ``kept``: so many of the differentiable results, the first, are kept for it too.
    """

    differentiable: int
    kept: int

    @abstractmethod
    def sizes(self, tensors) -> Sizes:
        """By which the backend is chosen."""

    @abstractmethod
    def forward(self, tensors) -> Any:
        """All results of the forward operator."""

    @abstractmethod
    def backward(self, needs, grads, tensors, kept) -> Any:
        """The gradients that ``needs`` (a flag for each tensor) asks for, the others left out. ``grads``: those of the
        differentiable results, None for zero."""

    @abstractmethod
    def plain(self, tensors) -> Any:
        """The differentiable results, from PyTorch's own functions."""


def _stack_over(info, in_dims, function, args):
    """Run ``function`` once per element of the mapped axis and stack what it returns."""
    runs = []
    for k in range(info.batch_size):
        picked = [a if d is None else a.select(d, k) for a, d in zip(args, in_dims, strict=True)]
        runs.append(function(*picked))
    return tuple(torch.stack(parts) for parts in zip(*runs, strict=True))


def _may_be_differentiated_again():
    """Whether a backward pass has gradients itself, is mapped over, or has a tangent, which is refused. That of a
    compiled graph has not: it traces a function without gradients only by its fixed arguments."""
    if torch.compiler.is_compiling():
        return False
    transformed = torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0
    return torch.is_grad_enabled() or transformed


class Fused(torch.autograd.Function):
    """apply(call, *tensors) -> the forward operator's results."""

    @staticmethod
    def forward(call, *tensors):
        return tuple(call.forward(tensors))

    @staticmethod
    def setup_context(ctx, inputs, output):
        call, *tensors = inputs
        ctx.call, ctx.count = call, len(tensors)
        ctx.save_for_backward(*tensors, *output[: call.kept], *output[call.differentiable :])
        ctx.mark_non_differentiable(*output[call.differentiable :])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx, *grads):
        call, saved = ctx.call, ctx.saved_tensors
        needs = tuple(ctx.needs_input_grad[1:])
        second = FusedBackward.apply if _may_be_differentiated_again() else FusedBackward.forward
        found = iter(second(call, needs, *grads[: call.differentiable], *saved))
        return (None, *(next(found) if need else None for need in needs))

    @staticmethod
    def vmap(info, in_dims, call, *tensors):
        outputs = _stack_over(info, in_dims[1:], lambda *args: Fused.apply(call, *args), tensors)
        return outputs, (0,) * len(outputs)


class FusedBackward(torch.autograd.Function):
    """apply(call, needs, *grads, *tensors, *kept) -> the gradients that ``needs`` asks for."""

    @staticmethod
    def _split(call, needs, rest):
        first, end = call.differentiable, call.differentiable + len(needs)
        return rest[:first], rest[first:end], rest[end:]

    @staticmethod
    def forward(call, needs, *rest):
        grads, tensors, kept = FusedBackward._split(call, needs, rest)
        return tuple(call.backward(needs, grads, tensors, kept))

    @staticmethod
    def setup_context(ctx, inputs, output):
        call, needs, *rest = inputs
        ctx.call, ctx.needs, ctx.count = call, needs, len(rest)
        grads, tensors, _ = FusedBackward._split(call, needs, rest)
        ctx.save_for_backward(*grads, *tensors)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx, *grads_of_grads):
        call, needs = ctx.call, ctx.needs
        grads, tensors, _ = FusedBackward._split(call, needs, ctx.saved_tensors)
        second_order = without_autocast(_second_order, "cpu", "cuda")
        return (None, None, *second_order(call, needs, grads, tensors, grads_of_grads, ctx.count))

    @staticmethod
    def vmap(info, in_dims, call, needs, *rest):
        outputs = _stack_over(info, in_dims[2:], lambda *args: FusedBackward.apply(call, needs, *args), rest)
        return outputs, (0,) * len(outputs)


def _second_order(call, needs, grads, tensors, grads_of_grads, count):
    """Differentiate the plain form's gradient: gradients for grads, tensors and, all None, what forward kept."""
    given = [k for k, g in enumerate(grads) if g is not None]
    present = [k for k, t in enumerate(tensors) if t is not None and t.is_floating_point()]
    wanted = [k for k, need in enumerate(needs) if need]

    def gradient(*flat):
        cotangents, values = flat[: len(given)], list(tensors)
        for k, value in zip(present, flat[len(given) :], strict=True):
            values[k] = value

        def plain(*parts):
            filled = list(values)
            for k, part in zip(wanted, parts, strict=True):
                filled[k] = part
            results = call.plain(filled)
            return tuple(results[k] for k in given)

        pull: Any = torch.func.vjp(plain, *(values[k] for k in wanted))[1]
        return pull(tuple(cotangents))

    flat = [grads[k] for k in given] + [tensors[k] for k in present]
    linear: Any = torch.func.vjp(gradient, *flat)
    outputs, pull = linear
    cotangents = tuple(torch.zeros_like(o) if g is None else g for o, g in zip(outputs, grads_of_grads, strict=True))
    found = pull(cotangents)
    result = [None] * count
    for k, g in zip(given, found, strict=False):
        result[k] = g
    for k, g in zip(present, found[len(given) :], strict=True):
        result[len(grads) + k] = g
    return result


def tracked(tensors):
    """Whether a gradient of any of these tensors may be asked for."""
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


for _function in (Fused, FusedBackward):
    # ``apply`` asks for it at every call, and finding it out anew takes longer than a small step of a recurrence.
    _function.forward.__signature__ = inspect.signature(_function.forward)  # pyright: ignore[reportFunctionMemberAccess]


_NO_FORWARD_MODE = (
    "input: expected no forward-mode derivatives (torch.func.jvp, jacfwd, hessian, torch.autograd.forward_ad), which "
    'only the reference backend has, got a tensor with a tangent; ask for backend="reference"'
)


def refuse_tangents(tensors):
    """The fused forms have no forward-mode derivatives: without this a tangent would be lost."""
    dual = forward_ad._current_level >= 0
    if dual and any(t is not None and forward_ad.unpack_dual(t).tangent is not None for t in tensors):
        raise RuntimeError(_NO_FORWARD_MODE)


def run(call, tensors, differentiated):
    """The fused operator under autograd: all its results. ``differentiated``: whether a gradient may be asked for.
    Raises RuntimeError for a tensor with a tangent."""
    if torch.compiler.is_compiling() or forward_ad._current_level < 0:
        return _run(call, tensors, differentiated)
    refuse_tangents(tensors)
    try:
        return _run(call, tensors, differentiated)
    except NotImplementedError as error:  # within another transform, which hides the tangent, PyTorch asks for a jvp
        raise RuntimeError(_NO_FORWARD_MODE) from error


def _run(call, tensors, differentiated):
    if differentiated or (torch._C._are_functorch_transforms_active() and not torch.compiler.is_compiling()):
        return Fused.apply(call, *tensors)
    return Fused.forward(call, *tensors)
