"""conv_recurrent under autograd, as two nested functions: the first runs the forward operator and, in backward, the
second; the second runs the backward operator and, when it is itself differentiated, goes through the plain form.
Both can be mapped over by ``torch.vmap``.
"""

from typing import Any, NamedTuple

import torch

from fastrcn.cells import BUILT_IN
from fastrcn.compiler.schedule import schedule_of
from fastrcn.ops.conv_recurrent import operators, reference
from fastrcn.ops.conv_recurrent.fused import Save

# Programs that were compiled or exported carry cells as text; the built-in ones are always known.
BUILT_IN_KEYS = tuple(cell.key for cell in BUILT_IN)


class Call(NamedTuple):
    """What is constant in a call. The tensors follow as one flat list: inputs, weight_ih, weight_hh, bias, weight_ch,
    hx."""

    backend: str
    cell: str
    inputs: int
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    reverse: bool
    save: int


def split(call: Call, tensors) -> tuple[Any, ...]:
    """The flat list as the operators' arguments (inputs, weight_ih, weight_hh, bias, weight_ch, hx)."""
    n = call.inputs
    return (list(tensors[:n]), list(tensors[n : 2 * n]), *tensors[2 * n : 2 * n + 3], list(tensors[2 * n + 3 :]))


def run_reference(call: Call, lengths, tensors):
    """The plain form: (output, last states ...)."""
    inputs, weight_ih, weight_hh, bias, weight_ch, hx = split(call, tensors)
    output, states = reference.conv_recurrent(
        schedule_of(call.cell),
        inputs,
        weight_ih,
        weight_hh,
        bias,
        weight_ch,
        hx,
        lengths,
        call.stride,
        call.dilation,
        call.reverse,
    )
    return (output, *states)


@torch.compiler.allow_in_graph
def _reference_in_graph(call_values, lengths, *tensors):
    return run_reference(Call(*call_values), lengths, tensors)


def run_plain(call: Call, lengths, tensors):
    """The plain form; under torch.compile one call that Dynamo does not look into, for it cannot trace SymPy."""
    if torch.compiler.is_dynamo_compiling():
        return _reference_in_graph(tuple(call), lengths, *tensors)
    return run_reference(call, lengths, tensors)


def _stack_over(info, in_dims, function, args):
    """Run ``function`` once per element of the mapped axis and stack what it returns."""
    runs = []
    for k in range(info.batch_size):
        picked = [a if d is None else a.select(d, k) for a, d in zip(args, in_dims, strict=True)]
        runs.append(function(*picked))
    return tuple(torch.stack(parts) for parts in zip(*runs, strict=True))


class ConvRecurrent(torch.autograd.Function):
    """apply(call, lengths, *tensors) -> (output, last states ..., saved ...)."""

    @staticmethod
    def forward(call, lengths, *tensors):
        return tuple(
            operators.conv_recurrent_fwd(
                call.backend,
                call.cell,
                *split(call, tensors),
                lengths,
                call.stride,
                call.dilation,
                call.reverse,
                call.save,
            )
        )

    @staticmethod
    def setup_context(ctx, inputs, output):
        call, lengths, *tensors = inputs
        public = 1 + len(schedule_of(call.cell).states)
        ctx.call, ctx.count = call, len(tensors)
        ctx.save_for_backward(lengths, *tensors, output[0], *output[public:])
        ctx.mark_non_differentiable(*output[public:])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx, *grads):
        lengths, *rest = ctx.saved_tensors
        tensors, kept = rest[: ctx.count], rest[ctx.count :]
        public = 1 + len(schedule_of(ctx.call.cell).states)
        needs = tuple(ctx.needs_input_grad[2:])
        # A compiled graph is differentiated once, and traces a function without gradients only by its fixed arguments.
        second = ConvRecurrentBackward.forward if torch.compiler.is_compiling() else ConvRecurrentBackward.apply
        found = iter(second(ctx.call, needs, lengths, *grads[:public], *tensors, *kept))
        return (None, None, *(next(found) if need else None for need in needs))

    @staticmethod
    def vmap(info, in_dims, call, lengths, *tensors):
        outputs = _stack_over(info, in_dims[1:], lambda *args: ConvRecurrent.apply(call, *args), (lengths, *tensors))
        return outputs, (0,) * len(outputs)


class ConvRecurrentBackward(torch.autograd.Function):
    """apply(call, needs, lengths, *grads, *tensors, output, *saved) -> the gradients that ``needs`` asks for."""

    @staticmethod
    def _split(call, needs, rest):
        public = 1 + len(schedule_of(call.cell).states)
        count = len(needs)
        return rest[:public], rest[public : public + count], rest[public + count :]

    @staticmethod
    def forward(call, needs, lengths, *rest):
        grads, tensors, (output, *saved) = ConvRecurrentBackward._split(call, needs, rest)
        return tuple(
            operators.conv_recurrent_bwd(
                call.backend, call.cell, list(grads), *split(call, tensors), lengths, output, saved, call.stride,
                call.dilation, call.reverse, needs,
            )
        )  # fmt: skip

    @staticmethod
    def setup_context(ctx, inputs, output):
        call, needs, lengths, *rest = inputs
        ctx.call, ctx.needs, ctx.count = call, needs, len(rest)
        grads, tensors, _ = ConvRecurrentBackward._split(call, needs, rest)
        ctx.save_for_backward(lengths, *grads, *tensors)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx, *grads_of_grads):
        call, needs = ctx.call, ctx.needs
        lengths, *rest = ctx.saved_tensors
        grads, tensors, _ = ConvRecurrentBackward._split(call, needs, rest)
        return (None, None, None, *_second_order(call, needs, lengths, grads, tensors, grads_of_grads, ctx.count))

    @staticmethod
    def vmap(info, in_dims, call, needs, lengths, *rest):
        outputs = _stack_over(
            info, in_dims[2:], lambda *args: ConvRecurrentBackward.apply(call, needs, *args), (lengths, *rest)
        )
        return outputs, (0,) * len(outputs)


def _second_order(call, needs, lengths, grads, tensors, grads_of_grads, count):
    """Differentiate the plain form's gradient: gradients for grads, tensors and, all None, what forward saved."""
    given = [k for k, g in enumerate(grads) if g is not None]
    present = [k for k, t in enumerate(tensors) if t is not None]
    wanted = [k for k, need in enumerate(needs) if need]

    def gradient(*flat):
        cotangents, values = flat[: len(given)], list(tensors)
        for k, value in zip(present, flat[len(given) :], strict=True):
            values[k] = value

        def plain(*parts):
            filled = list(values)
            for k, part in zip(wanted, parts, strict=True):
                filled[k] = part
            results = run_reference(call, lengths, filled)
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


def run_fused(call: Call, lengths, tensors):
    """The fused form under autograd: (output, last states ...)."""
    public = 1 + len(schedule_of(call.cell).states)
    untracked = torch.compiler.is_compiling() and call.save == Save.NOTHING
    return (ConvRecurrent.forward if untracked else ConvRecurrent.apply)(call, lengths, *tensors)[:public]


__all__ = ["BUILT_IN_KEYS", "Call", "Save", "run_fused", "run_plain"]
