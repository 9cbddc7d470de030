"""Which backend runs an operation, and why the others do not."""

import os
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

from fastrcn import dispatch
from fastrcn.checks import check_cell, input_options
from fastrcn.ops import autotune
from fastrcn.ops.autograd import tracked
from fastrcn.ops.batch_norm_relu_maxpool3d.op import describe as _describe_batch_norm
from fastrcn.ops.conv3d_relu_maxpool3d import cpu as _conv3d_cpu
from fastrcn.ops.conv3d_relu_maxpool3d import cuda as _conv3d_cuda
from fastrcn.ops.conv3d_relu_maxpool3d import triton_conv3d as _conv3d_triton
from fastrcn.ops.conv3d_relu_maxpool3d.geometry import describe as _describe_conv3d
from fastrcn.ops.conv_recurrent import cpu as _conv_recurrent_cpu
from fastrcn.ops.conv_recurrent import cuda as _conv_recurrent_cuda
from fastrcn.ops.conv_recurrent import triton_program as _conv_recurrent_triton
from fastrcn.ops.conv_recurrent.subject import sizes_of, subject_of
from fastrcn.ops.relu_maxpool3d import cpu as _relu_maxpool3d_cpu
from fastrcn.ops.relu_maxpool3d import cuda as _relu_maxpool3d_cuda
from fastrcn.ops.relu_maxpool3d import triton_passes as _relu_maxpool3d_triton
from fastrcn.trial import Trial, fastest, trial_of, trusted


def _reference(what, dtype, device):
    return True, "plain PyTorch under autograd"


def _of_pool(can_run):
    """For an operation whose window alone decides."""
    return lambda what, dtype, device: can_run(what[-1], dtype, device)


_CAN_RUN = {
    "conv_recurrent": {
        "triton": _conv_recurrent_triton.can_run,
        "cuda": _conv_recurrent_cuda.can_run,
        "cpu": _conv_recurrent_cpu.can_run,
        "reference": _reference,
    },
    "conv3d_relu_maxpool3d": {
        "triton": _conv3d_triton.can_run,
        "cuda": _conv3d_cuda.can_run,
        "cpu": _conv3d_cpu.can_run,
        "reference": _reference,
    },
    "batch_norm_relu_maxpool3d": {
        "triton": _of_pool(_relu_maxpool3d_triton.can_run),
        "cuda": _of_pool(_relu_maxpool3d_cuda.can_run),
        "cpu": _of_pool(_relu_maxpool3d_cpu.can_run),
        "reference": _reference,
    },
}
"""For each operation its backends, best first where nothing else decides: functions of (what, dtype, device type) ->
(can run, reason). ``what`` is the operation's own: a cell's key and how many axes its maps have, or what is constant in
a call. On a GPU ``dispatch`` decides."""


def _describe_conv_recurrent(
    cell, input, weight_ih, weight_hh, *args, stride: Any = 1, dilation: Any = 1, padding: Any = "same", **options
):
    check_cell(cell)
    inputs, weights = ((t,) if isinstance(t, torch.Tensor) else t for t in (input, weight_ih))
    window = input_options(weight_hh, stride, dilation, padding)
    return subject_of(cell.key, inputs[0]), inputs[0], sizes_of(inputs, weights, weight_hh, *window)


_DESCRIBE = {
    "conv_recurrent": _describe_conv_recurrent,
    "conv3d_relu_maxpool3d": _describe_conv3d,
    "batch_norm_relu_maxpool3d": _describe_batch_norm,
}
"""For each operation a function of its arguments -> (``what``, the tensor that gives data type and device, sizes)."""

NAMES = ("reference", "cpu", "triton", "cuda")

BOTH_DIRECTIONS = ("triton",)
"""Backends that run both directions of a bidirectional layer as one call."""

_HOME = {"triton": "cuda", "cuda": "cuda", "cpu": "cpu"}
"""The type of device on whose tensors the automatic choice considers a backend; without an entry, on all."""

_DECIDED = ("cuda",)
"""Types of device on which ``dispatch`` decides between backends, where it can."""

_UNTRIED: dict[str, str] = dict.fromkeys(
    ("triton", "cuda"), "it was not measured on this GPU, and such a call not compared with plain PyTorch before"
)
"""Backends that the automatic choice leaves out where ``dispatch`` decides nothing, and why."""

_override: list[str] = []
_told: set[str] = set()


def check_name(name, source):
    """The name of a backend, if it is one."""
    if name not in NAMES:
        raise ValueError(f"{source}: expected one of {', '.join(NAMES)}, got {name!r}")
    return name


def check_choice(name):
    """An argument ``backend``: the name of one, or None for the best that can run."""
    return None if name is None else check_name(name, "backend")


@contextmanager
def use_backend(name):
    """Within this context every operation runs on the named backend, or raises why that cannot be."""
    _override.append(check_name(name, "backend"))
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


def requested(backend=None):
    """The backend asked for by name, and by what; (None, "") where the choice is free."""
    if backend is not None:
        return check_name(backend, "backend"), "argument backend"
    if _override:
        return _override[-1], "use_backend"
    name = os.environ.get("FASTRCN_BACKEND")
    return (check_name(name, "FASTRCN_BACKEND"), "FASTRCN_BACKEND") if name else (None, "")


@torch.compiler.assume_constant_result
def can_run(operation, name, what, dtype, device):
    """(whether a backend runs an operation on a data type and device type, why not or how)."""
    return _CAN_RUN[operation][name](what, dtype, device)


def select(operation, what, dtype, device, backend=None, trial: Trial | None = None, decide=None) -> str:
    """The backend that runs; raises RuntimeError with the reason where the one asked for by name cannot. ``trial``: of
    the call, where it may be run apart. ``decide``: the rule for GPUs, from the backends that can run to its
    decision."""
    name, source = requested(backend)
    if name is not None:
        ok, reason = can_run(operation, name, what, dtype, device)
        if not ok:
            raise RuntimeError(f"{source}: backend {name!r} cannot run {operation}: {reason}")
        return name
    name, refused = _choose(operation, what, dtype, device, decide)
    if trial is not None and autotune.enabled():
        return fastest(trial, list(able_of(operation, what, dtype, device)), name)
    if refused and device != "meta" and not torch.compiler.is_compiling() and refused not in _told:
        _told.add(refused)
        warnings.warn(f"fastrcn runs {operation} on the plain {name} backend ({refused})", stacklevel=5)
    return name


def chosen(operation, what, by, tensors, differentiated, backend=None) -> Any:
    """A call on the backend that runs it. ``by``: a function from a backend's name to the call; see ``select`` and
    ``trial_of``."""
    first, trial = tensors[0], trial_of(operation, what, by, tensors, differentiated)

    def decide(able):
        if torch.compiler.is_compiling():
            index = first.device.index
            return dispatch.decide_compiled(operation, what, first.dtype, differentiated, able, index)
        found = _decide(operation, what, by, tensors, differentiated, able)
        return found.backend if found.ran or found.backend == "reference" else trusted(trial, found.backend)

    return by(select(operation, what, first.dtype, first.device.type, backend, trial, decide))


def _decide(operation, what, by, tensors, differentiated, able):
    first, sizes = tensors[0], by("").sizes(tensors)
    known = all(type(n) is int for n in (*sizes.size, *sizes[:2], *sizes[3:]))
    asked = operation, what, first.dtype, differentiated
    return dispatch.decide(*asked, sizes if known else None, able, first.device.index)


def runs_both(name, operation, what, by, tensors, differentiated, backend=None) -> bool:
    """Whether the backend that was chosen for one direction of a layer runs both as the call that ``by`` makes; one
    that an estimate chose does where the results of that call were compared too."""
    first = tensors[0]
    if name not in BOTH_DIRECTIONS:
        return False
    if requested(backend)[0] or first.device.type not in _DECIDED or torch.compiler.is_compiling():
        return True
    found = _decide(
        operation, what, by, tensors, differentiated, able_of(operation, what, first.dtype, first.device.type)
    )
    return found.ran or trusted(trial_of(operation, what, by, tensors, differentiated), name) == name


def _considered(operation, device):
    """The backends that the automatic choice considers on a device, best first."""
    return [n for n in _CAN_RUN[operation] if _HOME.get(n, device) == device]


def able_of(operation, what, dtype, device):
    """The considered backends that can run."""
    return tuple(n for n in _considered(operation, device) if can_run(operation, n, what, dtype, device)[0])


def _choose(operation, what, dtype, device, decide=None):
    """(the best backend that can run, why a better one of this device does not)."""
    found = decide(able_of(operation, what, dtype, device)) if decide is not None and device in _DECIDED else None
    if found:
        return found, ""
    names = _considered(operation, device)
    refused = "" if len(names) > 1 else f"no other runs on {device} tensors"
    for name in names:
        ok, reason = can_run(operation, name, what, dtype, device)
        if ok and name not in _UNTRIED:
            return name, refused
        refused = f"{name}: {_UNTRIED[name] if ok else reason}"
    raise RuntimeError(f"{operation}: no backend runs {dtype} on {device} tensors ({refused})")


def explain(operation, *args, backend=None, **options) -> Explanation:
    """Explain the choice for a call of ``fastrcn.functional.<operation>(*args, **options)``: print what it returns.

    Raises ValueError for an unknown operation or backend, and what the call itself raises.
    """
    if operation not in _CAN_RUN:
        raise ValueError(f"operation: expected one of {', '.join(_CAN_RUN)}, got {operation!r}")
    what, first, sizes = _DESCRIBE[operation](*args, **options)
    asked = (what, first.dtype, first.device.type)
    rows: Any = tuple((n, *can_run(operation, n, *asked)) for n in _CAN_RUN[operation])
    name, source = requested(backend)
    if name is None:
        found = dispatch.Decision(None, "")

        def decide(able):
            nonlocal found
            training = tracked([t for t in tree_leaves((args, options)) if isinstance(t, torch.Tensor)])
            found = dispatch.decide(operation, what, first.dtype, training, sizes, able, first.device.index)
            return found.backend

        name, refused = _choose(operation, *asked, decide)
        because = "; ".join(filter(None, (refused, found.because))) or "the first that can"
        if not found.ran and name == found.backend != "reference":
            because = f"once such a call was compared with plain PyTorch: {because}"
        if first.is_cuda and autotune.enabled():
            because = f"unless a call that was timed says otherwise (use_autotune): {because}"
        return Explanation(operation, name, because, rows)
    runs = {n: ok for n, ok, _ in rows}[name]
    return Explanation(operation, name if runs else None, f"asked for by {source}", rows)
