"""What an exported program holds of a recurrent layer: one operator for a whole sequence.

It carries the arguments of the call and nothing of how it was run when it was exported: T, B, the backend, and whether
a gradient is asked for, are found out where the program runs.
"""

import torch
from torch._decomp import register_decomposition

from fastrcn import backends
from fastrcn.checks import check_lengths
from fastrcn.compiler.schedule import schedule_of
from fastrcn.ops.autograd import refuse_tangents, tracked
from fastrcn.ops.conv_recurrent.geometry import Geometry
from fastrcn.ops.conv_recurrent.layout import maps_first, maps_last
from fastrcn.ops.conv_recurrent.op import Call, Save, run_fused
from fastrcn.ops.conv_recurrent.subject import subject_of
from fastrcn.ops.registration import register

_ARGUMENTS = (
    "str cell, Tensor[] inputs, Tensor[] weight_ih, Tensor weight_hh, Tensor? bias, Tensor? weight_ch, Tensor[] hx, "
    "Tensor[] masks, Tensor? lengths, int[] stride, int[] dilation, int[]? padding, bool reverse, bool recompute, "
    "str? backend"
)


def _call(arguments):
    """(the call, its tensors) of the operator's arguments."""
    cell, inputs, weight_ih, *packed, hx, masks, lengths = arguments[:9]
    stride, dilation, padding, reverse, recompute, backend = arguments[9:]
    tensors = [*inputs, *weight_ih, *packed, *hx, *masks, lengths]
    save = (Save.STATES if recompute else Save.ALL) if tracked(tensors) else Save.NOTHING
    subject = subject_of(cell, inputs[0])
    name = backends.select("conv_recurrent", subject, inputs[0].dtype, inputs[0].device.type, backend)
    options = tuple(stride), tuple(dilation), None if padding is None else tuple(padding), reverse, int(save)
    return Call(name, cell, len(inputs), len(masks), *options, 1 + len(schedule_of(cell).states)), tensors


def _run(*arguments):
    """The operator's body, with gradients where they are asked for: [output (T,B,C,H,W), last states (B,C,H,W) ...]."""
    call, tensors = _call(arguments)
    if type(tensors[-1]) is torch.Tensor:  # not where the program is traced
        check_lengths(tensors[-1], tensors[0])
    results = call.plain(tensors) if call.backend == "reference" else run_fused(call, tensors)
    axes = tensors[0].dim() - 3
    return [maps_first(maps_last(r, axes), axes) for r in results]


def _under_autograd(*arguments):
    # AOTInductor hands in None for an empty list: hx and masks.
    arguments = (*arguments[:6], *([] if a is None else a for a in arguments[6:8]), *arguments[8:])
    tensors = _call(arguments)[1]
    refuse_tangents(tensors)
    if tracked(tensors):
        return _run(*arguments)
    with torch._C._AutoDispatchBelowAutograd():
        return conv_recurrent(*arguments)


def _fake(cell, inputs, weight_ih, weight_hh, *arguments):
    """Shapes, strides and types of what the operator returns."""
    schedule, (stride, dilation, padding, reverse) = schedule_of(cell), arguments[5:9]
    geometry = Geometry.of(schedule, inputs, weight_ih, weight_hh, stride, dilation, padding, reverse)
    shapes = [(geometry.steps, *geometry.map), *(geometry.map for _ in schedule.states)]
    return [maps_first(weight_hh.new_empty(shape), geometry.axes) for shape in shapes]


def check_fixed_steps(input):
    """A program for ONNX holds the plain form, step by step."""
    if isinstance(input.shape[0], torch.SymInt):
        raise ValueError(
            "input: expected a fixed number of steps T in an ONNX program, which holds each step by itself, got a "
            "dynamic one; leave axis T out of dynamic_shapes"
        )


def _decomposed(*arguments):
    """The plain form for the ONNX exporter; else, for PyTorch takes shapes from a decomposition, the shapes alone."""
    if not torch.onnx.is_in_onnx_export():
        return _fake(*arguments)
    call, tensors = _call(arguments)
    check_fixed_steps(tensors[0])
    return list(call.plain(tensors))


conv_recurrent = register("conv_recurrent", _ARGUMENTS, _run, _fake, _under_autograd)
register_decomposition(conv_recurrent.default)(_decomposed)


def from_call(call: Call, tensors, recompute, backend):
    """The operator in the place of a call that would run now; ``backend``: the one asked for, or None."""
    options = call.stride, call.dilation, call.padding, call.reverse, bool(recompute)
    return conv_recurrent(call.cell, *call.split(tensors), *options, backend)
