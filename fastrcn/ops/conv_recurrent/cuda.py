"""The ``cuda`` backend: one compiled CUDA kernel per stage, without Triton. The convolution whose result a stage takes
is in the same kernel, or the library's; where they are all of a step, one kernel may take many steps of time (see
``cuda_method``).

After the library's, a stage's kernel loads what the convolution adds to its pre-activations (backward: to the gradients
it begins with) together with these, so that no pass over memory only adds, and writes the sum back where somebody reads
it again.

Normalisations are kernels too, one or two launches each, which take a convolution's result as it comes.

The time loop is C++, which calls the library through PyTorch's C interface. It is Python, and all convolutions are the
library's, where a PyTorch has not all of that interface, and for cells whose stages were not compiled: of these stages
and normalisations are PyTorch code.
"""

from contextlib import contextmanager
from functools import cache
from math import ceil, prod
from typing import Any

import torch

from fastrcn import native
from fastrcn.compiler.schedule import Schedule, schedule_of
from fastrcn.compiler.signature import backward_signatures, forward_signatures
from fastrcn.ops.conv_recurrent import program
from fastrcn.ops.conv_recurrent.convolution import add_convolution, convolution
from fastrcn.ops.conv_recurrent.cuda_addends import Addend, find_addends
from fastrcn.ops.conv_recurrent.cuda_method import FEWEST_PIXELS, fewest_persistent, fused_stages
from fastrcn.ops.conv_recurrent.geometry import Geometry, accumulate_type, of_three_axes
from fastrcn.ops.conv_recurrent.layout import maps_first, maps_last
from fastrcn.ops.conv_recurrent.program import (
    Buffer,
    Convolution,
    Fill,
    Normalize,
    NormalizeBackward,
    StageCall,
    buffers_of,
)
from fastrcn.ops.conv_recurrent.subject import Subject
from fastrcn.ops.tf32 import as_tf32

_PARTS = 512
"""Blocks of threads, at most, of a stage's own kernel that share out the pixels which a parameter's gradient is summed
over."""


def can_run(subject: Subject, dtype, device):
    """(whether this backend runs the subject, why not or how)."""
    problem = native.cuda_problem("cuda_stage", dtype, device)
    if problem:
        return False, problem
    schedule = schedule_of(subject[0])
    if has_kernels(schedule):
        norms = ", one or two per normalisation" if schedule.normalizes else ""
        problem = _torch_library(device)[1]
        if problem:
            return True, f"the library's convolutions, one CUDA kernel per stage{norms}, time loop in Python: {problem}"
        return True, f"one CUDA kernel per stage{norms}, convolutions in it or the library's, time loop in C++"
    return True, (
        "the library's convolutions; stages as generated PyTorch code: this cell was not compiled into the extension;"
        ' fastrcn.compile_cell(..., backend="cuda") compiles it (triton compiles cells when they run)'
    )


def compute_type(dtype, channels):
    """Type in which a call of ``dtype`` is computed: its own; the kernels' sums are float32, or float64."""
    return dtype


def _kernels():
    """What has the compiled stages; tests put in its place what runs them on the host."""
    return native.module()


@cache
def _torch_library(device) -> tuple[Any, str]:
    """(PyTorch's C interface for tensors on a type of device, "") or (None, why there is none)."""
    try:
        return native.module().TorchLibrary(torch._C.__file__, device), ""
    except RuntimeError as error:
        return None, str(error)


@contextmanager
def _current_stream(device):
    """Makes a device the current one, and gives its current stream."""
    with torch.cuda.device(device):
        yield torch.cuda.current_stream(device).cuda_stream


def has_kernels(schedule: Schedule) -> bool:
    """Whether every stage of a cell was compiled, from the same equations."""
    signatures = (*forward_signatures(schedule), *backward_signatures(schedule))
    return all(_kernels().cuda_stage(schedule.fingerprint, s.stage, s.backward) >= 0 for s in signatures)


class Program(program.Program):
    """Runs a list of steps over time on CUDA tensors. Everything is started on the current stream and nothing waited
    for, so that a CUDA graph can hold it."""

    # As the triton backend's.
    chunk_pixels, fewest_chunks, runs_whole = (1 << 17, 1 << 62), (4, 8), True

    @staticmethod
    def convolves(dtype) -> bool:
        """All convolutions are the library's."""
        return False

    @staticmethod
    def convolves_inputs(geometry: Geometry, dtype, device) -> bool:
        """The library convolves many steps at once faster than one."""
        return False

    def make_runs(self, keep):
        self.current, self.device = [0], buffers_of(self.steps[0])[0].data.device
        self.sums: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.compiled = has_kernels(self.geometry.schedule)
        self.addends: dict[int, Addend] = {}
        self.fused: dict[int, StageCall] = {}
        if self.compiled:
            self._share_out(keep)
        # Rows of sums for a parameter's gradient: one for each block of threads.
        tiles = ceil(self.images * self.geometry.map_pixels / FEWEST_PIXELS)
        self.parts = max(_PARTS, tiles) if self.fused else _PARTS
        self.loop: Any = self._make_loop() if all(map(self._is_native, self.steps)) else None
        if self.loop is None:
            return [program.each(self._in_python(step)) for step in self.steps]
        # Not a method, which would hold the program: its memory is free as soon as nobody has it.
        loop, stream = self.loop, self.current
        return [lambda start, count, direction, at_start: loop.run(start, count, direction, at_start, stream[0])]

    def run(self, start, count, at_start):
        if not self.runs:
            return
        with _current_stream(self.device) as self.current[0]:
            super().run(start, count, at_start)
            self._settle()

    def run_backward(self, start, count, last_is_first):
        if not self.runs:
            return
        with _current_stream(self.device) as self.current[0]:
            super().run_backward(start, count, last_is_first)
            self._settle()

    def _settle(self):
        """Complete what no later time will, and add up the parts of parameters' gradients."""
        if self.loop is not None:
            self.loop.settle()
        for addend in self.addends.values():
            if addend.result is not None:
                addend.target.at(0, False).add_(addend.result)
                addend.result = None
        for target, partial in self.sums:
            target.add_(partial.sum(0))
            partial.zero_()

    def _share_out(self, keep):
        """Find which steps' results others take, and which are one kernel with a stage. The library's product adds to
        its target as it writes it: what it gives is an addend in such a kernel only."""
        library, _ = _torch_library(self.device.type)
        products = {id(step) for step in self.steps if isinstance(step, Convolution) and step.is_product}
        adding, given = set() if library else products, self.steps
        while True:
            self.addends, self.steps = find_addends(given, self.geometry.channels, keep, adding)
            if library:
                self.fused = fused_stages(self.steps, self.addends, self.geometry, self.images, self.dtype)
            apart = {n for n in products & self.addends.keys() if id(self.addends[n]) not in self.fused}
            if not apart:
                return
            adding = adding | apart

    def _is_native(self, step):
        """Whether the loop in C++ has a step."""
        if isinstance(step, Convolution):
            return step.is_product or id(step) in self.addends
        return isinstance(step, Fill) or (self.compiled and isinstance(step, StageCall | Normalize | NormalizeBackward))

    def _make_loop(self):
        """The steps as a program in C++; None where this PyTorch lacks what it needs."""
        library, _ = _torch_library(self.device.type)
        if library is None:
            return None
        addends, fused = {id(a): a for a in self.addends.values()}, self.fused
        fewest = fewest_persistent(self.steps, self.addends, fused, self.geometry, self.images, self.dtype)
        loop = _kernels().CudaProgram(
            library, native.CUDA_TYPE_NUMBERS[self.dtype], self.device.index or 0, self._sizes(),
            native.address(self.lengths), self.parts, fewest,
        )  # fmt: skip
        steps: dict[int, list[Convolution]] = {}
        for step in self.steps:
            if id(step) in self.addends:
                steps.setdefault(id(self.addends[id(step)]), []).append(step)
        numbers = {
            key: loop.add_addend(self._maps(a.target), a.alone, self._fused(steps[key]) if key in fused else None)
            for key, a in addends.items()
        }
        for step in self.steps:
            if isinstance(step, Fill):
                self._add_fill(loop, step)
            elif isinstance(step, StageCall):
                taken = [
                    (numbers[id(a)], t.argument, t.channel, t.written, n)
                    for a, t, n in self._taken(step)
                    if fused.get(id(a), step) is step
                ]
                taken += [
                    (numbers[key], -1, t.channel, True, False)
                    for key, stage in fused.items()
                    for t in addends[key].takers
                    if stage is step and t.stage is not step
                ]
                loop.add_stage(*self._launch(step), taken)
            elif isinstance(step, Normalize):
                target, scale = self._images(step)
                taken = [numbers[key] for key, a in addends.items() if a.norm is step]
                loop.add_normalize(target, scale, step.eps, *(taken or [None]))
            elif isinstance(step, NormalizeBackward):
                target, scale = self._images(step)
                loop.add_normalize_backward(target, step.normalized.address(), scale)
            elif id(step) not in self.addends:
                source, target = self._maps(step.source, as_rows=True), self._maps(step.target, as_rows=True)
                loop.add_product(source, target, *_place(self._matrix(step)), step.skip_first)
            else:
                window, addend = (step.stride, step.padding, step.dilation), numbers[id(self.addends[id(step)])]
                loop.add_convolution(
                    self._maps(step.source), *_place(self._weight(step)), window, addend, step.skip_first
                )
        return loop

    def _fused(self, steps: list[Convolution]):
        """Convolutions as a kernel with a stage has them, without the sources' addresses, which change; their
        weights."""
        one, sources = steps[0], [(0, step.source.pitch, step.weight.shape[1]) for step in steps]
        axes = (self.geometry.size, one.weight.shape[2:], one.padding, one.dilation)
        missing = (1, 1, 0, 1)
        numbers = (of_three_axes(axis, n) for axis, n in zip(axes, missing, strict=True))
        return (sources, *numbers), self._fused_weight(steps).data_ptr(), one.target.pitch

    def _maps(self, buffer: Buffer, as_rows=False):
        """Maps as the loop has them, channels first or as rows of channels (P,C): addresses and layout."""
        data = self._typed(buffer.data)
        if not data.is_contiguous():
            raise ValueError(f"buffer: expected dense maps, got strides {data.stride()}")
        if buffer.first is not None and not (buffer.first.is_contiguous() and buffer.width == data.shape[-1]):
            raise ValueError(f"buffer: expected other maps like those at time 0, got strides {buffer.first.stride()}")
        shape, strides = (v[1:] if buffer.timed else v for v in (tuple(data.shape), data.stride()))
        (images, *size, _), (of_image, *of_size, _) = shape, strides
        if as_rows:
            layout = (images * prod(size), buffer.width), (data.shape[-1], 1)
        else:
            layout = (images, buffer.width, *size), (of_image, 1, *of_size)
        return buffer.address(), layout

    def _typed(self, tensor, dtype=None):
        """The tensor, of the type that the loop takes all for, or of another one."""
        if tensor.dtype != (dtype or self.dtype):
            raise TypeError(f"tensor: expected {dtype or self.dtype}, got {tensor.dtype}")
        return tensor

    def _images(self, step: Normalize | NormalizeBackward):
        """What a normalisation changes as ``_maps`` gives it, and the address of the scales."""
        maps = [step.target] if isinstance(step, Normalize) else [step.target, step.normalized]
        for buffer in maps:
            self._maps(buffer)
            if buffer.width != buffer.data.shape[-1]:
                raise ValueError(f"buffer: expected all {buffer.data.shape[-1]} channels, got {buffer.width}")
        self._typed(step.scale.data, accumulate_type(self.dtype))
        return self._maps(step.target), step.scale.address()

    def _add_fill(self, loop, step: Fill):
        target, row = self._maps(step.target), 0
        sizes, strides = target[1][0], [0] * (self.geometry.axes + 2)
        if step.row is not None:
            kept = self._typed(step.row).contiguous()
            # The row too: its id must stay its own.
            self.packed["cuda", id(step.row)] = kept, step.row
            row, strides[1] = kept.data_ptr(), 1
        loop.add_fill(target, row, (sizes, strides))

    def _in_python(self, step):
        """A step of the loop in Python: a function that does not hold the program, as above."""
        if isinstance(step, StageCall) and self.compiled:
            return self._stage(step)
        if isinstance(step, Normalize | NormalizeBackward) and self.compiled:
            return self._normalization(step)
        if isinstance(step, Convolution):
            return self._convolution(step)
        return super()._in_python(step)

    def _weight(self, step: Convolution):
        """The weight as the library wants it beside channels-last maps, made once per sequence."""
        key = ("cuda", id(step.weight))
        if key not in self.packed:
            # The weight too: its id must stay its own.
            last = torch.channels_last if self.geometry.axes == 2 else torch.channels_last_3d
            self.packed[key] = step.weight.dense().contiguous(memory_format=last), step.weight
        return self.packed[key][0]

    def _fused_weight(self, steps: list[Convolution]):
        """The weights as a kernel with a stage wants them: those of an output channel side by side, aligned, and
        rounded where the products are TF32's."""
        weights = [self._weight(step) for step in steps]
        if len(steps) == 1 and self.dtype != torch.float32 and weights[0].data_ptr() % 16 == 0:
            return weights[0]
        key = ("cuda fused", *(id(step.weight) for step in steps))
        if key not in self.packed:
            rows = torch.cat([weight.movedim(1, -1).flatten(1) for weight in weights], 1)
            kept = as_tf32(rows) if self.dtype == torch.float32 else rows
            self.packed[key] = kept, [step.weight for step in steps]
        return self.packed[key][0]

    def _matrix(self, step: Convolution):
        """The weight (Ci,Co) of a product, a view."""
        return self._weight(step).view(step.weight.shape[:2]).t()

    def _convolution(self, step: Convolution):
        """A convolution whose result waits for the stages that add it, or is added to its target."""
        weight, addend, axes = self._weight(step), self.addends.get(id(step)), self.geometry.axes

        def run(time, first):
            if first and step.skip_first:
                return
            source = step.source.at(time, first)
            if addend is None:
                add_convolution(step.target.at(time, first), source, weight, step.padding, step.stride, step.dilation)
                return
            found = convolution(maps_first(source, axes), weight, None, step.stride, step.padding, step.dilation)
            found = maps_last(found, axes)
            addend.result = found if addend.result is None else addend.result + found

        return run

    def _sizes(self):
        """Channels of a slot, pixels of a step, pixels of a map."""
        return self.geometry.channels, self.images * self.geometry.map_pixels, self.geometry.map_pixels

    def _taken(self, step: StageCall):
        """What a stage takes: (addend, taker, whether no later stage takes it too)."""
        addends = {id(a): a for a in self.addends.values()}.values()
        return [(a, t, t is a.takers[-1]) for a in addends for t in a.takers if t.stage is step]

    def _launch(self, step: StageCall):
        """What is the same in all launches of a stage: its kernel's number, the addresses and pitches of its buffers,
        which of its sums are maps."""
        sig, addresses, pitch, maps = step.signature, [b.address() for b in step.buffers], [], []
        is_fused = any(stage is step for stage in self.fused.values())
        for k, (arg, buffer) in enumerate(zip(sig.args, step.buffers, strict=True)):
            pitch.append(self.geometry.channels if arg.role == "d_param" else buffer.pitch)
            if arg.role == "d_param":
                maps.append(buffer.data.dim() > 2)
                addresses[k] = (self._sum(buffer.data, maps[-1], is_fused), 0, 0)
        number = _kernels().cuda_stage(self.geometry.schedule.fingerprint, sig.stage, sig.backward)
        return number, addresses, pitch, maps

    def _stage(self, step: StageCall):
        """A launch of the stage's kernel from Python."""
        number, addresses, pitch, maps = self._launch(step)
        taken, kernels, size = self._taken(step), _kernels(), self.dtype.itemsize
        lengths, dtype = native.address(self.lengths), native.CUDA_TYPE_NUMBERS[self.dtype]
        sizes, parts, stream = self._sizes(), self.parts, self.current

        def run(time, first):
            data = [f if first and f else base + time * each for base, each, f in addresses]
            addends = []
            for addend, taker, _ in taken:
                if addend.result is not None:
                    at = addend.result.data_ptr() + taker.channel * size
                    addends.append((taker.argument, at, addend.result.shape[-1], addend.alone, taker.written))
            wrong = kernels.launch_cuda_stage(
                number, dtype, data, pitch, addends, *sizes, lengths, time, maps, parts, stream[0]
            )
            if wrong:
                raise RuntimeError(f"fastrcn: a stage's kernel: {wrong}")
            for addend, _, is_last in taken:
                if is_last:
                    addend.result = None

        return run

    def _normalization(self, step: Normalize | NormalizeBackward):
        """A launch of a normalisation's kernels from Python."""
        self._images(step)
        kernels, dtype, wide = _kernels(), native.CUDA_TYPE_NUMBERS[self.dtype], accumulate_type(self.dtype)
        normalized, eps = (step.target, step.eps) if isinstance(step, Normalize) else (step.normalized, 0.0)
        addend, stream = next((a for a in self.addends.values() if a.norm is step), None), self.current

        def run(time, first):
            target, scale = step.target.at(time, first), step.scale.at(time, first)
            source = addend.result if addend else normalized.at(time, first)
            images, values = len(target), target[0].numel()
            slices = kernels.cuda_normalize_slices(images, values, _PARTS)
            sums = torch.empty(images, slices, kernels.cuda_slice_sums, dtype=wide, device=target.device)
            wrong = kernels.launch_cuda_normalize(
                dtype, isinstance(step, NormalizeBackward), target.data_ptr(), native.address(source),
                scale.data_ptr(), images, values, slices, sums.data_ptr(), eps, stream[0],
            )  # fmt: skip
            if wrong:
                raise RuntimeError(f"fastrcn: a normalisation's kernel: {wrong}")
            if addend:
                addend.result = None

        return run

    def _sum(self, data, is_map, is_fused):
        """Address of what a kernel adds a parameter's gradient to: the map, or zeros that are added up later: rows, one
        for each block of threads, or a map for each image, as a fused kernel has them."""
        images = self.images if is_fused else 1
        if is_map and images == 1:
            return data.data_ptr()
        target, count = (data, images) if is_map else (data[0], self.parts)
        partial = torch.zeros(count, *target.shape, dtype=torch.float64, device=data.device)
        self.sums.append((target, partial))
        return partial.data_ptr()


def _layout(tensor):
    """Sizes and strides."""
    return tuple(tensor.shape), tensor.stride()


def _place(tensor):
    """Address and layout."""
    return tensor.data_ptr(), _layout(tensor)
