"""What an exported program holds of a recurrent layer: one operator for a whole sequence.

It carries the arguments of the call and nothing of how it was run when it was exported: T, B, the backend, and whether
a gradient is asked for, are found out where the program runs. The cell is carried as text; one of this package is made
anew from it.
"""

import sys

import torch
from torch._decomp import register_decomposition
from torch.fx.experimental.proxy_tensor import get_proxy_mode
from torch.utils import _pytree as pytree

from fastrcn import backends
from fastrcn.cells.named import cell_of
from fastrcn.checks import check_lengths
from fastrcn.compiler.schedule import Schedule, is_known, schedule_of
from fastrcn.ops.autograd import refuse_tangents, tracked
from fastrcn.ops.conv_recurrent.geometry import Geometry
from fastrcn.ops.conv_recurrent.layout import maps_first
from fastrcn.ops.conv_recurrent.op import Call, Save, run_fused
from fastrcn.ops.conv_recurrent.operators import empty_results
from fastrcn.ops.conv_recurrent.subject import subject_of
from fastrcn.ops.registration import register

_ARGUMENTS = (
    "str cell, Tensor[] inputs, Tensor[] weight_ih, Tensor weight_hh, Tensor? bias, Tensor? weight_ch, Tensor[] hx, "
    "Tensor[] masks, Tensor? lengths, int[] stride, int[] dilation, int[]? padding, bool reverse, bool recompute, "
    "str? backend"
)


def call_of(cell, inputs, masks, tensors, options, recompute, backend) -> Call:
    """What is constant in a call: which backend runs, and what is kept for backward.

    Args:
        cell: its key. inputs, masks: how many there are.
        tensors: as ``Call`` has them.
        options: stride, dilation, padding, reverse.
        backend: the one asked for, or None.
    """
    save = (Save.STATES if recompute else Save.ALL) if tracked(tensors) else Save.NOTHING
    stride, dilation, padding, reverse = options
    results = 1 + len(schedule_of(cell).states)

    def by(name):
        return Call(name, cell, inputs, masks, stride, dilation, padding, reverse, int(save), results)

    what, differentiated = subject_of(cell, tensors[0]), save != Save.NOTHING
    return backends.chosen("conv_recurrent", what, by, tensors, differentiated, backend)


def _schedule(key) -> Schedule:
    """A cell's schedule, in a process that has not constructed it too."""
    cell = None if is_known(key) else cell_of(key)
    return schedule_of(key if cell is None else cell.key)


def _call(arguments):
    """(the call, its tensors) of the operator's arguments."""
    cell, inputs, weight_ih, *packed, hx, masks, lengths = arguments[:9]
    stride, dilation, padding, reverse, recompute, backend = arguments[9:]
    tensors = [*inputs, *weight_ih, *packed, *hx, *masks, lengths]
    options = tuple(stride), tuple(dilation), None if padding is None else tuple(padding), reverse
    _schedule(cell)  # makes the cell known
    return call_of(cell, len(inputs), len(masks), tensors, options, recompute, backend), tensors


def _run(*arguments):
    """The operator's body: [output (T,B,C,H,W), last states (B,C,H,W) ...]."""
    return _results(*_call(arguments))


def _results(call, tensors):
    if type(tensors[-1]) is torch.Tensor:  # not where the program is traced
        check_lengths(tensors[-1], tensors[0])
    # Transforms of torch.func go through an operator level by level: each sees the plain form.
    plain = call.backend == "reference" or torch._C._are_functorch_transforms_active()
    results = call.plain(tensors) if plain else run_fused(call, tensors)
    axes = tensors[0].dim() - 3
    return [maps_first(r.movedim(-1 - axes, -1).contiguous(), axes) for r in results]


def _under_autograd(*arguments):
    # AOTInductor hands in None for an empty list: hx and masks.
    arguments = (*arguments[:6], *([] if a is None else a for a in arguments[6:8]), *arguments[8:])
    call, tensors = _call(arguments)
    if call.backend != "reference":
        refuse_tangents(tensors)
    if tracked(tensors) or call.backend == "reference":
        return _results(call, tensors)
    with torch._C._AutoDispatchBelowAutograd():
        return conv_recurrent(*arguments)


def _mapped(info, in_dims, *arguments):
    """Under ``vmap``: one run for each element of the mapped axis."""
    flat, spec = pytree.tree_flatten(arguments)
    dims = pytree.tree_leaves(in_dims, is_leaf=lambda dim: dim is None)
    runs = []
    for k in range(info.batch_size):
        picked = [v if dim is None else v.select(dim, k) for v, dim in zip(flat, dims, strict=True)]
        runs.append(conv_recurrent(*pytree.tree_unflatten(picked, spec)))
    results = [torch.stack(parts) for parts in zip(*runs, strict=True)]
    return results, [0] * len(results)


def _fake(cell, inputs, weight_ih, weight_hh, *arguments):
    """Shapes, strides and types of what the operator returns."""
    _keep_whole_in_inductor()
    return empty_results(Geometry.of(_schedule(cell), inputs, weight_ih, weight_hh, *arguments[5:9]), weight_hh)


def _keep_whole_in_inductor():
    """Inductor calls the operator as it is: unasked, it takes the decomposition for a fault where CI is set.

    Called while a program is traced: when Inductor lowers it, its module is there.
    """
    lowering, operator = sys.modules.get("torch._inductor.lowering"), conv_recurrent.default
    # Another thread may be importing it.
    if lowering is not None and operator not in getattr(lowering, "lowerings", (operator,)):
        lowering.make_fallback(operator, warn=False)


def check_fixed_steps(input):
    """A program for ONNX, and a decomposed one, holds the plain form, step by step."""
    if isinstance(input.shape[0], torch.SymInt):
        raise ValueError(
            "input: expected a fixed number of steps T in an ONNX or decomposed program, which holds each step by "
            "itself, got a dynamic one; leave axis T out of dynamic_shapes"
        )


def _decomposed(*arguments):
    """The plain form where a program is decomposed, as for ONNX; the shapes alone where PyTorch asks for these."""
    if get_proxy_mode() is None:
        return _fake(*arguments)
    call, tensors = _call(arguments)
    check_fixed_steps(tensors[0])
    return list(call.plain(tensors))


conv_recurrent = register("conv_recurrent", _ARGUMENTS, _run, _fake, _under_autograd)
register_decomposition(conv_recurrent.default)(_decomposed)
torch.library.register_vmap("fastrcn::conv_recurrent", _mapped)


def from_call(call: Call, tensors, recompute, backend):
    """The operator in the place of a call that would run now; ``backend``: the one asked for, or None."""
    options = call.stride, call.dilation, call.padding, call.reverse, bool(recompute)
    return conv_recurrent(call.cell, *call.split(tensors), *options, backend)
