"""A stage as straight-line code, and its vector-Jacobian product by one reverse sweep over that code.

Every shared subexpression and every nonlinear function gets a name of its own, so the derivative of a function
can be written with its value: sigmoid' = s (1 - s).
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

import sympy

from fastrcn.compiler.schedule import Schedule, Stage
from fastrcn.compiler.trace import Mask


class Positive(sympy.Function):
    """1 where the argument is above 0, else 0: the derivative of relu."""

    nargs = 1


DERIVATIVES = {
    "sigmoid": lambda value, _: value * (1 - value),
    "tanh": lambda value, _: 1 - value**2,
    "relu": lambda value, _: Positive(value),
    "exp": lambda value, _: value,
}
"""Derivative of each function a cell may use, from (its value, its argument)."""


def function_name(expr) -> str:
    """The name under which a function stands in DERIVATIVES and in the emitters' tables."""
    return type(expr).__name__.lower()


@dataclass(frozen=True)
class Code:
    """Straight-line code: ``body`` assigns one name after the other, ``outputs`` names the results."""

    reads: tuple[sympy.Symbol, ...]
    body: tuple[tuple[sympy.Symbol, sympy.Expr], ...]
    outputs: tuple[tuple[sympy.Symbol, sympy.Expr], ...]


def _name_functions(expr, body, names):
    """Give each function application in ``expr`` a name in ``body``; equal applications share it."""
    if not expr.args:
        return expr
    expr = expr.func(*(_name_functions(a, body, names) for a in expr.args))
    if isinstance(expr, sympy.Function):
        if function_name(expr) not in DERIVATIVES:
            known = ", ".join(DERIVATIVES)
            raise ValueError(f"step: expected the functions {known}, got {function_name(expr)}")
        if expr not in names:
            names[expr] = sympy.Symbol(f"v{len(body)}", real=True)
            body.append((names[expr], expr))
        return names[expr]
    return expr


@cache
def forward_code(stage: Stage) -> Code:
    """The stage's outputs as straight-line code."""
    found: Any = sympy.cse([expr for _, expr in stage.outputs], symbols=sympy.numbered_symbols("shared"))
    shared, results = found
    body: list[tuple[sympy.Symbol, sympy.Expr]] = []
    names: dict[sympy.Expr, sympy.Symbol] = {}
    rename: dict[sympy.Symbol, sympy.Symbol] = {}
    for symbol, expr in shared:
        value = _name_functions(expr.xreplace(rename), body, names)
        if not value.is_Symbol:
            body.append((sympy.Symbol(f"v{len(body)}", real=True), value))
            value = body[-1][0]
        rename[symbol] = value
    outputs = tuple(
        (symbol, _name_functions(expr.xreplace(rename), body, names))
        for (symbol, _), expr in zip(stage.outputs, results, strict=True)
    )
    return Code(stage.reads, tuple(body), outputs)


def gradient_symbol(symbol: sympy.Symbol) -> sympy.Symbol:
    """Name of the gradient with respect to ``symbol``."""
    return sympy.Symbol(f"d_{symbol.name}", real=True)


@cache
def backward_code(stage: Stage) -> Code:
    """The stage's VJP. Reads the stage's reads and the gradient of every output; gives the gradient of every read
    that is no mask.

    Outputs that are operands of a convolution are given again: the weight gradient needs them.
    """
    code = forward_code(stage)
    body = list(code.body)
    contributions: dict[sympy.Symbol, list[sympy.Expr]] = {}

    def push(expr, grad):
        for symbol in sorted(expr.free_symbols, key=lambda s: s.name):
            factor = sympy.diff(expr, symbol)
            if factor != 0:
                contributions.setdefault(symbol, []).append(factor * grad)

    for symbol, expr in code.outputs:
        push(expr, gradient_symbol(symbol))
    for symbol, expr in reversed(code.body):
        if symbol not in contributions:
            continue
        adjoint = gradient_symbol(symbol)
        body.append((adjoint, sympy.Add(*contributions[symbol])))
        if isinstance(expr, sympy.Function):
            slope = DERIVATIVES[function_name(expr)](symbol, expr.args[0])
            push(expr.args[0], adjoint * slope)
        else:
            push(expr, adjoint)
    again = tuple((s, e) for s, e in code.outputs if s.name.startswith("operand_"))
    wanted = [s for s in stage.reads if not isinstance(s, Mask)]
    grads = tuple((gradient_symbol(s), sympy.Add(*contributions.get(s, []))) for s in wanted)
    incoming = tuple(gradient_symbol(s) for s, _ in code.outputs)
    return _prune(Code((*code.reads, *incoming), tuple(body), (*again, *grads)))


def _prune(code: Code) -> Code:
    """Drop assignments that no output needs."""
    needed = set().union(*(expr.free_symbols for _, expr in code.outputs))
    body = []
    for symbol, expr in reversed(code.body):
        if symbol in needed:
            needed |= expr.free_symbols
            body.append((symbol, expr))
    return Code(code.reads, tuple(reversed(body)), code.outputs)


def stages_of(schedule: Schedule) -> tuple[Stage, ...]:
    """The stages that a schedule really has, in order."""
    return tuple(stage for stage, _ in schedule.steps if stage)
