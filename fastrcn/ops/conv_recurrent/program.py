"""The body of the time loop as a short list of steps, and the two ways to run it.

A step is a fill, a convolution added to its target in place, a normalisation in place, or a stage. The list is made
once per call and run for every step of time: whole in C++ where all of it was compiled, else from Python, each step
compiled where it can be, PyTorch code where not.
"""

from dataclasses import dataclass
from math import prod
from typing import Any

import torch

from fastrcn import native
from fastrcn.compiler.emit_torch import torch_function
from fastrcn.compiler.signature import Signature
from fastrcn.ops.conv_recurrent.convolution import add_convolution, fill, is_product
from fastrcn.ops.conv_recurrent.geometry import Geometry, accumulate_type, of_three_axes, same_padding
from fastrcn.ops.convolution import winograd
from fastrcn.ops.convolution.weight import Weight

DTYPE_NUMBERS = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2}
_NORMALIZED_TYPES = _CONVOLVED_TYPES = (torch.float32, torch.float64)
_FEWEST_LOOP_PIXELS = 64
_MOST_PRODUCT_PIXELS = {True: 256, False: 16}
"""With so many pixels, in one step or over several, a product by the library is done before a weight is packed."""
_CALL_WEIGHTS = 1 << 14
"""Packing so many weights takes about as long as one call of the library."""


@dataclass
class Buffer:
    """Maps (B,H,W,channels) or (B,D,H,W,channels), one per step of time (``timed``, a leading axis) or one for all.

    ``channel``/``width`` choose a slot; ``origin`` is the time of the first map; ``shift`` is added to the time;
    ``first`` takes the place of the map at the sequence's first step. ``per_row=False`` marks a single row of channels
    that all pixels share.
    """

    data: torch.Tensor
    timed: bool = False
    channel: int = 0
    width: int = 0
    origin: int = 0
    shift: int = 0
    first: torch.Tensor | None = None
    per_row: bool = True

    def at(self, time, is_first):
        """The maps that the step sees, as a view (...,width)."""
        if is_first and self.first is not None:
            return self.first
        data = self.data[time + self.shift - self.origin] if self.timed else self.data
        return data[..., self.channel : self.channel + self.width]

    def address(self):
        """(address at time 0, bytes between steps, address at the first step or 0)."""
        size = self.data.element_size()
        step = self.data.stride(0) * size if self.timed else 0
        base = self.data.data_ptr() + self.channel * size + (self.shift - self.origin) * step
        return base, step, 0 if self.first is None else self.first.data_ptr()

    @property
    def pitch(self):
        return self.data.shape[-1] if self.per_row else 0


@dataclass
class Fill:
    """target = row (one value per channel of the target), or zero where there is none."""

    target: Buffer
    row: torch.Tensor | None = None


@dataclass
class Convolution:
    """target += convolution of source with ``weight`` (Co,Ci,kernel ...); by default with ``stride`` and ``dilation`` 1
    and the ``padding`` that keeps the map's size."""

    source: Buffer
    target: Buffer
    weight: Weight
    skip_first: bool = False
    stride: Any = None
    dilation: Any = None
    padding: Any = None

    def __post_init__(self):
        kernel = self.weight.shape[2:]
        self.stride, self.dilation = self.stride or (1,) * len(kernel), self.dilation or (1,) * len(kernel)
        if self.padding is None:
            self.padding = tuple(same_padding(kernel, self.dilation))

    @property
    def is_product(self):
        """Whether it is a product of matrices, which adds to its target as it writes it."""
        return is_product(self.weight.shape[2:], self.stride, self.padding)


@dataclass
class Normalize:
    """Every image of target, all channels: minus its mean, times ``scale``, which becomes 1 / sqrt(variance + eps)."""

    target: Buffer
    scale: Buffer
    eps: float


@dataclass
class NormalizeBackward:
    """target, the gradient of what ``Normalize`` made, becomes that of what it was given; ``normalized``: what it made,
    ``scale``: as it left it."""

    target: Buffer
    normalized: Buffer
    scale: Buffer


@dataclass
class StageCall:
    """One stage with its buffers, in the order of its signature."""

    signature: Signature
    buffers: list[Buffer]


def buffers_of(step) -> list[Buffer]:
    """The maps that a step reads or writes."""
    if isinstance(step, StageCall):
        return step.buffers
    if isinstance(step, Normalize):
        return [step.target, step.scale]
    if isinstance(step, NormalizeBackward):
        return [step.target, step.normalized, step.scale]
    return [step.target] if isinstance(step, Fill) else [step.source, step.target]


def maps_key(buffer: Buffer):
    """What makes two buffers the same maps, but for the slot."""
    first = 0 if buffer.first is None else buffer.first.data_ptr()
    return buffer.data.data_ptr(), buffer.timed, buffer.shift - buffer.origin if buffer.timed else 0, first


def overlap(written: Buffer, read: Buffer, lag=0):
    """Whether a write at one time touches what is read at a time ``lag`` later; when in doubt it does."""
    if written.data.untyped_storage().data_ptr() != read.data.untyped_storage().data_ptr():
        return False
    if written.timed and read.timed and written.data.data_ptr() == read.data.data_ptr():
        return written.shift - written.origin == read.shift - read.origin + lag
    return True


def has_compiled_stages(geometry: Geometry, dtype) -> bool:
    """Whether every stage of the cell was compiled for this data type and processor."""
    return dtype in DTYPE_NUMBERS and native.has_cell(geometry.schedule, DTYPE_NUMBERS[dtype])


class Program:
    """Runs a list of steps over time. ``images`` maps of the geometry's size pass through each step; ``packed``
    holds weights in the kernel's layout, for other programs of the same sequence too. Without ``keep`` nobody reads the
    completed pre-activations afterwards; here they are written all the same."""

    chunk_pixels = (4096, 16384)
    """Fewest and most pixels of a span of time whose inputs are convolved, or whose gradients are taken, at once."""
    fewest_chunks = 8, 8
    """Of a sequence that has the pixels, where all pre-activations are kept, and where only one chunk's are: a backward
    pass has the gradients of one chunk's."""
    runs_whole = False
    """Whether all steps run as one where all pre-activations are kept; else a chunk's while its inputs' convolutions
    are in the cache."""

    @staticmethod
    def convolves(dtype) -> bool:
        """Whether this convolves the data type better than the library does."""
        if dtype == torch.bfloat16:
            return native.convolves_bfloat16()
        return native.module() is not None and dtype in _CONVOLVED_TYPES

    @staticmethod
    def convolves_inputs(geometry: Geometry, dtype, device) -> bool:
        """Whether the inputs' convolutions should be among the steps. With few pixels the weights cost more to read
        than to multiply: then many steps at once before the loop are better."""
        return Program.convolves(dtype) and geometry.pixels >= _FEWEST_LOOP_PIXELS

    def __init__(self, geometry: Geometry, steps, dtype, images, lengths, packed: dict, keep=True):
        self.geometry, self.dtype, self.images = geometry, dtype, images
        self.steps, self.lengths, self.packed = steps, lengths, packed
        self.runs: list[Any] = self.make_runs(keep) if images else []

    def make_runs(self, keep):
        """Functions of (start, count, direction, at_start), to be called in this order at every time."""
        stages, others = has_compiled_stages(self.geometry, self.dtype), self.convolves(self.dtype)
        runs, loop = [], None
        for step in self.steps:
            if stages if isinstance(step, StageCall) else others and not self._is_left_out(step):
                if loop is None:
                    loop = self._native()
                    runs.append(loop.run)
                self._add(loop, step)
            else:
                loop = None
                runs.append(each(self._in_python(step)))
        return runs

    def run(self, start, count, at_start):
        """Run the steps at ``count`` times from ``start`` on, in the recurrence's direction."""
        direction = self.geometry.direction
        if len(self.runs) == 1:
            self.runs[0](start, count, direction, at_start)
            return
        for n in range(count):
            for run in self.runs:
                run(start + n * direction, 1, direction, at_start and n == 0)

    def run_backward(self, start, count, last_is_first):
        """Run against the recurrence's direction; ``last_is_first``: the last of these is the sequence's first step."""
        direction = -self.geometry.direction
        steps = [(start, count, False)]
        if last_is_first:
            steps = [(start, count - 1, False), (start + (count - 1) * direction, 1, True)]
        for begin, number, first in steps:
            if len(self.runs) == 1:
                self.runs[0](begin, number, direction, first)
                continue
            for n in range(number):
                for run in self.runs:
                    run(begin + n * direction, 1, direction, first)

    def _native(self):
        g = self.geometry
        lengths = 0 if self.lengths is None else self.lengths.data_ptr()
        return native.module().Program(
            native.isa(), DTYPE_NUMBERS[self.dtype], g.channels, (self.images, g.map_pixels, g.size[-1]), lengths,
            torch.get_num_threads(),
        )  # fmt: skip

    def _by_winograd(self, step: Convolution):
        """Whether a convolution of the loop is computed with fewer multiplications."""
        weight, size = step.weight, step.target.data.shape[-1 - self.geometry.axes : -1]
        shape = *weight.shape[:2], *weight.kernel
        stride, dilation = of_three_axes(step.stride), of_three_axes(step.dilation)
        return winograd.pays(self.dtype, shape, self.images, of_three_axes(size), stride, dilation)

    def _add(self, loop, step):
        if isinstance(step, Fill):
            row = step.target.data.new_zeros(step.target.width) if step.row is None else step.row.contiguous()
            self.packed[id(row)] = row, row
            loop.add_fill(step.target.address(), row.data_ptr(), row.nbytes)
        elif isinstance(step, Convolution) and self._by_winograd(step):
            self._add_winograd(loop, step)
        elif isinstance(step, Convolution):
            self._add_convolution(loop, step)
        elif isinstance(step, Normalize):
            loop.add_normalize(step.target.address(), step.scale.address(), step.target.width, step.eps)
        elif isinstance(step, NormalizeBackward):
            buffers = step.target, step.normalized, step.scale
            loop.add_normalize_backward(*(b.address() for b in buffers), step.target.width)
        else:
            sig = step.signature
            maps = [b.data for a, b in zip(sig.args, step.buffers, strict=True) if a.role == "d_param"]
            sizes = [m.shape[-1] if m.dim() == 2 else m.numel() for m in maps]
            loop.add_stage(
                self.geometry.schedule.fingerprint, sig.stage, sig.backward,
                [b.address() for b in step.buffers], [b.pitch for b in step.buffers],
                [b.data.element_size() for b in step.buffers], sizes,
            )  # fmt: skip

    def _is_left_out(self, step):
        """Whether a step is not compiled, or a product with a weight that the sequence's few pixels do not pay for
        packing."""
        if isinstance(step, Normalize | NormalizeBackward):
            return self.dtype not in _NORMALIZED_TYPES
        if not isinstance(step, Convolution) or not step.is_product:
            return False
        steps, one = self.geometry.steps, self.geometry.steps == 1
        few = steps * self.geometry.pixels <= _MOST_PRODUCT_PIXELS[one]
        return few and (one or step.weight.data.numel() > steps * _CALL_WEIGHTS)

    def _add_convolution(self, loop, step: Convolution):
        c_out, c_in, *kernel = step.weight.shape
        size = slice(-1 - len(kernel), -1)
        source, target = step.source.data.shape[size], step.target.data.shape[size]
        if step.is_product:
            # Rows of the map do not matter here; without them there are fewer, longer runs of pixels.
            source = target = (self.images * prod(target),)
        if id(step.weight) not in self.packed:
            block = native.module().block_outputs(native.isa(), DTYPE_NUMBERS[self.dtype])
            # The weight too: its id must stay its own.
            together = 2 if self.dtype == torch.bfloat16 else 1
            self.packed[id(step.weight)] = step.weight.packed(block, together), step.weight
        weight, _ = self.packed[id(step.weight)]
        loop.add_convolution(
            step.source.address(), step.target.address(), weight.data_ptr(), (c_in, c_out),
            *map(of_three_axes, (source, target, kernel, step.stride, step.dilation)), of_three_axes(step.padding, 0),
            step.skip_first,
        )  # fmt: skip

    def _add_winograd(self, loop, step: Convolution):
        key, size = ("points", id(step.weight)), step.source.data.shape[-1 - self.geometry.axes : -1]
        points, _ = self.packed.get(key, (None, None))
        call, points = winograd.prepared(
            self.images, of_three_axes(size), step.weight, of_three_axes(step.padding, 0), points
        )
        # The weight too: its id must stay its own. One memory serves all steps that need as much: they work in turn.
        self.packed[key] = points, step.weight
        needed = "room", call.room(False)
        if needed not in self.packed:
            self.packed[needed] = winograd.room(call), None
        room, _ = self.packed[needed]
        loop.add_winograd(step.source.address(), step.target.address(), call, step.skip_first, room.data_ptr())

    def _in_python(self, step):
        if isinstance(step, Fill):
            return _fill(step)
        if isinstance(step, Convolution):
            return _convolve(step)
        if isinstance(step, Normalize):
            return _normalize(step)
        if isinstance(step, NormalizeBackward):
            return _normalize_backward(step)
        return self._torch_stage(step)

    def _torch_stage(self, step: StageCall):
        sig, wide = step.signature, accumulate_type(self.dtype)
        # Not the program itself, which holds what it runs: its memory is free as soon as nobody has it.
        function, geometry, lengths = torch_function(sig.code), self.geometry, self.lengths

        def run(time, first):
            maps = {a.name: b.at(time, first) for a, b in zip(sig.args, step.buffers, strict=True)}
            values = {a.name: maps[a.name].to(wide) for a in sig.args if a.mode == "load"}
            for source, _, *more in sig.carries:
                for other in more:
                    values[source] = values[source] + values[other]
            outputs = [s.name for s, _ in sig.code.outputs]
            results = dict(zip(outputs, function(*(values[s.name] for s in sig.code.reads)), strict=True))
            ended = None
            if lengths is not None and sig.carries:
                ended = (time >= lengths).view(-1, *(1,) * (geometry.axes + 1))
            for arg, buffer in zip(sig.args, step.buffers, strict=True):
                if arg.mode == "load":
                    continue
                value = results.get(arg.name, 0.0)
                target = maps[arg.name]
                if not isinstance(value, torch.Tensor):
                    value = torch.full((), float(value), dtype=wide, device=target.device)
                if arg.role == "d_param":
                    value = value.expand(geometry.map).double()
                    value = value if ended is None else value.masked_fill(ended, 0.0)
                    rows = buffer.data
                    of_all = rows.dim() == 2
                    rows[0 if of_all else ...] += value.sum(tuple(range(value.dim() - 1)) if of_all else 0)
                    continue
                if arg.mode == "accumulate":
                    value = target + value
                elif ended is not None:
                    carried = {to: values[source] for source, to, *_ in sig.carries}
                    value = torch.where(ended, carried.get(arg.name, torch.zeros((), dtype=wide)), value)
                results[arg.name] = value
            for arg in sig.args:
                if arg.mode != "load" and arg.role != "d_param":
                    maps[arg.name].copy_(results[arg.name])

        return run


def each(step):
    """A function of one step of time as a run over several."""

    def run(start, count, direction, at_start):
        for n in range(count):
            step(start + n * direction, at_start and n == 0)

    return run


def _fill(step: Fill):
    def run(time, first):
        fill(step.target.at(time, first), step.row)

    return run


def _convolve(step: Convolution):
    def run(time, first):
        if first and step.skip_first:
            return
        target = step.target.at(time, first)
        source = step.source.at(time, first)
        add_convolution(target, source, step.weight.dense(), step.padding, step.stride, step.dilation)

    return run


def _normalize(step: Normalize):
    def run(time, first):
        target, scale = step.target.at(time, first), step.scale.at(time, first)
        rows = target.flatten(1).to(scale.dtype)
        normalized, _, found = torch.native_layer_norm(rows, rows.shape[1:], None, None, step.eps)
        target.copy_(normalized.view(target.shape))
        scale.copy_(found.view(scale.shape))

    return run


def _normalize_backward(step: NormalizeBackward):
    def run(time, first):
        target, scale = step.target.at(time, first), step.scale.at(time, first)
        grad = target.flatten(1).to(scale.dtype)
        normalized = step.normalized.at(time, first).flatten(1).to(scale.dtype)
        along = (grad * normalized).mean(1, keepdim=True)
        found = scale.flatten(1) * (grad - grad.mean(1, keepdim=True) - along * normalized)
        target.copy_(found.view(target.shape))

    return run
