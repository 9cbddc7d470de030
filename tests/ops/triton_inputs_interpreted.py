"""Run by test_triton_interpreter.py with TRITON_INTERPRET=1: layouts, sizes and values of a call's tensors, and exact
float32, against float64."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

import fastrcn
from fastrcn.functional import conv3d_relu_maxpool3d, conv_recurrent, conv_rnn
from fastrcn.ops.conv3d_relu_maxpool3d.method import use_method
from fastrcn.ops.conv_recurrent import input_schedule
from fastrcn.ops.conv_recurrent.triton_config import Config, use_config
from fastrcn.ops.triton_support import Launch
from tests.helpers.cells import CASES, SUBJECTS, Case, compare_with_loop, gradients, make_tensors, run_loop, run_package
from tests.helpers.conv3d import Case as ConvCase
from tests.helpers.conv3d import backpropagate, compare_conv, fused_conv, make_conv, plain_conv
from tests.helpers.tolerances import assert_close
from tests.helpers.triton_programs import note_programs

pytestmark = pytest.mark.usefixtures("poisoned_memory", "one_thread")


def among_nans(tensor):
    """A leaf of the same values, every second one of memory along each axis; the others are NaN."""
    wide = tensor.new_full([2 * n + 1 for n in tensor.shape], float("nan"))
    view = wide[(slice(1, None, 2),) * tensor.dim()]
    return view.copy_(tensor.detach()).requires_grad_()


@pytest.mark.parametrize("schedule", input_schedule.NAMES)
@pytest.mark.parametrize("case", ["channels_last", "batch_first_view", "wide_input"])
def test_inputs(case, schedule):
    with fastrcn.use_schedule(schedule):
        compare_with_loop("lstm_full", replace(CASES[case], steps=2), "triton")


@pytest.mark.parametrize("schedule", input_schedule.NAMES)
def test_views(schedule):
    """All tensors, the gradient of the output too."""
    subject, case = SUBJECTS["lstm_full"], Case(steps=3, lengths=(3, 0))
    exact = make_tensors(subject, case)
    tensors = {n: among_nans(t.float()) for n, t in exact.items()}
    output, states = run_loop(subject, case, exact)
    grad = torch.randn_like(output)
    truth = torch.autograd.grad([output, *states], list(exact.values()), [grad, *states])
    with fastrcn.use_schedule(schedule):
        found, last = run_package(subject, case, tensors, "triton")
        given = [among_nans(t.float()).detach() for t in (grad, *states)]
        grads = torch.autograd.grad([found, *last], list(tensors.values()), given)
    names = ["output", *("state",) * len(states), *tensors]
    for name, a, b in zip(names, (found, *last, *grads), (output, *states, *truth), strict=True):
        assert_close(a, b, name)


@pytest.mark.parametrize("schedule", input_schedule.NAMES)
def test_expanded_inputs(schedule):
    """One sequence, one step and one initial state for all, at strides of zero."""
    case = Case(steps=3, batch=2)
    results = []
    for dtype in (torch.float32, torch.float64):
        t = make_tensors(SUBJECTS["gru_before"], case, dtype)
        t |= {"x": t["x"].detach()[:1, :1].requires_grad_(), "h0": t["h0"].detach()[:1].requires_grad_()}
        views = t | {"x": t["x"].expand(3, 2, -1, -1, -1), "h0": t["h0"].expand(2, -1, -1, -1)}
        if dtype == torch.float64:
            found = run_loop(SUBJECTS["gru_before"], case, views)
        else:
            with fastrcn.use_schedule(schedule):
                found = run_package(SUBJECTS["gru_before"], case, views, "triton")
        results.append(gradients(*found, t))
    for part, value in results[1].items():
        assert_close(results[0][part], value, part)


@pytest.mark.parametrize("name", ["lstm_channel", "gru_before"])
def test_wide_states(name):
    """More channels than the widest tile has, whose stage takes them in four parts."""
    with use_config(Config(64, 64, 64, 4, 1, 16)):
        compare_with_loop(name, Case(steps=2, channels=70, height=3, width=3, lengths=(2, 1), scale=0.05), "triton")


@pytest.mark.parametrize("schedule", input_schedule.NAMES)
def test_inputs_without_channels(schedule):
    """Neither they nor their weight have a value, so nothing asks for their gradients."""
    case, exact = CASES["no_input"], make_tensors(SUBJECTS["lstm_full"], CASES["no_input"])
    tensors = {n: t.detach().float().requires_grad_() for n, t in exact.items()}
    results = []
    with fastrcn.use_schedule(schedule):
        calls = (
            run_package(SUBJECTS["lstm_full"], case, tensors, "triton"),
            run_loop(SUBJECTS["lstm_full"], case, exact),
        )
    for call, named in zip(calls, (tensors, exact), strict=True):
        results.append(gradients(*call, {n: t for n, t in named.items() if t.numel()}))
    for part, value in results[1].items():
        assert_close(results[0][part], value, part)


def test_no_sequences():
    tensors = make_tensors(SUBJECTS["gru_before"], replace(CASES["plain"], batch=0), torch.float32)
    output, states = run_package(SUBJECTS["gru_before"], replace(CASES["plain"], lengths=()), tensors, "triton")
    assert output.shape == (4, 0, 5, 6, 5)
    grads = torch.autograd.grad(output.sum() + states[0].sum(), list(tensors.values()))
    assert not any(g.any() for g in grads)


@pytest.fixture
def exact_float32():
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


@pytest.mark.parametrize("name", ["lstm_channel", "gru_before", "gru_after"])
def test_exact_float32(name, monkeypatch, exact_float32):
    programs = note_programs(monkeypatch)
    with use_config(Config(32, 16, 16, 4, 1)):
        compare_with_loop(name, Case(steps=2, channels=17, height=3, lengths=(2, 1)), "triton")
    constants = [launch.constants for program in programs for launch in program.launches or program.rotated[0]]
    chosen = {(c["PRECISION"], c["WEIGHT_BY_ROWS"]) for c in constants if "PRECISION" in c}
    assert chosen == {("ieee", False)}


def test_exact_float32_of_conv3d(monkeypatch, exact_float32):
    chosen, plain = [], Launch.run
    monkeypatch.setattr(Launch, "run", lambda launch: chosen.append(launch.constants.get("PRECISION")) or plain(launch))
    with use_method("fused"):
        compare_conv(ConvCase(inputs=17))
    assert chosen.count("ieee") == 2
    assert "tf32" not in chosen


@pytest.mark.parametrize("method", ["fused", "library"])
def test_views_of_conv3d(method):
    case = ConvCase(inputs=3, size=(2, 3, 5))
    tensors = make_conv(case)
    exact = {n: t.double().requires_grad_() for n, t in tensors.items()}
    y = plain_conv(case, exact)
    grad = torch.randn_like(y)
    truth = backpropagate(y, exact, grad)
    views = {n: among_nans(t) for n, t in tensors.items()}
    with use_method(method):
        found = backpropagate(fused_conv(case, views, "triton"), views, among_nans(grad.float()).detach())
    for part, value in truth.items():
        assert_close(found[part], value, part)


def integers(step, largest, *shape):
    return (step * torch.randint(-largest, largest + 1, shape)).half()


def assert_overflows(found, exact):
    """``found`` is what float16 has for the exact values: some infinite, others not."""
    assert torch.equal(found, exact.half())
    assert 0 < found.isinf().sum() < found.numel()


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")  # NumPy's, of the interpreter
@pytest.mark.parametrize("schedule", input_schedule.NAMES)
def test_overflow_in_float16(schedule):
    """Sums are float32 and rounded once, to infinity where float16 ends; what follows a gate is finite."""
    x, weight = integers(64, 8, 1, 2, 3, 4, 5), integers(64, 2, 4, 3, 3, 3)
    with fastrcn.use_schedule(schedule):
        y, _ = conv_rnn(x, weight, torch.zeros(4, 4, 1, 1).half(), nonlinearity="relu", backend="triton")
        truth = F.conv2d(x[0].double(), weight.double(), padding=1).relu()
        assert_overflows(y[0], truth)
        t = make_tensors(SUBJECTS["gru_before"], Case(scale=3000.0), torch.float16)
        given = [t[n] for n in ("x", "weight_ih", "weight_hh", "bias")]
        output, _ = conv_recurrent(SUBJECTS["gru_before"].cell, *given, None, (t["h0"],), backend="triton")
        assert all(g.isfinite().all() for g in (output, *torch.autograd.grad(output.sum(), list(t.values()))))


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
@pytest.mark.parametrize("method", ["fused", "library"])
def test_overflow_in_float16_of_conv3d(method):
    x, weight = integers(64, 8, 2, 3, 2, 4, 6), integers(64, 2, 4, 3, 1, 3, 3)
    with use_method(method):
        y = conv3d_relu_maxpool3d(x, weight, padding=(0, 1, 1), pool_kernel_size=(2, 1, 1), backend="triton")
    truth = F.max_pool3d(F.conv3d(x.double(), weight.double(), padding=(0, 1, 1)).relu(), (2, 1, 1))
    assert_overflows(y, truth)
