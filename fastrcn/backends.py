"""Which backend runs an operation, and why the others do not."""

import os
import warnings
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from fastrcn.ops.conv_recurrent import cpu as _conv_recurrent_cpu
from fastrcn.ops.conv_recurrent import triton_program as _conv_recurrent_triton

_CAN_RUN = {
    "conv_recurrent": {
        "triton": _conv_recurrent_triton.can_run,
        "cpu": _conv_recurrent_cpu.can_run,
        "reference": lambda cell, dtype, device: (True, "plain PyTorch under autograd"),
    }
}
"""For each operation its backends, best first: functions of (cell, dtype, device type) -> (can run, reason)."""

NAMES = ("reference", "cpu", "triton")

_HOME = {"triton": "cuda", "cpu": "cpu"}
"""The type of device on whose tensors the automatic choice considers a backend; without an entry, on all."""

_BY_NAME_ONLY = {"triton": "it has not run on a GPU yet and is never chosen by itself; ask for it by name"}
"""Backends that the automatic choice leaves out, and why."""

_override: list[str] = []
_told: set[str] = set()


def _check(name, source):
    if name not in NAMES:
        raise ValueError(f"{source}: expected one of {', '.join(NAMES)}, got {name!r}")
    return name


@contextmanager
def use_backend(name):
    """Within this context every operation runs on the named backend, or raises why that cannot be."""
    _override.append(_check(name, "backend"))
    try:
        yield
    finally:
        _override.pop()


@dataclass(frozen=True)
class Explanation:
    """Which backend runs an operation, and for every backend whether it could and why."""

    operation: str
    chosen: str | None
    because: str
    backends: tuple[tuple[str, bool, str], ...]

    def __str__(self):
        lines = [f"{self.operation}: {self.chosen or 'no backend'} ({self.because})"]
        lines += [f"  {name}: {'runs' if ok else 'cannot run'}: {reason}" for name, ok, reason in self.backends]
        return "\n".join(lines)


def _requested(backend):
    """The backend asked for by name, and by what; (None, "") where the choice is free."""
    if backend is not None:
        return _check(backend, "backend"), "argument backend"
    if _override:
        return _override[-1], "use_backend"
    name = os.environ.get("FASTRCN_BACKEND")
    return (_check(name, "FASTRCN_BACKEND"), "FASTRCN_BACKEND") if name else (None, "")


@torch.compiler.assume_constant_result
def can_run(operation, name, cell, dtype, device):
    """(whether a backend runs an operation on a cell, data type and device type, why not or how)."""
    return _CAN_RUN[operation][name](cell, dtype, device)


def select(operation, cell, dtype, device, backend=None) -> str:
    """The backend that runs; raises RuntimeError with the reason where the one asked for by name cannot."""
    name, source = _requested(backend)
    if name is not None:
        ok, reason = can_run(operation, name, cell, dtype, device)
        if not ok:
            raise RuntimeError(f"{source}: backend {name!r} cannot run {operation}: {reason}")
        return name
    name, refused = _choose(operation, cell, dtype, device)
    if refused and device != "meta" and not torch.compiler.is_compiling() and refused not in _told:
        _told.add(refused)
        warnings.warn(f"fastrcn runs {operation} on the plain {name} backend ({refused})", stacklevel=4)
    return name


def _choose(operation, cell, dtype, device):
    """(the best backend that can run, why a better one of this device does not)."""
    names = [n for n in _CAN_RUN[operation] if _HOME.get(n, device) == device]
    refused = "" if len(names) > 1 else f"no other runs on {device} tensors"
    for name in names:
        ok, reason = can_run(operation, name, cell, dtype, device)
        if ok and name not in _BY_NAME_ONLY:
            return name, refused
        refused = f"{name}: {_BY_NAME_ONLY[name] if ok else reason}"
    raise RuntimeError(f"{operation}: no backend runs {dtype} on {device} tensors ({refused})")


def explain(operation, cell, input, *args, backend=None, **kwargs) -> Explanation:
    """Explain the choice for a call of ``fastrcn.functional`` with these arguments: print what it returns.

    Raises ValueError for an unknown operation or backend.
    """
    if operation not in _CAN_RUN:
        raise ValueError(f"operation: expected one of {', '.join(_CAN_RUN)}, got {operation!r}")
    first = input if isinstance(input, torch.Tensor) else input[0]
    asked = (cell.key, first.dtype, first.device.type)
    rows = tuple((n, *can_run(operation, n, *asked)) for n in _CAN_RUN[operation])
    name, source = _requested(backend)
    if name is None:
        name, refused = _choose(operation, *asked)
        return Explanation(operation, name, refused or "the first that can", rows)
    runs = {n: ok for n, ok, _ in rows}[name]
    return Explanation(operation, name if runs else None, f"asked for by {source}", rows)
