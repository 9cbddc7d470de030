"""Two directions of one layer with one launch for both: where the tiles of one do not fill the processors, its twin's
take the rest, and there are half as many launches."""

from dataclasses import replace
from typing import Any

from fastrcn.compiler.emit_triton import kernel_of
from fastrcn.ops.conv_recurrent.triton_launch import PhaseLaunch
from fastrcn.ops.triton_support import device_of


class _Twins:
    """Launches of the same phase in the two directions, as one."""

    def __init__(self, launch, other):
        self.launch, self.other = launch, other
        phase = replace(launch.phase, both=True)
        self.kernel = kernel_of(launch.program.geometry.schedule.fingerprint, phase)
        self.own = [launch.phase.arguments.index(name) for name in phase.own]
        self.compiled: Any = None

    def __call__(self, times, other_times):
        """Launch; the times are those of a single launch, of each direction."""
        launch, other = self.launch, self.other
        (tensors, numbers), (other_tensors, other_numbers) = launch.arguments(*times), other.arguments(*other_times)
        usual = tensors is launch.tensors and other_tensors is other.tensors
        if self.compiled is not None and usual:
            theirs = [*other.addresses, *other_numbers]
            own = [theirs[k] for k in self.own]
            self.compiled(*launch.addresses, *numbers, *own, *launch.constants.values())
            return
        theirs = [*other_tensors, *other_numbers]
        own = [theirs[k] for k in self.own]
        grid = (launch.tiles, 2)
        compiled = self.kernel[grid](*tensors, *numbers, *own, **launch.constants, **launch.options)
        if compiled is not None and usual:
            self.compiled = compiled[(*grid, 1)]


def _twins(one, other):
    """Whether two launches have the same kernel, one of phases: normalisations run by themselves."""
    if not (isinstance(one, PhaseLaunch) and isinstance(other, PhaseLaunch)):
        return False
    return one.phase == other.phase and one.constants == other.constants and one.options == other.options


def run_both(loop, other):
    """Run the loops of the two directions step by step with one launch for both, or, where their kernels differ, with
    one each."""
    made: dict = {}
    with device_of(loop.launches[0].tensors[0]):
        for n in range(loop.count):
            for (a, times), (b, other_times) in zip(loop.step(n), other.step(n), strict=True):
                if id(a) not in made:
                    made[id(a)] = _Twins(a, b) if _twins(a, b) else None
                if made[id(a)] is not None:
                    made[id(a)](times, other_times)
                else:
                    a(*times)
                    b(*other_times)
    for launch in (*loop.launches, *other.launches):
        launch.add_parameter_sums()
