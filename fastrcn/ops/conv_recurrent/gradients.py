"""Gradients that are sums over time: of weights, inputs and biases, from those of the pre-activations."""

import torch

from fastrcn.ops.conv_recurrent.geometry import of_three_axes, same_padding
from fastrcn.ops.conv_recurrent.layout import maps_first, maps_last
from fastrcn.ops.conv_recurrent.sequence import states_before
from fastrcn.ops.convolution.weight import Weight
from fastrcn.ops.convolution.weight_gradient import as_weight, conv_weight_gradient, empty_total


def _with_frames(weight_shape):
    """A weight's shape as a 3-D convolution has it."""
    return (*weight_shape[:2], *of_three_axes(weight_shape[2:]))


def _add_weight_gradient(x, grad, weight_shape, stride, dilation, padding, total):
    x, grad = (t.view(t.shape[0], *of_three_axes(t.shape[1:-1]), t.shape[-1]) for t in (x, grad))
    stride, padding, dilation = of_three_axes(stride), of_three_axes(padding, 0), of_three_axes(dilation)
    conv_weight_gradient(x, grad, _with_frames(weight_shape), stride, padding, dilation, total)


class Gradients:
    """Gradients that are sums over time, collected chunk by chunk."""

    def __init__(self, seq, needs):
        self.seq, self.needs = seq, needs
        schedule, g = seq.schedule, seq.geometry
        # The library's convolution begins an input's gradient over a span of time, others add to it.
        self.begun: set[tuple[int, int]] = set()
        self.d_inputs = [
            (torch.empty if self._begins(k) else torch.zeros)(
                (*x.shape[:2], *x.shape[3:], x.shape[2]), dtype=x.dtype, device=x.device
            )
            if needed
            else None
            for k, (x, needed) in enumerate(zip(seq.inputs, needs["inputs"], strict=True))
        ]
        self.totals: dict = {}
        self.reflected: dict = {}
        self.bias: dict = {}
        for n, group in enumerate(schedule.groups):
            rows = len(group.slots) * g.channels
            for name in group.inputs:
                k = schedule.inputs.index(name)
                if needs["weight_ih"][k] and seq.weight_ih[k].shape[1]:
                    shape = (rows, *seq.weight_ih[k].shape[1:])
                    self.totals[name, n] = empty_total(_with_frames(shape), seq.weight_hh)
            for o in group.operands:
                if needs["weight_hh"]:
                    self.totals[o, n] = empty_total(_with_frames((rows, *seq.weight_hh.shape[1:])), seq.weight_hh)
            if needs["bias"] and any(slot.bias_blocks for slot in group.slots):
                self.bias[n] = torch.zeros(rows, dtype=seq.wide, device=seq.weight_hh.device)

    def add_chunk(self, time, d_groups, states, operands, begins):
        """Add what a span of time contributes, given the gradients of its pre-activations."""
        seq, schedule, one = self.seq, self.seq.schedule, (1,) * self.seq.geometry.axes
        recurrent = one, one, same_padding(seq.weight_hh.shape[2:], one)
        for n, (group, d) in enumerate(zip(schedule.groups, d_groups, strict=True)):
            flat = d.flatten(0, 1)
            if n in self.bias:
                self.bias[n] += flat.view(-1, flat.shape[-1]).sum(0, dtype=seq.wide)
            for name in group.inputs:
                self._add_input(name, n, group, flat, time)
            for o in group.operands:
                if (o, n) not in self.totals:
                    continue
                total, shape = self.totals[o, n], (flat.shape[-1], *seq.weight_hh.shape[1:])
                if o in schedule.computed_operands:
                    _add_weight_gradient(operands[o].flatten(0, 1), flat, shape, *recurrent, total)
                    continue
                k = schedule.state_index(o)
                before, missing = states_before(states, k, seq, time)
                after = d
                if missing:
                    after, edge = (d[:-1], d[-1]) if seq.geometry.reverse else (d[1:], d[0])
                    if seq.given:
                        _add_weight_gradient(seq.initial[k], edge, shape, *recurrent, total)
                if len(before):
                    _add_weight_gradient(before.flatten(0, 1), after.flatten(0, 1), shape, *recurrent, total)

    def _add_input(self, name, n, group, flat, time):
        seq, g = self.seq, self.seq.geometry
        k = seq.schedule.inputs.index(name)
        weight = seq.weight_ih[k]
        if weight.shape[1] == 0 or not (self.needs["inputs"][k] or self.needs["weight_ih"][k]):
            return
        x, padding = seq.input(name, time).flatten(0, 1), g.input_padding(weight.shape[2:])
        if (name, n) in self.totals:
            shape = (flat.shape[-1], *weight.shape[1:])
            _add_weight_gradient(x, flat, shape, g.stride, g.dilation, padding, self.totals[name, n])
        if self.needs["inputs"][k]:
            dx, rows = self.d_inputs[k][time].flatten(0, 1), seq.input_weights[name, n]
            begins = self._begins(k) and (k, time.start) not in self.begun
            self.begun.add((k, time.start))
            # What is left of the kernel's reach: the padding of the convolution with the reflected weight.
            rest = [d * (k - 1) - p for d, k, p in zip(g.dilation, weight.shape[2:], padding, strict=True)]
            one = (1,) * g.axes
            if g.stride == one and min(rest) >= 0:
                if (name, n) not in self.reflected:
                    self.reflected[name, n] = Weight(rows.data, True)
                seq.convolve(flat, dx, self.reflected[name, n], rest, one, g.dilation, begins)
                return
            found, _, _ = torch.ops.aten.convolution_backward(
                maps_first(flat, g.axes), maps_first(x, g.axes), rows.data, None, g.stride, padding, g.dilation,
                False, [0] * g.axes, 1, [True, False, False],
            )  # fmt: skip
            found = maps_last(found, g.axes)
            dx.copy_(found) if begins else dx.add_(found)

    def _begins(self, k):
        """Whether the first convolution that gives the gradient of input ``k`` over a span of time need not add."""
        return self.seq.is_by_library(self.seq.weight_ih[k].shape[2:])

    def finish(self, d_states, d_params):
        """All gradients, in the layouts of what they belong to."""
        seq, schedule, needs = self.seq, self.seq.schedule, self.needs
        c, axes = seq.geometry.channels, seq.geometry.axes
        # Where maps are small, weights are most of the memory: nothing that has been used stays.
        seq.packed.clear()

        def packed(weight, keys):
            if len(keys) == 1 and tuple(keys[0][2]) == tuple(range(len(weight) // c)):
                key, n, _ = keys[0]
                return as_weight(self.totals.pop((key, n))).view(weight.shape).contiguous().to(weight.dtype)
            grad = torch.zeros_like(weight, memory_format=torch.contiguous_format)
            for key, n, blocks in keys:
                rows = as_weight(self.totals.pop((key, n))).view(-1, *weight.shape[1:])
                for slot, block in enumerate(blocks):
                    grad[block * c : (block + 1) * c] = rows[slot * c : (slot + 1) * c]
            return grad

        groups = list(enumerate(schedule.groups))
        d_weight_ih = [
            packed(w, [(name, n, g.input_blocks(name)) for n, g in groups if (name, n) in self.totals])
            if needed
            else None
            for name, w, needed in zip(schedule.inputs, seq.weight_ih, needs["weight_ih"], strict=True)
        ]
        d_weight_hh = None
        if needs["weight_hh"]:
            d_weight_hh = packed(seq.weight_hh, [(o, n, g.operand_blocks(o)) for n, g in groups for o in g.operands])
        d_bias = self._bias(groups) if needs["bias"] else None
        d_weight_ch = torch.zeros_like(seq.weight_ch) if needs["weight_ch"] else None
        for (_, kind, index), sums in zip(schedule.params, d_params, strict=True):
            target = d_weight_ch if kind == "peephole" else d_bias
            if target is not None:
                block = target[index * c : (index + 1) * c]
                # One row is that of all pixels, or of the only one.
                block += sums.sum(0).view(block.shape) if sums.dim() == 2 else maps_first(sums, axes)
        return {
            "inputs": [None if d is None else maps_first(d, axes) for d in self.d_inputs],
            "weight_ih": d_weight_ih,
            "weight_hh": d_weight_hh,
            "bias": d_bias,
            "weight_ch": d_weight_ch,
            "hx": [maps_first(d.to(seq.dtype), axes) if needs["hx"] else None for d in d_states] if seq.given else [],
        }

    def _bias(self, groups):
        """The bias' gradient, as far as it is that of pre-activations."""
        seq, c = self.seq, self.seq.geometry.channels
        placed = [
            (self.bias[n][p * c : (p + 1) * c], block)
            for n, group in groups
            if n in self.bias
            for p, slot in enumerate(group.slots)
            for block in slot.bias_blocks
        ]
        if len(self.bias) == 1 and [block for _, block in placed] == list(range(len(seq.bias) // c)):
            return self.bias.popitem()[1].to(seq.bias.dtype)
        total = torch.zeros_like(seq.bias)
        for rows, block in placed:
            total[block * c : (block + 1) * c].add_(rows)
        return total
