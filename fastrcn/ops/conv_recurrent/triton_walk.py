"""Many steps of a time loop in one launch: one kernel takes the phases of each in turn (see ``emit_triton_walk``)."""

import torch

from fastrcn.compiler.emit_triton_walk import walk_kernel_of
from fastrcn.compiler.phase import Walk, by_phase
from fastrcn.ops.conv_recurrent.triton_plan import alignment
from fastrcn.ops.triton_support import interpreting


def can_walk(launches):
    """Whether one kernel can take these launches of a step: phases whose tiles all run at once, so that they may wait
    for each other, each with as many threads, and each of one direction or each of both."""
    if not all(launch.walks and launch.resident for launch in launches):
        return False
    one = launches[0]
    return all(a.options == one.options and a.directions == one.directions for a in launches)


def walk_options(options):
    """Options of the walk's kernel, from those of its phases' kernels. No processor has a second program, so that one
    may take all registers; else the compiler leaves room for more programs, for which it may even spill."""
    registers = min(255, (1 << 16) // (32 * options["num_warps"]))
    return options | {"launch_cooperative_grid": True, "maxnreg": registers}


def walk(calls, following, turns):
    """Take ``turns`` steps in one launch, none of them the sequence's first. ``calls``: those of the first of them, as
    (launch, its arguments); ``following``: those of the second."""
    launches, arguments = [launch for launch, _ in calls], []
    for (launch, times), (_, later) in zip(calls, following, strict=True):
        (tensors, numbers), (_, next_numbers) = launch.arguments(*times), launch.arguments(*later)
        time = launch.phase.arguments.index("i_time") - len(tensors)
        arguments += [*tensors, *numbers, next_numbers[time] - numbers[time]]
    one = launches[0]
    arguments += [turns, torch.zeros(1, dtype=torch.int32, device=one.tensors[0].device)]
    pointers = [a.data_ptr() for a in arguments if isinstance(a, torch.Tensor)]
    plans = tuple(plan for launch in launches for plan in launch.plans)
    walks, key = plans[0].walks, (plans, one.directions, alignment(pointers))
    if key in walks:
        compiled, constants = walks[key]
        compiled(*(a.data_ptr() if isinstance(a, torch.Tensor) else a for a in arguments), *constants)
        return
    constants = by_phase(launch.constants for launch in launches)
    kernel = walk_kernel_of(one.geometry.schedule.fingerprint, Walk(tuple(a.phase for a in launches)))
    options = one.options if interpreting() else walk_options(one.options)
    grid = max(launch.tiles for launch in launches), one.directions
    compiled = kernel[grid](*arguments, **constants, **options)
    if compiled is not None:  # as a phase's launch
        walks[key] = compiled[(*grid, 1)], tuple(constants.values())
