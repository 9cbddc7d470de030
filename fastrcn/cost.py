"""What a call costs on a GPU by each backend, by a model: arithmetic over estimates, to be replaced by measurements.

A backend has one or several ways to run a call; the fastest counts, as the backends choose by the same estimates. A way
takes the longer of two times: that of the host, for the call itself and to start its kernels, and that of the GPU, the
sum of

- products, at the speed of the library's convolution, more where a kernel is slower or leaves processors idle;
- bytes, at the speed of a copy, of what is in memory beside the operands of convolutions;
- starts and ends of kernels, or barriers in their place.

For a step of a cell with P pixels, C channels of the state, G gates and b bytes a value bytes are, in units of G P C b:
1 to write the projection and, plain PyTorch, about 8 more, for each sum and each function reads and writes; with the
library's convolution 3, for this writes, and the stage reads that and the projection; where both are one kernel 1, for
sums stay on the processor; and the sums are written once more where there is a backward, which is three times a forward
pass, in products and in bytes. Inputs count as convolved before the loop. A step with fewer of the smallest tiles than
there are processors takes as long as one with as many.
"""

from collections.abc import Iterator
from math import prod
from typing import NamedTuple

from fastrcn.ops.conv3d_relu_maxpool3d import method
from fastrcn.ops.conv_recurrent import cuda_method
from fastrcn.ops.conv_recurrent.triton_config import SMALLEST, smallest_tiles
from fastrcn.ops.estimates import OPERATIONS_PER_BYTE, OPERATIONS_PER_LAUNCH, PROCESSORS, SECONDS_PER_LAUNCH
from fastrcn.ops.relu_maxpool3d.geometry import Pool
from fastrcn.ops.sizes import Sizes

_HOST = 5e-6
"""Seconds in which the host starts a kernel, by PyTorch, Triton or C++. This and the next two are what steps of small
layers took an AMD EPYC on a CUDA driver that does nothing (``python -m benchmarks host``), rounded."""

_CALL = {"plain": (0.2e-3, 0.35e-3), "fused": (0.3e-3, 0.7e-3), "stage": (0.1e-3, 0.5e-3)}
"""Seconds that a call of conv_recurrent takes the host whatever its length, in inference and in training: plain
PyTorch; a fused backend, and more for each stage of the cell."""

_CLIP_CALL = {"plain": (0.05e-3, 0.15e-3), "fused": (0.1e-3, 0.5e-3)}
"""The same of the other operations, by which they are called."""

_BYTES = {"16 bits": 2, "tf32": 4, "float32": 4, "float64": 8}

_SPEED = {"16 bits": 1.0, "tf32": 1.0, "float32": 0.3, "float64": 0.3}
"""Of the library's products, as a part of that on tensor cores with as many bytes, or with four. Estimates."""

_EXACT = 0.5
"""Speed of Triton's product without tensor cores, as a part of the library's. An estimate."""


class Device(NamedTuple):
    """A GPU: compute capability (80, 90 ...) and number of processors."""

    capability: int
    processors: int


class Steps(NamedTuple):
    """What a step of a cell takes: convolutions of states, pre-activations, those to which an input's convolution is
    added and a state's, stages, whether any is normalised, and whether stages are compiled into the extension."""

    convolutions: int
    slots: int
    projected: int
    convolved: int
    stages: int
    normalizes: bool
    compiled: bool

    def __str__(self):
        normed, own = ", normalised" if self.normalizes else "", "" if self.compiled else ", not compiled"
        return f"{self.slots} slots, {self.convolutions} convolutions, {self.stages} stages{normed}{own}"


class Workload(NamedTuple):
    """A call. ``kind``: of conv_recurrent its ``Steps``, else the window. ``numbers``: "16 bits", "tf32", "float32"
    (exact) or "float64"."""

    operation: str
    kind: Steps | Pool
    numbers: str
    training: bool
    sizes: Sizes


class Way(NamedTuple):
    """One way to run a call: seconds of the host for the call itself; operations, in the time of the library's; bytes;
    kernels that the host starts; their starts and ends on the GPU."""

    name: str
    call: float
    operations: float
    bytes: float
    launches: float
    starts: float

    def seconds(self, numbers, device: Device):
        """The time that it takes."""
        size, share = min(4, _BYTES[numbers]), device.processors / PROCESSORS
        rate = share * OPERATIONS_PER_LAUNCH[size] / SECONDS_PER_LAUNCH
        copy = rate / OPERATIONS_PER_BYTE[size]
        on_gpu = self.operations / (rate * _SPEED[numbers]) + self.bytes / copy + SECONDS_PER_LAUNCH * self.starts
        return max(self.call + _HOST * self.launches, on_gpu)


def estimate(work: Workload, backend, device: Device) -> tuple[float, str]:
    """(seconds, the way) of a call by "triton", "cuda" or "reference"."""
    kind = work.kind
    ways = _recurrent(work, kind, backend, device) if isinstance(kind, Steps) else _pooled(work, kind, backend)
    return min((way.seconds(work.numbers, device), way.name) for way in ways)


def _efficiency(work: Workload, backend, device: Device):
    """Speed of the backend's own product as a part of the library's."""
    if backend == "cuda":
        return cuda_method.efficiency(device.capability // 10)
    return method.EFFICIENCY if work.numbers in ("16 bits", "tf32") else _EXACT


def _recurrent(work: Workload, kind: Steps, backend, device: Device) -> Iterator[Way]:
    """Of conv_recurrent."""
    s, c = work.sizes, work.sizes.channels
    steps, step_pixels = s.steps, s.images * s.pixels
    values = steps * step_pixels * c
    # Forward and backward: so many kernels, and products and bytes.
    turns, passes = (2, 3) if work.training else (1, 1)
    plain, fused, stage = (seconds[work.training] for seconds in _CALL.values())
    of_value = 2 * s.cells * c * kind.convolved
    # Weights' gradients and the inputs' products are of many steps at once.
    in_steps = turns * steps * of_value * max(step_pixels * c, device.processors * prod(SMALLEST))
    inputs = 2 * values * s.cells * s.inputs * kind.projected
    at_once = passes * inputs + (passes - turns) * values * of_value
    unit, kept = passes * values * kind.slots * _BYTES[work.numbers], int(work.training)

    call = fused + stage * kind.stages

    def launched(name, operations, units, launches, call=call):
        return Way(name, call, operations, units * unit, steps * launches, steps * launches)

    if backend == "reference" or (backend == "cuda" and not kind.compiled):
        launches = passes * (2 * kind.slots + 5 * kind.convolutions)
        yield launched("plain stages", in_steps + at_once, 9, launches, plain)
        return
    efficiency = _efficiency(work, backend, device)
    aligned = c * _BYTES[work.numbers] % cuda_method.ALIGNMENT == 0 and work.numbers in ("16 bits", "tf32")
    fuses = not kind.normalizes and (backend == "triton" or aligned)
    if backend == "cuda" or not fuses:
        product = in_steps if backend == "cuda" else in_steps / efficiency
        launches = kind.convolutions * (3 if kind.normalizes else 1) + kind.stages
        yield launched("convolution and stage", product + at_once, 4 + kept, turns * launches)
    if not fuses:
        return
    operations = in_steps / efficiency + at_once
    walks = backend == "triton" or kind.stages <= cuda_method.MOST_KERNELS
    if walks and smallest_tiles(step_pixels, c) <= device.processors:
        # Triton's first and last step are launched.
        apart = 2 * kind.stages if backend == "triton" else 0
        starts = turns * (apart + cuda_method.BEGINNING + steps * kind.stages * cuda_method.BARRIER)
        yield Way("persistent", call, operations, (2 + kept) * unit, turns * (1 + apart), starts)
    yield launched("fused", operations, 2 + kept, turns * kind.stages)


def _pooled(work: Workload, pool: Pool, backend) -> Iterator[Way]:
    """Of conv3d_relu_maxpool3d and batch_norm_relu_maxpool3d. Backward all write and read what is before pooling, for
    the library's gradients: plain PyTorch once more for the ReLU, and once more for a window."""
    size, turns, pooled = _BYTES[work.numbers], 1 + work.training, not pool.identity
    s = work.sizes
    before = s.images * s.pixels * s.channels
    after = before / prod(pool.stride)
    normalizes = work.operation == "batch_norm_relu_maxpool3d"
    once = 0 if normalizes else 2 * before * s.inputs * s.cells
    later = 2 * once if work.training else 0
    plain, call = (seconds[work.training] for seconds in _CLIP_CALL.values())
    # The batch's statistics and what is normalised are read; or the convolution's result is written.
    first = 1 + work.training if normalizes else 1
    if backend == "reference":
        units = first + normalizes + 2 + pooled + work.training * (3 + 2 + 2 * pooled)
        launches = turns * (2 + pooled)
        yield Way("plain", plain, once + later, size * (units * before + after), launches, launches)
        return
    units, launches = first + (not normalizes) + 3 * work.training, 2 * turns
    yield Way("convolution and pass", call, once + later, size * (units * before + after), launches, launches)
    if backend == "triton" and not normalizes and work.numbers in ("16 bits", "tf32"):
        fused = once * method.repeats(pool, s.size, s.inputs) / method.EFFICIENCY
        units, launches = 3 * work.training, 2 * turns - 1
        yield Way("fused", call, fused + later, size * (units * before + after), launches, launches)


def in_order(work: Workload, backends, device: Device) -> list[tuple[float, str, str]]:
    """[(seconds, backend, way)], the fastest first; of equal ones the first of ``backends``."""
    found = {name: estimate(work, name, device) for name in backends}
    return sorted(((seconds, name, way) for name, (seconds, way) in found.items()), key=lambda row: row[0])
