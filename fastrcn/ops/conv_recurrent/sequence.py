"""One sequence as forward and backward see it: its spans of time, its weights, and the steps of its time loop."""

from dataclasses import replace
from typing import Any

from fastrcn import memory
from fastrcn.compiler.signature import forward_signatures
from fastrcn.ops.conv_recurrent.convolution import add_convolution, fill, put_convolution
from fastrcn.ops.conv_recurrent.geometry import Geometry, accumulate_type, blocks_of, group_bias
from fastrcn.ops.conv_recurrent.input_schedule import in_loop
from fastrcn.ops.conv_recurrent.layout import maps_last
from fastrcn.ops.conv_recurrent.program import Buffer, Convolution, Fill, Normalize, NormalizeBackward, StageCall
from fastrcn.ops.convolution.weight import Weight


def chunks_of(program, geometry: Geometry, kept):
    """Spans of time, in the recurrence's order, as (first index in order, steps); ``kept``: whether the pre-activations
    of all steps are.

    Short ones bound the memory; with few pixels a product over one would be too small to be fast."""
    fewest, most = program.chunk_pixels
    pixels = max(1, geometry.pixels)
    steps = min(-(-geometry.steps // program.fewest_chunks[not kept]), most // pixels)
    steps = min(geometry.steps, max(1, steps, -(-fewest // pixels)))
    return [(first, min(steps, geometry.steps - first)) for first in range(0, geometry.steps, steps)]


def span_of(geometry: Geometry, first, steps):
    """The slice of time that a chunk covers, and the time of its first step in the recurrence's order."""
    if geometry.reverse:
        return slice(geometry.steps - first - steps, geometry.steps - first), geometry.steps - 1 - first
    return slice(first, first + steps), first


def states_before(states, index, seq, time):
    """The states before each step of a span: the stored maps that hold them, and whether the first step's is missing
    from them because it is the initial state."""
    stored = states[index]
    if seq.geometry.reverse:
        missing = time.stop == seq.geometry.steps
        return stored[time.start + 1 : time.stop + (0 if missing else 1)], missing
    missing = time.start == 0
    return stored[0 if missing else time.start - 1 : time.stop - 1], missing


class Sequence:
    """What forward and backward share: the packed weights, the states' types and the buffers of stages."""

    def __init__(self, program, geometry: Geometry, inputs, weight_ih, weight_hh, bias, weight_ch, hx, masks, lengths):
        self.program, self.geometry, self.schedule = program, geometry, geometry.schedule
        self.inputs, self.weight_ih, self.weight_hh = inputs, weight_ih, weight_hh
        self.bias, self.weight_ch = bias, weight_ch
        self.dtype, self.wide = weight_hh.dtype, accumulate_type(weight_hh.dtype)
        self.lengths = lengths
        self.state_types = [self.dtype if conv else self.wide for conv in self.schedule.convolved_states]
        self.given = bool(hx)
        self.masks = [maps_last(m, geometry.axes).to(self.wide) for m in masks]
        self.packed: dict = {}
        # Whether the inputs' convolutions are done before the time loop, for many steps at once.
        self.hoisted = not in_loop(program, geometry, self.dtype, weight_hh.device)
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
        if hx:
            self.initial = [maps_last(s, geometry.axes).to(t) for s, t in zip(hx, self.state_types, strict=True)]
        else:
            self.initial = [self.empty(dtype=t).zero_() for t in self.state_types]

    def empty(self, *lead, width=None, dtype=None):
        """Uninitialised maps with leading axes ``lead``."""
        g = self.geometry
        shape = (*lead, *g.map[:-1], g.channels if width is None else width)
        return memory.empty(shape, dtype or self.dtype, self.weight_hh.device)

    def project(self, groups, scales, time, most):
        """Write into the groups' maps (steps,B,H,W,slots*C) what does not depend on states over a span of time, and
        normalise those that are complete then; ``most`` steps at once."""
        steps = time.stop - time.start
        for first in range(0, steps, most):
            part = slice(first, min(first + most, steps))
            own = [None if s is None else s[part] for s in scales]
            self._project([g[part] for g in groups], own, slice(time.start + part.start, time.start + part.stop))

    def _project(self, groups, scales, time):
        for n, data in enumerate(groups):
            if self.begins_in_loop(n):
                continue
            flat, bias, begun = data.flatten(0, 1), self.bias_rows[n], False
            for name in self.schedule.groups[n].inputs:
                if (name, n) in self.input_weights:
                    weight, g = self.input_weights[name, n], self.geometry
                    padding = g.input_padding(weight.shape[2:])
                    source = self.input(name, time).flatten(0, 1)
                    self.convolve(source, flat, weight, padding, g.stride, g.dilation, not begun, bias)
                    begun = True
            if not begun:
                fill(flat, bias)
            group = self.schedule.groups[n]
            if group.eps is not None and not group.operands:
                self.run([Normalize(self.flat(data), self.flat(scales[n]), group.eps)], len(flat))

    def begins_in_loop(self, n):
        """Whether a step of the time loop is the first to write a group's maps. What is normalised there begins with
        zeros, which backends need not write."""
        group = self.schedule.groups[n]
        return not self.hoisted or (group.eps is not None and bool(group.operands))

    def normalize_backward(self, d_group, group, scale):
        """Turn a group's gradients over a span of time into those of what was normalised."""
        step = NormalizeBackward(self.flat(d_group), self.flat(group), self.flat(scale))
        self.run([step], len(step.target.data))

    @staticmethod
    def flat(data) -> Any:
        """Maps (steps,B,...) as a buffer of all images at one time; None for None."""
        return None if data is None else Buffer(data.flatten(0, 1), width=data.shape[-1])

    def empty_scales(self, *lead) -> list[Any]:
        """Uninitialised scales of the groups, (..., B) and an axis of size 1 for each of a map; None where a group is
        not normalised."""
        size = (self.geometry.batch, *(1 for _ in self.geometry.map[1:]))
        return [
            None if group.eps is None else memory.empty((*lead, *size), self.wide, self.weight_hh.device)
            for group in self.schedule.groups
        ]

    def is_by_library(self, kernel):
        """Whether convolutions of many steps at once are the library's."""
        return all(k == 1 for k in kernel) or not self.program.convolves(self.dtype)

    def convolve(self, source, target, weight, padding, stride, dilation, begins=False, bias=None):
        """target += convolution of source, for all maps at once. Where it ``begins`` the target, whatever is there does
        not count, but ``bias``, a row or None, does."""
        if self.is_by_library(weight.shape[2:]):
            if begins:
                put_convolution(target, source, weight.dense(), bias, padding, stride, dilation)
            else:
                add_convolution(target, source, weight.dense(), padding, stride, dilation)
            return
        if begins:
            fill(target, bias)
        # The target may be an input's gradient, which has another map than the states.
        geometry = replace(self.geometry, size=tuple(target.shape[1:-1]))
        source, target = Buffer(source, width=source.shape[-1]), Buffer(target, width=target.shape[-1])
        step = Convolution(source, target, weight, stride=stride, dilation=dilation, padding=padding)
        self.program(geometry, [step], self.dtype, len(target.data), None, self.packed).run(0, 1, False)

    def run(self, steps, images):
        """Run steps once, on ``images`` maps at one time."""
        self.program_of(steps, images).run(0, 1, False)

    def program_of(self, steps, images=None, lengths=None, keep=True):
        """A program of these steps; ``images``, ``keep``: see ``program.Program``."""
        images = self.geometry.batch if images is None else images
        return self.program(self.geometry, steps, self.dtype, images, lengths, self.packed, keep)

    def input(self, name, time):
        """An input over a span of time, dense (steps,B,H,W,Cin)."""
        return maps_last(self.inputs[self.schedule.inputs.index(name)][time], self.geometry.axes)

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
            full = block.dim() > 1
            data = maps_last(block, g.axes).expand(images, *g.size, c).contiguous() if full else block.contiguous()
            buffers.append(Buffer(data, width=c, per_row=full))
        return buffers

    def mask_buffers(self):
        """Buffers of the masks over the whole sequence."""
        buffers = []
        for mask in self.masks:
            timed, per_row = len(mask) > 1, mask[0].numel() != self.geometry.channels
            data = mask if timed else mask[0]
            buffers.append(Buffer(data, timed, width=self.geometry.channels, per_row=per_row))
        return buffers

    def flat_mask_buffers(self, time):
        """Buffers of the masks for all maps of a span of time at once."""
        buffers = []
        for buffer in self.mask_buffers():
            if buffer.timed:
                data = buffer.data[time].flatten(0, 1)
            else:
                data = buffer.data
                if buffer.per_row:
                    data = data.repeat(time.stop - time.start, *(1,) * (data.dim() - 1))
            buffers.append(replace(buffer, data=data, timed=False))
        return buffers

    def previous(self, states):
        """The states before each step, as buffers over the stored states after each step."""
        shift, c = -self.geometry.direction, self.geometry.channels
        return [
            Buffer(s, True, width=c, shift=shift, first=first)
            if self.geometry.is_timed(s)
            else Buffer(s, width=c, first=first)
            for s, first in zip(states, self.initial, strict=True)
        ]

    def forward_steps(self, groups, scales, inputs, previous, operands, params, masks, new=None, zero_first=True):
        """The steps of one time step; without ``new`` states the last stage is left out."""
        schedule = self.schedule
        signatures = iter(forward_signatures(schedule))
        roles = {"slot": self.slots_of(groups), "state": previous, "operand": operands, "param": params}
        roles |= {"mask": masks, "new_state": new}
        steps, begun = [], set()

        def begin(n):
            if self.begins_in_loop(n) and n not in begun:
                begun.add(n)
                steps.append(Fill(groups[n], self.bias_rows[n]))
                for name in schedule.groups[n].inputs:
                    if (name, n) in self.input_weights:
                        weight, g = self.input_weights[name, n], self.geometry
                        steps.append(
                            Convolution(
                                inputs[name], groups[n], weight, stride=g.stride, dilation=g.dilation,
                                padding=g.input_padding(weight.shape[2:]),
                            )
                        )  # fmt: skip

        def complete(n):
            if schedule.groups[n].eps is not None:
                steps.append(Normalize(groups[n], scales[n], schedule.groups[n].eps))

        for n, group in enumerate(schedule.groups):
            if not group.operands and not self.hoisted:
                begin(n)
                complete(n)
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
                        complete(n)
        return steps

    def slots_of(self, groups):
        """Slots as channel ranges of the groups' buffers."""
        c = self.geometry.channels
        return [
            Buffer(groups[g].data, groups[g].timed, p * c, c, groups[g].origin)
            for g, p in self.schedule.slot_of.values()
        ]

    def group_buffers(self, data, timed=True, origin=0) -> list[Any]:
        """Maps of groups, or their scales, as buffers."""
        return [None if d is None else Buffer(d, timed, width=d.shape[-1], origin=origin) for d in data]
