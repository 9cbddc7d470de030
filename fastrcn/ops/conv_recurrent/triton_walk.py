"""Many steps of a time loop in one launch: one kernel takes the phases of each in turn (see ``emit_triton_walk``)."""

import torch

from fastrcn.compiler.emit_triton_walk import walk_kernel_of
from fastrcn.compiler.phase import Walk, by_phase
from fastrcn.ops.triton_support import interpreting


def can_walk(launches):
    """Whether one kernel can take these launches of a step: phases whose tiles all run at once, so that they may wait
    for each other, each with as many threads, and each of one direction or each of both."""
    if not all(launch.walks and launch.resident for launch in launches):
        return False
    one = launches[0]
    return all(a.options == one.options and a.directions == one.directions for a in launches)


def walk(calls, following, turns):
    """Take ``turns`` steps in one launch, none of them the sequence's first. ``calls``: those of the first of them, as
    (launch, its arguments); ``following``: those of the second."""
    launches, arguments = [launch for launch, _ in calls], []
    for (launch, times), (_, later) in zip(calls, following, strict=True):
        (tensors, numbers), (_, next_numbers) = launch.arguments(*times), launch.arguments(*later)
        time = launch.phase.arguments.index("i_time") - len(tensors)
        arguments += [*tensors, *numbers, next_numbers[time] - numbers[time]]
    one, constants = launches[0], by_phase(launch.constants for launch in launches)
    kernel = walk_kernel_of(one.program.geometry.schedule.fingerprint, Walk(tuple(a.phase for a in launches)))
    counter = torch.zeros(1, dtype=torch.int32, device=one.tensors[0].device)
    options = one.options if interpreting() else one.options | {"launch_cooperative_grid": True}
    grid = max(launch.tiles for launch in launches), one.directions
    kernel[grid](*arguments, turns, counter, **constants, **options)
