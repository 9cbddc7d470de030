"""The recurrence over a whole sequence with its own forward and backward: what is saved, in which order it runs.

Forward: the time loop adds the recurrent convolutions to the pre-activations in place and runs the stages. Where the
convolutions are compiled into the same loop, it does the inputs' too, so that a pixel's pre-activations are made and
used while they are in the cache; else, and where a step has too few pixels to pay for reading the weights, one
convolution of many steps at once comes before. Backward: the loop runs against time in chunks; it fills the gradients
of the pre-activations of one chunk, from which one product per chunk gives each weight's and each input's gradient.
Saved are the states and the completed pre-activations, or with recomputation the states alone.
"""

from enum import IntEnum
from typing import Any, NamedTuple

import torch

from fastrcn.compiler.signature import backward_signatures
from fastrcn.ops.conv_recurrent.gradients import Gradients
from fastrcn.ops.conv_recurrent.layout import maps_last
from fastrcn.ops.conv_recurrent.program import Buffer, Convolution, Fill, NormalizeBackward, StageCall
from fastrcn.ops.conv_recurrent.sequence import Sequence, chunks_of, span_of, states_before
from fastrcn.ops.convolution.weight import Weight


class Save(IntEnum):
    """What forward keeps for backward."""

    NOTHING = 0
    STATES = 1
    ALL = 2


class Request(NamedTuple):
    """A span of time that a direction asks to have run: ``count`` steps from ``start`` on, or against the recurrence's
    direction; ``has_first``: the sequence's first step is among them."""

    program: Any
    backward: bool
    start: int
    count: int
    has_first: bool

    def run(self):
        (self.program.run_backward if self.backward else self.program.run)(self.start, self.count, self.has_first)


def in_step(directions, run):
    """Advance generators of requests together and return what they return. ``run`` is given what they ask for at each
    turn, one request of each."""
    results = []

    def noted(direction):
        results.append((yield from direction))

    for requests in zip(*(noted(direction) for direction in directions), strict=True):
        run(requests)
    return results


def in_turn(direction):
    """Run what one generator of requests asks for and return what it returns."""
    return in_step([direction], lambda requests: requests[0].run())[0]


def forward(program, geometry, inputs, weight_ih, weight_hh, bias, weight_ch, hx, masks, lengths, save):
    """Run the sequence by ``program``, a class like ``program.Program``: a generator of requests. Returns dense maps:
    the output state (T,B,H,W,C), the last states (B,H,W,C), and what ``save`` asks for: the other states at every step
    (T,B,H,W,C), the groups' pre-activations and what they were scaled by where they are normalised."""
    seq = Sequence(program, geometry, inputs, weight_ih, weight_hh, bias, weight_ch, hx, masks, lengths)
    g, schedule = geometry, geometry.schedule
    # Without a backward only the output is kept of every step; other states are overwritten in place.
    states = [seq.empty(g.steps, dtype=t) if save else seq.empty(dtype=t) for t in seq.state_types]
    # What the caller gets may leave the process or lose its tensor: its memory is never used again.
    states[0] = torch.empty((g.steps, *g.map), dtype=seq.dtype, device=weight_hh.device)
    operands = {o: Buffer(seq.empty(), width=g.channels) for o in schedule.computed_operands}
    new = [Buffer(s, g.is_timed(s), width=g.channels) for s in states]
    params, masks, chunks = seq.params(g.batch), seq.mask_buffers(), chunks_of(program, g, save == Save.ALL)
    # Pre-activations: of all steps to keep them, of a chunk where they are made ahead, else of the step at hand.
    longest = max(steps for _, steps in chunks)
    lead = (g.steps,) if save == Save.ALL else (longest,) if seq.hoisted else ()
    kept = [seq.empty(*lead, width=len(group.slots) * g.channels) for group in schedule.groups]
    scales = seq.empty_scales(*lead)
    for first, steps in [(0, g.steps)] if save == Save.ALL and program.runs_whole else chunks:
        time, start = span_of(g, first, steps)
        part = time if save == Save.ALL else slice(steps) if seq.hoisted else slice(None)
        data, own = [k[part] for k in kept], [None if s is None else s[part] for s in scales]
        if seq.hoisted:
            seq.project(data, own, time, longest)
        buffers, factors = (seq.group_buffers(d, bool(lead), time.start) for d in (data, own))
        body = seq.forward_steps(
            buffers, factors, seq.input_buffers(time), seq.previous(states), operands, params, masks, new
        )
        run = seq.program_of(body, lengths=lengths, keep=save == Save.ALL)
        yield Request(run, False, start, steps, first == 0)
    last = 0 if g.reverse else g.steps - 1
    finals = [(s[last] if g.is_timed(s) else s).to(seq.dtype).clone() for s in states]
    saved = states[1:] if save else []
    if save == Save.ALL:
        saved += kept + [s for s in scales if s is not None]
    return states[0], finals, saved


def backward(
    program, geometry, grads, inputs, weight_ih, weight_hh, bias, weight_ch, hx, masks, lengths, output, saved, needs
):
    """A generator of requests that returns the gradients of everything that ``needs`` names, as a dictionary: inputs,
    weight_ih (lists), weight_hh, bias, weight_ch, hx (list). ``grads``: of the output (T,B,C,H,W) and the last states
    (B,C,H,W), None for zero."""
    seq = Sequence(program, geometry, inputs, weight_ih, weight_hh, bias, weight_ch, hx, masks, lengths)
    g, schedule, c = geometry, geometry.schedule, geometry.channels
    states = [output, *saved[: len(schedule.states) - 1]]
    kept, kept_scales = _kept(schedule, saved[len(schedule.states) - 1 :])
    d_output = grads[0]
    d_states = [
        torch.zeros(g.map, dtype=t, device=weight_hh.device) if d is None else maps_last(d, g.axes).to(t, copy=True)
        for d, t in zip(grads[1:], seq.state_types, strict=True)
    ]
    result = Gradients(seq, needs)
    threads = torch.get_num_threads()
    d_params = [_parameter_sums(seq, kind, threads) for _, kind, _ in schedule.params]
    chunks = chunks_of(program, g, bool(kept))
    longest = max(steps for _, steps in chunks)
    d_groups = [seq.empty(longest, width=len(group.slots) * c) for group in schedule.groups]
    operands = {o: seq.empty(longest) for o in schedule.computed_operands}
    d_operands = {o: Buffer(seq.empty(), width=c) for o in schedule.computed_operands}
    backward_weights = {key: Weight(weight.data, True) for key, weight in seq.weights.items()}

    params, mask_buffers = seq.params(g.batch), seq.mask_buffers()
    for first, steps in reversed(chunks):
        time, start = span_of(g, first, steps)
        data, scales = (kept, kept_scales) if kept else _recompute(seq, states, time)
        groups, factors = (seq.group_buffers(d, origin=0 if kept else time.start) for d in (data, scales))
        d_buffers = seq.group_buffers([d[:steps] for d in d_groups], origin=time.start)
        roles = {
            "slot": seq.slots_of(groups),
            "state": seq.previous(states),
            "param": params,
            "mask": mask_buffers,
            "operand": {o: Buffer(d, True, width=c, origin=time.start) for o, d in operands.items()},
            "d_slot": seq.slots_of(d_buffers),
            "d_state": [Buffer(d, width=c) for d in d_states],
            "d_operand": d_operands,
            "d_param": [Buffer(d, width=c) for d in d_params],
            "d_output": [_output_gradient(seq, d_output, time)],
        }
        body = _backward_steps(seq, roles, groups, factors, d_buffers, backward_weights)
        last = start + (steps - 1) * g.direction
        yield Request(seq.program_of(body, lengths=lengths), True, last, steps, first == 0)
        span = time if kept else slice(None)
        for n, group in enumerate(schedule.groups):
            if group.eps is not None and not group.operands:
                seq.normalize_backward(d_groups[n][:steps], data[n][span], scales[n][span])
        result.add_chunk(
            time, [d[:steps] for d in d_groups], states, {o: d[:steps] for o, d in operands.items()}, first == 0
        )
    return result.finish(d_states, d_params)


def _kept(schedule, saved) -> tuple[Any, Any]:
    """What forward kept as (groups, scales with None where a group is not normalised)."""
    groups, scales = saved[: len(schedule.groups)], iter(saved[len(schedule.groups) :])
    return groups, [None if group.eps is None else next(scales) for group in schedule.groups] if groups else []


def _backward_steps(seq, roles, groups, scales, d_buffers, weights):
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
                    if group.eps is not None:
                        steps.append(NormalizeBackward(d_buffers[g], groups[g], scales[g]))
                    steps.append(Convolution(d_buffers[g], target, weights[o, g], not computed and not seq.given))
        if stage:
            signature = next(signatures)
            steps.append(StageCall(signature, [roles[a.role][a.index] for a in signature.args]))
    return steps


def _output_gradient(seq, d_output, time):
    """The output's gradient over a span of time as a buffer; one row of zeros where there is none."""
    c = seq.geometry.channels
    if d_output is None:
        return Buffer(seq.weight_hh.new_zeros(c), width=c, per_row=False)
    return Buffer(maps_last(d_output[time], seq.geometry.axes), True, width=c, origin=time.start)


def _parameter_sums(seq, kind, threads):
    """Zeroed sums for a parameter's gradient: (threads, C), or a map (H,W,C) where it is one."""
    g = seq.geometry
    packed = seq.weight_ch if kind == "peephole" else seq.bias
    full = packed is not None and packed.dim() > 1 and g.map_pixels > 1
    shape = (*g.size, g.channels) if full else (threads, g.channels)
    return torch.zeros(shape, dtype=torch.float64, device=seq.weight_hh.device)


def _recompute(seq, states, time) -> tuple[Any, Any]:
    """The pre-activations of a span of time and their scales, from the states alone: one convolution each for all its
    steps."""
    g, schedule = seq.geometry, seq.schedule
    steps = time.stop - time.start
    data = [seq.empty(steps, width=len(group.slots) * g.channels) for group in schedule.groups]
    scales = seq.empty_scales(steps)
    if seq.hoisted:
        seq.project(data, scales, time, steps)
    inputs = {name: Buffer(b.data.flatten(0, 1), width=b.width) for name, b in seq.input_buffers(time).items()}
    previous = []
    for k in range(len(schedule.states)):
        stored, missing = states_before(states, k, seq, time)
        if missing:
            order = (stored, seq.initial[k][None]) if g.reverse else (seq.initial[k][None], stored)
            stored = torch.cat(order)
        previous.append(Buffer(stored.flatten(0, 1), width=g.channels))
    images = steps * g.batch
    operands = {o: Buffer(seq.empty(steps).flatten(0, 1), width=g.channels) for o in schedule.computed_operands}
    flat, factors = ([seq.flat(d) for d in maps] for maps in (data, scales))
    params, masks = seq.params(images), seq.flat_mask_buffers(time)
    body = seq.forward_steps(flat, factors, inputs, previous, operands, params, masks, zero_first=False)
    seq.run(body, images=images)
    return data, scales
