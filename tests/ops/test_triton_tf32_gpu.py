"""The Triton backend of conv_recurrent on a GPU in TF32: outputs and gradients against float64, at most twice as far
from it as the plain loop with cuDNN's convolutions in TF32."""

from dataclasses import replace

import pytest
import torch

import fastrcn
from fastrcn.ops.conv_recurrent import input_schedule, triton_time_loop
from tests.helpers.cells import SUBJECTS, Case, compare_in_tf32, make_tensors, run_package
from tests.helpers.tolerances import relative_error

pytestmark = [pytest.mark.gpu, pytest.mark.triton]

DEVICE = "cuda"
CASE = Case(steps=5, batch=2, inputs=32, channels=64, height=15, width=14, scale=0.05, lengths=(5, 3))
VOLUME = replace(CASE, channels=32, depth=5, height=7, width=6, kernel=(3, 3, 3))


def allow(monkeypatch, allowed):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", allowed)


def output_of(name):
    """In float32."""
    tensors = make_tensors(SUBJECTS[name], CASE, torch.float32)
    leaves = {n: t.detach().to(DEVICE).requires_grad_() for n, t in tensors.items()}
    return run_package(SUBJECTS[name], CASE, leaves, "triton")[0]


@pytest.mark.parametrize("schedule", input_schedule.NAMES)
@pytest.mark.parametrize("name", ["lstm", "gru_before"])
def test_follows_pytorch(name, schedule, monkeypatch):
    """Allowed, products are rounded to ten bits as PyTorch's own are; the error says so."""
    with input_schedule.use_schedule(schedule):
        allow(monkeypatch, False)
        exact = output_of(name)
        allow(monkeypatch, True)
        assert 1e-6 < relative_error(output_of(name), exact) < 5e-3


@pytest.mark.parametrize("case", [CASE, VOLUME], ids=["maps", "volumes"])
@pytest.mark.parametrize("schedule", input_schedule.NAMES)
@pytest.mark.parametrize("name", SUBJECTS)
def test_every_cell(name, schedule, case, monkeypatch):
    allow(monkeypatch, True)
    with input_schedule.use_schedule(schedule), fastrcn.use_time_loop("launched"):
        compare_in_tf32(name, case, "triton", DEVICE)


@pytest.mark.parametrize("name", ["lstm_full", "gru_before", "gru_after", "stacked"])
def test_walk(name, monkeypatch):
    """Of two kernels, forward and backward."""
    walks, plain = [], triton_time_loop.walk
    monkeypatch.setattr(triton_time_loop, "walk", lambda *a: walks.append(a) or plain(*a))
    allow(monkeypatch, True)
    with fastrcn.use_time_loop("persistent"):
        compare_in_tf32(name, CASE, "triton", DEVICE)
    assert walks
    assert {turns for *_, turns in walks} == {CASE.steps - 2}


def test_recompute(monkeypatch):
    allow(monkeypatch, True)
    compare_in_tf32("gru_before", CASE, "triton", DEVICE, recompute=True)
