"""Run a cell's ``step`` once on symbols and write down which convolutions, peepholes, biases and masks it asked for."""

from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import sympy


class Mask(sympy.Symbol):
    """A map that the caller hands in; nothing is differentiated with respect to it."""


@dataclass(frozen=True)
class Term:
    """One ``conv(...)``: its symbol, what it reads (an input's name or an expression of states), its weight block.

    ``eps``: where it is normalised, what is added to the variance.
    """

    symbol: sympy.Symbol
    source: Any
    block: int
    eps: float | None = None


@dataclass
class Trace:
    """What one run of ``step`` recorded, and the expressions of the new states that it returned.

    ``scales``: learned factors of normalised convolutions, by the convolution's symbol; ``shifts``: the biases that
    those of the first input carry. ``factor``: of what is convolved, other than inputs. ``eps``: not None where every
    convolution is normalised.
    """

    inputs: dict[sympy.Symbol, str]
    states: tuple[sympy.Symbol, ...]
    terms: list[Term] = field(default_factory=list)
    peepholes: list[sympy.Symbol] = field(default_factory=list)
    biases: list[sympy.Symbol] = field(default_factory=list)
    masks: list[sympy.Symbol] = field(default_factory=list)
    scales: dict[sympy.Symbol, sympy.Symbol] = field(default_factory=dict)
    shifts: dict[sympy.Symbol, sympy.Symbol] = field(default_factory=dict)
    factor: Any = 1
    eps: float | None = None
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
        block = sum(kind == (t.source if isinstance(t.source, str) else "state") for t in self.terms)
        symbol = sympy.Symbol(f"conv_{kind}_{block}", real=True)
        self.terms.append(Term(symbol, source, block))
        return symbol if self.eps is None else self.norm(symbol, self.eps)

    def norm(self, convolution, eps):
        if not isinstance(eps, (int, float)) or isinstance(eps, bool) or not eps > 0:
            raise ValueError(f"norm: expected eps above 0, got {eps!r}")
        found = [k for k, t in enumerate(self.terms) if t.symbol == convolution and t.eps is None]
        if not found:
            raise ValueError(f"norm: expected what conv(...) gave and norm did not take before, got {convolution}")
        (k,) = found
        term = self.terms[k]
        # Another symbol, so that it is seen where the convolution is used beside its norm.
        symbol = sympy.Symbol(f"norm_{term.symbol.name}", real=True)
        self.terms[k] = replace(term, symbol=symbol, eps=float(eps))
        self.scales[symbol] = sympy.Symbol(f"scale_{term.symbol.name}", real=True)
        normed = self.scales[symbol] * symbol
        if term.source == next(iter(self.inputs.values())):
            self.shifts[symbol] = sympy.Symbol(f"shift_{term.symbol.name}", real=True)
            normed += self.shifts[symbol]
        return normed

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
    def normalizing(self, eps):
        """Within this context every convolution is normalised."""
        before, self.eps = self.eps, eps
        try:
            yield
        finally:
            self.eps = before

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
    """The trace under way; ``conv`` and its like mean something only inside a cell's ``step``."""
    if not _active:
        raise RuntimeError("conv, norm, peephole, bias and mask: expected a call inside Cell.step, while it is traced")
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
    _check_norms(cell, trace)
    if not any(isinstance(t.source, str) for t in trace.terms):
        raise ValueError(f"{cell!r}.step: expected at least one convolution of an input, got none")
    if all(isinstance(t.source, str) for t in trace.terms):
        raise ValueError(f"{cell!r}.step: expected at least one convolution of a state, got none")
    return trace


def _check_norms(cell, trace):
    """What is normalised is kept in no other form."""
    operands = [t.source for t in trace.terms if not isinstance(t.source, str)]
    read = set().union(*(e.free_symbols for e in (*trace.results, *operands)))
    for symbol in trace.scales:
        if sympy.Symbol(symbol.name.removeprefix("norm_"), real=True) in read:
            raise ValueError(f"{cell!r}.step: expected what norm(...) takes to be used through it alone")
    for source in {t.source for t in trace.terms}:
        found = {t.eps for t in trace.terms if t.source == source and t.eps is not None}
        if len(found) > 1:
            raise ValueError(
                f"{cell!r}.step: expected one eps for all norms of the convolutions of {source}, got {found}"
            )
