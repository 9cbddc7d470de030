"""The quick cases under pytest-benchmark: ``pytest benchmarks``."""

import pytest
import torch

from benchmarks import cases
from benchmarks.case import Unavailable, make, training_step


@pytest.mark.parametrize("contestant", ["fastrcn", "a", "b", "nn"])
@pytest.mark.parametrize("case", cases.find(quick=True), ids=lambda c: c.name)
def test_step(benchmark, case, contestant):
    try:
        module, _ = make(case, contestant, torch.float32, "cpu")
    except Unavailable as reason:
        pytest.skip(str(reason))
    x = case.make_input(torch.float32, "cpu")
    benchmark.group = case.name
    benchmark.pedantic(lambda: training_step(module, x, case.train), rounds=5, warmup_rounds=2)
