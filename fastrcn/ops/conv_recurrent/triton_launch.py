"""One phase of the time loop with its buffers, as a launch of its Triton kernel."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from fastrcn.ops.conv_recurrent.program import Buffer
from fastrcn.ops.conv_recurrent.triton_config import Config, choose
from fastrcn.ops.conv_recurrent.triton_plan import PhasePlan, alignment, plan_phase
from fastrcn.ops.conv_recurrent.triton_work import Work
from fastrcn.ops.triton_support import processors

if TYPE_CHECKING:
    from fastrcn.ops.conv_recurrent.triton_program import TritonProgram


@dataclass(frozen=True)
class _Bound:
    """What a launch passes for one product: the packed weight, the loop's steps, whether they are left out at the first
    time, and the source's map."""

    weight: torch.Tensor
    steps: int
    skip_first: bool
    map: tuple[int, ...]


class PhaseLaunch:
    """One phase of a program bound to its buffers: what a call passes to the kernel."""

    walks = True
    """Whether a kernel that walks over time can take it."""
    directions = 1

    def __init__(self, program: TritonProgram, work: Work, across=False, config: Config | None = None):
        # Not the program, which has its launches: what it holds is free as soon as nobody has it, not when Python next
        # looks for cycles.
        self.geometry, self.across = program.geometry, across
        self.plan = plan = self._planned(program, work, config)
        self.phase, self.kernel, self.config = plan.phase, plan.kernel, plan.config
        self.constants, self.options = plan.constants, plan.options
        self.tiles, self.sizes = plan.tiles, plan.sizes
        buffers, device = work.buffers(), work.tensor.device
        # Zeroed partial sums of parameters' gradients.
        self.sums = [
            (buffers[number], torch.zeros(shape, dtype=torch.float32, device=device)) for number, shape in plan.sums
        ]
        self.pointers: list[tuple[Buffer, bool]] = [
            (buffers[number] if number >= 0 else Buffer(self.sums[-1 - number][1]), clock)
            for number, clock in plan.pointers
        ]
        self.products = [self._bind(program, work, product) for product in plan.products]
        self.tensors = [*(b.data for b, _ in self.pointers), *(p.weight for p in self.products)]
        if self.phase.freezes:
            self.tensors.append(program.lengths)
        self.addresses = [t.data_ptr() for t in self.tensors]
        self.aligned = alignment(self.addresses)

    def _planned(self, program: TritonProgram, work: Work, config: Config | None) -> PhasePlan:
        """The plan, made before for this structure, or now; with a ``config`` of its own always now."""
        if config is not None:
            return plan_phase(program, work, self.across, config)
        plans, key = program.structure.plans, (work.number, self.across)
        if key not in plans:
            slots = len(work.slots(self.geometry.channels))
            config = program.config or self._choose(program, work, slots)
            plans[key] = plan_phase(program, work, self.across, config)
        return plans[key]

    def _bind(self, program: TritonProgram, work: Work, plan):
        weights = [work.convolutions[n].weight for n in plan.convolutions]
        weight = program.weight(weights, self.config, plan.block_k, self.phase.joined)
        return _Bound(weight, plan.steps, plan.skip_first, plan.map)

    def _choose(self, program: TritonProgram, work: Work, slots):
        def start(config):
            # Weights that are packed for a trial go with it.
            own = copy(program)
            own.packed = {}
            return PhaseLaunch(own, work, self.across, config).trial()

        exact = program.dtype == torch.float32 and not program.tf32
        maps = len(work.stage.buffers) if work.stage else 0
        return choose(
            work.tensor, program.dtype, slots, maps, program.geometry.channels, program.pixels, exact,
            lambda: self._key(program, work), start,
        )  # fmt: skip

    def _key(self, program: TritonProgram, work: Work):
        """Which kernel this is, whatever the batch and the time."""
        g, stage = program.geometry, work.stage
        words: list[Any] = ["conv_recurrent", g.schedule.fingerprint]
        if stage:
            words.append(f"{'bwd' if stage.signature.backward else 'fwd'}{stage.signature.stage}")
        flags = {"across": self.across, "keep": program.keep, "lengths": program.lengths is not None}
        words += [name for name, is_so in flags.items() if is_so]
        words += [
            f"{program.dtype}{' tf32' if program.tf32 else ''}",
            f"C={g.channels}",
            f"map={'x'.join(map(str, g.size))}",
        ]
        for c in work.convolutions:
            sizes = (c.weight.shape, c.stride, c.dilation, c.padding, self._map(c.source))
            words.append("/".join("x".join(map(str, size)) for size in sizes))
        return " ".join(words)

    def trial(self):
        """A function that launches the kernel on copies of the maps of one step: what it writes nobody reads."""
        maps = {k: b.data[0] if b.timed else b.data for k, (b, _) in enumerate(self.pointers)}
        # Some are not written yet: whatever is there becomes numbers of ordinary size.
        maps = {k: data.nan_to_num(0.0).clamp_(-1, 1) for k, data in maps.items()}
        tensors = [maps.get(k, tensor) for k, tensor in enumerate(self.tensors)]
        numbers = self._numbers(0, 0, False, maps)
        return lambda: self.kernel[(self.tiles,)](*tensors, *numbers, **self.constants, **self.options)

    def _map(self, source: Buffer):
        """Size of a source's maps."""
        return tuple(source.data.shape[-1 - self.geometry.axes : -1])

    def __call__(self, convolution_time, time, convolution_first, first):
        """Launch. Without a ``convolution_time`` the convolutions are left out; ``first`` marks the first step."""
        tensors, numbers = self.arguments(convolution_time, time, convolution_first, first)
        addresses, aligned = self.addresses, self.aligned
        if tensors is not self.tensors:
            addresses = [t.data_ptr() for t in tensors]
            aligned = alignment(addresses)
        if aligned in self.plan.compiled:
            self.plan.compiled[aligned](*addresses, *numbers, *self.constants.values())
            return
        compiled = self.kernel[(self.tiles,)](*tensors, *numbers, **self.constants, **self.options)
        if compiled is not None:
            # Nothing but numbers and addresses changes from here on: later launches need not be matched to a
            # compilation, which takes longer than many steps. The interpreter returns None.
            self.plan.compiled[aligned] = compiled[(self.tiles, 1, 1)]

    def arguments(self, convolution_time, time, convolution_first, first):
        """The kernel's tensors, ``self.tensors`` itself where none is exchanged for an initial state, and numbers."""
        replaced = {}
        for k, (buffer, convolves) in enumerate(self.pointers):
            if buffer.first is not None and (convolution_first if convolves else first):
                replaced[k] = buffer.first
        numbers = self._numbers(convolution_time, time, convolution_first, replaced)
        tensors = [replaced.get(k, tensor) for k, tensor in enumerate(self.tensors)] if replaced else self.tensors
        return tensors, numbers

    def _numbers(self, convolution_time, time, convolution_first, replaced):
        """The kernel's arguments that are numbers, as far as every kernel has them."""
        times, sizes = [], []
        for k, (buffer, convolves) in enumerate(self.pointers):
            if buffer.timed:
                at = convolution_time if convolves and convolution_time is not None else time
                times.append(0 if k in replaced else at + buffer.shift - buffer.origin)
        for product in self.products:
            skipped = convolution_time is None or (convolution_first and product.skip_first)
            sizes += [0 if skipped else product.steps, *product.map]
        return (*times, *sizes, time, *self.sizes)

    @property
    def plans(self):
        """Its plan, or those of two directions."""
        return (self.plan,)

    @property
    def resident(self):
        """Whether all tiles run at once, so that they may wait for each other."""
        return self.tiles <= processors(self.tensors[0].device)

    @property
    def identity(self):
        """Equal for launches of the same kernel that pass the same at the same times."""
        # Kernels are kept for ever, so that their ids stay theirs.
        maps = tuple((b.shift - b.origin, 0 if b.first is None else b.first.data_ptr()) for b, _ in self.pointers)
        products = tuple((p.steps, p.map, p.skip_first) for p in self.products)
        types = tuple(t.dtype for t in self.tensors)
        values = *self.constants.values(), *self.options.values(), *self.sizes
        return id(self.kernel), self.tiles, tuple(self.addresses), types, maps, products, values

    def add_parameter_sums(self):
        """Add the partial sums to the gradients' buffers and start again from zero."""
        for buffer, partial in self.sums:
            rows = buffer.data
            rows[0 if rows.dim() == 2 else ...] += partial.sum(0, dtype=rows.dtype)
            partial.zero_()
