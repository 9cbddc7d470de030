"""What the tools are given: for each column of the table a module that takes some of five inputs."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

import fastrcn
from fastrcn.interop import ndrplz, torch_nn

AXES = {"x": (0, 1), "vectors": (0, 1), "clip": (2, 0), "lengths": (None, 0), "reset": (0, 1)}
"""Where each input has T and B."""


def inputs(steps, batch, names=tuple(AXES)):
    """These inputs, for T steps of B sequences."""
    made = {
        "x": torch.randn(steps, batch, 2, 4, 3),
        "vectors": torch.randn(steps, batch, 2),
        "clip": torch.randn(batch, 2, steps, 8, 8),
        "lengths": 1 + torch.arange(batch) % steps,
        "reset": torch.arange(steps * batch).view(steps, batch) % 3 == 2,
    }
    return {name: made[name] for name in names}


def axes_of(names, steps, batch):
    """For each of these inputs {its axis T: ``steps``, its axis B: ``batch``}."""
    return tuple({axis: v for axis, v in zip(AXES[n], (steps, batch), strict=True) if axis is not None} for n in names)


class Each(nn.ModuleList):
    """The results of several layers for the same input."""

    def forward(self, x):
        return [layer(x) for layer in self]


class Volumes(nn.Module):
    """A layer of volumes, here of one frame."""

    def __init__(self):
        super().__init__()
        self.layer = fastrcn.ConvGRU3d(2, 3)

    def forward(self, x):
        return self.layer(x.unsqueeze(3))


class Steps(nn.Module):
    """The first two steps by cells, one call each."""

    def __init__(self):
        super().__init__()
        self.lstm, self.gru = fastrcn.ConvLSTMCell(2, 3), fastrcn.ConvGRUCell(2, 3)

    def forward(self, x):
        states, h = None, None
        for k in range(2):
            states, h = self.lstm(x[k], states), self.gru(x[k], h)
        return states, h


class Interop(nn.Module):
    """Layers of other projects, of maps and of vectors."""

    def __init__(self):
        super().__init__()
        self.maps, self.vectors = ndrplz.ConvLSTM(2, 3, (3, 3), 1), torch_nn.GRU(2, 3)

    def forward(self, x):
        return self.maps(x), self.vectors(x[..., 0, 0])


class With(nn.Module):
    """A layer whose second argument is an option of its forward: ``lengths`` or ``reset``."""

    def __init__(self, option):
        super().__init__()
        self.layer, self.option = fastrcn.ConvLSTM(2, 3), option

    def forward(self, x, value):
        return self.layer(x, **{self.option: value})


@dataclass(frozen=True)
class Subject:
    """How a module is made, and the names of its inputs."""

    make: Callable[[], nn.Module]
    names: tuple[str, ...] = ("x",)

    def arguments(self, steps, batch):
        return tuple(inputs(steps, batch, self.names).values())

    def axes(self, steps, batch):
        return axes_of(self.names, steps, batch)


def _conv3d():
    return nn.Sequential(
        fastrcn.ConvBNReLUPool3d(2, 3, 3, padding=1, bias=False),
        fastrcn.ConvReLUPool3d(3, 4, 3, padding=1, pool_kernel_size=(1, 2, 2)),
        fastrcn.BatchNormReLUPool3d(4, pool_kernel_size=2),
    )


SUBJECTS = {
    "maps": Subject(
        lambda: Each(
            [
                fastrcn.ConvLSTM(2, 3, peephole="channel"),
                fastrcn.ConvGRU(2, 3, layer_norm="channel"),
                fastrcn.ConvRNN(2, 3),
                Volumes(),
            ]
        )
    ),
    "steps": Subject(Steps),
    "vectors": Subject(
        lambda: Each([fastrcn.LSTM(2, 3), fastrcn.GRU(2, 3, reset="after"), fastrcn.RNN(2, 3)]), ("vectors",)
    ),
    "interop": Subject(Interop),
    "conv3d": Subject(_conv3d, ("clip",)),
    "bidirectional": Subject(lambda: fastrcn.ConvLSTM(2, 3, bidirectional=True)),
    "lengths": Subject(lambda: With("lengths"), ("x", "lengths")),
    "reset": Subject(lambda: With("reset"), ("x", "reset")),
    "noise": Subject(
        lambda: fastrcn.ConvLSTM(2, 3, num_layers=2, dropout=0.5, zoneout=0.3, zoneout_cell=0.4, recurrent_dropout=0.5)
    ),
}


class Everything(nn.ModuleDict):
    """The modules of several columns as one, for tools that take long to start: their tensors, column by column."""

    def __init__(self, columns):
        super().__init__({column: SUBJECTS[column].make() for column in columns})

    def forward(self, x, vectors, clip, lengths, reset=None):
        given = {"x": x, "vectors": vectors, "clip": clip, "lengths": lengths, "reset": reset}
        return {
            column: tree_leaves(module(*(given[name] for name in SUBJECTS[column].names)))
            for column, module in self.items()
        }


def results(module, arguments):
    """All tensors that the module returns, with the same random numbers at every call."""
    torch.manual_seed(1)
    return tree_leaves(module(*arguments))


def weighted(outputs):
    """A sum in which every element of every output has another weight."""
    return sum((o * torch.linspace(-1, 1, o.numel()).view(o.shape)).sum() for o in outputs)
