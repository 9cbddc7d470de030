"""The benchmark's cases: cut on a CPU, in their source's size on a GPU; what they say of their products holds."""

import re
from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import cases
from benchmarks.case import training_step
from benchmarks.runner import run_case

ON_CPU = {case.name: case for case in cases.CASES}


def test_on_a_cpu_the_cases_are_as_written():
    assert cases.find() == cases.CASES


@pytest.mark.parametrize("case", cases.find(device="cuda"), ids=lambda c: c.name)
def test_full_size(case):
    """What a note says is cut is whole on a GPU, and the note there says so."""
    cut = ON_CPU[case.name]
    if "full size" not in case.note:
        assert case == cut
        assert not re.search(r" of \d|; [NT] \d", cut.note)
        return
    assert case.flops() >= cut.flops()
    assert "full size" not in cut.note
    for axis, size in re.findall(r"([NTB]) \d+ of (\d+)", cut.note):
        assert f" {axis} {size}" in case.note.split("full size:")[1]


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_layers_upon_each_other(kind):
    """All contestants agree, and have the products that the floor is computed of."""
    case = replace(ON_CPU["small-c8"], kind=kind, sizes=(3, 2, 5, 4, 6, 7), layers=3, quick=False)
    found = run_case(case, ["fastrcn", "recompute", "a", "b"], torch.float32, "cpu", (1e9, 1e9), 1, False)
    assert not [c for c in found["contestants"].values() if "total_s" not in c or "error" in c]
    for train in (True, False):
        with FlopCounterMode(display=False) as counter:
            x = case.make_input(torch.float32, "cpu")
            training_step(case.make("a", torch.float32, "cpu"), x, train)
        assert counter.get_total_flops() == case.flops() * (case.passes() if train else 1)
