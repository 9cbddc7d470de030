"""Run by test_cuda_stages_on_host.py: the ``cuda`` backend on CPU tensors, its kernels compiled for the host."""

import os
from contextlib import nullcontext

import pytest
import torch

from fastrcn import backends
from fastrcn.cells import BUILT_IN
from fastrcn.ops.conv_recurrent import cuda, input_schedule
from tests.helpers.cells import CASES, PADDINGS, SUBJECTS, Case, compare_with_loop, make_tensors, run_package
from tests.helpers.noise import CASE, NOISY, compare_noisy
from tests.helpers.normed import CELLS, compare
from tests.ops.cuda_on_host import stage_cases
from tests.ops.cuda_on_host.stages import HostKernels

KERNELS = HostKernels(os.environ["FASTRCN_HOST_STAGES"])
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
MANY_CHUNKS = Case(steps=17, batch=1, channels=3, scale=0.2)


@pytest.fixture(autouse=True)
def on_the_host(monkeypatch, poisoned_memory):
    monkeypatch.setattr(cuda, "_kernels", lambda: KERNELS)
    monkeypatch.setattr(cuda, "_current_stream", lambda device: nullcontext(0))
    monkeypatch.setattr(cuda, "_PARTS", 3)
    monkeypatch.setitem(backends._CAN_RUN["conv_recurrent"], "cuda", lambda *a: (True, "its kernels run on the host"))
    KERNELS.launches.clear()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("stage", stage_cases.STAGES)
def test_stage(stage, dtype):
    for case in stage_cases.CASES.values():
        stage_cases.check_stage(KERNELS, stage, case, dtype)


def test_launch_checks_its_arguments():
    assert "no stage kernel -1" in KERNELS.launch_cuda_stage(-1, 0, [], [], [], 1, 1, 1, 0, 0, [], 1, 0)
    assert "takes 3 buffers, 0 of them sums; got 1, 0" in KERNELS.launch_cuda_stage(
        0, 0, [0], [0], [], 1, 1, 1, 0, 0, [], 1, 0
    )


def test_every_cell_is_a_subject():
    assert {repr(c) for c in BUILT_IN} <= {repr(s.cell) for s in SUBJECTS.values()}


@pytest.mark.parametrize("name", SUBJECTS)
@pytest.mark.parametrize("case", ["plain", "reverse_lengths"])
def test_equals_hand_written_loop(name, case):
    compare_with_loop(name, CASES[case], "cuda", torch.float64)


@pytest.mark.parametrize("name", ["lstm_channel", "gru_before", "gru_after", "stacked"])
@pytest.mark.parametrize("case", ["no_bias_no_states", "stride", "padding_of_1x1"])
def test_inputs_convolved_in_the_loop(name, case):
    with input_schedule.use_schedule("in_loop"):
        compare_with_loop(name, (CASES | PADDINGS)[case], "cuda", torch.float64)


SHAPES = [*sorted(set(CASES) - {"plain", "reverse_lengths", "many_chunks", "no_input"}), *PADDINGS]


@pytest.mark.parametrize("name", ["lstm_full", "gru_before"])
@pytest.mark.parametrize("case", SHAPES)
def test_shapes(name, case):
    compare_with_loop(name, (CASES | PADDINGS)[case], "cuda")


@pytest.mark.parametrize("name", ["lstm_full", "gru_before", "gru_after", "mgu"])
def test_volumes(name):
    case = Case(depth=3, height=4, width=5, kernel=(3, 3, 3), stride=(1, 2, 1), lengths=(4, 2), scale=0.2)
    compare_with_loop(name, case, "cuda", torch.float64)


@pytest.mark.parametrize("name", ["rnn_tanh", "lstm_channel", "lstm_full", "gru_before", "stacked", "mgu"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_low_precision_is_no_worse_than_twice_the_plain_loop(name, dtype):
    compare_with_loop(name, CASES["plain"], "cuda", dtype)


@pytest.mark.parametrize("name", ["lstm_full", "gru_before"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_low_precision_in_packs(name, dtype):
    """Eight channels at a time; without a ReLU, which a rounding may open."""
    compare_with_loop(name, Case(channels=16, lengths=(4, 2), scale=0.1), "cuda", dtype)


@pytest.mark.parametrize("name", NOISY)
@pytest.mark.parametrize("recompute", [False, True])
def test_masks(name, recompute):
    compare_noisy(name, CASE, "cuda", torch.float64, recompute)


@pytest.mark.parametrize("name", ["lstm_full", "gru_before", "gru_after", "mgu"])
@pytest.mark.parametrize("case", ["reverse_lengths", "kernel_1"])
def test_recompute(name, case):
    compare_with_loop(name, CASES[case], "cuda", torch.float64, recompute=True)


@pytest.mark.parametrize(("name", "recompute"), [("lstm_channel", False), ("lstm_full", True), ("gru_before", False)])
def test_many_chunks(name, recompute, monkeypatch):
    monkeypatch.setattr(cuda.Program, "chunk_pixels", (1, 1 << 62))
    compare_with_loop(name, MANY_CHUNKS, "cuda", torch.float64, recompute=recompute)


@pytest.mark.parametrize("name", ["lstm", "gru_before"])
def test_no_sequences(name):
    case = Case(batch=0)
    tensors = make_tensors(SUBJECTS[name], case)
    output, _ = run_package(SUBJECTS[name], case, tensors, "cuda")
    grads = torch.autograd.grad(output.sum(), list(tensors.values()))
    assert output.shape[1] == 0
    assert not any(g.any() for g in grads)
    assert not KERNELS.launches


STAGES_OF_A_STEP = {"rnn_tanh": 1, "lstm": 1, "lstm_full": 1, "gru_before": 2, "gru_after": 1, "stacked": 2}


@pytest.mark.parametrize("name", STAGES_OF_A_STEP)
def test_stages_add_what_convolutions_give(name, monkeypatch):
    """One kernel per stage and step, forward and backward, and no pass over memory that only adds."""
    added, plain = [], cuda.add_convolution

    def counted(*arguments):
        added.append(arguments)
        plain(*arguments)

    monkeypatch.setattr(cuda, "add_convolution", counted)
    case = CASES["plain"]
    compare_with_loop(name, case, "cuda", torch.float64)
    # Where two groups of slots are convolved from the state, one of its two gradients is added to the other.
    assert len(added) == (case.steps if name == "gru_after" else 0)
    assert len(KERNELS.launches) == 2 * case.steps * STAGES_OF_A_STEP[name]
    forward = KERNELS.launches[: len(KERNELS.launches) // 2]
    slots = SUBJECTS[name].gates[1]
    assert sum(len(addends) for _, addends in forward) == case.steps * slots
    assert all(written for _, addends in forward for *_, written in addends)


def test_pre_activations_that_nobody_reads_are_not_written():
    tensors = make_tensors(SUBJECTS["lstm"], CASES["plain"])
    with torch.no_grad():
        run_package(SUBJECTS["lstm"], CASES["plain"], tensors, "cuda")
    assert KERNELS.launches
    assert not any(written for _, addends in KERNELS.launches for *_, written in addends)


@pytest.mark.parametrize("name", ["mgu"])
def test_a_cell_of_ones_own_runs_as_pytorch_code(name):
    compare_with_loop(name, CASES["lengths"], "cuda", torch.float64)
    assert not KERNELS.launches


@pytest.mark.parametrize("name", CELLS)
def test_layer_normalisation(name):
    """Stages and normalisation as PyTorch code between the library's convolutions."""
    compare(name, "cuda", torch.float64, lengths=(4, 2, 0), maps=True)
    compare(name, "cuda", torch.float64, reverse=True, recompute=True)
