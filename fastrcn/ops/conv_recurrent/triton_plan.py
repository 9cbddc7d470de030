"""What the launches of a program are, but for their tensors.

Every span of time of every call is a program of its own. To find its phases, their kernels and the maps that each takes
is much longer than to start them, so it is done once for all programs of the same structure.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import prod
from typing import TYPE_CHECKING, Any

from fastrcn.compiler.emit_triton import kernel_of
from fastrcn.compiler.phase import Accumulator, Phase, Place, Product
from fastrcn.ops import autotune
from fastrcn.ops.conv_recurrent.program import Buffer, Convolution, Fill, StageCall, buffers_of, maps_key
from fastrcn.ops.conv_recurrent.triton_config import Config, config_asked_for, power
from fastrcn.ops.conv_recurrent.triton_work import Norm, Work, is_slot, share_source, split
from fastrcn.ops.triton_support import capturing, check_pixels, interpreting

if TYPE_CHECKING:
    from fastrcn.ops.conv_recurrent.triton_program import TritonProgram

_MOST = 1 << 12
"""Structures that are remembered."""

_structures: dict[tuple, Structure] = {}


@dataclass(frozen=True)
class ProductPlan:
    """A product of a phase: the numbers of its convolutions in the work, the loop's steps, whether they are left out at
    the first time, the source's map and channels, and how many of these a step takes."""

    convolutions: tuple[int, ...]
    steps: int
    skip_first: bool
    map: tuple[int, ...]
    channels: int
    block_k: int


@dataclass(eq=False)
class PhasePlan:
    """A phase's kernel and what every launch passes to it, but for tensors.

    ``pointers``: for each the number of its buffer (see ``Work.buffers``), of a sum -1 - its number, and whether it
    follows the convolutions' time. ``sums``: of parameters' gradients, as (number of the buffer that they are added to,
    shape). ``compiled``: what Triton made of the kernel, by the ``alignment`` of the addresses; ``walks``: of kernels
    that walk over time, this phase first, by their plans and that alignment."""

    phase: Phase
    kernel: Any
    config: Config
    pointers: list[tuple[int, bool]]
    sums: list[tuple[int, tuple[int, ...]]]
    products: list[ProductPlan]
    constants: dict[str, Any]
    options: dict[str, int]
    tiles: int
    sizes: tuple[int, ...]
    compiled: dict[tuple, Any] = field(default_factory=dict)
    walks: dict[tuple, Any] = field(default_factory=dict)


class Structure:
    """The phases of programs that differ in addresses and times alone. ``plans``: those made so far, by the number of
    the work and whether its stage is that of the next step. ``joins``: whether a backward step's list can be turned so
    that it begins with the convolutions that end it; None: not asked yet."""

    def __init__(self, steps):
        place = {id(step): n for n, step in enumerate(steps)}
        self.works: list[tuple] = []
        for work in split(steps):
            if isinstance(work, Work):
                parts = [*work.fills], [*work.convolutions], [work.stage] if work.stage else []
                self.works.append(tuple([place[id(step)] for step in part] for part in parts))
            else:
                self.works.append((place[id(work)],))
        self.plans: dict[tuple[int, bool], PhasePlan] = {}
        self.joins: bool | None = None

    def works_of(self, steps) -> list[Work | Norm]:
        """The phases and normalisations of a program's steps, in order."""
        works: list[Work | Norm] = []
        for number, parts in enumerate(self.works):
            if len(parts) == 1:
                works.append(steps[parts[0]])
                continue
            fills, convolutions, stages = ([steps[n] for n in part] for part in parts)
            works.append(Work(fills, convolutions, stages[0] if stages else None, number))
        return works


def structure_of(program: TritonProgram, steps) -> Structure:
    """That of a program with these steps, the same for programs that are equal but for addresses and times."""
    timer = autotune.timer()
    if timer is not None and capturing(_tensor_of(steps)):
        return Structure(steps)  # nothing can be measured now: what is chosen must not stay
    g = program.geometry
    key = (
        g.schedule.fingerprint, g.batch, g.channels, g.size, g.direction, program.dtype, program.tf32, program.images,
        program.lengths is None, program.keep, program.config, config_asked_for(), timer, *_shape(steps),
    )  # fmt: skip
    found = _structures.get(key)
    if found is None:
        if len(_structures) >= _MOST:
            forget()
        found = _structures[key] = Structure(steps)
    return found


def alignment(addresses):
    """What Triton's compilation depends on of addresses: which are no multiples of 16."""
    return tuple([n for n, address in enumerate(addresses) if address % 16])


def forget():
    """Find all structures anew."""
    _structures.clear()


def _tensor_of(steps):
    """A tensor on the device on which steps run."""
    return buffers_of(steps[0])[0].data


def _shape(steps):
    """Steps but for addresses and times: equal where all that follows from which maps are the same, and from their
    shapes and types, is."""
    storages: dict[int, int] = {}
    maps: dict[int, tuple[int, int]] = {}

    def of(buffer: Buffer):
        data, time = buffer.data, buffer.shift - buffer.origin
        storage = storages.setdefault(data.untyped_storage().data_ptr(), len(storages))
        number, begin = maps.setdefault(data.data_ptr(), (len(maps), time))
        first = None
        if buffer.first is not None:
            first = maps.setdefault(buffer.first.data_ptr(), (len(maps), 0))[0], buffer.first.is_contiguous()
        lead = 1 if buffer.timed else 0
        return (
            storage, number, time - begin if buffer.timed else None, first, buffer.channel, buffer.width,
            buffer.per_row, data.shape[lead:], data.dtype, data.is_contiguous(),
        )  # fmt: skip

    words: list[Any] = [_tensor_of(steps).device]
    for step in steps:
        if isinstance(step, StageCall):
            words.append(id(step.signature))  # signatures are kept for ever
        elif isinstance(step, Convolution):
            options = tuple(step.stride), tuple(step.dilation), tuple(step.padding), step.skip_first
            words += [tuple(step.weight.shape), options]
        elif isinstance(step, Fill):
            words.append(None if step.row is None else of(Buffer(step.row, per_row=False)))
        else:
            words.append(type(step))
        words += map(of, buffers_of(step))
    return words


def plan_phase(program: TritonProgram, work: Work, across, config: Config) -> PhasePlan:
    """How to launch one phase of a program; ``across``: its stage is that of the next step."""
    return _Planner(program, work, across, config).plan()


class _Planner:
    def __init__(self, program: TritonProgram, work: Work, across, config: Config):
        self.program, self.work, self.across, self.config = program, work, across, config
        self.pointers: list[Buffer] = []
        self.chosen: list[tuple[int, bool]] = []
        self.keys: dict[Any, int] = {}
        self.sums: list[tuple[int, tuple[int, ...]]] = []
        self.numbers: dict[tuple, int] = {}
        for number, buffer in enumerate(work.buffers()):
            self.numbers.setdefault(maps_key(buffer), number)

    def plan(self):
        program, work, config, g, stage = (
            self.program, self.work, self.config, self.program.geometry, self.work.stage
        )  # fmt: skip
        targets, slots = work.targets(), work.slots(g.channels)
        taken: list[int | None] = []
        places: list[Place] = []
        if stage:
            for number, (arg, buffer) in enumerate(zip(stage.signature.args, stage.buffers, strict=True)):
                found = [n for n, (t, p) in enumerate(slots) if is_slot(t, p, buffer, g.channels)]
                if self.across and buffer.timed:
                    found = []
                taken.append(found[0] if found else None)
                places.append(self._sum(number, buffer) if arg.role == "d_param" else self._place(buffer))
        accumulators = [self._accumulator(target, slot, taken, n) for n, (target, slot) in enumerate(slots)]
        groups, products = share_source(work.convolutions, targets), []
        for convolutions in groups:
            one = convolutions[0]
            found = [n for c in convolutions for n, (t, _) in enumerate(slots) if maps_key(t) == maps_key(c.target)]
            kernel = tuple(one.weight.shape[2:])
            source = self._pointer(one.source, True)
            products.append(
                Product(source, tuple(found), kernel, tuple(one.stride), tuple(one.dilation), tuple(one.padding))
            )
        phase = Phase(
            g.axes, tuple(b.timed for b in self.pointers), tuple(accumulators), tuple(products),
            stage and stage.signature, tuple(places), tuple(taken), program.lengths is not None,
            config.parts,
        )  # fmt: skip
        bound = [self._product(convolutions) for convolutions in groups]
        return PhasePlan(
            phase, kernel_of(g.schedule.fingerprint, phase), config, self.chosen, self.sums, bound,
            self._constants(phase, bound), {"num_warps": config.warps, "num_stages": config.stages},
            -(-program.pixels // config.block_m) * -(-g.channels // config.block_c),
            (program.pixels, program.images, *g.size),
        )  # fmt: skip

    def _product(self, convolutions):
        one = convolutions[0]
        _, ci, *kernel = one.weight.shape
        size = tuple(one.source.data.shape[-1 - self.program.geometry.axes : -1])
        check_pixels(prod(size), "input's map")
        if len(size) == 2:  # in volumes distances have 64 bits
            distance = one.padding[0] + one.dilation[0] * (kernel[0] - 1)
            check_pixels((size[0] + distance) * size[1], "input's map and the rows that the kernel reaches beyond it")
        block_k = min(self.config.block_k, power(ci))
        numbers = tuple(next(n for n, c in enumerate(self.work.convolutions) if c is one) for one in convolutions)
        return ProductPlan(numbers, prod(kernel) * -(-ci // block_k), one.skip_first, size, ci, block_k)

    def _constants(self, phase, products):
        program, config = self.program, self.config
        values = {"C": program.geometry.channels, "BLOCK_M": config.block_m, "BLOCK_C": config.block_c}
        values |= {f"PITCH_{k}": b.data.shape[-1] for k, b in enumerate(self.pointers)}
        for j, product in enumerate(products):
            values |= {f"CI_{j}": product.channels, f"BLOCK_K_{j}": product.block_k}
        values |= {"PRECISION": "tf32" if program.tf32 else "ieee", "WEIGHT_BY_ROWS": program.tf32}
        values["INTERPRET"] = interpreting()
        return {n: values[n] for n in phase.constants}

    def _pointer(self, buffer: Buffer, convolves):
        """Number of the argument for a buffer; slots of the same maps share it."""
        if not buffer.data.is_contiguous() or (buffer.first is not None and not buffer.first.is_contiguous()):
            raise ValueError("expected dense maps")
        clock = convolves and self.across and (buffer.timed or buffer.first is not None)
        key = (maps_key(buffer), clock)
        if key not in self.keys:
            self._add(key, buffer, self.numbers[maps_key(buffer)], clock)
        return self.keys[key]

    def _add(self, key, buffer, number, clock):
        self.keys[key] = len(self.pointers)
        self.pointers.append(buffer)
        self.chosen.append((number, clock))

    def _place(self, buffer: Buffer, convolves=False):
        slot, rest = divmod(buffer.channel, self.program.geometry.channels)
        if rest:
            raise ValueError(f"expected a slot at a multiple of the channels, got channel {buffer.channel}")
        return Place(self._pointer(buffer, convolves), slot, not buffer.per_row)

    def _sum(self, number, buffer: Buffer):
        """Partial sums of a parameter's gradient: one row per tile of pixels, or one map per image."""
        g, spread = self.program.geometry, buffer.data.dim() == 2
        tiles = -(-self.program.pixels // self.config.block_m)
        shape = (tiles, g.channels) if spread else (self.program.images, *g.size, g.channels)
        self._add(("sum", number), Buffer(buffer.data, width=g.channels), -1 - len(self.sums), False)
        self.sums.append((number, shape))
        return Place(len(self.pointers) - 1, 0, spread)

    def _accumulator(self, target, slot, taken, n):
        c, stage = self.program.geometry.channels, self.work.stage
        place = self._place(replace(target, channel=target.channel + slot * c), True)
        fills = [f for f in self.work.fills if maps_key(f.target) == maps_key(target)]
        start: Place | None = place
        if fills:
            row = fills[-1].row
            start = None if row is None else self._place(Buffer(row, channel=slot * c, width=c, per_row=False))
        args = (
            [a for a, t in zip(stage.signature.args, taken, strict=True) if t == n and a.mode == "load"]
            if stage
            else []
        )
        return Accumulator(place, start, self.program.written_back(self.work, target, slot, args[0] if args else None))
