"""Run by test_triton_interpreter.py with TRITON_INTERPRET=1: one launch for many steps of time gives bit for bit what a
launch for each phase gives.

The interpreter runs a grid's programs one after another, so that only a single one can pass its barrier. With more
tiles the emitted kernel is run as Python code, each program up to the next barrier.
"""

import itertools
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import fastrcn
from fastrcn.compiler.emit_triton import kernel_of
from fastrcn.compiler.emit_triton_walk import walk_source
from fastrcn.functional import conv_recurrent_both
from fastrcn.ops.conv_recurrent import triton_launch, triton_plan, triton_time_loop, triton_together, triton_walk
from fastrcn.ops.conv_recurrent.triton_config import Config
from fastrcn.ops.conv_recurrent.triton_walk import walk_options
from tests.helpers import normed
from tests.helpers.cells import SUBJECTS, Case, gradients, make_tensors, run_package
from tests.helpers.other_cells import OTHER_CELLS, random_leaves, results

pytestmark = pytest.mark.usefixtures("poisoned_memory", "one_thread")


@pytest.fixture
def walks(monkeypatch):
    """(number of phases, number of steps) of each walk."""
    made, plain = [], triton_time_loop.walk

    def noted(calls, following, turns):
        made.append((len(calls), turns))
        plain(calls, following, turns)

    monkeypatch.setattr(triton_time_loop, "walk", noted)
    return made


def train(name, case, dtype=torch.float32, recompute=False):
    tensors = make_tensors(SUBJECTS[name], case, dtype)
    found = gradients(*run_package(SUBJECTS[name], case, tensors, "triton", recompute), tensors)
    return list(found.values())


def in_both_ways(run):
    """What it returns with launches, and with walks."""
    found = []
    for way in ("launched", "persistent"):
        with fastrcn.use_time_loop(way):
            found.append(run())
    return found


def are_equal(launched, walked):
    return all(torch.equal(a, b) for a, b in zip(launched, walked, strict=True))


PHASES = {"gru_before": 2, "stacked": 2, "stacked_candidate": 2, "mgu": 2}


@pytest.mark.parametrize("name", SUBJECTS)
def test_every_cell(name, walks):
    case = Case(steps=5, height=3, lengths=(5, 3), reverse=True)
    assert are_equal(*in_both_ways(lambda: train(name, case)))
    assert walks == [(PHASES.get(name, 1), 3)] * 2


CASES = {
    "no_states": Case(steps=5, states=False, bias=False, height=3),
    "odd_channels": Case(steps=4, channels=17, height=3),
    "one_pixel": Case(steps=6, height=1, width=1),
    "two_kernels": Case(steps=4, kernel=(5, 3), recurrent_kernel=(1, 7), stride=(2, 1), dilation=(1, 2)),
    "ended": Case(steps=5, batch=3, kernel=(1, 3), lengths=(4, 1, 0)),
}


@pytest.mark.parametrize("case", CASES)
def test_shapes(case, walks):
    schedule = "in_loop" if case == "two_kernels" else "hoisted"
    with fastrcn.use_schedule(schedule):
        assert are_equal(*in_both_ways(lambda: train("gru_before", CASES[case])))
    assert walks == [(2, CASES[case].steps - 2)] * 2


@pytest.mark.parametrize("recompute", [False, True])
def test_low_precision(recompute, walks):
    case = Case(steps=4, height=3, lengths=(4, 2))
    assert are_equal(*in_both_ways(lambda: train("stacked", case, torch.bfloat16, recompute)))
    assert walks == [(2, 2)] * 2


def other(name, training):
    torch.manual_seed(0)
    leaves = random_leaves(OTHER_CELLS[name], steps=4)
    return results(OTHER_CELLS[name], [t.float().requires_grad_(training) for t in leaves], "triton")


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", OTHER_CELLS)
def test_other_cells(name, training, walks):
    assert are_equal(*in_both_ways(lambda: other(name, training)))
    phases = 1 if name == "two_maps" and training else {"deep": 3}.get(name, 2)
    assert walks == [(phases, 2)] * (1 + training)


def test_normalised_cells_are_launched(walks):
    with fastrcn.use_time_loop("persistent"):
        normed.compare("gru", "triton", torch.float32, steps=5)
    assert not walks


class Programs:
    """A walk's kernel with the programs of its grid in turn, each as far as the barriers let it go; at the barrier
    ``broken`` of each step nobody waits. ``first``: which of the programs that can go on does."""

    def __init__(self, fingerprint, walk, first=0, broken=None):
        self.first, self.place = first, (0, 0)
        source = walk_source(walk)
        for k in range(len(walk.phases)):
            source = source.replace("grid_barrier(p_counter, ", "yield 0 * (" if k == broken else "yield (", 1)
        program_id, num_programs = (lambda axis: self.place[axis]), (lambda axis: self.grid[axis])
        tl = SimpleNamespace(constexpr=None, program_id=program_id, num_programs=num_programs)
        scope: dict[str, Any] = {"tl": tl}
        scope |= {f"phase_{k}": self.alone(kernel_of(fingerprint, phase)) for k, phase in enumerate(walk.phases)}
        exec(source, scope)
        self.kernel = scope[walk.name]

    def alone(self, kernel):
        """A phase's kernel, for the program at hand."""
        from triton.runtime.interpreter import interpreter_builder as builder

        def run(*arguments):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(builder, "set_grid_idx", lambda *_: setattr(builder, "grid_idx", (*self.place, 0)))
                kernel[(1,)](*arguments)

        return run

    def __getitem__(self, grid):
        self.grid = grid

        def run(*arguments, num_warps, num_stages, **constants):
            places = itertools.product(range(grid[0]), range(grid[1]))
            programs = {place: self.kernel(*arguments, **constants) for place in places}
            waits, arrivals = dict.fromkeys(programs, 0), 0
            while waits:
                free = [place for place, wanted in waits.items() if wanted <= arrivals]
                assert free, "all wait for ever"
                self.place = free[self.first]
                try:
                    waits[self.place] = next(programs[self.place])
                    arrivals += 1
                except StopIteration:
                    del waits[self.place]

        return run


@pytest.fixture
def many_tiles(monkeypatch):
    """A function that makes kernels of walks run as ``Programs`` with certain options. Phases have different tiles, and
    processors are many."""
    sizes = (Config(64, 16, 32, 4, 1), Config(16, 16, 16, 4, 1), Config(32, 32, 16, 4, 1))

    def choose(launch, program, work, slots):
        return sizes[(slots + 2 * launch.across) % 3]

    monkeypatch.setattr(triton_plan, "_structures", {})
    monkeypatch.setattr(triton_launch.PhaseLaunch, "_choose", choose)
    for module in (triton_launch, triton_together):
        monkeypatch.setattr(module, "processors", lambda device: 64)

    def use(**options):
        monkeypatch.setattr(triton_walk, "walk_kernel_of", lambda *key: Programs(*key, **options))

    return use


MANY = Case(steps=4, batch=2, channels=19, height=5, width=4, kernel=(3, 1), lengths=(4, 2), scale=0.2)


@pytest.mark.parametrize(("name", "first"), [("gru_before", 0), ("gru_before", -1), ("gru_after", 0)])
def test_many_tiles(name, first, many_tiles, walks):
    many_tiles(first=first)
    assert are_equal(*in_both_ways(lambda: train(name, MANY)))
    assert walks == [(PHASES.get(name, 1), 2)] * 2


@pytest.mark.parametrize("name", OTHER_CELLS)
def test_many_tiles_of_other_cells(name, many_tiles, walks):
    many_tiles()
    assert are_equal(*in_both_ways(lambda: other(name, True)))
    assert len(walks) == 2


def train_both_directions(name, used):
    """``used``: the directions whose output has a gradient; where one has none the kernels of the two differ."""
    case = replace(MANY, channels=3)
    one, other = (make_tensors(SUBJECTS[name], case, torch.float32, seed) for seed in (0, 7))
    own, leaves = [], [one["x"]]
    for p in (one, other):
        hx = tuple(p[n] for n in ("h0", "c0") if n in p)
        own.append((p["weight_ih"], p["weight_hh"], p["bias"], None, hx))
        leaves += [*own[-1][:3], *hx] if len(own) <= used else []
    with fastrcn.use_directions("together"):
        found = conv_recurrent_both(SUBJECTS[name].cell, one["x"], *own, lengths=case.lengths, backend="triton")
        outputs = [output for output, _ in found]
        loss = torch.stack([output.square().sum() for output in outputs[:used]]).sum()
        return [*outputs, *torch.autograd.grad(loss, leaves)]


@pytest.mark.parametrize(
    ("name", "used", "expected"),
    [("gru_before", 2, [2, 2]), ("gru_before", 1, [2]), ("lstm", 2, [1, 1]), ("lstm", 1, [1, 2])],
)
def test_both_directions(name, used, expected, many_tiles, walks):
    """A step with launches of both directions and of one is not walked; those of one each go their own way."""
    many_tiles()
    assert are_equal(*in_both_ways(lambda: train_both_directions(name, used)))
    assert walks == [(phases, 2) for phases in expected]


@pytest.mark.parametrize(("broken", "first"), [(0, -1), (1, 0)])
def test_every_barrier_is_needed(broken, first, many_tiles, walks):
    """Each in an order in which it shows: the second phase has more programs."""
    many_tiles(broken=broken, first=first)
    tensors = make_tensors(SUBJECTS["gru_before"], MANY, torch.float32)
    launched, walked = in_both_ways(lambda: run_package(SUBJECTS["gru_before"], MANY, tensors, "triton")[0])
    assert not torch.equal(launched, walked)
    assert walks == [(2, 2)]


def test_what_a_walk_is_launched_with(monkeypatch, many_tiles):
    """On a GPU: so many programs as the phase with most tiles has, all of which must run at once."""
    many_tiles()
    calls = []

    class Kernel:
        def __init__(self, fingerprint, walk):
            self.walk = walk

        def __getitem__(self, grid):
            def run(*arguments, **options):
                names = dict(zip(self.walk.arguments, arguments, strict=True))
                directions = [names["i_direction_of_0"], names["i_direction_of_1"]]
                calls.append((grid, names["n_times"], directions, int(names["p_counter"]), options))

            return run

    monkeypatch.setattr(triton_walk, "walk_kernel_of", Kernel)
    monkeypatch.setattr(triton_walk, "interpreting", lambda: False)
    with fastrcn.use_time_loop("persistent"):
        train("gru_before", MANY)
    pixels = 2 * 5 * 4
    grid = -(-pixels // 16) * 2, 1
    assert [call[:4] for call in calls] == [(grid, 2, [direction] * 2, 0) for direction in (1, -1)]
    # A thread has up to 255 registers, a processor 64 K: here four warps ask for all that a thread may have.
    assert all(call[-1]["launch_cooperative_grid"] and call[-1]["maxnreg"] == 255 for call in calls)
    assert walk_options({"num_warps": 16})["maxnreg"] * 16 * 32 == 1 << 16
