"""One phase of the time loop with its buffers, as a launch of its Triton kernel."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING, Any

import torch

from fastrcn.compiler.emit_triton import kernel_of
from fastrcn.compiler.phase import Accumulator, Phase, Place, Product
from fastrcn.ops.conv_recurrent.program import Buffer, maps_key
from fastrcn.ops.conv_recurrent.triton_config import Config, choose, power
from fastrcn.ops.conv_recurrent.triton_work import Work, is_slot, share_source
from fastrcn.ops.triton_support import check_pixels, interpreting, processors

if TYPE_CHECKING:
    from fastrcn.ops.conv_recurrent.triton_program import TritonProgram


@dataclass(frozen=True)
class _Bound:
    """What a launch passes for one product: the packed weight, the loop's steps, whether they are left out at the first
    time, the source's map and channels, and how many of these a step takes."""

    weight: torch.Tensor
    steps: int
    skip_first: bool
    map: tuple[int, ...]
    channels: int
    block_k: int


class PhaseLaunch:
    """One phase of a program bound to its buffers: what a call passes to the kernel."""

    walks = True
    """Whether a kernel that walks over time can take it."""
    directions = 1

    def __init__(self, program: TritonProgram, work: Work, across=False, config: Config | None = None):
        self.program, self.across = program, across
        self.pointers: list[tuple[Buffer, bool]] = []
        self.keys: dict[Any, int] = {}
        g, stage = program.geometry, work.stage
        self.sums: list[tuple[Buffer, torch.Tensor]] = []
        targets = work.targets()
        slots = [(t, p) for t in targets for p in range(t.width // g.channels)]
        self.config = config or program.config or self._choose(work, len(slots))
        taken: list[int | None] = []
        places: list[Place] = []
        if stage:
            for arg, buffer in zip(stage.signature.args, stage.buffers, strict=True):
                found = [n for n, (t, p) in enumerate(slots) if is_slot(t, p, buffer, g.channels)]
                if across and buffer.timed:
                    found = []
                taken.append(found[0] if found else None)
                places.append(self._sum(buffer) if arg.role == "d_param" else self._place(buffer))
        accumulators = [
            self._accumulator(work, target, slot, stage, taken, n) for n, (target, slot) in enumerate(slots)
        ]
        groups, products = share_source(work.convolutions, targets), []
        for convolutions in groups:
            one = convolutions[0]
            found = [n for c in convolutions for n, (t, _) in enumerate(slots) if maps_key(t) == maps_key(c.target)]
            kernel = tuple(one.weight.shape[2:])
            source = self._pointer(one.source, True)
            products.append(
                Product(source, tuple(found), kernel, tuple(one.stride), tuple(one.dilation), tuple(one.padding))
            )
        timed = tuple(b.timed for b, _ in self.pointers)
        self.phase = Phase(
            g.axes, timed, tuple(accumulators), tuple(products), stage and stage.signature, tuple(places), tuple(taken),
            program.lengths is not None, self.config.parts if stage else 1,
        )  # fmt: skip
        self.products = [self._bind(convolutions) for convolutions in groups]
        self.kernel = kernel_of(g.schedule.fingerprint, self.phase)
        self.constants = self._constants()
        self.options = {"num_warps": self.config.warps, "num_stages": self.config.stages}
        self.tiles = -(-program.pixels // self.config.block_m) * -(-g.channels // self.config.block_c)
        self.sizes = (program.pixels, program.images, *g.size)
        self.tensors = [*(b.data for b, _ in self.pointers), *(p.weight for p in self.products)]
        if self.phase.freezes:
            self.tensors.append(program.lengths)
        self.addresses = [t.data_ptr() for t in self.tensors]
        self.compiled: Any = None

    def _choose(self, work: Work, slots):
        program = self.program

        def start(config):
            # Weights that are packed for a trial go with it.
            own = copy(program)
            own.packed = {}
            return PhaseLaunch(own, work, self.across, config).trial()

        exact = program.dtype == torch.float32 and not program.tf32
        maps = len(work.stage.buffers) if work.stage else 0
        return choose(
            work.tensor, program.dtype, slots, maps, program.geometry.channels, program.pixels, exact,
            lambda: self._key(work), start,
        )  # fmt: skip

    def _key(self, work: Work):
        """Which kernel this is, whatever the batch and the time."""
        program, g, stage = self.program, self.program.geometry, work.stage
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

    def _bind(self, convolutions):
        one = convolutions[0]
        _, ci, *kernel = one.weight.shape
        size = self._map(one.source)
        check_pixels(prod(size), "input's map")
        if len(size) == 2:  # in volumes distances have 64 bits
            distance = one.padding[0] + one.dilation[0] * (kernel[0] - 1)
            check_pixels((size[0] + distance) * size[1], "input's map and the rows that the kernel reaches beyond it")
        block_k = min(self.config.block_k, power(ci))
        weight = self.program.weight([c.weight for c in convolutions], self.config, block_k, self.phase.joined)
        steps = prod(kernel) * -(-ci // block_k)
        return _Bound(weight, steps, one.skip_first, size, ci, block_k)

    def _map(self, source: Buffer):
        """Size of a source's maps."""
        return tuple(source.data.shape[-1 - self.program.geometry.axes : -1])

    def _constants(self):
        program, config = self.program, self.config
        values = {"C": program.geometry.channels, "BLOCK_M": config.block_m, "BLOCK_C": config.block_c}
        values |= {f"PITCH_{k}": b.data.shape[-1] for k, (b, _) in enumerate(self.pointers)}
        for j, product in enumerate(self.products):
            values |= {f"CI_{j}": product.channels, f"BLOCK_K_{j}": product.block_k}
        values |= {"PRECISION": "tf32" if program.tf32 else "ieee", "WEIGHT_BY_ROWS": program.tf32}
        values["INTERPRET"] = interpreting()
        return {n: values[n] for n in self.phase.constants}

    def _pointer(self, buffer: Buffer, convolves):
        """Number of the argument for a buffer; slots of the same maps share it."""
        if not buffer.data.is_contiguous() or (buffer.first is not None and not buffer.first.is_contiguous()):
            raise ValueError("expected dense maps")
        clock = convolves and self.across and (buffer.timed or buffer.first is not None)
        key = (maps_key(buffer), clock)
        if key not in self.keys:
            self.keys[key] = len(self.pointers)
            self.pointers.append((buffer, clock))
        return self.keys[key]

    def _place(self, buffer: Buffer, convolves=False):
        slot, rest = divmod(buffer.channel, self.program.geometry.channels)
        if rest:
            raise ValueError(f"expected a slot at a multiple of the channels, got channel {buffer.channel}")
        return Place(self._pointer(buffer, convolves), slot, not buffer.per_row)

    def _sum(self, buffer: Buffer):
        """Zeroed partial sums of a parameter's gradient: one row per tile of pixels, or one map per image."""
        g, spread = self.program.geometry, buffer.data.dim() == 2
        tiles = -(-self.program.pixels // self.config.block_m)
        shape = (tiles, g.channels) if spread else (self.program.images, *g.size, g.channels)
        partial = torch.zeros(shape, dtype=torch.float32, device=buffer.data.device)
        self.sums.append((buffer, partial))
        return Place(self._pointer(Buffer(partial, width=g.channels), False), 0, spread)

    def _accumulator(self, work, target, slot, stage, taken, n):
        c = self.program.geometry.channels
        place = self._place(replace(target, channel=target.channel + slot * c), True)
        fills = [f for f in work.fills if maps_key(f.target) == maps_key(target)]
        start: Place | None = place
        if fills:
            row = fills[-1].row
            start = None if row is None else self._place(Buffer(row, channel=slot * c, width=c, per_row=False))
        args = (
            [a for a, t in zip(stage.signature.args, taken, strict=True) if t == n and a.mode == "load"]
            if stage
            else []
        )
        return Accumulator(place, start, self.program.written_back(work, target, slot, args[0] if args else None))

    def __call__(self, convolution_time, time, convolution_first, first):
        """Launch. Without a ``convolution_time`` the convolutions are left out; ``first`` marks the first step."""
        tensors, numbers = self.arguments(convolution_time, time, convolution_first, first)
        if self.compiled is not None and tensors is self.tensors:
            self.compiled(*self.addresses, *numbers, *self.constants.values())
            return
        compiled = self.kernel[(self.tiles,)](*tensors, *numbers, **self.constants, **self.options)
        if compiled is not None and tensors is self.tensors:
            # Nothing but numbers changes from here on: later launches need not be matched to a compilation, which takes
            # longer than many steps. The interpreter returns None.
            self.compiled = compiled[(self.tiles, 1, 1)]

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
