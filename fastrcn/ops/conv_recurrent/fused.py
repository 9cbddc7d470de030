"""The recurrence over a whole sequence with its own forward and backward: what is saved, in which order it runs.

Forward: the time loop adds the recurrent convolutions to the pre-activations in place and runs the stages. Where the
convolutions are compiled into the same loop, it does the inputs' too, so that a pixel's pre-activations are made and
used while they are in the cache; else, and where a step has too few pixels to pay for reading the weights, one
convolution of many steps at once comes before. Backward: the loop runs against time in chunks; it fills the gradients
of the pre-activations of one chunk, from which one product per chunk gives each weight's and each input's gradient.
Saved are the states and the completed pre-activations, or with recomputation the states alone.
"""

from enum import IntEnum

import torch

from fastrcn import memory, native
from fastrcn.compiler.signature import backward_signatures, forward_signatures
from fastrcn.ops.conv_recurrent.convolution import add_convolution
from fastrcn.ops.conv_recurrent.geometry import Geometry, accumulate_type, blocks_of, group_bias, same_padding
from fastrcn.ops.conv_recurrent.input_schedule import in_loop
from fastrcn.ops.conv_recurrent.program import (
    Buffer,
    Convolution,
    Fill,
    StageCall,
    Weight,
)
from fastrcn.ops.conv_recurrent.weight_gradient import as_weight, conv_weight_gradient, empty_total


class Save(IntEnum):
    """What forward keeps for backward."""

    NOTHING = 0
    STATES = 1
    ALL = 2


_FEWEST_CHUNKS = 8


def _chunks(program, geometry: Geometry):
    """Spans of time, in the recurrence's order, as (first index in order, steps).

    Short ones bound the memory; with few pixels a product over one would be too small to be fast."""
    fewest, most = program.chunk_pixels
    pixels = max(1, geometry.pixels)
    steps = min(-(-geometry.steps // _FEWEST_CHUNKS), most // pixels)
    steps = min(geometry.steps, max(1, steps, -(-fewest // pixels)))
    return [(first, min(steps, geometry.steps - first)) for first in range(0, geometry.steps, steps)]


def _span(geometry: Geometry, first, steps):
    """The slice of time that a chunk covers, and the time of its first step in the recurrence's order."""
    if geometry.reverse:
        return slice(geometry.steps - first - steps, geometry.steps - first), geometry.steps - 1 - first
    return slice(first, first + steps), first


def maps_last(x):
    """(...,C,H,W) as dense (...,H,W,C); a view where it lies so already."""
    last = x.movedim(-3, -1)
    if last.is_contiguous():
        return last
    result = memory.empty(last.shape, x.dtype, x.device)
    size, (*lead, channels, height, width) = x.element_size(), x.shape
    if (
        native.module() is None
        or (x.device.type, size in (4, 8), x.dim() <= 5) != ("cpu", True, True)
        or (x.stride(-1), x.stride(-2)) != (1, width)
    ):
        return result.copy_(last)
    lead, steps = [1, 1, *lead][-2:], [0, 0, *x.stride()[:-3]][-2:]
    native.module().copy_maps_last(
        x.data_ptr(), result.data_ptr(), lead, [s * size for s in (*steps, x.stride(-3))], channels, height * width,
        size, torch.get_num_threads(),
    )  # fmt: skip
    return result


def maps_first(x):
    """(...,H,W,C) as (...,C,H,W), a view: channels-last in memory."""
    return x.movedim(-1, -3)


class _Sequence:
    """What forward and backward share: the packed weights, the states' types and the buffers of stages."""

    def __init__(self, program, geometry: Geometry, inputs, weight_ih, weight_hh, bias, weight_ch, hx, lengths):
        self.program, self.geometry, self.schedule = program, geometry, geometry.schedule
        self.inputs, self.weight_ih, self.weight_hh = inputs, weight_ih, weight_hh
        self.bias, self.weight_ch = bias, weight_ch
        self.dtype, self.wide = weight_hh.dtype, accumulate_type(weight_hh.dtype)
        self.lengths = lengths
        self.state_types = [self.dtype if conv else self.wide for conv in self.schedule.convolved_states]
        zeros = [torch.zeros(geometry.map, dtype=t, device=weight_hh.device) for t in self.state_types]
        self.given = bool(hx)
        self.packed: dict = {}
        # Whether the inputs' convolutions are done before the time loop, for many steps at once.
        self.hoisted = not in_loop(program, geometry, self.dtype)
        self.bias_rows = [group_bias(group, bias, geometry.channels) for group in self.schedule.groups]
        self.input_weights = {
            (name, n): Weight(blocks_of(weight, group.input_blocks(name), geometry.channels).contiguous())
            for name, weight in zip(self.schedule.inputs, weight_ih, strict=True)
            for n, group in enumerate(self.schedule.groups)
            if name in group.inputs and weight.shape[1]
        }
        self.weights = {
            (o, n): Weight(blocks_of(weight_hh, group.operand_blocks(o), geometry.channels).contiguous())
            for n, group in enumerate(self.schedule.groups)
            for o in group.operands
        }
        self.initial = [maps_last(s).to(z.dtype) for s, z in zip(hx, zeros, strict=True)] if hx else zeros

    def empty(self, *lead, width=None, dtype=None):
        """Uninitialised maps with leading axes ``lead``."""
        g = self.geometry
        shape = (*lead, g.batch, g.height, g.width, g.channels if width is None else width)
        return memory.empty(shape, dtype or self.dtype, self.weight_hh.device)

    def project(self, groups, time):
        """Write into the groups' maps (steps,B,H,W,slots*C) what does not depend on states over a span of time."""
        for n, data in enumerate(groups):
            flat = data.flatten(0, 1)
            flat.copy_(self.bias_rows[n]) if self.bias_rows[n] is not None else flat.zero_()
            for name in self.schedule.groups[n].inputs:
                if (name, n) in self.input_weights:
                    weight, g = self.input_weights[name, n], self.geometry
                    self.convolve(self.input(name, time).flatten(0, 1), flat, weight, g.stride, g.dilation)

    def convolve(self, source, target, weight, stride=(1, 1), dilation=(1, 1)):
        """target += convolution of source, for all maps at once."""
        if weight.shape[2:] == (1, 1) or not self.program.convolves(self.dtype):
            padding = same_padding(weight.shape[2:], dilation)
            add_convolution(target, source, weight.dense(), padding, stride, dilation)
            return
        source, target = Buffer(source, width=source.shape[-1]), Buffer(target, width=target.shape[-1])
        step = Convolution(source, target, weight, stride=stride, dilation=dilation)
        self.run([step], images=len(target.data))

    def run(self, steps, start=0, count=1, first=False, images=None, lengths=None, keep=True):
        """Run steps forward over time; ``images`` other than a batch go through them at one time."""
        g = self.geometry
        images = g.batch if images is None else images
        self.program(g, steps, self.dtype, images, lengths, self.packed, keep).run(start, count, first)

    def input(self, name, time):
        """An input over a span of time, dense (steps,B,H,W,Cin)."""
        return maps_last(self.inputs[self.schedule.inputs.index(name)][time])

    def input_buffers(self, time):
        """The inputs over a span of time as buffers; none where their convolutions are not done in the loop."""
        if self.hoisted:
            return {}
        data = {name: self.input(name, time) for name in self.schedule.inputs}
        return {name: Buffer(x, True, width=x.shape[-1], origin=time.start) for name, x in data.items()}

    def params(self, images):
        """Buffers of the stages' parameters, in the accumulation type, to be read by ``images`` maps."""
        buffers, g, c = [], self.geometry, self.geometry.channels
        for _, kind, index in self.schedule.params:
            packed = self.weight_ch if kind == "peephole" else self.bias
            if packed is None:
                packed = self.weight_hh.new_zeros((index + 1) * c)
            block = packed[index * c : (index + 1) * c].to(self.wide)
            if block.dim() == 3:
                data = maps_last(block).expand(images, g.height, g.width, c).contiguous()
            else:
                data = block.view(1, 1, 1, c).contiguous()
            buffers.append(Buffer(data, width=c, per_row=block.dim() == 3))
        return buffers

    def previous(self, states):
        """The states before each step, as buffers over the stored states after each step."""
        shift, c = -self.geometry.direction, self.geometry.channels
        return [
            Buffer(s, True, width=c, shift=shift, first=first) if s.dim() == 5 else Buffer(s, width=c, first=first)
            for s, first in zip(states, self.initial, strict=True)
        ]

    def forward_steps(self, groups, inputs, previous, operands, params, new=None, zero_first=True):
        """The steps of one time step; without ``new`` states the last stage is left out."""
        schedule = self.schedule
        signatures = iter(forward_signatures(schedule))
        roles = {"slot": self.slots_of(groups), "state": previous, "operand": operands, "param": params}
        roles["new_state"] = new
        steps, begun = [], set()

        def begin(n):
            if not self.hoisted and n not in begun:
                begun.add(n)
                steps.append(Fill(groups[n], self.bias_rows[n]))
                for name in schedule.groups[n].inputs:
                    if (name, n) in self.input_weights:
                        weight, g = self.input_weights[name, n], self.geometry
                        steps.append(Convolution(inputs[name], groups[n], weight, stride=g.stride, dilation=g.dilation))

        for n, group in enumerate(schedule.groups):
            if not group.operands:
                begin(n)
        for stage, convolved in schedule.steps:
            if stage:
                signature = next(signatures)
                if new or stage is not schedule.final:
                    steps.append(StageCall(signature, [roles[a.role][a.index] for a in signature.args]))
            for o in convolved:
                computed = o in schedule.computed_operands
                source = operands[o] if computed else previous[schedule.state_index(o)]
                skip = zero_first and not computed and not self.given
                for n, group in enumerate(schedule.groups):
                    if o in group.operands:
                        begin(n)
                        steps.append(Convolution(source, groups[n], self.weights[o, n], skip))
        return steps

    def slots_of(self, groups):
        """Slots as channel ranges of the groups' buffers."""
        c = self.geometry.channels
        return [
            Buffer(groups[g].data, groups[g].timed, p * c, c, groups[g].origin)
            for g, p in self.schedule.slot_of.values()
        ]

    def group_buffers(self, data, timed=True, origin=0):
        return [Buffer(d, timed, width=d.shape[-1], origin=origin) for d in data]


def forward(program, geometry, inputs, weight_ih, weight_hh, bias, weight_ch, hx, lengths, save):
    """Run the sequence by ``program``, a class like ``program.Program``. Returns dense maps: the output state
    (T,B,H,W,C), the last states (B,H,W,C), and what ``save`` asks for: the other states at every step (T,B,H,W,C)
    and the groups' pre-activations."""
    seq = _Sequence(program, geometry, inputs, weight_ih, weight_hh, bias, weight_ch, hx, lengths)
    g, schedule = geometry, geometry.schedule
    # Without a backward only the output is kept of every step; other states are overwritten in place.
    states = [seq.empty(g.steps, dtype=t) if save else seq.empty(dtype=t) for t in seq.state_types]
    # What the caller gets may leave the process or lose its tensor: its memory is never used again.
    states[0] = torch.empty((g.steps, *g.map), dtype=seq.dtype, device=weight_hh.device)
    operands = {o: Buffer(seq.empty(), width=g.channels) for o in schedule.computed_operands}
    new = [Buffer(s, s.dim() == 5, width=g.channels) for s in states]
    params, chunks = seq.params(g.batch), _chunks(program, g)
    # Pre-activations: of all steps to keep them, of a chunk where they are made ahead, else of the step at hand.
    lead = (g.steps,) if save == Save.ALL else (max(steps for _, steps in chunks),) if seq.hoisted else ()
    kept = [seq.empty(*lead, width=len(group.slots) * g.channels) for group in schedule.groups]
    for first, steps in chunks:
        time, start = _span(g, first, steps)
        data = [k[time] if save == Save.ALL else k[:steps] if seq.hoisted else k for k in kept]
        if seq.hoisted:
            seq.project(data, time)
        buffers = seq.group_buffers(data, bool(lead), time.start)
        body = seq.forward_steps(buffers, seq.input_buffers(time), seq.previous(states), operands, params, new)
        seq.run(body, start, steps, first == 0, lengths=lengths, keep=save == Save.ALL)
    last = 0 if g.reverse else g.steps - 1
    finals = [(s[last] if s.dim() == 5 else s).to(seq.dtype).clone() for s in states]
    saved = states[1:] if save else []
    return states[0], finals, saved + (kept if save == Save.ALL else [])


def backward(
    program, geometry, grads, inputs, weight_ih, weight_hh, bias, weight_ch, hx, lengths, output, saved, needs
):
    """Gradients of everything that ``needs`` names, as a dictionary: inputs, weight_ih (lists), weight_hh, bias,
    weight_ch, hx (list). ``grads``: of the output (T,B,C,H,W) and the last states (B,C,H,W), None for zero."""
    seq = _Sequence(program, geometry, inputs, weight_ih, weight_hh, bias, weight_ch, hx, lengths)
    g, schedule, c = geometry, geometry.schedule, geometry.channels
    states = [output, *saved[: len(schedule.states) - 1]]
    kept = saved[len(schedule.states) - 1 :]
    d_output = grads[0]
    d_states = [
        torch.zeros(g.map, dtype=t, device=weight_hh.device) if d is None else maps_last(d).to(t, copy=True)
        for d, t in zip(grads[1:], seq.state_types, strict=True)
    ]
    result = _Gradients(seq, needs)
    threads = torch.get_num_threads()
    d_params = [_parameter_sums(seq, kind, threads) for _, kind, _ in schedule.params]
    chunks = _chunks(program, g)
    longest = max(steps for _, steps in chunks)
    d_groups = [seq.empty(longest, width=len(group.slots) * c) for group in schedule.groups]
    operands = {o: seq.empty(longest) for o in schedule.computed_operands}
    d_operands = {o: Buffer(seq.empty(), width=c) for o in schedule.computed_operands}
    backward_weights = {key: Weight(weight.data, True) for key, weight in seq.weights.items()}

    params = seq.params(g.batch)
    for first, steps in reversed(chunks):
        time, start = _span(g, first, steps)
        data = kept if kept else _recompute(seq, states, time)
        groups = seq.group_buffers(data, origin=0 if kept else time.start)
        d_buffers = seq.group_buffers([d[:steps] for d in d_groups], origin=time.start)
        roles = {
            "slot": seq.slots_of(groups),
            "state": seq.previous(states),
            "param": params,
            "operand": {o: Buffer(d, True, width=c, origin=time.start) for o, d in operands.items()},
            "d_slot": seq.slots_of(d_buffers),
            "d_state": [Buffer(d, width=c) for d in d_states],
            "d_operand": d_operands,
            "d_param": [Buffer(d, width=c) for d in d_params],
            "d_output": [_output_gradient(seq, d_output, time)],
        }
        body = _backward_steps(seq, roles, d_buffers, backward_weights)
        last = start + (steps - 1) * g.direction
        program(g, body, seq.dtype, g.batch, lengths, seq.packed).run_backward(last, steps, first == 0)
        result.add_chunk(
            time, [d[:steps] for d in d_groups], states, {o: d[:steps] for o, d in operands.items()}, first == 0
        )
    return result.finish(d_states, d_params)


def _backward_steps(seq, roles, d_buffers, weights):
    """The steps of one time step of the backward, last stage first."""
    schedule = seq.schedule
    signatures = iter(reversed(backward_signatures(schedule)))
    steps = []
    for stage, convolved in reversed(schedule.steps):
        for o in convolved:
            computed = o in schedule.computed_operands
            target = roles["d_operand"][o] if computed else roles["d_state"][schedule.state_index(o)]
            # A stage has written the state's gradient already; that of a computed operand begins here. Nobody asks
            # for the gradient of initial states that were not given.
            if computed:
                steps.append(Fill(target))
            for g, group in enumerate(schedule.groups):
                if o in group.operands:
                    steps.append(Convolution(d_buffers[g], target, weights[o, g], not computed and not seq.given))
        if stage:
            signature = next(signatures)
            steps.append(StageCall(signature, [roles[a.role][a.index] for a in signature.args]))
    return steps


def _output_gradient(seq, d_output, time):
    """The output's gradient over a span of time as a buffer; one row of zeros where there is none."""
    c = seq.geometry.channels
    if d_output is None:
        return Buffer(seq.weight_hh.new_zeros(1, 1, 1, c), width=c, per_row=False)
    return Buffer(maps_last(d_output[time]), True, width=c, origin=time.start)


def _parameter_sums(seq, kind, threads):
    """Zeroed sums for a parameter's gradient: (threads, C), or (H,W,C) where it is a map."""
    g = seq.geometry
    full = kind == "peephole" and seq.weight_ch.dim() == 3 and g.height * g.width > 1
    shape = (g.height, g.width, g.channels) if full else (threads, g.channels)
    return torch.zeros(shape, dtype=torch.float64, device=seq.weight_hh.device)


def _before(states, index, seq, time):
    """The states before each step of a span: the stored maps that hold them, and whether the first step's is missing
    from them because it is the initial state."""
    stored = states[index]
    if seq.geometry.reverse:
        missing = time.stop == seq.geometry.steps
        return stored[time.start + 1 : time.stop + (0 if missing else 1)], missing
    missing = time.start == 0
    return stored[0 if missing else time.start - 1 : time.stop - 1], missing


def _recompute(seq, states, time):
    """The pre-activations of a span of time, from the states alone: one convolution each for all its steps."""
    g, schedule = seq.geometry, seq.schedule
    steps = time.stop - time.start
    data = [seq.empty(steps, width=len(group.slots) * g.channels) for group in schedule.groups]
    if seq.hoisted:
        seq.project(data, time)
    inputs = {name: Buffer(b.data.flatten(0, 1), width=b.width) for name, b in seq.input_buffers(time).items()}
    previous = []
    for k in range(len(schedule.states)):
        stored, missing = _before(states, k, seq, time)
        if missing:
            order = (stored, seq.initial[k][None]) if g.reverse else (seq.initial[k][None], stored)
            stored = torch.cat(order)
        previous.append(Buffer(stored.flatten(0, 1), width=g.channels))
    images = steps * g.batch
    operands = {o: Buffer(seq.empty(steps).flatten(0, 1), width=g.channels) for o in schedule.computed_operands}
    flat = seq.group_buffers([d.flatten(0, 1) for d in data], timed=False)
    params = seq.params(images)
    body = seq.forward_steps(flat, inputs, previous, operands, params, zero_first=False)
    seq.run(body, images=images)
    return data


class _Gradients:
    """Gradients that are sums over time, collected chunk by chunk."""

    def __init__(self, seq, needs):
        self.seq, self.needs = seq, needs
        schedule, g = seq.schedule, seq.geometry
        self.d_inputs = [
            torch.zeros((*x.shape[:2], *x.shape[3:], x.shape[2]), dtype=x.dtype, device=x.device) if needed else None
            for x, needed in zip(seq.inputs, needs["inputs"], strict=True)
        ]
        self.totals: dict = {}
        self.reflected: dict = {}
        self.bias: dict = {}
        for n, group in enumerate(schedule.groups):
            rows = len(group.slots) * g.channels
            for name in group.inputs:
                k = schedule.inputs.index(name)
                if needs["weight_ih"][k] and seq.weight_ih[k].shape[1]:
                    self.totals[name, n] = empty_total((rows, *seq.weight_ih[k].shape[1:]), seq.weight_hh)
            for o in group.operands:
                if needs["weight_hh"]:
                    self.totals[o, n] = empty_total((rows, *seq.weight_hh.shape[1:]), seq.weight_hh)
            if needs["bias"] and any(slot.bias_blocks for slot in group.slots):
                self.bias[n] = torch.zeros(rows, dtype=seq.wide, device=seq.weight_hh.device)

    def add_chunk(self, time, d_groups, states, operands, begins):
        """Add what a span of time contributes, given the gradients of its pre-activations."""
        seq, schedule, one = self.seq, self.seq.schedule, (1, 1)
        for n, (group, d) in enumerate(zip(schedule.groups, d_groups, strict=True)):
            flat = d.flatten(0, 1)
            if n in self.bias:
                self.bias[n] += flat.view(-1, flat.shape[-1]).sum(0, dtype=seq.wide)
            for name in group.inputs:
                self._add_input(name, n, group, flat, time)
            for o in group.operands:
                if (o, n) not in self.totals:
                    continue
                total, shape = self.totals[o, n], (flat.shape[-1], *seq.weight_hh.shape[1:])
                if o in schedule.computed_operands:
                    conv_weight_gradient(operands[o].flatten(0, 1), flat, shape, one, one, total)
                    continue
                k = schedule.state_index(o)
                before, missing = _before(states, k, seq, time)
                after = d
                if missing:
                    after, edge = (d[:-1], d[-1]) if seq.geometry.reverse else (d[1:], d[0])
                    if seq.given:
                        conv_weight_gradient(seq.initial[k], edge, shape, one, one, total)
                if len(before):
                    conv_weight_gradient(before.flatten(0, 1), after.flatten(0, 1), shape, one, one, total)

    def _add_input(self, name, n, group, flat, time):
        seq, g = self.seq, self.seq.geometry
        k = seq.schedule.inputs.index(name)
        weight = seq.weight_ih[k]
        if weight.shape[1] == 0 or not (self.needs["inputs"][k] or self.needs["weight_ih"][k]):
            return
        x = seq.input(name, time).flatten(0, 1)
        if (name, n) in self.totals:
            shape = (flat.shape[-1], *weight.shape[1:])
            conv_weight_gradient(x, flat, shape, g.stride, g.dilation, self.totals[name, n])
        if self.needs["inputs"][k]:
            dx, rows = self.d_inputs[k][time].flatten(0, 1), seq.input_weights[name, n]
            if g.stride == (1, 1):
                if (name, n) not in self.reflected:
                    self.reflected[name, n] = Weight(rows.data, True)
                seq.convolve(flat, dx, self.reflected[name, n], dilation=g.dilation)
                return
            padding = same_padding(weight.shape[2:], g.dilation)
            found, _, _ = torch.ops.aten.convolution_backward(
                maps_first(flat), maps_first(x), rows.data, None, g.stride, padding, g.dilation,
                False, [0, 0], 1, [True, False, False],
            )  # fmt: skip
            dx += maps_last(found)

    def finish(self, d_states, d_params):
        """All gradients, in the layouts of what they belong to."""
        seq, schedule, c, needs = self.seq, self.seq.schedule, self.seq.geometry.channels, self.needs
        # Where maps are small, weights are most of the memory: nothing that has been used stays.
        seq.packed.clear()

        def packed(weight, keys):
            grad = torch.zeros_like(weight, memory_format=torch.contiguous_format)
            for key, n, blocks in keys:
                rows = as_weight(self.totals.pop((key, n)), (len(blocks) * c, *weight.shape[1:]))
                for slot, block in enumerate(blocks):
                    grad[block * c : (block + 1) * c] = rows[slot * c : (slot + 1) * c]
            return grad

        groups = list(enumerate(schedule.groups))
        d_weight_ih = [
            packed(w, [(name, n, g.input_blocks(name)) for n, g in groups if (name, n) in self.totals])
            if needed
            else None
            for name, w, needed in zip(schedule.inputs, seq.weight_ih, needs["weight_ih"], strict=True)
        ]
        d_weight_hh = None
        if needs["weight_hh"]:
            d_weight_hh = packed(seq.weight_hh, [(o, n, g.operand_blocks(o)) for n, g in groups for o in g.operands])
        d_bias = torch.zeros_like(seq.bias) if needs["bias"] else None
        d_weight_ch = torch.zeros_like(seq.weight_ch) if needs["weight_ch"] else None
        for n, group in groups:
            if d_bias is not None and n in self.bias:
                for p, slot in enumerate(group.slots):
                    for block in slot.bias_blocks:
                        d_bias[block * c : (block + 1) * c] += self.bias[n][p * c : (p + 1) * c]
        for (_, kind, index), sums in zip(schedule.params, d_params, strict=True):
            target = d_weight_ch if kind == "peephole" else d_bias
            if target is not None:
                block = target[index * c : (index + 1) * c]
                if block.dim() == 3:
                    sums = sums.sum(0).view(1, 1, c) if sums.dim() == 2 else sums
                    block += maps_first(sums)
                else:
                    block += sums.sum(0)
        return {
            "inputs": [None if d is None else maps_first(d) for d in self.d_inputs],
            "weight_ih": d_weight_ih,
            "weight_hh": d_weight_hh,
            "bias": d_bias,
            "weight_ch": d_weight_ch,
            "hx": [maps_first(d.to(seq.dtype)) if needs["hx"] else None for d in d_states] if seq.given else [],
        }
