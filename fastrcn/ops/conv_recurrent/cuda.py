"""The ``cuda`` backend: the library's convolutions and one compiled CUDA kernel per stage, without Triton.

A stage's kernel loads what a convolution adds to its pre-activations (backward: to the gradients it begins with)
together with these, so that no pass over memory only adds, and writes the sum back where somebody reads it again.
"""

from contextlib import contextmanager
from dataclasses import dataclass

import torch

from fastrcn import native
from fastrcn.compiler.schedule import Schedule, schedule_of
from fastrcn.compiler.signature import backward_signatures, forward_signatures
from fastrcn.ops.conv_recurrent import program
from fastrcn.ops.conv_recurrent.convolution import add_convolution, convolution
from fastrcn.ops.conv_recurrent.geometry import Geometry
from fastrcn.ops.conv_recurrent.layout import maps_first, maps_last
from fastrcn.ops.conv_recurrent.program import Buffer, Convolution, Fill, Normalize, NormalizeBackward, StageCall
from fastrcn.ops.conv_recurrent.subject import Subject

_PARTS = 512
"""Blocks of threads, at most, that share out the pixels which a parameter's gradient is summed over."""


def can_run(subject: Subject, dtype, device):
    """(whether this backend runs the subject, why not or how)."""
    problem = native.cuda_problem("cuda_stage", dtype, device)
    if problem:
        return False, problem
    if has_kernels(schedule_of(subject[0])):
        return True, "the library's convolutions, one CUDA kernel per stage"
    other = "" if schedule_of(subject[0]).normalizes else " (triton compiles cells when they run)"
    return True, (
        "the library's convolutions; stages as generated PyTorch code: this cell was not compiled into the extension"
        + other
    )


def compute_type(dtype):
    """Type in which a call of ``dtype`` is computed: its own; the kernels' sums are float32, or float64."""
    return dtype


def _kernels():
    """What has the compiled stages; tests put in its place what runs them on the host."""
    return native.module()


@contextmanager
def _current_stream(device):
    """Makes a device the current one, and gives its current stream."""
    with torch.cuda.device(device):
        yield torch.cuda.current_stream(device).cuda_stream


def has_kernels(schedule: Schedule) -> bool:
    """Whether every stage of a cell was compiled, from the same equations."""
    signatures = (*forward_signatures(schedule), *backward_signatures(schedule))
    return all(_kernels().cuda_stage(schedule.fingerprint, s.stage, s.backward) >= 0 for s in signatures)


def _same_maps(one: Buffer, other: Buffer):
    """Whether two buffers are the same maps at every time, but for the slot."""
    if one.data.data_ptr() != other.data.data_ptr() or one.timed != other.timed:
        return False
    return one.first is other.first and (not one.timed or one.shift - one.origin == other.shift - other.origin)


def _buffers(step) -> list[Buffer]:
    """The maps that a step reads or writes."""
    if isinstance(step, StageCall):
        return step.buffers
    if isinstance(step, Normalize):
        return [step.target, step.scale]
    if isinstance(step, NormalizeBackward):
        return [step.target, step.normalized, step.scale]
    return [step.target] if isinstance(step, Fill) else [step.source, step.target]


def _touching(step, maps: Buffer):
    """The buffers of a step that lie in the maps' memory."""
    here = maps.data.untyped_storage().data_ptr()
    return [b for b in _buffers(step) if b.data.untyped_storage().data_ptr() == here]


@dataclass(frozen=True)
class _Taker:
    """An argument of a stage that takes a convolution's result from ``channel`` on; ``written``: the sum is needed."""

    stage: StageCall
    argument: int
    channel: int
    written: bool


class _Addend:
    """A convolution whose result stages add to its target as they load it. ``alone``: its target begins at zero."""

    def __init__(self, step: Convolution, takers: list[_Taker], alone):
        self.step, self.takers, self.alone = step, takers, alone
        self.result: torch.Tensor | None = None


def _takers(steps, n, channels, keep) -> list[_Taker]:
    """The stages that complete the target of convolution ``n``, one for each slot; none where other steps come before
    them, or no stage loads a slot. After the last step comes the next time's first, where the target is the same."""
    target, found = steps[n].target, []
    missing = set(range(target.channel, target.channel + target.width, channels))
    later = steps[n + 1 :] + ([] if target.timed else steps[:n])
    for place, step in enumerate(later):
        touching = _touching(step, target)
        if not touching:
            continue
        if not isinstance(step, StageCall) or not all(_same_maps(b, target) for b in touching):
            return []
        for k, (arg, buffer) in enumerate(zip(step.signature.args, step.buffers, strict=True)):
            if not (_same_maps(buffer, target) and buffer.channel in missing and step.signature.is_completed(arg)):
                continue
            missing.discard(buffer.channel)
            again = any(_loads(s, target, buffer.channel) for s in later[place + 1 :])
            written = arg.role == "slot" and (keep or again)
            found.append(_Taker(step, k, buffer.channel - target.channel, written))
        if not missing:
            return found
        if any(b.channel in missing for b in touching):
            return []
    return []


def _loads(step, target: Buffer, channel):
    """Whether a stage loads a slot."""
    if not isinstance(step, StageCall):
        return False
    pairs = zip(step.signature.args, step.buffers, strict=True)
    return any(a.mode == "load" and b.channel == channel and _same_maps(b, target) for a, b in pairs)


class Program(program.Program):
    """Runs a list of steps over time on CUDA tensors. Everything is started on the current stream and nothing waited
    for, so that a CUDA graph can hold it."""

    # As the triton backend's: a weight's gradient is one product per chunk, and few pixels make a slow one.
    chunk_pixels = (1 << 15, 1 << 62)

    @staticmethod
    def convolves(dtype) -> bool:
        """All convolutions are the library's."""
        return False

    @staticmethod
    def convolves_inputs(geometry: Geometry, dtype) -> bool:
        """The library convolves many steps at once faster than one."""
        return False

    def make_runs(self, keep):
        self.stream, self.device = 0, _buffers(self.steps[0])[0].data.device
        self.addends: dict[int, _Addend] = {}
        self.sums: list[tuple[Buffer, torch.Tensor]] = []
        compiled = has_kernels(self.geometry.schedule)
        for n, step in enumerate(self.steps):
            if compiled and isinstance(step, Convolution) and not step.is_product:
                takers = _takers(self.steps, n, self.geometry.channels, keep)
                if takers:
                    self.addends[n] = _Addend(step, takers, self._begins_at_zero(n))
        runs = []
        for n, step in enumerate(self.steps):
            if isinstance(step, StageCall) and compiled:
                runs.append(self._stage(step))
            elif n in self.addends:
                runs.append(self._convolution(self.addends[n]))
            elif isinstance(step, Convolution):
                runs.append(self._added_convolution(step))
            elif n + 1 not in self.addends or not self.addends[n + 1].alone:
                runs.append(self._in_python(step))
        return [program.each(run) for run in runs]

    def run(self, start, count, at_start):
        if not self.runs:
            return
        with _current_stream(self.device) as self.stream:
            super().run(start, count, at_start)
            self._settle()

    def run_backward(self, start, count, last_is_first):
        if not self.runs:
            return
        with _current_stream(self.device) as self.stream:
            super().run_backward(start, count, last_is_first)
            self._settle()

    def _settle(self):
        """Complete what no later time will, and add up the parts of parameters' gradients."""
        for addend in self.addends.values():
            if addend.result is not None:
                addend.step.target.at(0, False).add_(addend.result)
                addend.result = None
        for buffer, partial in self.sums:
            buffer.data[0] += partial.sum(0)
            partial.zero_()

    def _begins_at_zero(self, n):
        """Whether the step before sets the target to zero for this convolution alone."""
        before, step = self.steps[n - 1], self.steps[n]
        if n == 0 or not isinstance(before, Fill) or before.row is not None or step.skip_first:
            return False
        return _same_maps(before.target, step.target) and before.target.width == step.target.width

    def _weight(self, step: Convolution):
        """The weight as the library wants it beside channels-last maps, made once per sequence."""
        key = ("cuda", id(step.weight))
        if key not in self.packed:
            # The weight too: its id must stay its own.
            last = torch.channels_last if self.geometry.axes == 2 else torch.channels_last_3d
            self.packed[key] = step.weight.dense().contiguous(memory_format=last), step.weight
        return self.packed[key][0]

    def _added_convolution(self, step: Convolution):
        weight = self._weight(step)

        def run(time, first):
            if not (first and step.skip_first):
                target, source = step.target.at(time, first), step.source.at(time, first)
                add_convolution(target, source, weight, step.padding, step.stride, step.dilation)

        return run

    def _convolution(self, addend: _Addend):
        step, weight, axes = addend.step, self._weight(addend.step), self.geometry.axes

        def run(time, first):
            if not (first and step.skip_first):
                source = maps_first(step.source.at(time, first), axes)
                found = convolution(source, weight, None, step.stride, step.padding, step.dilation)
                addend.result = maps_last(found, axes)

        return run

    def _stage(self, step: StageCall):
        """A launch of the stage's kernel."""
        g, sig, kernels = self.geometry, step.signature, _kernels()
        addresses = [b.address() for b in step.buffers]
        pitch, maps = [b.pitch for b in step.buffers], []
        for k, (arg, buffer) in enumerate(zip(sig.args, step.buffers, strict=True)):
            if arg.role == "d_param":
                maps.append(buffer.data.dim() > 2)
                addresses[k] = (buffer.data.data_ptr() if maps[-1] else self._partial(buffer), 0, 0)
                pitch[k] = g.channels
        taken = [(a, t, t is a.takers[-1]) for a in self.addends.values() for t in a.takers if t.stage is step]
        number = kernels.cuda_stage(g.schedule.fingerprint, sig.stage, sig.backward)
        size = self.dtype.itemsize
        sizes = g.channels, self.images * g.map_pixels, g.map_pixels
        lengths, dtype = native.address(self.lengths), native.CUDA_TYPE_NUMBERS[self.dtype]

        def run(time, first):
            data = [f if first and f else base + time * each for base, each, f in addresses]
            addends = []
            for addend, taker, _ in taken:
                if addend.result is not None:
                    at = addend.result.data_ptr() + taker.channel * size
                    addends.append((taker.argument, at, addend.result.shape[-1], addend.alone, taker.written))
            wrong = kernels.launch_cuda_stage(
                number, dtype, data, pitch, addends, *sizes, lengths, time, maps, _PARTS, self.stream
            )
            if wrong:
                raise RuntimeError(f"fastrcn: a stage's kernel: {wrong}")
            for addend, _, is_last in taken:
                if is_last:
                    addend.result = None

        return run

    def _partial(self, buffer: Buffer):
        """Address of zeroed rows of sums, one for each block of threads."""
        partial = torch.zeros(_PARTS, self.geometry.channels, dtype=torch.float64, device=buffer.data.device)
        self.sums.append((buffer, partial))
        return partial.data_ptr()
