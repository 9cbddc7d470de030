"""The quick cases under pytest-benchmark: ``pytest benchmarks``."""

import pytest
import torch

from benchmarks import cases
from benchmarks.contestants import Unavailable, make, make_input, training_step


@pytest.mark.parametrize("contestant", ["fastrcn", "a", "b", "nn"])
@pytest.mark.parametrize("case", cases.find(quick=True), ids=lambda c: c.name)
def test_step(benchmark, case, contestant):
    try:
        module, _ = make(contestant, case, torch.float32, "cpu")
    except Unavailable as reason:
        pytest.skip(str(reason))
    x = make_input(case, torch.float32, "cpu")
    benchmark.group = case.name
    benchmark.pedantic(lambda: training_step(module, x, case.train), rounds=5, warmup_rounds=2)
