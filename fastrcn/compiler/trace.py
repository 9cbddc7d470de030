"""Run a cell's ``step`` once on symbols and write down which convolutions, peepholes, biases and masks it asked for."""

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import sympy


class Mask(sympy.Symbol):
    """A map that the caller hands in; nothing is differentiated with respect to it."""


@dataclass(frozen=True)
class Term:
    """One ``conv(...)``: its symbol, what it reads (an input's name or an expression of states), its weight block."""

    symbol: sympy.Symbol
    source: Any
    block: int


@dataclass
class Trace:
    """What one run of ``step`` recorded, and the expressions of the new states that it returned.

    ``factor``: of what is convolved, other than inputs.
    """

    inputs: dict[sympy.Symbol, str]
    states: tuple[sympy.Symbol, ...]
    terms: list[Term] = field(default_factory=list)
    peepholes: list[sympy.Symbol] = field(default_factory=list)
    biases: list[sympy.Symbol] = field(default_factory=list)
    masks: list[sympy.Symbol] = field(default_factory=list)
    factor: Any = 1
    results: tuple[sympy.Expr, ...] = ()

    def conv(self, operand):
        operand = sympy.sympify(operand)
        source = self.inputs.get(operand, self.factor * operand)
        mixed = set() if isinstance(source, str) else operand.free_symbols & set(self.inputs)
        if mixed:
            raise ValueError(
                f"conv: expected an input or an expression of states, got one that mixes in the input {mixed.pop()}"
            )
        kind = source if isinstance(source, str) else "state"
        block = sum(t.symbol.name.startswith(f"conv_{kind}_") for t in self.terms)
        symbol = sympy.Symbol(f"conv_{kind}_{block}", real=True)
        self.terms.append(Term(symbol, source, block))
        return symbol

    def peephole(self, state):
        self.peepholes.append(sympy.Symbol(f"peephole_{len(self.peepholes)}", real=True))
        return self.peepholes[-1] * state

    def bias(self):
        self.biases.append(sympy.Symbol(f"bias_{len(self.biases)}", real=True))
        return self.biases[-1]

    def mask(self):
        self.masks.append(Mask(f"mask_{len(self.masks)}", real=True))
        return self.masks[-1]

    @contextmanager
    def convolving_times(self, factor):
        """Within this context what is convolved, other than inputs, is multiplied by ``factor`` before."""
        before, self.factor = self.factor, self.factor * factor
        try:
            yield
        finally:
            self.factor = before


_active: list[Trace] = []


def record() -> Trace:
    """The trace under way; ``conv``, ``peephole``, ``bias``, ``mask`` mean something only inside a cell's ``step``."""
    if not _active:
        raise RuntimeError("conv, peephole, bias and mask can be called only inside Cell.step, while a cell is traced")
    return _active[-1]


@contextmanager
def _recording(trace):
    _active.append(trace)
    try:
        yield
    finally:
        _active.pop()


def trace_cell(cell) -> Trace:
    """Trace ``cell.step``. Raises ValueError or TypeError where the equations are not those of a cell."""
    inputs = [sympy.Symbol(name, real=True) for name in cell.inputs]
    states = tuple(sympy.Symbol(name, real=True) for name in cell.states)
    trace = Trace(inputs={s: s.name for s in inputs}, states=states)
    with _recording(trace):
        results = cell.step(*inputs, *states)
    results = results if isinstance(results, tuple) else (results,)
    if len(results) != len(states):
        raise ValueError(
            f"{cell!r}.step: expected {len(states)} new states, one for each of {states}, got {len(results)}"
        )
    trace.results = tuple(sympy.sympify(r) for r in results)
    for state, result in zip(states, trace.results, strict=True):
        if result.free_symbols & set(inputs):
            raise ValueError(f"{cell!r}.step: the new {state} reads an input outside conv(...)")
    if not any(isinstance(t.source, str) for t in trace.terms):
        raise ValueError(f"{cell!r}.step: expected at least one convolution of an input, got none")
    if all(isinstance(t.source, str) for t in trace.terms):
        raise ValueError(f"{cell!r}.step: expected at least one convolution of a state, got none")
    return trace
