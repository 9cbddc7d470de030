"""Which backend runs a call on a GPU where none is asked for by name: from what was measured on this architecture, else
from the model of cost.

On an architecture on which an operation was measured the backends that ran it there are compared: by the nearest
measured case, or, where none is near, by the model. On another one the model alone decides, and what it chooses runs
once its results were compared with plain PyTorch's (``trial.trusted``). Under ``torch.compile``, where sizes are not
known, the backend counts that was fastest over all cases of the group, and without any plain PyTorch runs.
"""

import math
from functools import cache, lru_cache
from typing import Any, NamedTuple

import torch

from fastrcn import measured, native
from fastrcn.compiler.schedule import Schedule, schedule_of
from fastrcn.cost import Device, Steps, Workload, in_order
from fastrcn.ops.conv_recurrent.cuda import has_kernels
from fastrcn.ops.sizes import Sizes
from fastrcn.ops.tf32 import allows_tf32

_NUMBERS = {torch.float16: "16 bits", torch.bfloat16: "16 bits", torch.float32: "float32", torch.float64: "float64"}


class Decision(NamedTuple):
    """The backend, and why; None where there is nothing to decide by. ``ran``: whether it has run on this
    architecture."""

    backend: str | None
    because: str
    ran: bool = True


@cache
def device_of(index) -> Device | None:
    """What is asked of a GPU; None where PyTorch finds none."""
    if not torch.cuda.is_available():
        return None
    gpu = torch.cuda.get_device_properties(index)
    return Device(10 * gpu.major + gpu.minor, gpu.multi_processor_count)


def _steps_of(schedule: Schedule) -> Steps:
    """What a step of a cell takes."""
    # Without any compiled stage the extension's backend cannot be chosen.
    compiled = not hasattr(native.module(), "cuda_stage") or has_kernels(schedule)
    groups, slots = schedule.groups, [slot for group in schedule.groups for slot in group.slots]
    return Steps(
        sum(len(group.operands) for group in groups),
        len(slots),
        sum(bool(slot.input_blocks) for slot in slots),
        sum(len(slot.operand_blocks) for slot in slots),
        sum(stage is not None for stage, _ in schedule.steps),
        schedule.normalizes,
        compiled,
    )


def workload(operation, what, dtype, training, sizes: Sizes) -> Workload:
    """A call as the rule sees it. ``what``: see ``backends``."""
    kind: Any = _steps_of(schedule_of(what[0])) if operation == "conv_recurrent" else what[-1]
    numbers = "tf32" if dtype == torch.float32 and allows_tf32() else _NUMBERS[dtype]
    return Workload(operation, kind, numbers, training, sizes)


def decide(operation, what, dtype, training, sizes: Sizes | None, able, index) -> Decision:
    """The backend of ``able`` that runs a call on the GPU with this index. ``sizes``: None where they are not known."""
    gpu, tf32 = device_of(index), dtype == torch.float32 and allows_tf32()
    if gpu is None or dtype not in _NUMBERS:
        return Decision(None, "")
    return _decide(operation, what, dtype, tf32, training, sizes, able, gpu)


@torch.compiler.assume_constant_result
def decide_compiled(operation, what, dtype, training, able, index):
    """The backend's name for a call whose sizes are not known, or None."""
    return decide(operation, what, dtype, training, None, able, index).backend


def forget_decisions():
    """After cells were compiled, on which workloads depend."""
    _decide.cache_clear()


@lru_cache(4096)
def _decide(operation, what, dtype, tf32, training, sizes, able, gpu: Device):
    """``tf32`` stands in the cache's key: the workload depends on it."""
    cases = [case for case in measured.cases_of(gpu.capability) if case.group[0] == operation]
    ran = [name for name in able if any(name in case.seconds for case in cases)]
    work = workload(operation, what, dtype, training, sizes or Sizes(1, 1, (1,), 1, 1, 1))
    if sizes is None:
        return _overall([case for case in cases if case.group == measured.group_of(work)], ran)
    case = measured.nearest(cases, work)
    times = {name: case.seconds[name] for name in ran if name in case.seconds} if case else {}
    if case and times:
        best = min(times, key=lambda name: times[name])
        return Decision(best, f"measured on sm_{gpu.capability}: {_listed(times)} in case {case.name}")
    order = in_order(work, ran or able, gpu)
    told = _listed({f"{name} ({way})": seconds for seconds, name, way in order})
    if ran:
        return Decision(order[0][1], f"estimated, as no case measured on sm_{gpu.capability} is near: {told}")
    return Decision(order[0][1], f"estimated, as nothing was measured on sm_{gpu.capability}: {told}", ran=False)


def _overall(cases, ran):
    """By the geometric mean over a group's cases, of the backends that ran all of them."""
    names = [name for name in ran if cases and all(name in case.seconds for case in cases)]
    if not names:
        return Decision(None, "")
    best = min(names, key=lambda name: sum(math.log(case.seconds[name]) for case in cases))
    return Decision(best, f"fastest over {len(cases)} measured cases")


def _listed(times):
    return ", ".join(f"{name} {1e3 * seconds:.3g} ms" for name, seconds in sorted(times.items(), key=lambda t: t[1]))
