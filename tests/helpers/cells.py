"""For each cell: how the package makes it, the hand-written step it must equal, and random parameters."""

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from fastrcn import cells
from fastrcn.cells import Cell, conv, sigmoid, tanh
from tests.helpers import loops
from tests.helpers.tolerances import LOW_PRECISION_DRAWS, RELATIVE, assert_draws_close


class MGU(Cell):
    """Minimal gated unit, written as a user would."""

    def step(self, x, h):
        f = sigmoid(conv(x) + conv(h))
        n = tanh(conv(x) + conv(f * h))
        return (1 - f) * h + f * n


@dataclass
class Subject:
    """A cell under test. ``gates``: blocks of weight_ih, weight_hh and bias."""

    cell: Any
    step: Any
    gates: tuple[int, int, int]
    states: int = 1
    below: int = 0
    peephole: str | None = None
    options: dict = field(default_factory=dict)


SUBJECTS = {
    "rnn_tanh": Subject(cells.ConvRNN(), loops.rnn_step, (1, 1, 1)),
    "rnn_relu": Subject(cells.ConvRNN("relu"), partial(loops.rnn_step, nonlinearity="relu"), (1, 1, 1)),
    "lstm": Subject(cells.ConvLSTM(), loops.lstm_step, (4, 4, 4), states=2),
    "lstm_channel": Subject(cells.ConvLSTM(True), loops.lstm_step, (4, 4, 4), states=2, peephole="channel"),
    "lstm_full": Subject(cells.ConvLSTM(True), loops.lstm_step, (4, 4, 4), states=2, peephole="full"),
    "gru_before": Subject(cells.ConvGRU(), loops.gru_step, (3, 3, 3)),
    "gru_after": Subject(cells.ConvGRU("after"), partial(loops.gru_step, reset="after"), (3, 3, 4)),
    "stacked": Subject(cells.StackedConvGRU(), loops.stacked_gru_step, (3, 3, 3), below=2),
    "stacked_candidate": Subject(
        cells.StackedConvGRU(True), partial(loops.stacked_gru_step, candidate=True), (3, 3, 3), below=3
    ),
    "mgu": Subject(MGU(), loops.mgu_step, (2, 2, 2)),
}


@dataclass
class Case:
    """Sizes and options of one call."""

    steps: int = 4
    batch: int = 2
    inputs: int = 3
    channels: int = 5
    height: int = 6
    width: int = 5
    depth: int | None = None  # of volumes (D,H,W); the kernels then have frames
    kernel: tuple[int, ...] = (3, 3)
    recurrent_kernel: tuple[int, ...] | None = None
    stride: Any = 1
    dilation: Any = 1
    padding: Any = "same"
    bias: bool = True
    states: bool = True
    lengths: tuple[int, ...] | None = None
    reverse: bool = False
    layout: str = "contiguous"
    scale: float = 0.4  # of the weights; long recurrences want less, or they amplify any rounding

    @property
    def size(self):
        """Of the input's maps."""
        return (self.height, self.width) if self.depth is None else (self.depth, self.height, self.width)

    @property
    def map(self):
        """Size of the states' maps."""
        axes = len(self.size)
        stride, dilation = ((v,) * axes if isinstance(v, int) else v for v in (self.stride, self.dilation))
        if self.padding == "same":
            return [1 + (n - 1) // s for n, s in zip(self.size, stride, strict=True)]
        before = {"valid": (0,) * axes}.get(self.padding, self.padding)
        reach = [d * (k - 1) for d, k in zip(dilation, self.kernel, strict=True)]
        return [(n + 2 * p - r - 1) // s + 1 for n, p, r, s in zip(self.size, before, reach, stride, strict=True)]


CASES = {
    "plain": Case(),
    "one_step": Case(steps=1),
    "one_sequence": Case(batch=1, channels=1),
    "odd_channels": Case(channels=17, inputs=1),
    "one_pixel": Case(height=1, width=1),
    "smaller_than_kernel": Case(height=2, width=3, kernel=(7, 7)),
    "kernel_1": Case(kernel=(1, 1), channels=8),
    "kernel_5": Case(kernel=(5, 5)),
    "kernel_1x5": Case(kernel=(1, 5)),
    "kernel_5x1": Case(kernel=(5, 1)),
    "two_kernels": Case(kernel=(5, 3), recurrent_kernel=(1, 1)),
    "no_bias_no_states": Case(bias=False, states=False),
    "stride": Case(stride=2, height=7),
    "dilation": Case(dilation=2, height=9),
    "lengths": Case(steps=5, batch=3, lengths=(5, 2, 0)),
    "reverse": Case(reverse=True),
    "reverse_lengths": Case(steps=5, batch=3, lengths=(5, 2, 0), reverse=True, states=False),
    "channels_last": Case(layout="channels_last"),
    "batch_first_view": Case(layout="batch_first"),
    "many_chunks": Case(steps=19, batch=1, height=24, width=24, inputs=2, channels=3, scale=0.2),
    "wide_input": Case(inputs=40, channels=9, height=5),
    "no_input": Case(inputs=0),
}

PADDINGS = {
    "valid": Case(padding="valid", kernel=(3, 2), recurrent_kernel=(3, 3), lengths=(4, 2)),
    "wide_padding": Case(padding=(3, 0), kernel=(3, 4), recurrent_kernel=(1, 3)),  # wider than the kernel's reach
    "valid_stride": Case(padding=(0, 1), stride=2, dilation=2, height=8, width=8, reverse=True),
    "padding_of_1x1": Case(padding=(1, 2), kernel=(1, 1)),
}
"""Of the input convolution, other than "same"."""


def make_tensors(subject: Subject, case: Case, dtype=torch.float64, seed=0):
    """Random leaves by name: x, (below), weights, bias, peepholes, h0, (c0)."""
    generator = torch.Generator().manual_seed(seed)
    c, size = case.channels, case.map
    shapes = {"x": (case.steps, case.batch, case.inputs, *case.size)}
    shapes["weight_ih"] = (subject.gates[0] * c, case.inputs, *case.kernel)
    if subject.below:
        shapes["below"] = (case.steps, case.batch, 2, *case.size)
        shapes["weight_bh"] = (subject.below * c, 2, *case.kernel)
    shapes["weight_hh"] = (subject.gates[1] * c, c, *(case.recurrent_kernel or case.kernel))
    if case.bias:
        shapes["bias"] = (subject.gates[2] * c,)
    if subject.peephole:
        shapes["weight_ch"] = (3 * c,) if subject.peephole == "channel" else (3 * c, *size)
    if case.states:
        shapes |= dict.fromkeys(("h0", "c0")[: subject.states], (case.batch, c, *size))
    scale = {"x": 1.0, "below": 1.0, "h0": 1.0, "c0": 1.0}
    tensors = {
        name: scale.get(name, case.scale) * torch.randn(shape, generator=generator, dtype=torch.float64)
        for name, shape in shapes.items()
    }
    tensors = {name: t.to(dtype) for name, t in tensors.items()}
    if case.layout == "channels_last":
        tensors["x"] = tensors["x"].movedim(2, -1).contiguous().movedim(-1, 2)
    if case.layout == "batch_first":
        tensors["x"] = tensors["x"].transpose(0, 1).contiguous().transpose(0, 1)
    return {name: t.requires_grad_() for name, t in tensors.items()}


def run_loop(subject: Subject, case: Case, tensors):
    """The hand-written loop on these tensors: (output, last states)."""
    p = {name: tensors.get(name) for name in ("weight_ih", "weight_bh", "weight_hh", "bias", "weight_ch")}
    zero = tensors["weight_hh"].new_zeros(case.batch, case.channels, *case.map)
    states = tuple(tensors.get(name, zero) for name in ("h0", "c0")[: subject.states])
    x = (tensors["x"], tensors["below"]) if subject.below else tensors["x"]
    lengths = None if case.lengths is None else torch.tensor(case.lengths, device=tensors["x"].device)
    step = subject.step
    if case.inputs == 0:  # F.conv2d has no convolution of zero channels: only the bias is left
        wide = torch.zeros(*x.shape[:2], 1, *x.shape[3:], dtype=x.dtype)
        p["weight_ih"] = torch.zeros(p["weight_ih"].shape[0], 1, *case.kernel, dtype=x.dtype)
        x = wide
    return loops.run(
        step,
        p,
        x,
        states,
        lengths,
        case.reverse,
        stride=case.stride,
        dilation=case.dilation,
        padding=case.padding,
    )


def run_package(subject: Subject, case: Case, tensors, backend, recompute=False):
    """The package on these tensors: (output, last states)."""
    from fastrcn.functional import conv_recurrent

    x = (tensors["x"], tensors["below"]) if subject.below else tensors["x"]
    weight_ih = (tensors["weight_ih"], tensors["weight_bh"]) if subject.below else tensors["weight_ih"]
    hx = tuple(tensors[name] for name in ("h0", "c0")[: subject.states]) if case.states else None
    return conv_recurrent(
        subject.cell, x, weight_ih, tensors["weight_hh"], tensors.get("bias"), tensors.get("weight_ch"), hx,
        stride=case.stride, dilation=case.dilation, padding=case.padding, lengths=case.lengths, reverse=case.reverse,
        recompute=recompute, backend=backend,
    )  # fmt: skip


def gradients(output, states, tensors, seed=1):
    """Outputs, states and every leaf's gradient of a fixed random scalar of them."""
    generator = torch.Generator().manual_seed(seed)
    parts = (output, *states)
    weights = [torch.randn(part.shape, generator=generator, dtype=torch.float64).to(part) for part in parts]
    loss = sum((part * weight).sum() for part, weight in zip(parts, weights, strict=True))
    found = torch.autograd.grad(loss, list(tensors.values()))
    named = {"output": output, **{f"state{k}": s for k, s in enumerate(states)}}
    return named | {f"d_{name}": g for name, g in zip(tensors, found, strict=True)}


def compare_with_loop(name, case: Case, backend, dtype=torch.float32, device="cpu", recompute=False, seeds=(0,)):
    """Outputs and all gradients of a backend against the float64 loop on the same values; low precision at most twice
    as far from it as the plain loop in that type, over all ``seeds`` together."""
    subject, results = SUBJECTS[name], []
    for seed in seeds:
        tensors = make_tensors(subject, case, dtype, seed)
        exact = {n: t.detach().double().requires_grad_() for n, t in tensors.items()}
        truth = gradients(*run_loop(subject, case, exact), exact)
        plain = {} if dtype in RELATIVE else gradients(*run_loop(subject, case, tensors), tensors)
        leaves = {n: t.detach().to(device).requires_grad_() for n, t in tensors.items()}
        found = gradients(*run_package(subject, case, leaves, backend, recompute), leaves)
        results.append(({part: t.cpu() for part, t in found.items()}, truth, plain))
    assert_draws_close(results, dtype)
    return results[-1][0]


def compare_in_tf32(name, case: Case, backend, device="cuda", recompute=False):
    """In float32 where convolutions may be rounded to TF32: outputs and all gradients against the float64 loop; at most
    twice as far from it as the plain loop, whose convolutions are then the library's in TF32. Returns a draw's, found
    and plain."""
    subject, results = SUBJECTS[name], []
    for seed in range(LOW_PRECISION_DRAWS):
        given = make_tensors(subject, case, torch.float32, seed)
        found, truth, plain = (
            {n: t.detach().to(device, to, copy=True).requires_grad_() for n, t in given.items()}
            for to in (torch.float32, torch.float64, torch.float32)
        )
        found = gradients(*run_package(subject, case, found, backend, recompute), found)
        truth, plain = (gradients(*run_loop(subject, case, leaves), leaves) for leaves in (truth, plain))
        results.append((found, truth, plain))
    assert_draws_close(results, torch.float32, tf32=True)
    return results[-1][0], results[-1][2]
