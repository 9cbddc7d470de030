"""What is kept of a program's structure holds for every later program that is taken for one of the same. Nothing is
launched."""

import itertools
from dataclasses import replace

import pytest
import torch

import fastrcn
from fastrcn.ops.conv_recurrent import triton_plan, triton_program, triton_time_loop
from fastrcn.ops.conv_recurrent.triton_config import Config, config_asked_for, use_config
from fastrcn.ops.conv_recurrent.triton_launch import PhaseLaunch
from fastrcn.ops.conv_recurrent.triton_program import TritonProgram
from fastrcn.ops.conv_recurrent.triton_work import Work, split
from tests.helpers import normed
from tests.helpers.cells import CASES, PADDINGS, SUBJECTS, Case, gradients, make_tensors, run_package
from tests.helpers.cycles import no_cycles_found, noted_programs
from tests.helpers.other_cells import OTHER_CELLS, random_leaves, results

pytest.importorskip("triton")
CONFIG = Config(64, 16, 16, 4, 1)
SHAPES = list((CASES | PADDINGS).values())
# One after the other: what differs in one thing alone.
NEIGHBOURS = [
    Case(),
    Case(),
    Case(steps=7),
    Case(batch=1),
    Case(lengths=(4, 2)),
    Case(reverse=True),
    Case(states=False),
    Case(bias=False),
    Case(height=5, width=6),
    Case(channels=4),
    Case(recurrent_kernel=(1, 3)),
    Case(kernel=(1, 3)),
    Case(),
]


def parts(launch):
    """All that a launch passes, or that chooses its kernel."""
    own = {id(data) for _, data in launch.sums}
    return {
        "kernel": launch.kernel,
        "phase": launch.phase,
        "constants": launch.constants,
        "options": launch.options,
        "tiles": launch.tiles,
        "sizes": launch.sizes,
        "maps": [
            "sums"
            if id(b.data) in own
            else (
                b.data.data_ptr(),
                b.data.dtype,
                b.timed and b.shift - b.origin,
                b.first is not None and b.first.data_ptr(),
                clock,
            )
            for b, clock in launch.pointers
        ],
        "sums": [(target.data.data_ptr(), partial.shape) for target, partial in launch.sums],
        "products": [(p.weight.data_ptr(), p.steps, p.skip_first, p.map) for p in launch.products],
    }


def work_parts(work):
    if not isinstance(work, Work):
        return work
    return [*map(id, work.fills)], [*map(id, work.convolutions)], id(work.stage)


class Checked(TritonProgram):
    """Compares what is kept with what is found anew."""

    compared = 0

    def __init__(self, geometry, steps, *rest):
        super().__init__(geometry, steps, *rest)
        assert list(map(work_parts, self.works)) == list(map(work_parts, split(steps) if self.works else []))

    def check(self, found, work):
        if isinstance(work, Work):
            Checked.compared += 1
            assert found.config == config_asked_for()
            anew = PhaseLaunch(self, work, found.across, found.config)
            assert parts(found) == parts(anew)

    def launch(self, work):
        found = super().launch(work)
        self.check(found, work)
        return found

    def joined(self):
        found, (head, *_), tail = super().joined(), self.works, self.works[-1]
        both = isinstance(head, Work) and isinstance(tail, Work)
        assert (found is not None) == (both and self._joins(head, tail))
        if found:
            self.check(found[0][0], replace(tail, stage=head.stage))
            self.check(found[1], tail)
        return found


@pytest.fixture(autouse=True)
def checked(monkeypatch):
    monkeypatch.setattr(triton_program, "Program", Checked)
    monkeypatch.setattr(triton_program, "problem_of", lambda dtype, device: None)
    monkeypatch.setattr(triton_time_loop, "run", lambda loop: None)
    monkeypatch.setattr(triton_plan, "_structures", {})
    Checked.compared = 0
    with use_config(CONFIG):
        yield
    assert Checked.compared >= 4


def train(name, case, dtype=torch.float32):
    tensors = make_tensors(SUBJECTS[name], case, dtype)
    gradients(*run_package(SUBJECTS[name], case, tensors, "triton"), tensors)


@pytest.mark.parametrize("name", SUBJECTS)
def test_a_kept_plan_is_that_made_anew(name):
    """Twice each: the second time all plans are kept ones."""
    for case, schedule in itertools.product((*SHAPES, *NEIGHBOURS), ("hoisted", "in_loop")):
        for _ in range(2):
            with fastrcn.use_schedule(schedule):
                train(name, case)
    for dtype in (torch.bfloat16, torch.float32):
        train(name, Case(), dtype)
        with torch.no_grad():
            tensors = make_tensors(SUBJECTS[name], Case(), dtype)
            run_package(SUBJECTS[name], Case(), tensors, "triton")


def test_what_is_asked_for_is_seen(monkeypatch):
    """Configurations and TF32, which no tensor shows."""
    for _ in range(2):
        for config in (CONFIG, Config(64, 16, 32, 8, 1)):
            for allowed in (False, True):
                monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", allowed)
                with use_config(config):
                    train("lstm", Case())
    assert len(triton_plan._structures) == 2 * 4


def test_other_kinds_of_cells():
    for _ in range(2):
        for cell in OTHER_CELLS.values():
            results(cell, [t.float().requires_grad_() for t in random_leaves(cell)], "triton")
        for cell, _ in normed.CELLS.values():
            normed.train(cell, "triton", steps=3, size=(5, 4), channels=4)


def test_calls_of_one_shape_share_their_structures():
    for _ in range(3):
        train("gru_before", Case())
        count = len(triton_plan._structures)
        train("gru_before", Case(steps=9))
    assert len(triton_plan._structures) == count == 2


def test_what_is_kept_is_bounded(monkeypatch):
    monkeypatch.setattr(triton_plan, "_MOST", 3)
    for batch in (1, 2, 3):
        train("lstm", Case(batch=batch))
        assert len(triton_plan._structures) <= 3


def test_a_call_is_free_when_it_is_over(monkeypatch):
    """Its memory does not wait for Python to look for cycles."""
    programs = noted_programs(monkeypatch, Checked)
    with no_cycles_found():
        train("lstm_full", Case())
        train("gru_before", Case())
        assert len(programs) >= 4
        assert not any(program() for program in programs)
