"""A call of conv_recurrent, fused and plain."""

from typing import Any, NamedTuple

import torch

from fastrcn.cells import BUILT_IN
from fastrcn.compiler.schedule import schedule_of
from fastrcn.ops import autograd
from fastrcn.ops.conv_recurrent import both_operators, operators, reference
from fastrcn.ops.conv_recurrent.fused import Save
from fastrcn.ops.conv_recurrent.subject import sizes_of

# Programs that were compiled or exported carry cells as text; the built-in ones are always known.
BUILT_IN_KEYS = tuple(cell.key for cell in BUILT_IN)


class Call(NamedTuple):
    """What is constant in a call (see ``autograd.Call``). The tensors: inputs, weight_ih, weight_hh, bias, weight_ch,
    hx, masks, lengths; the results: output, last states."""

    backend: str
    cell: str
    inputs: int
    masks: int
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: tuple[int, ...] | None
    reverse: bool
    save: int
    differentiable: int
    kept: int = 1

    def split(self, tensors) -> tuple[Any, ...]:
        """The flat list as the operators' arguments: inputs, weight_ih, weight_hh, bias, weight_ch, hx, masks,
        lengths."""
        n = self.inputs
        *states, lengths = tensors[2 * n + 3 :]
        end = len(states) - self.masks
        packed = tensors[2 * n : 2 * n + 3]
        return (list(tensors[:n]), list(tensors[n : 2 * n]), *packed, states[:end], states[end:], lengths)

    def words(self, tensors):
        """What is constant in a call of these tensors, whatever batch and time."""
        inputs, weight_ih, weight_hh, bias, weight_ch, _, masks, _ = self.split(tensors)
        maps = [tuple(x.shape[2:]) for x in (*inputs, *masks)]
        weights = [None if w is None else tuple(w.shape) for w in (*weight_ih, weight_hh, bias, weight_ch)]
        return f"{schedule_of(self.cell).fingerprint} {maps} {weights} {self[4:7]} save={self.save}"

    def sizes(self, tensors):
        """By which the backend is chosen."""
        inputs, weight_ih, weight_hh, *_ = self.split(tensors)
        return sizes_of(inputs, weight_ih, weight_hh, self.stride, self.dilation, self.padding)

    def forward(self, tensors):
        """The operator's results."""
        return operators.conv_recurrent_fwd(
            self.backend,
            self.cell,
            *self.split(tensors),
            self.stride,
            self.dilation,
            self.padding,
            self.reverse,
            self.save,
        )

    def backward(self, needs, grads, tensors, kept):
        """The operator's gradients."""
        output, *saved = kept
        return operators.conv_recurrent_bwd(
            self.backend, self.cell, list(grads), *self.split(tensors), output, saved, self.stride, self.dilation,
            self.padding, self.reverse, needs[:-1],
        )  # fmt: skip

    def plain(self, tensors):
        """The plain form."""
        inputs, weight_ih, weight_hh, bias, weight_ch, hx, masks, lengths = self.split(tensors)
        output, states = reference.conv_recurrent(
            schedule_of(self.cell), inputs, weight_ih, weight_hh, bias, weight_ch, hx, masks, lengths, self.stride,
            self.dilation, self.padding, self.reverse,
        )  # fmt: skip
        return (output, *states)


class BothCall(NamedTuple):
    """What is constant in a call of both directions of a layer (see ``autograd.Call``). The tensors: inputs, then for
    one direction and for the other weight_ih, weight_hh, bias, weight_ch, hx, masks, at last lengths; the results: both
    outputs, the last states of one direction and of the other."""

    backend: str
    cell: str
    inputs: int
    masks: int
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: tuple[int, ...] | None
    save: int
    differentiable: int
    kept: int = 2

    def split(self, tensors) -> tuple[Any, ...]:
        """The flat list as the operators' arguments (inputs, first, second, lengths)."""
        n = self.inputs
        own = (len(tensors) - n - 1) // 2
        return list(tensors[:n]), list(tensors[n : n + own]), list(tensors[n + own : -1]), tensors[-1]

    def words(self, tensors):
        """What is constant in a call of these tensors, whatever batch and time."""
        return f"both {self._one().words(self._tensors_of_one(tensors))}"

    def sizes(self, tensors):
        """By which the backend is chosen: those of one direction."""
        return self._one().sizes(self._tensors_of_one(tensors))

    def _one(self, reverse=False):
        return Call(
            self.backend, self.cell, self.inputs, self.masks, self.stride, self.dilation, self.padding, reverse,
            self.save, self.differentiable // 2,
        )  # fmt: skip

    def _tensors_of_one(self, tensors):
        inputs, first, _, lengths = self.split(tensors)
        return [*inputs, *first, lengths]

    def forward(self, tensors):
        """The operator's results."""
        return both_operators.conv_recurrent_both_fwd(
            self.backend, self.cell, *self.split(tensors), self.stride, self.dilation, self.padding, self.save
        )

    def backward(self, needs, grads, tensors, kept):
        """The operator's gradients."""
        return both_operators.conv_recurrent_both_bwd(
            self.backend, self.cell, list(grads), *self.split(tensors), kept[:2], kept[2:], self.stride, self.dilation,
            self.padding, needs[:-1],
        )  # fmt: skip

    def plain(self, tensors):
        """The plain form."""
        inputs, first, second, lengths = self.split(tensors)
        results = []
        for own, reverse in ((first, False), (second, True)):
            results.append(self._one(reverse).plain([*inputs, *own, lengths]))
        return tuple(r[0] for r in results) + tuple(state for r in results for state in r[1:])


@torch.compiler.allow_in_graph
def _plain_in_graph(values, *tensors):
    return Call(*values).plain(tensors)


def run_plain(call: Call, tensors):
    """The plain form; under torch.compile one call that Dynamo does not look into, for it cannot trace SymPy."""
    if torch.compiler.is_dynamo_compiling():
        return _plain_in_graph(tuple(call), *tensors)
    return call.plain(tensors)


def run_fused(call: Call | BothCall, tensors):
    """The fused form under autograd: the results that have gradients."""
    return autograd.run(call, tensors, call.save != Save.NOTHING)[: call.differentiable]


__all__ = ["BUILT_IN_KEYS", "BothCall", "Call", "Save", "run_fused", "run_plain"]
