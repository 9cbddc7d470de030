"""conv_recurrent with cells that are not built in: compiled on this machine, with PyTorch stages, and plain."""

from dataclasses import dataclass, field
from typing import Any

import torch

import fastrcn
from benchmarks.case import Unavailable, backend_on
from benchmarks.recurrent import First, RecurrentCase
from fastrcn import cells
from fastrcn.cells import Cell, conv, sigmoid, tanh
from fastrcn.compiler.schedule import schedule_of


class MGU(Cell):
    """The minimal gated unit."""

    def step(self, x, h):
        f = sigmoid(conv(x) + conv(h))
        n = tanh(conv(x) + conv(f * h))
        return (1 - f) * h + f * n


class Twin(Cell):
    """A cell whose states have other names: to the extension another one, which stays with PyTorch stages when the
    first is compiled."""

    cell: Cell

    def __init__(self, cell):
        super().__init__(cell=cell)

    @property
    def states(self):
        return tuple(f"{name}_" for name in self.cell.states)

    def step(self, *operands):
        return self.cell.step(*operands)


class Seeded(First):
    """A layer's output alone, with the same noise in every call."""

    def forward(self, x):
        torch.manual_seed(0)
        return super().forward(x)


@dataclass(frozen=True)
class OwnCellCase(RecurrentCase):
    """``cell``: what makes one; ``noise``: the layer's options. ``sizes``: (T, B, Cin, C, H, W)."""

    cell: Any = MGU
    noise: dict = field(default_factory=dict)

    @property
    def gates(self):
        return schedule_of(self.cell().key).blocks["x"]

    def make(self, name, dtype, device):
        if name not in ("fastrcn", "recompute", "stages", "plain"):
            raise Unavailable("a cell of one's own is compared with itself")
        torch.manual_seed(0)
        kind: Any = fastrcn.ConvRecurrent
        layer = kind(
            Twin(self.cell()) if name == "stages" else self.cell(), *self.sizes[2:4], self.kernel,
            recompute=name == "recompute", backend="reference" if name == "plain" else backend_on(device),
            device=device, dtype=dtype, **self.noise,
        )  # fmt: skip
        if name in ("fastrcn", "recompute"):
            fastrcn.compile_cell(layer)
        return Seeded(layer.train(self.train))


def _conv_peephole():
    return cells.ConvLSTM("conv")


def _cases(name, cell, sizes, kernel, note, quick=False, **noise):
    """In training, and in inference."""
    options = {"sizes": sizes, "kernel": (kernel, kernel), "cell": cell, "noise": noise, "quick": quick}
    yield OwnCellCase(f"own-{name}", note, **options)
    yield OwnCellCase(f"own-{name}-inference", f"{note}; inference", train=False, **options)


CASES = [
    *_cases("mgu-c16", MGU, (10, 4, 16, 16, 64, 64), 3, "MGU: gates weigh, C = 16", quick=True),
    *_cases("mgu-tiny", MGU, (20, 1, 16, 16, 8, 8), 3, "MGU: 8x8 maps", quick=True),
    *_cases("zoneout-c16", cells.ConvLSTM, (10, 4, 16, 16, 64, 64), 3, "ConvLSTM with zoneout", zoneout=0.1,
            zoneout_cell=0.5),
    *_cases("peephole-c64", _conv_peephole, (10, 4, 64, 64, 16, 16), 5, "ConvLSTM whose peepholes are convolutions"),
]  # fmt: skip
