"""The recurrence in plain PyTorch, under autograd: what every other backend is compared with.

It follows the schedule (input convolutions out of the loop, recurrent ones packed) with the stages' emitted
PyTorch code, so it is also the form for export, ONNX, forward-mode and higher derivatives.
"""

from typing import Any

import torch
import torch.nn.functional as F

from fastrcn.compiler.differentiate import forward_code
from fastrcn.compiler.emit_torch import torch_function
from fastrcn.ops.conv_recurrent.convolution import convolution
from fastrcn.ops.conv_recurrent.geometry import Geometry, accumulate_type, blocks_of, group_bias, same_padding


def conv_recurrent(
    schedule, inputs, weight_ih, weight_hh, bias, weight_ch, hx, masks, lengths, stride, dilation, padding, reverse
):
    """Run a cell over time; see ``fastrcn.functional.conv_recurrent``. States past ``lengths`` stay frozen.

    Returns the output state at every step (T,B,C,H,W) and the tuple of last states (B,C,H,W); maps may be (D,H,W).
    """
    geometry = Geometry.of(schedule, inputs, weight_ih, weight_hh, stride, dilation, padding, reverse)
    b, c, ones = geometry.batch, geometry.channels, (1,) * geometry.axes
    wide = accumulate_type(weight_hh.dtype)
    projections = [_project(geometry, g, inputs, weight_ih, bias) for g in schedule.groups]
    recurrent = {
        (o, g): blocks_of(weight_hh, group.operand_blocks(o), c)
        for g, group in enumerate(schedule.groups)
        for o in group.operands
    }
    padding = same_padding(weight_hh.shape[2:], ones)
    params = {p: _parameter(kind, index, bias, weight_ch, weight_hh) for p, kind, index in schedule.params}
    if hx:
        states = [
            s.to(weight_hh.dtype if conv else wide) for s, conv in zip(hx, schedule.convolved_states, strict=True)
        ]
    else:
        states = [
            weight_hh.new_zeros(b, c, *geometry.size, dtype=weight_hh.dtype if conv else wide)
            for conv in schedule.convolved_states
        ]

    outputs = []
    for t in geometry.time_order():
        values = dict(zip(schedule.states, states, strict=True)) | params
        values |= {symbol: m[t if len(m) > 1 else 0] for symbol, m in zip(schedule.masks, masks, strict=True)}
        done: list[Any] = [None if p is None else p[t] for p in projections]
        waiting = [len(group.operands) for group in schedule.groups]

        def provide(g, done=done, waiting=waiting, values=values):
            if not waiting[g]:
                group = schedule.groups[g]
                maps = (_normalized(group, done[g]) if group.operands else done[g]).chunk(len(group.slots), dim=1)
                values.update(zip((slot.symbol for slot in group.slots), maps, strict=True))

        for g in range(len(schedule.groups)):
            provide(g)
        for stage, operands in schedule.steps:
            if stage:
                results = _run(stage, values, wide)
                values.update(zip((s for s, _ in stage.outputs), results, strict=True))
            for o in operands:
                operand = values[schedule.operand_symbol(o)].to(weight_hh.dtype)
                for g, group in enumerate(schedule.groups):
                    if o in group.operands:
                        term = convolution(operand, recurrent[o, g], None, ones, padding, ones)
                        done[g] = term if done[g] is None else done[g] + term
                        waiting[g] -= 1
                        provide(g)
        new = [values[s].to(old.dtype) for (s, _), old in zip(schedule.final.outputs, states, strict=True)]
        if lengths is not None:
            ended = (t >= lengths).view(b, 1, *ones)
            new = [torch.where(ended, old, n) for old, n in zip(states, new, strict=True)]
        states = new
        outputs.append(states[0])
    if reverse:
        outputs.reverse()
    return torch.stack(outputs), tuple(s.to(weight_hh.dtype) for s in states)


def _normalized(group, maps):
    """A group's complete maps (N,slots*C,H,W), each image normalised where the group is."""
    return maps if group.eps is None else F.layer_norm(maps, maps.shape[1:], eps=group.eps)


def _run(stage, values, wide):
    function = torch_function(forward_code(stage))
    return function(*(values[s].to(wide) for s in stage.reads))


def _parameter(kind, index, bias, weight_ch, weight_hh):
    """A stage's parameter, shaped to spread over (B,C,H,W); a bias that is switched off is zero."""
    packed, channels, ones = weight_ch if kind == "peephole" else bias, weight_hh.shape[1], (1,) * (weight_hh.dim() - 2)
    if packed is None:
        return weight_hh.new_zeros(channels, *ones)
    block = packed[index * channels : (index + 1) * channels]
    return block if block.dim() > 1 else block.view(-1, *ones)


def _project(geometry, group, inputs, weight_ih, bias):
    """Everything in a group's slots that does not depend on states, at all steps: (T,B,slots*C,H,W) or None."""
    total = None
    c = geometry.channels
    extra = group_bias(group, bias, c)
    for name in group.inputs:
        k = geometry.schedule.inputs.index(name)
        x, weight = inputs[k], weight_ih[k]
        if x.shape[2] == 0:
            # Nothing is added, but the empty tensors get their (empty) gradients, as every parameter should.
            nothing = x.sum() + weight.sum()
            extra = nothing.expand(len(group.slots) * c) if extra is None else extra + nothing
            continue
        padding = geometry.input_padding(weight.shape[2:])
        rows = blocks_of(weight, group.input_blocks(name), c)
        term = convolution(x.flatten(0, 1), rows, extra, geometry.stride, padding, geometry.dilation)
        extra = None
        total = term if total is None else total + term
    if total is None and (extra is not None or not group.operands):
        spread = weight_ih[0].new_zeros(len(group.slots) * c) if extra is None else extra
        spread = spread.view(1, -1, *(1,) * geometry.axes)
        total = spread.expand(geometry.steps * geometry.batch, -1, *geometry.size)
    if total is None:
        return None
    total = total if group.operands else _normalized(group, total)
    return total.unflatten(0, (geometry.steps, geometry.batch))
