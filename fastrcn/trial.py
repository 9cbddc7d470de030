"""A call of an operation run apart from the program, to see how its backends do on the GPU at hand: which is fastest,
where ``use_autotune`` is on, and whether one that has not run on such a GPU before is right.

A backend whose results are not those of plain PyTorch, or that fails, is left out, and a warning says so.
"""

import warnings
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from fastrcn.ops import autograd, autotune
from fastrcn.ops.autocast import without_autocast
from fastrcn.ops.tf32 import allows_tf32
from fastrcn.ops.triton_support import capturing

_FURTHEST = {torch.float64: 1e-6, torch.float32: 1e-3}
_FURTHEST_LOW = 0.1
"""Relative distance, by norm, from plain PyTorch's results beyond which something is broken: both are rounded. The
second is that of 16 bits and of TF32."""


@dataclass(frozen=True)
class _Candidate:
    backend: str


class Trial(NamedTuple):
    """A call that may be run apart. ``what``: see ``backends``. ``by``: a function from a backend to the call (see
    ``autograd.Call``), whose ``words`` name all that is constant in it, but for batch and time."""

    operation: str
    what: Any
    by: Callable[[str], Any]
    tensors: list
    differentiated: bool

    @property
    def tensor(self):
        """The tensor that gives data type and device."""
        return self.tensors[0]

    @property
    def key(self):
        """Under which the choice is kept."""
        t, kind = self.tensor, "training" if self.differentiated else "inference"
        tf32 = " tf32" if t.dtype == torch.float32 and allows_tf32() else ""
        # Which tensors there are, and of which gradients are asked for.
        given = "".join("-" if t is None else "g" if t.requires_grad else "t" for t in self.tensors)
        words = self.by("").words(self.tensors)
        return f"backend {self.operation} {kind} {t.dtype}{tf32} {given} {words} torch{torch.__version__}"

    def run(self, backend):
        """Results and gradients, by a backend; nothing that the caller has is changed or told of it."""
        with torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t):
            return without_autocast(self._run, self.tensor.device.type)(backend)

    def _run(self, backend):
        tensors = [t if t is None else t.detach().requires_grad_(t.requires_grad) for t in self.tensors]
        call = self.by(backend)
        with torch.set_grad_enabled(self.differentiated):
            plain = backend == "reference"
            results = call.plain(tensors) if plain else autograd.run(call, tensors, self.differentiated)
            results = results[: call.differentiable]
            if not self.differentiated:
                return list(results)
            # No ones: the sum of what is normalised has no gradient.
            generator = torch.Generator(self.tensor.device).manual_seed(0)
            kind = {"generator": generator, "dtype": self.tensor.dtype, "device": self.tensor.device}
            weights = [torch.randn(r.shape, **kind).to(r.dtype) for r in results]
            leaves = [t for t in tensors if t is not None and t.requires_grad]
            grads = torch.autograd.grad(results, leaves, weights, allow_unused=True)
        return [*(r.detach() for r in results), *(g for g in grads if g is not None)]


_noted: list[list[Trial]] = []


@contextmanager
def note_trials():
    """Within this context the calls that may be run apart are put into the list that it gives, and are not."""
    _noted.append([])
    try:
        yield _noted[-1]
    finally:
        _noted.pop()


def trial_of(operation, what, by, tensors, differentiated) -> Trial | None:
    """The trial of a call that may be run apart: its tensors are a GPU's own and not empty, and nobody looks on, as
    programs that are traced or transformed do. ``by``: a function from a backend to the call."""
    if torch.compiler.is_compiling() or not _is_on_gpu(tensors[0]):
        return None
    if torch._C._are_functorch_transforms_active() or torch._C._len_torch_dispatch_stack():
        return None
    own = [t for t in tensors if t is not None and t.is_floating_point()]
    known = (torch.Tensor, torch.nn.Parameter)
    if not all(_is_on_gpu(t) and type(t) in known and t.numel() for t in own):
        return None
    trial = Trial(operation, what, by, tensors, differentiated)
    if not _noted:
        return trial
    _noted[-1].append(trial)
    return None


def _is_on_gpu(tensor):
    return tensor.is_cuda


_right: dict[str, bool] = {}
"""By backend, GPU and call, whether what it gave was plain PyTorch's up to rounding."""


def trusted(trial: Trial | None, backend) -> str | None:
    """The backend, where its results of such a call are plain PyTorch's up to rounding; "reference" where they are not,
    or it fails. The first such call of a process finds it out, whatever batch and time. None where it cannot be found
    out: the call cannot be run apart, a CUDA graph is captured, or plain PyTorch's results are not finite."""
    if trial is None:
        return None
    key = f"{backend} {trial.tensor.device} {trial.key}"
    if key not in _right:
        found = None if capturing(trial.tensor) else _is_right(trial, backend)
        if found is None:
            return None
        _right[key] = found
    return backend if _right[key] else "reference"


def forget_comparisons():
    """After cells were compiled, whose kernels have not been compared."""
    _right.clear()


def _is_right(trial: Trial, backend) -> bool | None:
    try:
        expected = trial.run("reference")
        if not all(bool(t.isfinite().all()) for t in expected):
            return None
    except torch.OutOfMemoryError as error:  # which the call itself would be without the backend
        told = f"backend {backend!r} is not compared with plain PyTorch, which has no memory for {trial.operation}"
        warnings.warn(f"fastrcn: {told}: {error}", stacklevel=2)
        return True
    try:
        return start_of(trial, backend, expected) is not None
    except Exception as error:
        _tell_failed(trial, backend, error)
        return False


def _tell_failed(trial: Trial, backend, error):
    warnings.warn(f"fastrcn: backend {backend!r} failed in a trial of {trial.operation}: {error}", stacklevel=3)


def fastest(trial: Trial, backends, default) -> str:
    """The backend, of several that can run a call, that is fastest; ``default`` while a CUDA graph is captured that
    nobody has timed. The last is plain PyTorch. Where memory is short the choice holds for this process alone."""
    expected: list = []
    short: list = []

    def start(candidate):
        try:
            return start_of(trial, candidate.backend, expected)
        except Exception as error:
            _tell_failed(trial, candidate.backend, error)
            short.extend([error] if isinstance(error, torch.OutOfMemoryError) else [])
            return None

    def key():
        return f"{trial.key} of {'+'.join(backends)}"

    candidates = [_Candidate(name) for name in reversed(backends)]
    chosen = autotune.fastest(trial.tensor, key, candidates, _Candidate(default), start, lambda: not short)
    return chosen.backend


def start_of(trial: Trial, backend, expected):
    """A function that runs the call once; None where its results are wrong, or there are none to compare with.
    ``expected``: a list that is empty at first, for plain PyTorch's results; it comes first."""
    found = trial.run(backend)
    if backend == "reference":
        expected += found
    if not expected:
        return None
    low = trial.tensor.dtype.itemsize == 2 or (trial.tensor.dtype == torch.float32 and allows_tf32())
    limit = _FURTHEST_LOW if low else _FURTHEST[trial.tensor.dtype]
    for a, b in zip(found, expected, strict=True):
        if not (distance := _distance(a, b)) <= limit:
            wrong = f"in a trial a result was {distance:.1e} from plain PyTorch's, allowed {limit:.0e}"
            warnings.warn(f"fastrcn: backend {backend!r} is not chosen for {trial.operation}: {wrong}", stacklevel=2)
            return None
    return lambda: trial.run(backend)


def _distance(found, truth):
    """Norm of the difference over norm of the truth, both summed in double without a copy in it."""
    norm, of_truth = (torch.linalg.vector_norm(t, dtype=torch.float64) for t in (found - truth, truth))
    return float(norm / of_truth.clamp_min(torch.finfo(found.dtype).tiny))
