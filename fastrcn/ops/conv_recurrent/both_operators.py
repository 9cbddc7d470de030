"""Both directions of a layer as one pair of PyTorch operators, so that they may share launches. The tensors of one
direction are a list: weight_ih ..., weight_hh, bias, weight_ch, initial states ..., masks ..."""

from typing import Any

from fastrcn.compiler.schedule import schedule_of
from fastrcn.ops.conv_recurrent import directions, fused, operators
from fastrcn.ops.conv_recurrent.geometry import Geometry
from fastrcn.ops.registration import register

_FORWARD = (
    "str backend, str cell, Tensor[] inputs, Tensor?[] first, Tensor?[] second, Tensor? lengths, int[] stride, "
    "int[] dilation, int[]? padding, int save"
)
_BACKWARD = (
    "str backend, str cell, Tensor?[] grads, Tensor[] inputs, Tensor?[] first, Tensor?[] second, Tensor? lengths, "
    "Tensor[] outputs, Tensor[] saved, int[] stride, int[] dilation, int[]? padding, bool[] needs"
)


def _split(cell, inputs, own) -> Any:
    """A direction's list as (weight_ih, weight_hh, bias, weight_ch, hx, masks)."""
    n, end = len(inputs), len(own) - len(schedule_of(cell).masks)
    return list(own[:n]), *own[n : n + 3], list(own[n + 3 : end]), list(own[end:])


def _of_directions(cell, results):
    """What the two directions return, in the order of the operator: outputs, last states, saved."""
    first, second = results
    n = 1 + len(schedule_of(cell).states)
    return [first[0], second[0], *first[1:n], *second[1:n], *first[n:], *second[n:]]


def _run(backend, cell, inputs, first, stride, dilation, padding, generators):
    """What the two directions return, run as they are asked to or as the shape says."""
    weight_ih, weight_hh, *_ = _split(cell, inputs, first)
    program = operators.program_of(backend)
    geometry = Geometry.of(schedule_of(cell), inputs, weight_ih, weight_hh, stride, dilation, padding, False)
    if directions.together(program, geometry, weight_hh.device):
        return fused.in_step(generators, program.run_both)
    return [fused.in_turn(generator) for generator in generators]


def _each_forward(backend, cell, inputs, first, second, lengths, stride, dilation, padding, save) -> Any:
    """The arguments of each direction's own operator."""
    return [
        (backend, cell, inputs, *_split(cell, inputs, own), lengths, stride, dilation, padding, reverse, save)
        for own, reverse in ((first, False), (second, True))
    ]


def forward(backend, cell, inputs, first, second, lengths, stride, dilation, padding, save):
    """The operator's body: [outputs (T,B,C,H,W) of both directions, last states (B,C,H,W) ... of one and of the other,
    saved ... likewise]."""
    each = _each_forward(backend, cell, inputs, first, second, lengths, stride, dilation, padding, save)
    generators = [operators.forward_requests(*arguments) for arguments in each]
    return _of_directions(cell, _run(backend, cell, inputs, first, stride, dilation, padding, generators))


def forward_fake(backend, cell, inputs, first, second, lengths, stride, dilation, padding, save):
    """Shapes, strides and types of what ``forward`` returns."""
    each = _each_forward(backend, cell, inputs, first, second, lengths, stride, dilation, padding, save)
    return _of_directions(cell, [operators.forward_fake(*arguments) for arguments in each])


def _each_backward(
    backend, cell, grads, inputs, first, second, lengths, outputs, saved, stride, dilation, padding, needs
) -> Any:  # fmt: skip
    """The arguments of each direction's own operator."""
    n, k, s = len(inputs), len(schedule_of(cell).states), len(saved) // 2
    middle = n + len(first)
    own_needs = (needs[n:middle], needs[middle:])
    return [
        (
            backend, cell, [grads[d], *grads[2 + d * k : 2 + (d + 1) * k]], inputs, *_split(cell, inputs, own), lengths,
            outputs[d], saved[d * s : (d + 1) * s], stride, dilation, padding, d == 1, [*needs[:n], *own_needs[d]],
        )
        for d, own in enumerate((first, second))
    ]  # fmt: skip


def _merge(inputs, needs, results):
    """The gradients of the directions as one list: those of the inputs added."""
    one, other = results
    n = sum(needs[: len(inputs)])
    return [*(a + b for a, b in zip(one[:n], other[:n], strict=True)), *one[n:], *other[n:]]


def backward(backend, cell, grads, inputs, first, second, lengths, outputs, saved, stride, dilation, padding, needs):
    """The operator's body: the gradients that ``needs`` asks for, in the order of the tensors (inputs, first, second),
    the others left out. ``grads``, ``saved``: in the order of what ``forward`` returns."""
    each = _each_backward(
        backend, cell, grads, inputs, first, second, lengths, outputs, saved, stride, dilation, padding, needs
    )
    generators = [operators.backward_requests(*arguments) for arguments in each]
    return _merge(inputs, needs, _run(backend, cell, inputs, first, stride, dilation, padding, generators))


def backward_fake(
    backend, cell, grads, inputs, first, second, lengths, outputs, saved, stride, dilation, padding, needs
):
    """Shapes, strides and types of what ``backward`` returns."""
    each = _each_backward(
        backend, cell, grads, inputs, first, second, lengths, outputs, saved, stride, dilation, padding, needs
    )
    return _merge(inputs, needs, [operators.backward_fake(*arguments) for arguments in each])


conv_recurrent_both_fwd = register("conv_recurrent_both_fwd", _FORWARD, forward, forward_fake)
conv_recurrent_both_bwd = register("conv_recurrent_both_bwd", _BACKWARD, backward, backward_fake)
