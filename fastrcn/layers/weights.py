"""The parameters and options that a layer of a recurrent cell and one step of it share."""

import math
from typing import Any

import torch
from torch import nn

from fastrcn import backends
from fastrcn.cells import LayerNorm
from fastrcn.checks import check_cell, check_kernel, check_padding, per_axis
from fastrcn.compiler.schedule import schedule_of
from fastrcn.layers.state_noise import StateNoise
from fastrcn.ops.conv_recurrent.geometry import output_map

_EPS = 1e-5
"""What layer normalisation adds to the variance where nothing else is asked for, as ``torch.nn.LayerNorm``."""


def positive(value, name):
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name}: expected a positive int, got {value!r}")
    return value


class Weights(nn.Module):
    """Parameters of a cell's layers and directions, created, initialised and named as in ``torch.nn.LSTM``.

    ``axes``: how many a map has for the caller, 3 (volumes), 2, 1 (lines of pixels) or 0 (vectors); inside it has at
    least 2, the others of size 1.
    """

    padding, peephole, map_size, layer_norm, layer_norm_eps = "same", None, None, None, _EPS
    """What an object has that never was given the option: one that an earlier version pickled, or a layer with
    torch.nn's own attributes."""

    def __init__(
        self, cell, input_size, hidden_size, kernel_size, recurrent_kernel_size, *, bias, stride, dilation, padding,
        peephole, map_size, layer_norm, layer_norm_eps, backend, zoneout, zoneout_cell, recurrent_dropout=0.0, axes=2,
    ):  # fmt: skip
        super().__init__()
        check_cell(cell)
        schedule = schedule_of(cell.key)
        sizes = tuple(input_size) if isinstance(input_size, (tuple, list)) else (input_size,)
        if len(sizes) != len(schedule.inputs) or any(not isinstance(n, int) or n < 0 for n in sizes):
            raise ValueError(
                f"input_size: expected {len(schedule.inputs)} whole numbers, for {schedule.inputs}, got {input_size!r}"
            )
        if backend is not None and backend not in backends.NAMES:
            raise ValueError(f"backend: expected one of {', '.join(backends.NAMES)} or None, got {backend!r}")
        self.cell, self.axes = cell, axes
        self.input_size = input_size
        self.hidden_size = positive(hidden_size, "hidden_size")
        self.kernel_size = self._per_axis(kernel_size, "kernel_size")
        self.recurrent_kernel_size = self._per_axis(
            kernel_size if recurrent_kernel_size is None else recurrent_kernel_size, "recurrent_kernel_size"
        )
        self.padding = check_padding(padding, self._map_axes) or "same"
        if self.padding == "same":
            check_kernel(self.kernel_size, "kernel_size")
        check_kernel(self.recurrent_kernel_size, "recurrent_kernel_size")
        self.stride, self.dilation = self._per_axis(stride, "stride"), self._per_axis(dilation, "dilation")
        self.has_bias, self.backend = bool(bias), backend
        self.peephole = _check_peephole(schedule, peephole, map_size)
        self.layer_norm, self.layer_norm_eps = _check_layer_norm(layer_norm, layer_norm_eps, map_size, axes)
        self.map_size = None if map_size is None else self._per_axis(map_size, "map_size")
        normed = LayerNorm(cell, self.layer_norm_eps) if layer_norm else cell
        self._noise = StateNoise(normed, zoneout, zoneout_cell, recurrent_dropout)

    @property
    def _map_axes(self):
        """How many axes a map has inside."""
        return max(self.axes, 2)

    def _per_axis(self, value, name):
        return per_axis(value, name, self._map_axes)

    def _of_caller(self, size):
        """A map's size, or a kernel's, without the axes that the caller does not have."""
        return size[self._map_axes - self.axes :]

    def __setstate__(self, state):
        """Of an object that an earlier version pickled: what later ones added takes the value that changes nothing."""
        added = {} if hasattr(type(self), "axes") else {"axes": 2 if state.get("maps", True) else 0}
        super().__setstate__(added | {name: value for name, value in state.items() if name != "maps"})
        if "_noise" not in state and not hasattr(type(self), "_noise"):
            self._noise = StateNoise(self.cell, 0.0, 0.0, 0.0)

    def _create(self, suffix, sizes, factory):
        blocks, c = schedule_of(self.cell.key).blocks, self.hidden_size

        def add(name, *shape):
            self.register_parameter(name + suffix, nn.Parameter(torch.empty(shape, **factory)))

        def whole(option):
            return self._of_caller(self.map_size) if option == "full" else ()

        for name, label, size in zip(self._inputs, self._input_labels(), sizes, strict=True):
            add(f"weight_{label}", blocks[name] * c, size, *self._of_caller(self.kernel_size))
        add("weight_hh", blocks["h"] * c, c, *self._of_caller(self.recurrent_kernel_size))
        if self.has_bias:
            add("bias", blocks["bias"] * c, *whole(self.layer_norm))
        if self.peephole:
            add("weight_ch", blocks["peephole"] * c, *whole(self.peephole))
        if self.layer_norm:
            for name, label in zip((*self._inputs, "h"), self._norm_labels(), strict=True):
                add(f"norm_{label}", blocks[name] * c, *whole(self.layer_norm))

    @property
    def _inputs(self) -> Any:
        return schedule_of(self.cell.key).inputs

    def _input_labels(self):
        """Names of the input weights: weight_ih for the first input, then weight_<first letter>h."""
        labels = ["ih", *(f"{name[0]}h" for name in self._inputs[1:])]
        if len({*labels, "hh", "ch"}) != len(labels) + 2:
            raise ValueError(f"cell: its inputs {self._inputs} give the weights ambiguous names {labels}")
        return labels

    def _norm_labels(self):
        """Names of the factors of normalised convolutions, in the order in which the cell takes them."""
        return [*self._input_labels(), "hh"]

    def _map(self, input) -> tuple[int, ...]:
        """The size of the states' maps."""
        padding = check_padding(self.padding, self._map_axes)
        return tuple(output_map(input.shape[-self._map_axes :], self.kernel_size, self.stride, self.dilation, padding))

    def _check_map(self, input):
        """ValueError where an input with maps of the caller's axes gives another hidden map than full weights have."""
        full = [name for name in ("peephole", "layer_norm") if getattr(self, name) == "full"]
        if not full:
            return
        found, size = self._map(self._widened(input)), input.shape[input.dim() - self.axes :]
        if found != self.map_size:
            raise ValueError(
                f"input: expected a map that gives the hidden map map_size={self._of_caller(self.map_size)}, which "
                f'{full[0]}="full" is for, got {tuple(size)}, which gives {self._of_caller(found)}'
            )

    @property
    def cells(self):
        """The cells that run, with the layer's noise on their states: in training, in evaluation."""
        return self._noise.in_training, self._noise.in_evaluation

    def _masks(self, input):
        """What the cell with noise is given for one layer and direction; ``input`` (T,B,C,H,W)."""
        if self._noise.cell(self.training) is self.cell:
            return ()
        size = (self.hidden_size, *(max(n, 0) for n in self._map(input)))
        return self._noise.masks(self.training, input.shape[:2], size, next(self.parameters()))

    def _arguments(self, suffix) -> Any:
        """The parameters of one layer and direction as arguments of ``conv_recurrent``."""

        def get(name) -> Any:
            return getattr(self, name + suffix, None)

        weight_ih = tuple(self._widened(get(f"weight_{label}")) for label in self._input_labels())
        bias, per_channel = get("bias"), [get("weight_ch")] if self.peephole else []
        if self.peephole == "full":
            per_channel = [self._widened(weight) for weight in per_channel]
        if self.layer_norm:
            norms = [get(f"norm_{label}") for label in self._norm_labels()]
            if self.layer_norm == "full":
                norms = [self._widened(norm) for norm in norms]
                bias = None if bias is None else self._widened(bias)
            per_channel += norms
        weight_ch = _joined(per_channel) if per_channel else None
        return weight_ih, self._widened(get("weight_hh")), bias, weight_ch

    def _widened(self, tensor):
        """A tensor with maps of the caller's axes as one with maps of at least two."""
        if self.axes >= 2:
            return tensor
        return tensor.unsqueeze(-2) if self.axes else tensor[..., None, None]

    def _narrowed(self, tensor):
        """The other way."""
        if self.axes >= 2:
            return tensor
        return tensor[..., 0, :] if self.axes else tensor[..., 0, 0]

    def reset_parameters(self):
        """Uniform within 1/sqrt(hidden_size * recurrent kernel), torch.nn.LSTM's rule; peepholes zero; with layer
        normalisation its factors 1 and the bias 0."""
        bound = 1 / math.sqrt(self.hidden_size * math.prod(self.recurrent_kernel_size))
        for name, parameter in self.named_parameters():
            if name.startswith("weight_ch") or (self.layer_norm and name.startswith("bias")):
                nn.init.zeros_(parameter)
            elif name.startswith("norm_"):
                nn.init.ones_(parameter)
            elif parameter.numel():
                nn.init.uniform_(parameter, -bound, bound)

    def extra_repr(self):
        text = f"{self.input_size}, {self.hidden_size}"
        if self.axes:
            text += f", kernel_size={self._of_caller(self.kernel_size)}"
        if not self.has_bias:
            text += ", bias=False"
        ones = (1,) * self._map_axes
        usually = {"stride": ones, "dilation": ones, "padding": "same", "peephole": None, "layer_norm": None}
        usually |= {"layer_norm_eps": _EPS, "backend": None}
        for name, usual in usually.items():
            if getattr(self, name) != usual:
                text += f", {name}={getattr(self, name)!r}"
        for name in ("zoneout", "zoneout_cell", "recurrent_dropout"):
            if getattr(self._noise, name):
                text += f", {name}={getattr(self._noise, name)!r}"
        return text


def _check_peephole(schedule, peephole, map_size):
    if peephole not in (None, "channel", "full"):
        raise ValueError(f'peephole: expected None, "channel" or "full", got {peephole!r}')
    if (peephole is None) != (schedule.blocks["peephole"] == 0):
        raise ValueError(f"peephole: the cell has {schedule.blocks['peephole']} peepholes, got {peephole!r}")
    if peephole == "full" and map_size is None:
        raise ValueError('map_size: expected the size of the hidden map, which peephole="full" needs, got None')
    return peephole


def _check_layer_norm(layer_norm, eps, map_size, axes):
    if not axes and layer_norm not in (None, "channel"):
        raise ValueError(f'layer_norm: expected None or "channel" for vectors, got {layer_norm!r}')
    if layer_norm not in (None, "channel", "full"):
        raise ValueError(f'layer_norm: expected None, "channel" or "full", got {layer_norm!r}')
    if layer_norm == "full" and map_size is None:
        raise ValueError('map_size: expected the size of the hidden map, which layer_norm="full" needs, got None')
    if not isinstance(eps, (int, float)) or isinstance(eps, bool) or not eps > 0:
        raise ValueError(f"layer_norm_eps: expected a number above 0, got {eps!r}")
    if layer_norm is None and eps != _EPS:
        raise ValueError(f"layer_norm_eps: expected its default {_EPS} without layer_norm, got {eps!r}")
    return layer_norm, float(eps)


def _joined(weights):
    """Per-channel weights (rows,) and maps of them (rows,H,W) one after another; all maps where one is."""
    maps = [weight.shape[1:] for weight in weights if weight.dim() > 1]
    if maps:
        weights = [w if w.dim() > 1 else w[(..., *(None for _ in maps[0]))].expand(-1, *maps[0]) for w in weights]
    return torch.cat(weights) if len(weights) > 1 else weights[0]
