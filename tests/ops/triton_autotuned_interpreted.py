"""Run by test_triton_interpreter.py with TRITON_INTERPRET=1: kernels whose configurations are measured, by a timer and
on a GPU that are made up."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

import fastrcn
from fastrcn.ops import autotune
from fastrcn.ops.conv3d_relu_maxpool3d import method
from fastrcn.ops.conv_recurrent import triton_launch
from tests.helpers.cells import SUBJECTS, Case, gradients, make_tensors, run_loop, run_package
from tests.helpers.tolerances import assert_close

GPU = SimpleNamespace(name="Made-Up", major=8, minor=0, multi_processor_count=132)
CASE = Case(steps=2, batch=2, channels=17, height=3, width=4, kernel=(1, 3), lengths=(2, 1))


@pytest.fixture(autouse=True)
def fresh(monkeypatch, tmp_path):
    monkeypatch.setattr(autotune, "_known", {})
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: GPU)
    monkeypatch.setenv("FASTRCN_CACHE", str(tmp_path))


class Timer:
    """Launches, and finds each launch faster than the one before, so that the last candidate is chosen."""

    def __init__(self):
        self.count = 0

    def __call__(self, launch):
        launch()
        self.count += 1
        return -self.count


def run(name, case, recompute=False):
    tensors = make_tensors(SUBJECTS[name], case, torch.float32)
    return gradients(*run_package(SUBJECTS[name], case, tensors, "triton", recompute), tensors)


def keys():
    return json.loads(autotune.file_of("cuda").read_text())


@pytest.mark.parametrize("name", ["lstm_full", "gru_before"])
def test_measuring_changes_no_result(name, monkeypatch):
    configs = []
    plain = triton_launch.PhaseLaunch.__call__
    monkeypatch.setattr(
        triton_launch.PhaseLaunch, "__call__", lambda self, *times: configs.append(self.config) or plain(self, *times)
    )
    timer, exact = Timer(), make_tensors(SUBJECTS[name], CASE)
    with fastrcn.use_autotune(timer=timer):
        measured = run(name, CASE)
        count = timer.count
        later = run(name, CASE)
    assert count > 1
    assert timer.count == count
    assert {(c.block_m, c.block_c) for c in configs} == {(64, 16)}  # the last that is shipped
    for part, value in gradients(*run_loop(SUBJECTS[name], CASE, exact), exact).items():
        assert_close(measured[part], value, part)
        assert torch.equal(measured[part], later[part]), part


def test_batch_and_time_are_in_no_key():
    timer = Timer()
    with fastrcn.use_autotune(timer=timer):
        run("rnn_tanh", CASE)
        count, known = timer.count, keys()
        # The forward, the backward, and the convolutions that end the backward.
        assert len(known) == 3
        assert {k.split()[2] for k in known} > {"fwd0", "bwd0"}
        run("rnn_tanh", replace(CASE, steps=3, batch=3, lengths=(3, 2, 0)))
        assert timer.count == count
        assert keys() == known
        run("rnn_tanh", replace(CASE, height=5))
        assert timer.count > count


def test_without_a_timer_the_interpreter_measures_nothing(monkeypatch):
    monkeypatch.setenv("FASTRCN_AUTOTUNE", "1")
    run("rnn_tanh", CASE)
    assert not autotune.file_of("cuda").exists()


def test_conv3d():
    # More than 16 channels, in and out, or there is only one configuration.
    x, weight = torch.randn(2, 17, 2, 2, 4), torch.randn(18, 17, 1, 1, 3)
    timer = Timer()

    def both(x, backend, dtype=torch.float32):
        leaf = x.to(dtype).requires_grad_()
        y = fastrcn.functional.conv3d_relu_maxpool3d(
            leaf, weight.to(dtype), padding=(0, 0, 1), pool_kernel_size=2, backend=backend
        )
        return [y, *torch.autograd.grad(y.square().sum(), leaf)]

    with fastrcn.use_autotune(timer=timer), method.use_method("fused"):
        found = both(x, "triton")
        count = timer.count
        assert count > 1
        assert {k.split()[0] for k in keys()} == {"conv3d_relu_maxpool3d_fwd", "conv3d_relu_maxpool3d_bwd"}
        both(x[:1], "triton")
        assert timer.count == count
    for a, b in zip(found, both(x, "reference", torch.float64), strict=True):
        assert_close(a, b)
