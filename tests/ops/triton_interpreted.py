"""Run by test_triton_interpreter.py with TRITON_INTERPRET=1: the Triton program against hand-written float64 loops."""

from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import numpy
import pytest
import torch
import triton
from torch._subclasses.fake_tensor import FakeTensorMode

import fastrcn
from benchmarks.many_gates import MANY_GATES
from fastrcn.cells import BUILT_IN, Cell, conv, tanh
from fastrcn.compiler.schedule import schedule_of
from fastrcn.functional import conv_rnn
from fastrcn.ops.conv_recurrent import input_schedule, triton_launch, triton_plan, triton_sums, triton_time_loop
from fastrcn.ops.conv_recurrent.geometry import Geometry
from fastrcn.ops.conv_recurrent.sequence import chunks_of
from fastrcn.ops.conv_recurrent.triton_config import Config, use_config
from fastrcn.ops.conv_recurrent.triton_program import TritonProgram, can_run
from tests.helpers.cells import CASES, PADDINGS, SUBJECTS, Case, gradients, make_tensors, run_loop, run_package
from tests.helpers.noise import CASE, NOISY, compare_noisy
from tests.helpers.other_cells import OTHER_CELLS, compare_with_reference
from tests.helpers.relaunched import relaunched
from tests.helpers.tolerances import assert_close
from tests.helpers.triton_programs import note_programs

SMALL = Config(16, 16, 16, 4, 1)
PARTS = Config(32, 32, 16, 4, 1, 16)

pytestmark = pytest.mark.usefixtures("poisoned_memory")


def compare(name, case, dtype=torch.float32, recompute=False):
    subject, low = SUBJECTS[name], dtype != torch.float32
    tensors = make_tensors(subject, case, dtype)
    exact = make_tensors(subject, case)
    if low:  # the truth for the values that such a tensor can hold
        exact = {n: t.detach().double().requires_grad_() for n, t in tensors.items()}
    truth = gradients(*run_loop(subject, case, exact), exact)
    found = gradients(*run_package(subject, case, tensors, "triton", recompute), tensors)
    plain = None
    if low:
        rough = make_tensors(subject, case, dtype)
        plain = gradients(*run_loop(subject, case, rough), rough)
    for part, value in truth.items():
        assert_close(found[part], value, part, dtype, plain and plain[part])


def test_every_cell_is_a_subject():
    """Normalised ones: ``triton_norms_interpreted``."""
    plain = {repr(c) for c in BUILT_IN if not schedule_of(c.key).normalizes}
    assert plain <= {repr(s.cell) for s in SUBJECTS.values()}


@pytest.mark.parametrize("name", SUBJECTS)
@pytest.mark.parametrize("case", ["plain", "reverse_lengths", "no_bias_no_states"])
@pytest.mark.parametrize("schedule", input_schedule.NAMES)
def test_equals_hand_written_loop(name, case, schedule):
    with input_schedule.use_schedule(schedule):
        compare(name, CASES[case])


SHAPES = {
    "one_step": CASES["one_step"],
    "one_sequence": CASES["one_sequence"],
    "odd_channels": CASES["odd_channels"],
    "one_pixel": CASES["one_pixel"],
    "smaller_than_kernel_7": Case(steps=2, height=2, width=3, kernel=(7, 7)),
    "kernel_1": CASES["kernel_1"],
    "kernel_5": Case(steps=2, kernel=(5, 5)),
    "kernel_1x5": CASES["kernel_1x5"],
    "kernel_5x1": CASES["kernel_5x1"],
    "two_kernels": CASES["two_kernels"],
    "stride": CASES["stride"],
    "dilation": CASES["dilation"],
    "lengths": CASES["lengths"],
    "reverse": CASES["reverse"],
}


@pytest.mark.parametrize("name", ["lstm_full", "gru_before", "gru_after"])
@pytest.mark.parametrize("shape", SHAPES)
def test_shapes(name, shape):
    compare(name, SHAPES[shape])


@pytest.mark.parametrize("name", ["lstm_channel", "gru_before", "gru_after", "stacked"])
@pytest.mark.parametrize("shape", ["stride", "dilation", "kernel_1x5", "two_kernels", "odd_channels"])
def test_shapes_of_inputs_convolved_in_the_loop(name, shape):
    with input_schedule.use_schedule("in_loop"):
        compare(name, SHAPES[shape])


@pytest.mark.parametrize("case", PADDINGS)
def test_paddings_of_inputs_convolved_in_the_loop(case):
    with input_schedule.use_schedule("in_loop"):
        compare("lstm_channel", replace(PADDINGS[case], steps=2, batch=1, lengths=None))


@pytest.mark.parametrize("name", NOISY)
def test_masks(name):
    compare_noisy(name, replace(CASE, steps=3, batch=2, lengths=(3, 1)), "triton", torch.float32)


@pytest.mark.parametrize("name", ["lstm_full", "gru_before"])
def test_many_chunks(name, monkeypatch):
    case = Case(steps=17, batch=1, channels=3, scale=0.2)
    monkeypatch.setattr(TritonProgram, "chunk_pixels", (1, 1 << 62))
    assert len(chunks_of(TritonProgram, _geometry(SUBJECTS[name].cell, case), True)) > 2
    compare(name, case)


@pytest.mark.parametrize("name", SUBJECTS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["float16", "bfloat16"])
def test_low_precision_is_no_worse_than_twice_the_plain_loop(name, dtype):
    compare(name, CASES["plain"], dtype)


@pytest.mark.parametrize("name", ["lstm_channel", "lstm_full", "gru_before", "gru_after"])
@pytest.mark.parametrize("config", [SMALL, PARTS], ids=["small", "parts"])
def test_many_tiles(name, config):
    with use_config(config):
        compare(name, Case(steps=2, batch=2, channels=19, height=4, width=5, lengths=(2, 1)))


@pytest.mark.parametrize("name", ["lstm", "gru_before"])
def test_recompute(name):
    compare(name, CASES["reverse_lengths"], recompute=True)


def _geometry(cell, case):
    size = (case.height, case.width)
    return Geometry(
        schedule_of(cell.key), case.steps, case.batch, case.channels, size, (1, 1), (1, 1), None, case.reverse
    )


@pytest.mark.parametrize("name", SUBJECTS)
def test_inference_equals_training(name):
    """Without a backward, pre-activations that nobody needs are not written and states are overwritten."""
    case, subject = CASES["lengths"], SUBJECTS[name]
    tensors = make_tensors(subject, case, torch.float32)
    with torch.no_grad():
        lean, _ = run_package(subject, case, tensors, "triton")
    assert torch.equal(run_package(subject, case, tensors, "triton")[0], lean)


def test_lean_lstm_stores_states_only(monkeypatch):
    programs = note_programs(monkeypatch)
    with torch.no_grad():
        run_package(
            SUBJECTS["lstm"], CASES["plain"], make_tensors(SUBJECTS["lstm"], CASES["plain"], torch.float32), "triton"
        )
    (launch,) = programs[0].launches
    assert len(launch.phase.accumulators) == 4
    assert not any(a.stored for a in launch.phase.accumulators)


@pytest.mark.parametrize("name", OTHER_CELLS)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("config", [None, SMALL], ids=["large_tiles", "small_tiles"])
@pytest.mark.parametrize("schedule", input_schedule.NAMES)
def test_other_cells(name, training, config, schedule):
    with use_config(config) if config else nullcontext(), input_schedule.use_schedule(schedule):
        compare_with_reference(OTHER_CELLS[name], "triton", torch.float32, training)


def test_products_of_one_source_are_joined_in_order(monkeypatch):
    """Whatever comes first among what is filled; in another order slots would be exchanged."""
    programs = note_programs(monkeypatch)
    compare_with_reference(OTHER_CELLS["state_and_operand"], "triton", torch.float32)
    phase = programs[1].launch(programs[1].works[-1]).phase
    (product,) = phase.products
    assert product.accumulators == (0, 1)
    assert phase.joined
    assert not replace(phase, products=(replace(product, accumulators=(1, 0)),)).joined


@pytest.mark.parametrize("name", ["lstm_channel", "gru_before"])
def test_later_launches_reuse_the_compiled_kernel(name, monkeypatch):
    """The order of the arguments on that path, which the interpreter itself never takes."""
    kernel, calls, tensors = relaunched(triton_plan.kernel_of)
    monkeypatch.setattr(triton_plan, "kernel_of", kernel)
    monkeypatch.setattr(triton_plan, "_structures", {})
    plain = triton_launch.PhaseLaunch.arguments

    def arguments(*given):
        found = plain(*given)
        tensors.update((t.data_ptr(), t) for t in found[0])
        return found

    monkeypatch.setattr(triton_launch.PhaseLaunch, "arguments", arguments)
    for _ in range(2):
        del calls[:]
        compare(name, Case(steps=5, batch=3, lengths=(5, 2, 0)))
        assert len(calls) >= 6
    launches = 2 * 5 * (2 if name == "gru_before" else 1) + 1
    assert len(calls) == launches, "a second call of the same structure compiles nothing"


@pytest.mark.parametrize("schedule", input_schedule.NAMES)
def test_launches_per_step(schedule):
    """One launch per convolution level, forward and backward, whoever convolves the inputs."""
    for name, number in (("rnn_tanh", 1), ("lstm", 1), ("gru_after", 1), ("gru_before", 2), ("mgu", 2)):
        with pytest.MonkeyPatch.context() as patch, input_schedule.use_schedule(schedule):
            programs = note_programs(patch)
            patch.setattr(triton_time_loop, "run", lambda loop: None)
            tensors = make_tensors(SUBJECTS[name], CASES["plain"], torch.float32)
            gradients(*run_package(SUBJECTS[name], CASES["plain"], tensors, "triton"), tensors)
        forward, backward = programs
        assert len(forward.launches) == number, name
        assert len(backward.rotated[0]) == number, name


def test_a_reach_that_32_bits_do_not_count():
    """Of a kernel whose taps are millions of pixels apart."""
    x, weight = torch.zeros(1, 1, 1, 1, 1 << 20), torch.zeros(1, 1, 3, 1)
    with fastrcn.use_schedule("in_loop"), pytest.raises(ValueError, match="that the kernel reaches beyond it"):
        conv_rnn(x, weight, torch.zeros(1, 1, 1, 1), backend="triton", dilation=(2048, 1))


class SeventeenGates(Cell):
    def step(self, x, h):
        return sum(tanh(conv(x) + conv(h)) for _ in range(17))


class SeventeenOperands(Cell):
    """One sum, but in backward one of each operand's gradient."""

    def step(self, x, h):
        return tanh(sum((conv(h * n) for n in range(1, 18)), conv(x)))


class TenAndTen(Cell):
    """Ten sums are the inputs' alone: in the loop they are made together with the others."""

    def step(self, x, h):
        return sum(tanh(conv(x)) + tanh(conv(h)) for _ in range(10)) / 20


ROOM = "its kernels have room for 16 sums of convolutions, a phase of this cell has "


def test_sums_are_counted_in_each_phase():
    """Forward and backward, wherever the inputs may be convolved, and whatever mode of PyTorch is on."""
    triton_sums._of_phases.cache_clear()
    two_levels, ten_and_ten = MANY_GATES["two_levels"], TenAndTen()
    with FakeTensorMode():
        assert can_run((two_levels.key, 2), torch.float32, "cuda")[0]
    for cell, sums in ((SeventeenGates(), 17), (SeventeenOperands(), 17), (ten_and_ten, 20)):
        assert can_run((cell.key, 2), torch.float32, "cuda") == (False, f"{ROOM}{sums}")
    with input_schedule.use_schedule("hoisted"):
        assert can_run((ten_and_ten.key, 2), torch.float32, "cuda")[0]


@pytest.mark.parametrize("schedule", input_schedule.NAMES)
def test_more_sums_than_one_phase_has_room_for(schedule, monkeypatch):
    programs = note_programs(monkeypatch)
    with input_schedule.use_schedule(schedule):
        compare_with_reference(MANY_GATES["two_levels"], "triton", torch.float32)
    assert [len(launch.phase.accumulators) for launch in programs[0].launches] == [10, 10]


def test_can_run_says_why_not(monkeypatch):
    subject = (BUILT_IN[0].key, 2)
    assert can_run(subject, torch.bfloat16, "cpu")[0]
    assert can_run(subject, torch.float32, "cuda")[0]
    ok, reason = can_run(subject, torch.float64, "cuda")
    assert not ok
    assert "float64" in reason
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for major, minor, expected in ((7, 5, False), (8, 0, True), (10, 0, True)):
        gpu = SimpleNamespace(major=major, minor=minor)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device, gpu=gpu: gpu)
        ok, reason = can_run(subject, torch.float16, "cuda")
        assert ok is expected
        assert ok or "needs a GPU of compute capability 8.0 or later, this is 7.5" in reason
    monkeypatch.setattr(triton, "__version__", "3.6.0")
    for version, expected in (("2.3.5", True), ("2.4.0", False)):
        monkeypatch.setattr(numpy, "__version__", version)
        ok, reason = can_run(subject, torch.float32, "cpu")
        assert ok is expected
        assert ok or "the interpreter of Triton 3.6.0 needs NumPy before 2.4, this is 2.4.0" in reason
    monkeypatch.delenv("TRITON_INTERPRET")
    ok, reason = can_run(subject, torch.float32, "cpu")
    assert not ok
    assert "TRITON_INTERPRET=1" in reason
