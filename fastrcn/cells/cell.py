"""What a recurrent cell is: equations over convolutions, gates and states.

A cell is a class with one method, ``step``. It is never run on numbers: it is run once on symbols, and
everything else (schedule, backward, code for each backend) is derived from what it returns.
"""

import inspect
from typing import Any

import sympy

from fastrcn.compiler.schedule import register
from fastrcn.compiler.trace import record


class Sigmoid(sympy.Function):
    nargs = 1


class Tanh(sympy.Function):
    nargs = 1


class Relu(sympy.Function):
    nargs = 1


class Exp(sympy.Function):
    nargs = 1


def sigmoid(x) -> Any:
    """Logistic function 1 / (1 + exp(-x))."""
    return Sigmoid(x)


def tanh(x) -> Any:
    """Hyperbolic tangent."""
    return Tanh(x)


def relu(x) -> Any:
    """max(x, 0); its derivative at 0 is 0."""
    return Relu(x)


def exp(x) -> Any:
    """Natural exponential."""
    return Exp(x)


def conv(operand) -> Any:
    """Convolution of an input, a state or an expression of states, with weights of its own.

    The n-th call on an input is the n-th block of that input's weight; the n-th call on anything made of
    states is the n-th block of the recurrent weight. The convolution of the first input carries the bias.
    """
    return record().conv(operand)


def norm(convolution, eps=1e-5) -> Any:
    """Layer normalisation of what ``conv(...)`` gave: minus its mean over the gates, channels and map of an image,
    divided by its standard deviation, sqrt(variance + ``eps``), times a learned factor, one per channel or a full map.

    The convolutions of one input or state that are normalised are normalised together. The bias that those of the first
    input carry is added afterwards. Ba et al. 2016, https://arxiv.org/abs/1607.06450.
    """
    return record().norm(convolution, eps)


def peephole(state) -> Any:
    """Elementwise product of a state (or an expression) with a learned weight: one per channel, or a full map."""
    return record().peephole(state)


def bias() -> Any:
    """A learned bias per channel, beyond the one that the convolution of the first input carries."""
    return record().bias()


def mask() -> Any:
    """A map that the caller hands in, for each step or once for a sequence, such as dropout's; no gradient is taken."""
    return record().mask()


class Cell:
    """Base class of all cells.

    Subclasses write ``step(self, x, h, ...)``: the parameters named in ``inputs`` come first, all others are
    states. ``step`` returns the new states in the same order; the first is the cell's output. Options of a cell
    are keyword arguments of its constructor, passed on to ``super().__init__``.

    Example: the minimal gated unit::

        class MGU(Cell):
            def step(self, x, h):
                f = sigmoid(conv(x) + conv(h))
                n = tanh(conv(x) + conv(f * h))
                return (1 - f) * h + f * n
    """

    inputs: tuple[str, ...] = ("x",)

    def __init__(self, **options):
        self.options = options
        self._key = None
        for name, value in options.items():
            setattr(self, name, value)

    def step(self, *operands) -> Any:
        raise NotImplementedError(f"{type(self).__name__} defines no step(self, x, h, ...)")

    @property
    def states(self) -> tuple[str, ...]:
        """Names of the states, in the order in which ``step`` takes and returns them."""
        names = tuple(inspect.signature(self.step).parameters)
        if names[: len(self.inputs)] != self.inputs or len(names) == len(self.inputs):
            raise TypeError(
                f"{type(self).__name__}.step: expected the inputs {self.inputs} and then at least one state, "
                f"got the parameters {names}"
            )
        return names[len(self.inputs) :]

    @property
    def key(self) -> str:
        """Text by which operators know this cell; made, with the cell's schedule, when first asked for."""
        if self._key is None:
            self._key = register(self)
        return self._key

    def __getstate__(self):
        return self.__dict__ | {"_key": None}

    def __setstate__(self, state):
        self.__dict__.update(state)
        self._key = register(self)  # at once: a compiler that traces a layer cannot trace this

    def __repr__(self):
        options = ", ".join(f"{name}={value!r}" for name, value in self.options.items())
        return f"{type(self).__module__}.{type(self).__qualname__}({options})"
