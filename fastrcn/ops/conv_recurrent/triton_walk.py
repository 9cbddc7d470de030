"""Many steps of a time loop in one launch: one kernel takes the phases of each in turn (see ``emit_triton_walk``)."""

import torch

from fastrcn.compiler.emit_triton_walk import walk_kernel_of
from fastrcn.compiler.phase import Walk
from fastrcn.ops.triton_support import interpreting


def can_walk(launches):
    """Whether one kernel can take these launches of a step: phases whose tiles all run at once, so that they may wait
    for each other, each with as many threads."""
    return all(a.walks and a.resident for a in launches) and all(a.options == launches[0].options for a in launches)


def walk(calls, turns, direction):
    """Take ``turns`` steps in one launch, none of them the sequence's first; ``calls``: those of the first of them, as
    (launch, its arguments)."""
    launches, arguments, constants = [launch for launch, _ in calls], [], {}
    for k, (launch, times) in enumerate(calls):
        tensors, numbers = launch.arguments(*times)
        arguments += [*tensors, *numbers]
        constants |= {f"{name}_of_{k}": value for name, value in launch.constants.items()}
    one = launches[0]
    kernel = walk_kernel_of(one.program.geometry.schedule.fingerprint, Walk(tuple(a.phase for a in launches)))
    counter = torch.zeros(1, dtype=torch.int32, device=one.tensors[0].device)
    options = one.options if interpreting() else one.options | {"launch_cooperative_grid": True}
    programs = max(launch.tiles for launch in launches)
    kernel[(programs,)](*arguments, turns, direction, counter, **constants, **options)
