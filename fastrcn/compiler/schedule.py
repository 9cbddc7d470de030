"""Order a traced cell: which convolutions leave the time loop, which stay, and what is computed between them.

A *slot* is one pre-activation map: a sum of convolutions (and biases) that occurs in the equations only as that
sum. Slots completed by the same convolutions form a *group*, one channels-last buffer, so that a library call can
fill it whole. Between convolutions stand *stages*: pointwise functions of slots, states and per-channel
parameters, whose outputs are the operands of later convolutions or, in the last stage, the new states.

A normalised convolution is a slot of its own. Those of one source are one group, which is normalised in place, over all
its channels and the map, once it is complete; learned factors and biases of the norm belong to the stages.
"""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import sympy

from fastrcn.compiler.trace import Trace, trace_cell


@dataclass(frozen=True)
class Slot:
    """One pre-activation map. Weight blocks: per input, per recurrent operand; bias blocks are added to it."""

    symbol: sympy.Symbol
    input_blocks: tuple[tuple[str, int], ...]
    operand_blocks: tuple[tuple[int, int], ...]
    bias_blocks: tuple[int, ...]


@dataclass(frozen=True)
class Group:
    """Slots that the same convolutions complete; packed on the channel axis of one buffer.

    ``eps``: not None where the whole is normalised then; what is added to the variance.
    """

    inputs: tuple[str, ...]
    operands: tuple[int, ...]
    slots: tuple[Slot, ...]
    eps: float | None = None

    def input_blocks(self, name):
        """Blocks of the weight of input ``name``, one per slot."""
        return tuple(dict(slot.input_blocks)[name] for slot in self.slots)

    def operand_blocks(self, operand):
        """Blocks of the recurrent weight for ``operand``, one per slot."""
        return tuple(dict(slot.operand_blocks)[operand] for slot in self.slots)


@dataclass(frozen=True)
class Stage:
    """A pointwise function: named output expressions over slots, previous states and parameters."""

    outputs: tuple[tuple[sympy.Symbol, sympy.Expr], ...]

    @cached_property
    def reads(self) -> tuple[Any, ...]:
        """Every symbol that the outputs depend on, in a fixed order."""
        symbols: set[Any] = set().union(*(expr.free_symbols for _, expr in self.outputs))
        return tuple(sorted(symbols, key=lambda s: s.name))


@dataclass(frozen=True, eq=False)
class Schedule:
    """A cell in the order in which it is computed.

    ``levels``: for each level the operands (indices) whose convolutions run then. Before the convolutions of a
    level runs the stage that computes those of its operands that are not plain states; after the last level runs
    ``final``, which gives the new states.
    """

    inputs: tuple[str, ...]
    states: tuple[sympy.Symbol, ...]
    operands: tuple[sympy.Expr, ...]
    groups: tuple[Group, ...]
    levels: tuple[tuple[int, ...], ...]
    stages: tuple[Stage | None, ...]
    final: Stage
    params: tuple[tuple[sympy.Symbol, str, int], ...]
    masks: tuple[sympy.Symbol, ...]
    blocks: dict[str, int]

    @cached_property
    def slot_of(self) -> dict[sympy.Symbol, tuple[int, int]]:
        """Where a slot's symbol lies: (group, position in the group)."""
        return {s.symbol: (g, p) for g, group in enumerate(self.groups) for p, s in enumerate(group.slots)}

    @cached_property
    def steps(self) -> tuple[tuple[Stage | None, tuple[int, ...]], ...]:
        """(stage, operands convolved after it), in order; the final stage comes last with no operands."""
        return (*zip(self.stages, self.levels, strict=True), (self.final, ()))

    def operand_symbol(self, index: int) -> Any:
        """The state itself where the operand is one, else the name under which a stage computes it."""
        expr = self.operands[index]
        return expr if expr in self.states else sympy.Symbol(f"operand_{index}", real=True)

    @cached_property
    def computed_operands(self) -> tuple[int, ...]:
        """Operands that a stage computes: those that are not plain states."""
        return tuple(k for k, expr in enumerate(self.operands) if expr not in self.states)

    def state_index(self, operand: int) -> int:
        """Which state an operand is, where it is one."""
        return self.states.index(self.operands[operand])

    @cached_property
    def normalizes(self) -> bool:
        """Whether any group is normalised."""
        return any(group.eps is not None for group in self.groups)

    @cached_property
    def convolved_states(self) -> tuple[bool, ...]:
        """For each state: is it read by a convolution, so that it must have the data type of the weights?"""
        return tuple(any(op == state for op in self.operands) or k == 0 for k, state in enumerate(self.states))

    @cached_property
    def fingerprint(self) -> str:
        """Name of the stages' math: equal for cells whose pointwise functions and buffers are the same."""
        text = repr([(s and s.outputs, ops) for s, ops in self.steps])
        text += repr([[slot.symbol for slot in group.slots] for group in self.groups])
        text += repr((self.states, self.operands, [p for p, _, _ in self.params]))
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def _sums(expr, terms, found):
    """Note for every term the set of terms with which it stands in a sum; a term outside any sum stands alone."""
    if expr in terms:
        found[expr].add(frozenset([expr]))
        return
    if expr.is_Add:
        together = frozenset(a for a in expr.args if a in terms)
        for term in together:
            found[term].add(together)
        for arg in expr.args:
            if arg not in terms:
                _sums(arg, terms, found)
        return
    for arg in expr.args:
        _sums(arg, terms, found)


def _merge(trace: Trace):
    """Partition conv terms and biases into slots; returns [(symbol, members)] and the rewritten expressions."""
    exprs = [*trace.results, *(t.source for t in trace.terms if not isinstance(t.source, str))]
    terms = [t.symbol for t in trace.terms] + trace.biases
    found = {t: set() for t in terms if t not in trace.scales}
    for expr in exprs:
        _sums(expr, found.keys(), found)
    read = set().union(*(expr.free_symbols for expr in exprs))
    unused = [t for t in terms if t not in read]
    if unused:
        raise ValueError(f"step: {unused[0]} is computed but no new state depends on it")
    slots, seen = [[t] for t in terms if t in trace.scales], set(trace.scales)
    for term in terms:
        if term in seen:
            continue
        together = next(iter(found[term]))
        if any(found[t] != {together} for t in together):
            together = frozenset([term])
        seen |= together
        slots.append([t for t in terms if t in together])

    names, replace = [], {}
    for members in slots:
        # A bias that is added to no convolution is a parameter of the stage, not a slot.
        symbol = members[0] if members[0] in trace.biases else sympy.Symbol(f"slot_{len(names)}", real=True)
        if symbol not in trace.biases:
            names.append((symbol, members))
        replace[frozenset(members)] = symbol

    def rewrite(expr) -> Any:
        if frozenset([expr]) in replace:
            return replace[frozenset([expr])]
        if not expr.args:
            return expr
        args = list(expr.args)
        if expr.is_Add:
            together = frozenset(a for a in args if a in found)
            if together in replace:
                args = [a for a in args if a not in together]
                return sympy.Add(replace[together], *(rewrite(a) for a in args))
        return expr.func(*(rewrite(a) for a in args))

    return names, rewrite


def make_schedule(cell) -> Schedule:
    """Trace ``cell`` and order it. Raises ValueError or TypeError where the equations are not those of a cell."""
    trace = trace_cell(cell)
    names, rewrite = _merge(trace)
    blocks = {name: sum(t.source == name for t in trace.terms) for name in cell.inputs}
    blocks["h"] = sum(not isinstance(t.source, str) for t in trace.terms)
    blocks["bias"] = blocks[cell.inputs[0]] + len(trace.biases)
    blocks["peephole"] = len(trace.peepholes)
    blocks["scale"] = len(trace.scales)
    masks = tuple(trace.masks)

    operands = list(dict.fromkeys(t.source for t in trace.terms if not isinstance(t.source, str)))
    by_symbol = {t.symbol: t for t in trace.terms}
    explicit_bias = {b: blocks[cell.inputs[0]] + k for k, b in enumerate(trace.biases)}
    grouped: dict[tuple, list[Slot]] = {}
    for symbol, members in names:
        convs = [by_symbol[m] for m in members if m in by_symbol]
        from_inputs = [t for t in convs if isinstance(t.source, str)]
        biases = [t.block for t in from_inputs if t.source == cell.inputs[0] and t.eps is None]
        biases += [explicit_bias[m] for m in members if m in explicit_bias]
        slot = Slot(
            symbol,
            tuple((t.source, t.block) for t in from_inputs),
            tuple((operands.index(t.source), t.block) for t in convs if not isinstance(t.source, str)),
            tuple(biases),
        )
        for name, pairs in (("an input", slot.input_blocks), ("an operand", slot.operand_blocks)):
            if len({key for key, _ in pairs}) != len(pairs):
                raise ValueError(f"{cell!r}.step: {name} is convolved twice within one sum; one weight would do")
        inputs, waits = (n for n, _ in slot.input_blocks), sorted(o for o, _ in slot.operand_blocks)
        key = tuple(inputs), tuple(waits), convs[0].eps
        grouped.setdefault(key, []).append(slot)
    groups = tuple(Group(ins, ops, tuple(members), eps) for (ins, ops, eps), members in grouped.items())

    expressions = [rewrite(op) for op in operands]
    level = _levels(expressions, groups)
    count = 1 + max(level)
    levels = tuple(tuple(k for k, lv in enumerate(level) if lv == n) for n in range(count))
    stages = []
    for members in levels:
        computed = [k for k in members if expressions[k] not in trace.states]
        outputs = tuple((sympy.Symbol(f"operand_{k}", real=True), expressions[k]) for k in computed)
        stages.append(Stage(outputs) if outputs else None)
    final = Stage(
        tuple(
            (sympy.Symbol(f"new_{state.name}", real=True), rewrite(result))
            for state, result in zip(trace.states, trace.results, strict=True)
        )
    )
    # Factors of normalised convolutions stand behind the peepholes: inputs' first, by block.
    places = {name: k for k, name in enumerate(cell.inputs)}
    normed = [t for t in trace.terms if t.eps is not None]
    normed.sort(key=lambda t: places[t.source] if isinstance(t.source, str) else len(places))
    factors = [*trace.peepholes, *(trace.scales[t.symbol] for t in normed)]
    peepholes = [(p, "peephole", k) for k, p in enumerate(factors)]
    read = set(final.reads).union(*(stage.reads for stage in stages if stage))
    carried = [(trace.shifts[t.symbol], "bias", t.block) for t in normed if t.symbol in trace.shifts]
    lone = [(b, "bias", explicit_bias[b]) for b in trace.biases if b in read]
    params = (*peepholes, *carried, *lone)
    unread = [m for m in masks if m not in read]
    if unread:
        raise ValueError(f"{cell!r}.step: {unread[0]} is asked for but no new state depends on it")
    return Schedule(
        cell.inputs, trace.states, tuple(expressions), groups, levels, tuple(stages), final, params, masks, blocks
    )


def _levels(expressions, groups):
    """Level of each operand: 0 if it needs no slot, else one more than the deepest convolution that it waits for."""
    waits = {slot.symbol: group.operands for group in groups for slot in group.slots}
    level: dict[int, int] = {}

    def visit(k):
        if k not in level:
            below = {op for s in expressions[k].free_symbols if s in waits for op in waits[s]}
            level[k] = 1 + max((visit(op) for op in below), default=-1)
        return level[k]

    return [visit(k) for k in range(len(expressions))]


_schedules: dict[str, Schedule] = {}


def register(cell) -> str:
    """Make a cell known by a key that an operator can carry as text; equal keys mean equal equations.

    For a cell of this package, and of nothing else, the key is its ``repr``, which stays the same in later versions.
    """
    schedule = make_schedule(cell)
    key = repr(cell)
    if not _is_own(cell):
        whole = repr((schedule.groups, schedule.levels, schedule.blocks, schedule.inputs))
        digest = hashlib.sha256((schedule.fingerprint + whole).encode()).hexdigest()[:8]
        key = f"{key}#{digest}"
    _schedules.setdefault(key, schedule)
    return key


def _is_own(cell):
    inner = [value for value in cell.options.values() if hasattr(value, "options")]
    return type(cell).__module__.startswith("fastrcn.cells.") and all(_is_own(value) for value in inner)


def is_known(key) -> bool:
    """Whether a cell with this key was registered."""
    return key in _schedules


def schedule_of(key: str) -> Schedule:
    """The schedule of a registered cell."""
    if key not in _schedules:
        raise RuntimeError(
            f"cell: {key} is not known in this process; construct the cell (or its layer) first; where its equations "
            f"have changed since, a saved program must be exported anew"
        )
    return _schedules[key]
