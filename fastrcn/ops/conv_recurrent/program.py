"""The body of the time loop as a short list of steps, and the two ways to run it.

A step is either a recurrent convolution, added to its target in place, or a stage. The list is made once per call and
run for every step of time: whole in C++ where the extension and PyTorch's C interface allow, else from Python,
each stage compiled where it can be and emitted PyTorch code where not.
"""

from dataclasses import dataclass

import torch

from fastrcn import native
from fastrcn.compiler.emit_torch import torch_function
from fastrcn.compiler.signature import Signature
from fastrcn.ops.conv_recurrent.convolution import has_adding_convolution
from fastrcn.ops.conv_recurrent.geometry import Geometry, accumulate_type, same_padding

DTYPE_NUMBERS = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2}


@dataclass
class Buffer:
    """Maps (B,H,W,channels), one per step of time (``timed``, a leading axis) or one for all.

    ``channel``/``width`` choose a slot; ``origin`` is the time of the first map; ``shift`` is added to the time;
    ``first`` (B,H,W,C) takes the place of the map at the sequence's first step. ``per_row=False`` marks a single row of
    channels that all pixels share.
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
        """The maps that the step sees, as a view (B,H,W,width)."""
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
class Convolution:
    """target += padded convolution of source with ``weight`` (Co,Ci,kh,kw); ``overwrite``: target = ... instead.

    ``stride`` and ``dilation`` other than 1 occur only for the cell's inputs."""

    source: Buffer
    target: Buffer
    weight: torch.Tensor
    skip_first: bool = False
    overwrite: bool = False
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)


@dataclass
class Fill:
    """target = row (width of the target), or zero where there is none."""

    target: Buffer
    row: torch.Tensor | None = None


@dataclass
class StageCall:
    """One stage with its buffers, in the order of its signature."""

    signature: Signature
    buffers: list[Buffer]


def use_compiled_stages(geometry: Geometry, dtype) -> bool:
    """Whether every stage of the cell was compiled for this data type and processor."""
    return dtype in DTYPE_NUMBERS and native.has_cell(geometry.schedule, DTYPE_NUMBERS[dtype])


def use_native_loop(geometry: Geometry, dtype) -> bool:
    """Whether the whole loop can run in C++: compiled stages, and a library convolution that adds in place."""
    return has_adding_convolution(dtype) and use_compiled_stages(geometry, dtype) and native.has_aten()


class Program:
    """Runs a list of steps over time. ``images`` maps of the geometry's size pass through each step; ``packed``
    holds weights in the loop's layout, for other programs of the same sequence too."""

    def __init__(self, geometry: Geometry, steps, dtype, images, lengths, packed: dict):
        self.geometry, self.dtype, self.images = geometry, dtype, images
        self.steps, self.lengths, self.packed = steps, lengths, packed
        compiled = use_compiled_stages(geometry, dtype)
        self.runs = []
        if images == 0:
            return
        if use_native_loop(geometry, dtype):
            loop = self._native()
            for step in steps:
                self._add(loop, step)
            self.runs.append(loop.run)
            return
        for step in steps:
            if isinstance(step, Convolution):
                self.runs.append(_each(_convolve(step)))
            elif compiled:
                loop = self._native()
                self._add(loop, step)
                self.runs.append(loop.run)
            else:
                self.runs.append(_each(self._torch_stage(step)))

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
            DTYPE_NUMBERS[self.dtype], g.channels, self.images, g.height * g.width, lengths, torch.get_num_threads()
        )

    def _add(self, loop, step):
        g = self.geometry
        if isinstance(step, Convolution):
            c_out, c_in, kh, kw = step.weight.shape
            padding = same_padding((kh, kw), (1, 1))
            pointwise = kh == kw == 1
            handle = self._packed(step.weight, padding, pointwise)
            loop.add_convolution(
                step.source.address(), step.target.address(), handle.capsule, (self.images, g.height, g.width),
                (c_in, c_out), tuple(padding), pointwise, step.skip_first, step.overwrite,
            )  # fmt: skip
            return
        sig = step.signature
        maps = [b.data for a, b in zip(sig.args, step.buffers, strict=True) if a.role == "d_param"]
        sizes = [m.shape[-1] if m.dim() == 2 else m.numel() for m in maps]
        loop.add_stage(
            native.isa(), g.schedule.fingerprint, sig.stage, sig.backward,
            [b.address() for b in step.buffers], [b.pitch for b in step.buffers], sizes,
        )  # fmt: skip

    def _packed(self, weight, padding, pointwise):
        """A handle of the weight as the loop wants it, made once per sequence."""
        if id(weight) not in self.packed:
            if pointwise:
                ready = weight.view(weight.shape[:2]).t()
            else:
                g = self.geometry
                size = [self.images, weight.shape[1], g.height, g.width]
                one = [1, 1]
                ready = torch.ops.mkldnn._reorder_convolution_weight(weight, padding, one, one, 1, size)
            self.packed[id(weight)] = (native.TensorHandle(ready), ready, weight)
        return self.packed[id(weight)][0]

    def _torch_stage(self, step: StageCall):
        sig, wide = step.signature, accumulate_type(self.dtype)
        function = torch_function(sig.code)

        def run(time, first):
            maps = {a.name: b.at(time, first) for a, b in zip(sig.args, step.buffers, strict=True)}
            values = {a.name: maps[a.name].to(wide) for a in sig.args if a.mode == "load"}
            for source, _, *more in sig.carries:
                for other in more:
                    values[source] = values[source] + values[other]
            outputs = [s.name for s, _ in sig.code.outputs]
            results = dict(zip(outputs, function(*(values[s.name] for s in sig.code.reads)), strict=True))
            ended = None
            if self.lengths is not None and sig.carries:
                ended = (time >= self.lengths).view(-1, 1, 1, 1)
            for arg, buffer in zip(sig.args, step.buffers, strict=True):
                if arg.mode == "load":
                    continue
                value = results.get(arg.name, 0.0)
                target = maps[arg.name]
                if not isinstance(value, torch.Tensor):
                    value = torch.full((), float(value), dtype=wide, device=target.device)
                if arg.role == "d_param":
                    value = value.expand(self.geometry.map).double()
                    value = value if ended is None else value.masked_fill(ended, 0.0)
                    rows = buffer.data
                    rows[0 if rows.dim() == 2 else ...] += value.sum((0, 1, 2) if rows.dim() == 2 else 0)
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


def _each(step):
    """A function of one step of time as a run over several."""

    def run(start, count, direction, at_start):
        for n in range(count):
            step(start + n * direction, at_start and n == 0)

    return run


def _convolve(step: Convolution):
    padding = same_padding(step.weight.shape[2:], (1, 1))

    def run(time, first):
        if first and step.skip_first:
            return
        source = step.source.at(time, first).permute(0, 3, 1, 2)
        result = torch.nn.functional.conv2d(source, step.weight, None, padding=padding)
        target, result = step.target.at(time, first), result.permute(0, 2, 3, 1)
        target.copy_(result) if step.overwrite else target.add_(result)

    return run
