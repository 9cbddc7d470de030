"""The arguments of each stage, in order: what compiled code, and whoever calls it, agree on.

A stage walks over pixels; an argument is a buffer with one row of channels per pixel. Its ``role`` says which buffer
it is; ``mode`` whether the stage loads, stores or accumulates it; ``wide`` marks buffers kept in the accumulation
type (states that no convolution reads, their gradients, parameters, masks) whatever the data type of the rest.
"""

from dataclasses import dataclass
from functools import cache

import sympy

from fastrcn.compiler.differentiate import Code, backward_code, forward_code, gradient_symbol, stages_of
from fastrcn.compiler.schedule import Schedule, Stage


@dataclass(frozen=True)
class Arg:
    """One buffer argument. ``index`` counts slots, states, operands, parameters or masks, as ``role`` says;
    ``normalized``: a slot that is normalised before the stage loads it."""

    name: str
    role: str
    index: int
    mode: str
    wide: bool = False
    normalized: bool = False


@dataclass(frozen=True)
class Signature:
    """A stage, forward or backward, with its arguments.

    ``carries``: for the last stage, pairs (from, to) of argument names whose rows are copied where a sequence
    has ended; a third name is added. ``zeroes``: arguments that become zero there.
    """

    stage: int
    backward: bool
    code: Code
    args: tuple[Arg, ...]
    carries: tuple[tuple[str, ...], ...]
    zeroes: tuple[str, ...]

    def is_completed(self, arg: Arg):
        """Whether convolutions complete an argument before the stage loads it."""
        roles = ("d_state", "d_operand") if self.backward else ("slot",)
        return arg.mode == "load" and arg.role in roles and not arg.wide and not arg.normalized

    def is_read(self, arg: Arg):
        """Whether an argument that is loaded matters to sequences that have not ended."""
        return arg.name == "d_output" or any(arg.name == symbol.name for symbol in self.code.reads)


def _role(schedule: Schedule, symbol: sympy.Symbol):
    if symbol in schedule.slot_of:
        return "slot", list(schedule.slot_of).index(symbol), False
    if symbol in schedule.states:
        k = schedule.states.index(symbol)
        return "state", k, not schedule.convolved_states[k]
    if symbol in schedule.masks:
        return "mask", schedule.masks.index(symbol), True
    for k, (param, _, _) in enumerate(schedule.params):
        if param == symbol:
            return "param", k, True
    raise KeyError(symbol)


def _loads(schedule: Schedule, symbols):
    """The arguments that a stage reads."""
    args = []
    for symbol in symbols:
        role, index, wide = _role(schedule, symbol)
        normalized = role == "slot" and schedule.groups[schedule.slot_of[symbol][0]].eps is not None
        args.append(Arg(symbol.name, role, index, "load", wide, normalized))
    return args


def _forward(schedule, index, stage: Stage, final):
    code = forward_code(stage)
    reads = dict.fromkeys((*stage.reads, *(schedule.states if final else ())))
    args = _loads(schedule, reads)
    for n, (symbol, _) in enumerate(stage.outputs):
        if final:
            args.append(Arg(symbol.name, "new_state", n, "store", not schedule.convolved_states[n]))
        else:
            args.append(Arg(symbol.name, "operand", int(symbol.name.split("_")[1]), "store"))
    carries = tuple((s.name, f"new_{s.name}") for s in schedule.states) if final else ()
    return Signature(index, False, code, tuple(args), carries, ())


def _backward(schedule, index, stage: Stage, final, written):
    code = backward_code(stage)
    args = _loads(schedule, stage.reads)
    if final:
        for k, state in enumerate(schedule.states):
            args.append(Arg(f"d_new_{state.name}", "d_state", k, "load", not schedule.convolved_states[k]))
        args.append(Arg("d_output", "d_output", 0, "load"))
    else:
        for symbol, _ in stage.outputs:
            k = int(symbol.name.split("_")[1])
            args.append(Arg(gradient_symbol(symbol).name, "d_operand", k, "load"))
            args.append(Arg(symbol.name, "operand", k, "store"))
    grads = [s for s in stage.reads if s not in schedule.masks]
    grads += [s for s in schedule.states if final and s not in stage.reads]
    params = [p for p, _, _ in schedule.params]
    zeroes = []
    # Gradients of parameters come last: they are sums over pixels, which the caller provides differently.
    for symbol in sorted(grads, key=lambda s: s in params):
        role, k, wide = _role(schedule, symbol)
        mode = "accumulate" if role == "param" or symbol in written else "store"
        written.add(symbol)
        args.append(Arg(gradient_symbol(symbol).name, f"d_{role}", k, mode, wide))
        if final and role == "slot":
            zeroes.append(gradient_symbol(symbol).name)
    carries = ()
    if final:
        carries = tuple((f"d_new_{s.name}", f"d_{s.name}") for s in schedule.states)
        carries = ((*carries[0], "d_output"), *carries[1:])
    return Signature(index, True, code, tuple(args), carries, tuple(zeroes))


MOST_SOURCES = 2
"""Of the sums of convolutions that one kernel makes."""


def can_be_fused(schedule: Schedule, sig: Signature):
    """Whether one kernel can do a stage and the convolutions that complete its arguments: each is the sum of at most
    two, and none is normalised in between."""
    for arg in sig.args:
        if arg.normalized:
            return False
        if not sig.is_completed(arg):
            continue
        if arg.role == "slot":
            found = schedule.groups[list(schedule.slot_of.values())[arg.index][0]].operands
        else:
            expr = schedule.states[arg.index] if arg.role == "d_state" else schedule.operands[arg.index]
            found = [g for g in schedule.groups if expr in (schedule.operands[o] for o in g.operands)]
        if len(found) > MOST_SOURCES:
            return False
    return True


@cache
def forward_signatures(schedule: Schedule) -> tuple[Signature, ...]:
    """Signatures of the stages in the order in which a step runs them."""
    stages = stages_of(schedule)
    return tuple(_forward(schedule, k, stage, k == len(stages) - 1) for k, stage in enumerate(stages))


@cache
def backward_signatures(schedule: Schedule) -> tuple[Signature, ...]:
    """Signatures of the stages' VJPs, indexed as the stages are; a step's backward runs them last to first."""
    stages, written = stages_of(schedule), set()
    found = [_backward(schedule, k, stages[k], k == len(stages) - 1, written) for k in reversed(range(len(stages)))]
    return tuple(reversed(found))
