"""Two directions of one layer with one launch for both: where the tiles of one do not fill the processors, its twin's
take the rest, and there are half as many launches."""

from dataclasses import replace
from typing import Any

from fastrcn.compiler.emit_triton import kernel_of
from fastrcn.ops.conv_recurrent import triton_time_loop
from fastrcn.ops.conv_recurrent.triton_launch import PhaseLaunch
from fastrcn.ops.conv_recurrent.triton_time_loop import Loop
from fastrcn.ops.triton_support import processors


class _Twins:
    """Launches of the same phase in the two directions, as one."""

    walks = True
    directions = 2

    def __init__(self, launch, other):
        self.launch, self.other, self.geometry, self.tiles = launch, other, launch.geometry, launch.tiles
        self.tensors, self.constants, self.options = launch.tensors, launch.constants, launch.options
        self.phase = replace(launch.phase, both=True)
        self.kernel = kernel_of(launch.geometry.schedule.fingerprint, self.phase)
        self.own = [launch.phase.arguments.index(name) for name in self.phase.own]
        self.compiled: Any = None

    @property
    def plans(self):
        """Those of both."""
        return self.launch.plan, self.other.plan

    @property
    def resident(self):
        """Whether all tiles of both run at once."""
        return 2 * self.launch.tiles <= processors(self.tensors[0].device)

    @property
    def identity(self):
        """Equal for launches of the same kernel that pass the same at the same times."""
        return id(self.kernel), self.launch.identity, self.other.identity

    def add_parameter_sums(self):
        """Of both."""
        self.launch.add_parameter_sums()
        self.other.add_parameter_sums()

    def arguments(self, times, other_times):
        """The kernel's tensors, and its other arguments: numbers, and what the second direction has of its own."""
        tensors, numbers = self.launch.arguments(*times)
        return tensors, [*numbers, *self._theirs(*self.other.arguments(*other_times))]

    def _theirs(self, pointers, numbers):
        """What the second direction has of its own."""
        found = [*pointers, *numbers]
        return [found[k] for k in self.own]

    def __call__(self, times, other_times):
        """Launch; the times are those of a single launch, of each direction."""
        launch, other = self.launch, self.other
        (tensors, numbers), (other_tensors, other_numbers) = launch.arguments(*times), other.arguments(*other_times)
        usual = tensors is launch.tensors and other_tensors is other.tensors
        if self.compiled is not None and usual:
            own = self._theirs(other.addresses, other_numbers)
            self.compiled(*launch.addresses, *numbers, *own, *launch.constants.values())
            return
        own = self._theirs(other_tensors, other_numbers)
        grid = (launch.tiles, 2)
        compiled = self.kernel[grid](*tensors, *numbers, *own, **launch.constants, **launch.options)
        if compiled is not None and usual:
            self.compiled = compiled[(*grid, 1)]


def _are_twins(one, other):
    """Whether two launches have the same kernel, one of phases: normalisations run by themselves."""
    if not (isinstance(one, PhaseLaunch) and isinstance(other, PhaseLaunch)):
        return False
    return one.phase == other.phase and one.constants == other.constants and one.options == other.options


def run_both(loop: Loop, other: Loop):
    """Run the loops of the two directions step by step with one launch for both, or, where their kernels differ, with
    one each."""
    twins = {id(a): _Twins(a, b) for a, b in zip(loop.launches, other.launches, strict=True) if _are_twins(a, b)}

    def step(n):
        calls = []
        for one, (b, other_times) in zip(loop.step(n), other.step(n), strict=True):
            a, times = one
            both = twins.get(id(a))
            calls += [one, (b, other_times)] if both is None else [(both, (times, other_times))]
        return calls

    launches = list(twins.values())
    for a, b in zip(loop.launches, other.launches, strict=True):
        launches += [] if id(a) in twins else [a, b]
    triton_time_loop.run(Loop(launches, loop.count, step, (loop.times, other.times)))
