"""What every case has: sizes, an input, contestants; and what a training step is."""

import os
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from fastrcn.ops.tf32 import allows_tf32

NAMES = {
    "fastrcn": "fastrcn",
    "recompute": "fastrcn, recompute=True",
    "last": "fastrcn, channels-last",
    "a": "(a) as people write it",
    "b": "(b) the best by hand",
    "ca": "(c) torch.compile of (a)",
    "cb": "(c) torch.compile of (b)",
    "d": "(d) CUDA graph of (b)",
    "nn": "torch.nn",
    "stages": "fastrcn, PyTorch stages",
    "plain": "plain PyTorch",
}


def backend_on(device):
    """The backend of fused layers: the one that ``--backend`` asks for; else on a GPU triton, as no measurements choose
    there yet."""
    return os.environ.get("FASTRCN_BACKEND") or ("triton" if torch.device(device).type == "cuda" else None)


class Unavailable(Exception):
    """A contestant that cannot take part, and why."""


@dataclass(frozen=True)
class Case(ABC):
    """One layer on one input. Subclasses know the layer. ``full``: the fields that are others on a GPU, where the layer
    has its source's sizes; those of the case itself are cut to what a CPU computes in seconds."""

    name: str
    note: str
    quick: bool = False
    input_gradient: bool = True
    train: bool = True
    full: dict[str, Any] = field(default_factory=dict, kw_only=True)

    def on(self, device):
        """The case in the size for a device."""
        return replace(self, **self.full) if torch.device(device).type == "cuda" else self

    @abstractmethod
    def flops(self) -> float:
        """Multiply-adds of the convolutions, twice, in a forward pass."""

    @abstractmethod
    def bytes(self, size) -> float:
        """Fewest bytes of a forward pass for elements of ``size`` bytes."""

    @abstractmethod
    def passes(self) -> float:
        """Products of a training step over those of a forward pass."""

    def agreement(self, dtype, device):
        """Relative errors that count as the same: of the output, and of the input's gradient. TF32 has as many bits as
        float16."""
        tf32 = dtype == torch.float32 and torch.device(device).type == "cuda" and allows_tf32()
        same = {torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}[torch.float16 if tf32 else dtype]
        return same, same

    @abstractmethod
    def make_input(self, dtype, device) -> torch.Tensor:
        """The case's input."""

    @abstractmethod
    def make(self, name, dtype, device):
        """A contestant, a callable of the input. Raises Unavailable with the reason."""


def make(case, name, dtype, device):
    """(contestant, seconds spent compiling). Raises Unavailable with the reason."""
    if name not in ("ca", "cb"):
        return case.make(name, dtype, device), 0.0
    module = case.make(name[1], dtype, device)
    torch._dynamo.reset()
    compiled = torch.compile(module)
    begin = time.perf_counter()
    training_step(compiled, case.make_input(dtype, device), case.train)
    return compiled, time.perf_counter() - begin


def forward(module, x, train=True):
    """The output, without waiting for a GPU."""
    with torch.set_grad_enabled(train):
        return module(x)


def queue_step(module, x, train=True):
    """Forward and, in training, backward, without waiting for a GPU."""
    x.grad = None
    output = forward(module, x, train)
    if train:
        output.backward(torch.ones_like(output))


def training_step(module, x, train=True):
    """Forward and, in training, backward, to their end; returns (output, seconds forward)."""
    x.grad = None
    begin = time.perf_counter()
    output = forward(module, x, train)
    _wait(x)
    seconds = time.perf_counter() - begin
    if train:
        output.backward(torch.ones_like(output))
        _wait(x)
    return output, seconds


def _wait(x):
    if x.is_cuda:
        torch.cuda.synchronize()
