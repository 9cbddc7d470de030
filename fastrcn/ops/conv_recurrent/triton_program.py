"""The time loop with Triton kernels: one launch for each phase of each step.

A phase is a run of fills and convolutions with the stage that follows them; its kernel is emitted from the
equations (see ``fastrcn.compiler.emit_triton``). Backward lists start with a stage and end with the convolutions whose
result the *next* time step's first stage reads; those two are one phase as well, across the end of the list.
"""

from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch

from fastrcn.compiler.emit_triton import Accumulator, Phase, Place, Product, kernel_of
from fastrcn.compiler.schedule import schedule_of
from fastrcn.ops.conv_recurrent.geometry import Geometry
from fastrcn.ops.conv_recurrent.program import Buffer
from fastrcn.ops.conv_recurrent.subject import Subject
from fastrcn.ops.conv_recurrent.triton_config import Config, choose, inputs_in_loop, joins_directions, power
from fastrcn.ops.conv_recurrent.triton_together import run_both
from fastrcn.ops.conv_recurrent.triton_work import Work, is_slot, maps_key, share_source, split
from fastrcn.ops.triton_support import check_pixels, device_of, interpreting, manner, problem_of


def can_run(subject: Subject, dtype, device):
    """(whether this backend runs the subject, why not or how)."""
    if schedule_of(subject[0]).normalizes:
        return False, "the cell normalises over whole maps, and a program of its kernels sees a tile"
    problem = problem_of(dtype, device)
    if not problem and subject[1] != 2:
        problem = "its kernels walk over the rows of maps (H,W), these are (D,H,W)"
    return (False, problem) if problem else (True, manner("one kernel launch per phase and step"))


def compute_type(dtype):
    """Type in which a call of ``dtype`` is computed: its own; sums are float32 in the kernels."""
    return dtype


class TritonProgram:
    """Takes the place of ``program.Program``: runs a list of steps over time, here with one kernel per phase.

    ``keep``: whether completed pre-activations are needed after the program; else those that only the stage of their
    own phase reads are never written. ``config`` overrides the choice of block sizes. ``persistent``: where a step is
    one phase whose tiles are all resident at once, one launch walks over all steps but the first and the last.
    """

    chunk_pixels = (1 << 15, 1 << 62)

    @staticmethod
    def convolves(dtype) -> bool:
        """Large convolutions of many steps at once are the library's."""
        return False

    @staticmethod
    def convolves_inputs(geometry: Geometry, dtype) -> bool:
        """Whether the step's kernel convolves the inputs too: where its own tiles fill the processors twice. Else one
        large convolution before the loop fills them better."""
        return inputs_in_loop(geometry.pixels, geometry.channels)

    @staticmethod
    def joins_directions(geometry: Geometry) -> bool:
        """Whether the two directions of a layer share their launches."""
        return joins_directions(geometry.pixels, geometry.channels)

    @staticmethod
    def run_both(requests):
        """Run what two directions ask for (see ``fused.Request``) with one launch for both."""
        (one, other) = requests
        if one.program.works and one.count:
            run_both(*(r.program.loop_of(r) for r in (one, other)))

    def loop_of(self, request):
        """What a request launches."""
        loop = self.loop_backward if request.backward else self.loop
        return loop(request.start, request.count, request.has_first)

    def __init__(
        self, geometry: Geometry, steps, dtype, images, lengths, packed, keep=True, config=None, persistent=False
    ):
        self.geometry, self.dtype, self.images, self.lengths, self.packed = geometry, dtype, images, lengths, packed
        self.keep, self.config, self.persistent = keep, config, persistent
        self.tf32 = dtype == torch.float32 and torch.backends.cudnn.allow_tf32
        self.pixels = images * geometry.map_pixels
        check_pixels(self.pixels, "input at one step")
        self.works = split(steps) if images else []
        self.launches: list[_Launch] | None = None
        self.rotated: tuple[list[_Launch], _Launch] | None = None

    def run(self, start, count, at_start):
        """Run the steps at ``count`` times from ``start`` on, in the recurrence's direction."""
        if self.works and count:
            self._over(self.loop(start, count, at_start), start, start, self.geometry.direction)

    def loop(self, start, count, at_start):
        """What ``run`` launches, in order."""
        if self.launches is None:
            self.launches = [_Launch(self, work) for work in self.works]
        direction, launches = self.geometry.direction, self.launches

        def step(n):
            time, first = start + n * direction, at_start and n == 0
            return [(launch, (time, time, first, first)) for launch in launches]

        return Loop(launches, count, step)

    def _over(self, loop, convolution_start, start, direction):
        """Take the steps of a loop. The starts are the times of the first one's convolutions and stage."""
        launches, count, head = loop.launches, loop.count, loop.launches[0]
        with device_of(head.pointers[0][0].data):
            n, turns = 0, count - 2
            while n < count:
                if n == 1 and self.persistent and len(launches) == 1 and turns > 1 and head.resident():
                    head.walk(convolution_start + direction, start + direction, turns, direction)
                    n += turns
                for launch, times in loop.step(n):
                    launch(*times)
                n += 1
        for launch in launches:
            launch.add_parameter_sums()

    def joined(self):
        """The launches of a backward step whose first phase begins with the convolutions that end the list, as (the
        launches, the one for these convolutions alone); None where the list cannot be turned so."""
        if self.rotated is None:
            (head, *middle), tail = self.works, self.works[-1]
            stage = head.stage
            if stage is None or head.convolutions or head.fills or tail.stage:
                return None
            if not tail.takes_stage(stage, self.geometry.direction):
                return None
            across = _Launch(self, replace(tail, stage=stage), across=True)
            self.rotated = [across, *(_Launch(self, work) for work in middle[:-1])], _Launch(self, tail)
        return self.rotated

    def run_backward(self, start, count, last_is_first):
        """Run against the recurrence's direction; ``last_is_first``: the last of these is the sequence's first step."""
        if self.works and count:
            direction = -self.geometry.direction
            self._over(self.loop_backward(start, count, last_is_first), start - direction, start, direction)

    def loop_backward(self, start, count, last_is_first):
        """What ``run_backward`` launches, in order."""
        direction = -self.geometry.direction
        joined = self.joined()

        def step(n):
            time, first = start + n * direction, last_is_first and n == count - 1
            calls = [(launch, (time, time, first, first)) for launch in launches]
            if joined:
                # At the first of these times nothing waits to be convolved.
                calls[0] = launches[0], (time - direction if n else None, time, False, first)
                if n == count - 1:
                    calls.append((joined[1], (time, time, first, first)))
            return calls

        launches = joined[0] if joined else [_Launch(self, work) for work in self.works]
        return Loop(launches, count, step)

    def written_back(self, work: Work, target: Buffer, slot, arg):
        """Whether memory needs a slot that ``work`` completes; ``arg``: the stage's argument that loads it, or None."""
        stage = work.stage
        if stage:
            for a, b in zip(stage.signature.args, stage.buffers, strict=True):
                if a.mode != "load" and a.role != "d_param" and is_slot(target, slot, b, self.geometry.channels):
                    return False
        if arg is None or (arg.role == "slot" and self.keep):
            return True
        others = [w for w in self.works if w.convolutions is not work.convolutions]
        for other in others:
            readers = [*other.targets(), *(c.source for c in other.convolutions)]
            if other.stage and other.stage is not work.stage:
                readers += [b for b in other.stage.buffers if is_slot(target, slot, b, self.geometry.channels)]
            readers = [b for b in readers if b.data.data_ptr() == target.data.data_ptr()]
            if readers:
                return True
        return arg.role not in ("slot", "d_operand")

    def weight(self, weights, config: Config, block_k, joined):
        """Weights (Co,Ci,kh,kw) packed by block of channels, tap, block of input channels and slot (``joined``: slots
        side by side in one matrix), with zeros where a block is not full; made once per sequence."""
        c = self.geometry.channels
        key = ("triton", tuple(id(w) for w in weights), config.block_c, block_k, joined, self.tf32)
        if key not in self.packed:
            whole = torch.cat([w.dense() for w in weights]) if len(weights) > 1 else weights[0].dense()
            slots, ci, taps = whole.shape[0] // c, whole.shape[1], whole.shape[2] * whole.shape[3]
            blocks, steps = -(-c // config.block_c), -(-ci // block_k)
            padded = whole.new_zeros(slots, blocks * config.block_c, steps * block_k, taps)
            padded[:, :c, :ci] = whole.reshape(slots, c, ci, taps)
            blocked = padded.view(slots, blocks, config.block_c, steps, block_k, taps)
            # tf32 products want the input channels of a weight side by side.
            order = (0, 2, 4) if self.tf32 else (4, 0, 2) if joined else (0, 4, 2)
            ready = blocked.permute(1, 5, 3, *order).contiguous()
            self.packed[key] = (ready, weights)  # the weights too: their ids must stay theirs
        return self.packed[key][0]


class Loop(NamedTuple):
    """``count`` steps; ``step(n)`` gives the launches of the n-th with the times of each. ``launches``: those whose
    stages may sum a parameter's gradient."""

    launches: list[Any]
    count: int
    step: Callable[[int], list[tuple[Any, tuple]]]


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


class _Launch:
    """One phase bound to its buffers: what a call passes to the kernel."""

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
        groups, products = share_source(work.convolutions), []
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
            timed, tuple(accumulators), tuple(products), stage and stage.signature, tuple(places), tuple(taken),
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
            return _Launch(own, work, self.across, config).trial()

        exact = program.dtype == torch.float32 and not program.tf32
        return choose(
            work.tensor, program.dtype, slots, program.geometry.channels, program.pixels, exact,
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
            sizes = (c.weight.shape, c.stride, c.dilation, c.padding, c.source.data.shape[-3:-1])
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
        _, ci, kh, kw = one.weight.shape
        block_k = min(self.config.block_k, power(ci))
        weight = self.program.weight([c.weight for c in convolutions], self.config, block_k, self.phase.joined)
        steps = kh * kw * -(-ci // block_k)
        return _Bound(weight, steps, one.skip_first, tuple(one.source.data.shape[-3:-1]), ci, block_k)

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

    def resident(self):
        """Whether all tiles run at once, so that they may wait for each other."""
        device = self.tensors[0].device
        most = torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1
        return self.tiles <= most

    def walk(self, convolution_time, time, turns, direction):
        """Take ``turns`` steps in one launch, none of them the sequence's first."""
        kernel = kernel_of(self.program.geometry.schedule.fingerprint, replace(self.phase, persistent=True))
        counter = torch.zeros(1, dtype=torch.int32, device=self.tensors[0].device)
        numbers = self._numbers(convolution_time, time, False, ())
        options = {} if self.constants["INTERPRET"] else {"launch_cooperative_grid": True}
        kernel[(self.tiles,)](
            *self.tensors, *numbers, turns, direction, counter, **self.constants, **self.options, **options
        )

    def add_parameter_sums(self):
        """Add the partial sums to the gradients' buffers and start again from zero."""
        for buffer, partial in self.sums:
            rows = buffer.data
            rows[0 if rows.dim() == 2 else ...] += partial.sum(0, dtype=rows.dtype)
            partial.zero_()


Program = TritonProgram
