"""One small case of each kind of kernel of conv_recurrent's ``cuda`` backend on a GPU, for compute-sanitizer, which
makes a kernel take many times as long."""

import pytest
import torch

from fastrcn import native
from fastrcn.ops.conv_recurrent import cuda_method
from tests.helpers.cells import Case, compare_in_tf32, compare_with_loop
from tests.ops.cuda_on_host import normalize_cases, stage_cases, step_cases

pytestmark = [pytest.mark.gpu, pytest.mark.sanitizer]

SMALL = Case(steps=5, inputs=16, channels=24, height=9, width=17, scale=0.1, lengths=(5, 3))


@pytest.fixture(autouse=True)
def exact_float32(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def stream():
    return torch.cuda.current_stream().cuda_stream


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("stage", stage_cases.STAGES)
def test_stage(stage, dtype):
    case = stage_cases.StageCase(24, ended=True, addend="written")
    stage_cases.check_stage(native.module(), stage, case, dtype, "cuda", stream())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", step_cases.STEPS)
def test_step(name, dtype):
    for case in ("edges", "volume", "short_and_long"):
        step_cases.check_step(native.module(), name, step_cases.CASES[case], dtype, "cuda", stream())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", normalize_cases.CASES)
def test_normalize(case, dtype):
    case = normalize_cases.CASES[case]
    normalize_cases.check_forward(native.module(), case, dtype, "cuda", stream())
    if case.source != "none":
        normalize_cases.check_backward(native.module(), case, dtype, "cuda", stream())


@pytest.mark.walk
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", ["rnn_tanh", "lstm_full", "gru_before", "gru_after"])
def test_walk(name, dtype):
    with cuda_method.use_method("persistent"):
        compare_with_loop(name, SMALL, "cuda", dtype, "cuda")


@pytest.mark.walk
@pytest.mark.parametrize("name", ["lstm_full", "gru_before", "gru_after"])
def test_walk_in_tf32(name, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    with cuda_method.use_method("persistent"):
        compare_in_tf32(name, SMALL, "cuda")
