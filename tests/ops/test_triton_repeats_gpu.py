"""The Triton backend of conv_recurrent on a GPU: every run gives the same bits.

With cuDNN's deterministic convolutions, which the gradients of weights are; the kernels of this package always are.
"""

import pytest
import torch

import fastrcn
from fastrcn.ops import autotune
from fastrcn.ops.conv_recurrent import input_schedule
from tests.helpers.cells import SUBJECTS, Case, gradients, make_tensors, run_package

pytestmark = [pytest.mark.gpu, pytest.mark.triton]

DEVICE = "cuda"
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
CASE = Case(steps=6, batch=3, inputs=20, channels=72, height=23, width=31, scale=0.05, lengths=(6, 1, 4))


@pytest.fixture(autouse=True)
def deterministic_library(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def run(name, case, dtype, recompute=False):
    """Output, last states and all gradients, of fixed tensors."""
    tensors = make_tensors(SUBJECTS[name], case, dtype)
    leaves = {n: t.detach().to(DEVICE).requires_grad_() for n, t in tensors.items()}
    return list(gradients(*run_package(SUBJECTS[name], case, leaves, "triton", recompute), leaves).values())


def repeats(work, runs=4):
    """Whether several runs give the same bits."""
    first = work()
    return all(torch.equal(a, b) for _ in range(runs - 1) for a, b in zip(first, work(), strict=True))


@pytest.mark.parametrize("loop", ["launched", "persistent"])
@pytest.mark.parametrize("schedule", input_schedule.NAMES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ["lstm_full", "gru_before"])
def test_schedules_and_loops(name, dtype, schedule, loop):
    with input_schedule.use_schedule(schedule), fastrcn.use_time_loop(loop):
        assert repeats(lambda: run(name, CASE, dtype))


@pytest.mark.parametrize("name", ["lstm_channel", "gru_after", "stacked"])
def test_tf32(name, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    assert repeats(lambda: run(name, CASE, torch.float32))


@pytest.mark.parametrize("name", ["lstm_full", "gru_before"])
def test_recompute(name):
    assert repeats(lambda: run(name, CASE, torch.bfloat16, recompute=True))


@pytest.mark.parametrize("way", ["launched", "persistent"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layer", [fastrcn.ConvGRU, fastrcn.ConvLSTM])
def test_both_directions(layer, dtype, way):
    net = layer(5, 24, bidirectional=True, backend="triton", device=DEVICE, dtype=dtype)
    x = torch.randn(9, 2, 5, 19, 18, device=DEVICE, dtype=dtype)

    def work():
        output, _ = net(x, lengths=[9, 4])
        return [output, *torch.autograd.grad(output.square().sum(), list(net.parameters()))]

    with fastrcn.use_directions("together"), fastrcn.use_time_loop(way):
        assert repeats(work)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ["lstm_channel", "gru_before"])
def test_autotuned(name, dtype, monkeypatch, tmp_path):
    """The runs that measure too: a candidate changes nothing that is used afterwards."""
    monkeypatch.setenv("FASTRCN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(autotune, "_known", {})
    with fastrcn.use_autotune():
        assert repeats(lambda: run(name, CASE, dtype))
    assert autotune.file_of(DEVICE).exists()
