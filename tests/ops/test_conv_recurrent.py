"""Rungs 1 and 3 of the truth ladder: every backend against hand-written float64 loops, all gradients, odd shapes."""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from fastrcn import native, use_cpu_convolution, use_schedule
from fastrcn.compiler.schedule import schedule_of
from fastrcn.ops.conv_recurrent import input_schedule
from fastrcn.ops.conv_recurrent.geometry import Geometry
from fastrcn.ops.conv_recurrent.program import Program
from fastrcn.ops.conv_recurrent.sequence import chunks_of
from fastrcn.ops.convolution import winograd
from tests.helpers.cells import CASES, PADDINGS, SUBJECTS, Case, gradients, make_tensors, run_loop, run_package
from tests.helpers.other_cells import OTHER_CELLS, compare_with_reference
from tests.helpers.tolerances import assert_close, assert_draws_close, draws

DTYPES = [torch.float64, torch.float32]

pytestmark = pytest.mark.usefixtures("poisoned_memory")


def compare(subject, case, dtype, backend, recompute=False):
    results = []
    for seed in draws(dtype):
        tensors = make_tensors(subject, case, dtype, seed)
        exact = make_tensors(subject, case, seed=seed)
        if dtype == torch.bfloat16:  # the truth for the values that a bfloat16 tensor can hold
            exact = {name: t.detach().double().requires_grad_() for name, t in tensors.items()}
        truth = truth_of(subject, case, exact)
        found = gradients(*run_package(subject, case, tensors, backend, recompute), tensors)
        plain = gradients(*run_loop(subject, case, tensors), tensors) if dtype == torch.bfloat16 else {}
        results.append((found, truth, plain))
    assert_draws_close(results, dtype)


def truth_of(subject, case, tensors):
    """By the hand-written loop, which cannot convolve nothing."""
    if case.inputs:
        return gradients(*run_loop(subject, case, tensors), tensors)
    used = {n: t for n, t in tensors.items() if n not in ("x", "weight_ih")}
    truth = gradients(*run_loop(subject, case, tensors), used)
    return truth | {"d_x": torch.zeros_like(tensors["x"]), "d_weight_ih": torch.zeros_like(tensors["weight_ih"])}


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("dtype", DTYPES, ids=["float64", "float32"])
@pytest.mark.parametrize("name", SUBJECTS)
@pytest.mark.parametrize("case", CASES)
def test_equals_hand_written_loop(name, case, dtype, backend):
    if case == "no_input" and SUBJECTS[name].below:
        case = "plain"
    compare(SUBJECTS[name], CASES[case], dtype, backend)


@pytest.mark.parametrize("schedule", [None, *input_schedule.NAMES])
@pytest.mark.parametrize("dtype", DTYPES, ids=["float64", "float32"])
@pytest.mark.parametrize("name", ["lstm_full", "gru_before", "stacked"])
@pytest.mark.parametrize("case", PADDINGS)
def test_paddings_equal_hand_written_loop(name, case, dtype, schedule, one_thread):
    """``schedule`` None: the plain form."""
    if schedule is None:
        compare(SUBJECTS[name], PADDINGS[case], dtype, "reference")
        return
    with input_schedule.use_schedule(schedule):
        compare(SUBJECTS[name], PADDINGS[case], dtype, "cpu")
        compare(SUBJECTS[name], PADDINGS[case], dtype, "cpu", recompute=True)


@pytest.mark.parametrize("name", SUBJECTS)
@pytest.mark.parametrize("case", ["plain", "no_bias_no_states", "reverse_lengths", "kernel_1", "many_chunks"])
@pytest.mark.parametrize("dtype", DTYPES, ids=["float64", "float32"])
def test_recompute_equals_hand_written_loop(name, case, dtype):
    compare(SUBJECTS[name], CASES[case], dtype, "cpu", recompute=True)


@pytest.mark.parametrize("schedule", input_schedule.NAMES)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", OTHER_CELLS)
def test_other_cells(name, training, schedule):
    with use_schedule(schedule):
        compare_with_reference(OTHER_CELLS[name], "cpu", torch.float64, training)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("name", SUBJECTS)
@pytest.mark.parametrize("case", ["plain", "odd_channels", "kernel_1", "reverse_lengths"])
def test_bfloat16_is_no_worse_than_twice_the_plain_loop(name, case, backend):
    compare(SUBJECTS[name], CASES[case], torch.bfloat16, backend)


@pytest.mark.parametrize("name", ["lstm_channel", "gru_before", "stacked"])
@pytest.mark.parametrize("library", [None, False, True], ids=["this_processor", "without_library", "library"])
def test_bfloat16_of_more_channels(name, library, monkeypatch):
    """Without a compiled convolution of bfloat16 oneDNN convolves so many where it can; here as if it could, and as if
    it could not."""
    if library is not None:
        monkeypatch.setattr(native, "convolves_bfloat16", lambda: False)
        monkeypatch.setattr(native, "has_bfloat16_convolution", lambda: library)
    compare(SUBJECTS[name], Case(channels=9), torch.bfloat16, "cpu")
    compare(SUBJECTS[name], Case(inputs=10, channels=3), torch.bfloat16, "cpu", recompute=True)


@pytest.mark.parametrize("schedule", input_schedule.NAMES)
@pytest.mark.parametrize("name", ["lstm_full", "gru_before", "stacked"])
def test_bfloat16_where_threads_share_out_pixels_or_channels(name, schedule, one_thread):
    torch.set_num_threads(2)  # the fixture resets it
    with input_schedule.use_schedule(schedule):
        compare(SUBJECTS[name], Case(channels=17, height=12, width=9), torch.bfloat16, "cpu")
        compare(SUBJECTS[name], Case(channels=64, batch=1, height=2, width=3, scale=0.05), torch.bfloat16, "cpu")


@pytest.mark.parametrize("name", ["lstm_channel", "gru_before", "lstm_full"])
def test_native_bfloat16_storage(name, monkeypatch):
    """The stages' bfloat16 storage, which automatic choice uses only where oneDNN convolves bfloat16."""
    from fastrcn.ops.conv_recurrent import cpu

    monkeypatch.setattr(cpu, "compute_type", lambda dtype, channels: dtype)
    compare(SUBJECTS[name], Case(states=False), torch.bfloat16, "cpu")


@pytest.mark.parametrize("name", SUBJECTS)
@pytest.mark.parametrize("schedule", input_schedule.NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_both_schedules(name, schedule, dtype):
    """The choice by shape takes one of them for each map; here both, on a small map and on a larger one."""
    with input_schedule.use_schedule(schedule):
        compare(SUBJECTS[name], CASES["reverse_lengths"], dtype, "cpu")
        compare(SUBJECTS[name], Case(channels=17, height=12, width=9), dtype, "cpu", recompute=True)


@pytest.mark.parametrize("schedule", input_schedule.NAMES)
@pytest.mark.parametrize("name", ["lstm_channel", "gru_before"])
def test_any_number_of_threads(name, schedule, one_thread):
    for threads in (2, 3, 5):
        torch.set_num_threads(threads)  # the fixture resets it
        with input_schedule.use_schedule(schedule):
            compare(SUBJECTS[name], Case(channels=17, height=12, width=9), torch.float32, "cpu")
            compare(SUBJECTS[name], CASES["many_chunks"], torch.float32, "cpu", recompute=True)


def test_unknown_schedule():
    with (
        pytest.raises(ValueError, match=r"schedule: expected one of hoisted, in_loop, got 'fast'"),
        use_schedule("fast"),
    ):
        pass


def test_many_chunks_really_has_many():
    case = CASES["many_chunks"]
    schedule = schedule_of(SUBJECTS["lstm"].cell.key)
    geometry = Geometry(schedule, case.steps, case.batch, 3, (case.height, case.width), (1, 1), (1, 1), None, False)
    assert len(chunks_of(Program, geometry, True)) > 2
    assert sum(steps for _, steps in chunks_of(Program, geometry, True)) == case.steps


def function_of_tensors(subject, case, backend):
    """(a function of the case's tensors, the tensors), for gradcheck."""
    tensors = make_tensors(subject, case)

    def function(*values):
        output, states = run_package(subject, case, dict(zip(tensors, values, strict=True)), backend)
        return (output, *states)

    return function, tuple(tensors.values())


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("name", SUBJECTS)
def test_gradcheck(name, backend):
    subject, case = SUBJECTS[name], Case(steps=3, batch=1, inputs=2, channels=2, height=3, width=2)
    assert gradcheck(*function_of_tensors(subject, case, backend))


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("name", ["rnn_tanh", "lstm_channel", "gru_before", "gru_after", "mgu"])
def test_gradgradcheck(name, backend):
    subject, case = SUBJECTS[name], Case(steps=2, batch=1, inputs=1, channels=2, height=2, width=2)
    assert gradgradcheck(*function_of_tensors(subject, case, backend))


def test_gradients_of_single_arguments():
    """Only what asks for a gradient gets one, and it is the same as among all."""
    subject, case = SUBJECTS["lstm_channel"], CASES["plain"]
    tensors = make_tensors(subject, case)
    full = gradients(*run_package(subject, case, tensors, "cpu"), tensors)
    for name in tensors:
        alone = {n: t.detach().requires_grad_(n == name) for n, t in tensors.items()}
        found = gradients(*run_package(subject, case, alone, "cpu"), {name: alone[name]})
        assert_close(found[f"d_{name}"], full[f"d_{name}"], name)


def test_gradient_of_last_state_alone():
    subject, case = SUBJECTS["lstm"], CASES["plain"]
    for backend in ("reference", "cpu"):
        tensors = make_tensors(subject, case)
        _, (_, c) = run_package(subject, case, tensors, backend)
        c.sum().backward()
        exact = make_tensors(subject, case)
        run_loop(subject, case, exact)[1][1].sum().backward()
        assert_close(tensors["x"].grad, exact["x"].grad)


def test_no_grad_output_is_the_same():
    subject, case = SUBJECTS["gru_before"], CASES["many_chunks"]
    tensors = make_tensors(subject, case, torch.float32)
    with torch.no_grad():
        quiet = run_package(subject, case, tensors, "cpu")[0]
    assert torch.equal(quiet, run_package(subject, case, tensors, "cpu")[0].detach())


def test_results_do_not_change_between_runs():
    subject, case = SUBJECTS["lstm_channel"], CASES["many_chunks"]
    tensors = make_tensors(subject, case, torch.float32)
    first = gradients(*run_package(subject, case, tensors, "cpu"), tensors)
    second = gradients(*run_package(subject, case, tensors, "cpu"), tensors)
    assert all(torch.equal(first[n], second[n]) for n in first)


def test_nan_passes_through():
    subject, case = SUBJECTS["lstm"], CASES["plain"]
    tensors = {n: t.detach() for n, t in make_tensors(subject, case, torch.float32).items()}
    tensors["x"][1, 0, 0, 2, 2] = float("nan")
    output = run_package(subject, case, tensors, "cpu")[0]
    assert output[1, 0, :, 2, 2].isnan().all()
    assert output[0].isfinite().all()
    assert output[:, 1].isfinite().all()


@pytest.mark.parametrize("size", [30.0, 1e4])
def test_saturated_gates(size):
    subject, case = SUBJECTS["lstm"], CASES["plain"]
    exact = make_tensors(subject, case)
    exact["x"] = (size * exact["x"].detach()).requires_grad_()
    rough = {n: t.detach().float().requires_grad_() for n, t in exact.items()}
    truth, found = run_loop(subject, case, exact)[0], run_package(subject, case, rough, "cpu")[0]
    assert_close(found, truth)


@pytest.mark.skipif(native.module() is None, reason="needs the native extension")
@pytest.mark.parametrize("kernel", [(3, 3), (5, 5), (3, 3, 3)], ids=str)
@pytest.mark.parametrize("schedule", input_schedule.NAMES)
@pytest.mark.parametrize("name", SUBJECTS)
def test_fewer_multiplications(name, schedule, kernel, monkeypatch):
    """The convolutions of enough channels, of maps and of volumes, forward and backward."""
    prepared, calls = winograd.prepared, []
    monkeypatch.setattr(winograd, "prepared", lambda *given: calls.append(given) or prepared(*given))
    sizes = {"inputs": 32, "channels": 33, "depth": 3 if len(kernel) == 3 else None, "height": 7, "width": 10}
    for options in ({"states": False}, {"reverse": True, "lengths": (3, 2)}):
        case = Case(steps=3, **sizes, kernel=kernel, scale=0.05, **options)
        with input_schedule.use_schedule(schedule):
            compare(SUBJECTS[name], case, torch.float32, "cpu")
    assert calls


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("name", ["lstm", "gru_before"])
@pytest.mark.parametrize("options", [{"channels": 64}, {"channels": 32, "recurrent_kernel": (5, 5)}], ids=str)
def test_convolutions_that_have_room_for_different_rows(options, name, threads, one_thread):
    """Of one step: that of the input, with fewer channels or taps, could take more rows of tiles at a time."""
    torch.set_num_threads(threads)  # the fixture resets it
    case = Case(steps=2, batch=1, inputs=16, height=40, width=32, scale=0.05, **options)
    with input_schedule.use_schedule("in_loop"), use_cpu_convolution("winograd"):
        compare(SUBJECTS[name], case, torch.float32, "cpu")


@pytest.mark.parametrize("isa", native.module().usable_isas() if native.module() else [])
def test_every_instruction_set(isa, monkeypatch):
    monkeypatch.setattr(native, "isa", lambda: isa)
    native.has_cell.cache_clear()
    compare(SUBJECTS["lstm_channel"], Case(channels=19), torch.float32, "cpu")
    compare(SUBJECTS["lstm_full"], Case(channels=19, height=12, width=9), torch.float32, "cpu")
    compare(SUBJECTS["gru_before"], Case(channels=19), torch.float64, "cpu")
