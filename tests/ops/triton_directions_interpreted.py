"""Run by test_triton_interpreter.py with TRITON_INTERPRET=1: both directions of a layer with one launch for both,
against hand-written float64 loops."""

from dataclasses import replace

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

import fastrcn
from fastrcn.functional import conv_recurrent_both
from fastrcn.ops.conv_recurrent import triton_launch, triton_together
from fastrcn.ops.conv_recurrent.triton_config import Config, use_config
from fastrcn.ops.conv_recurrent.triton_program import TritonProgram
from tests.helpers.cells import CASES, SUBJECTS, Case, gradients, make_tensors, run_loop
from tests.helpers.relaunched import relaunched
from tests.helpers.tolerances import assert_close

SHARED = ("x", "below")

pytestmark = pytest.mark.usefixtures("poisoned_memory")


@pytest.fixture(autouse=True)
def together():
    with fastrcn.use_directions("together"):
        yield


@pytest.fixture
def launches(monkeypatch):
    """How many launches there were for one direction, and for two."""
    counts = {"one": 0, "two": 0}

    def counted(name, plain):
        def launch(*arguments):
            counts[name] += 1
            return plain(*arguments)

        return launch

    monkeypatch.setattr(triton_launch.PhaseLaunch, "__call__", counted("one", triton_launch.PhaseLaunch.__call__))
    monkeypatch.setattr(triton_together._Twins, "__call__", counted("two", triton_together._Twins.__call__))
    return counts


def both_tensors(subject, case, dtype=torch.float64):
    """Leaves of both directions: the input, and under names with 1 and 2 the tensors of each."""
    first, second = (make_tensors(subject, case, dtype, seed) for seed in (0, 7))
    shared = {n: t for n, t in first.items() if n in SHARED}
    own = [{f"{n}{k}": t for n, t in d.items() if n not in SHARED} for k, d in ((1, first), (2, second))]
    return shared | own[0] | own[1]


def of_direction(tensors, k):
    return {n: t for n, t in tensors.items() if n in SHARED} | {
        n[:-1]: t for n, t in tensors.items() if n not in SHARED and n.endswith(str(k))
    }


def run_loops(subject, case, tensors):
    results = [
        run_loop(subject, replace(case, reverse=k == 2), of_direction(tensors, k)) for k in (1, 2)
    ]  # fmt: skip
    return results[0][0], (results[1][0], *results[0][1], *results[1][1])


def run_both(subject, case, tensors, recompute=False):
    x = (tensors["x"], tensors["below"]) if subject.below else tensors["x"]
    own = []
    for k in (1, 2):
        p = of_direction(tensors, k)
        weight_ih = (p["weight_ih"], p["weight_bh"]) if subject.below else p["weight_ih"]
        hx = tuple(p[n] for n in ("h0", "c0")[: subject.states]) if case.states else None
        own.append((weight_ih, p["weight_hh"], p.get("bias"), p.get("weight_ch"), hx))
    one, other = conv_recurrent_both(
        subject.cell, x, *own, stride=case.stride, dilation=case.dilation, padding=case.padding, lengths=case.lengths,
        recompute=recompute, backend="triton",
    )  # fmt: skip
    return one[0], (other[0], *one[1], *other[1])


def compare(name, case, dtype=torch.float32, recompute=False):
    subject, tensors = SUBJECTS[name], both_tensors(SUBJECTS[name], case, dtype)
    exact = {n: t.detach().double().requires_grad_() for n, t in tensors.items()}
    truth = gradients(*run_loops(subject, case, exact), exact)
    found = gradients(*run_both(subject, case, tensors, recompute), tensors)
    plain = gradients(*run_loops(subject, case, tensors), tensors) if dtype != torch.float32 else {}
    for part, value in truth.items():
        assert_close(found[part], value, part, dtype, plain.get(part))
    return found


SMALL = {"steps": 3, "batch": 2, "inputs": 2, "channels": 3, "height": 4, "width": 3, "kernel": (1, 3)}
PLAIN = Case(**SMALL)
LENGTHS = Case(**SMALL, lengths=(3, 1))


@pytest.mark.parametrize("name", SUBJECTS)
def test_equals_hand_written_loops(name, launches):
    compare(name, LENGTHS)
    assert launches["two"] >= 6
    assert launches["one"] == 0


@pytest.mark.parametrize(
    ("name", "case"),
    [
        ("lstm_full", CASES["one_step"]),
        ("lstm_channel", Case(**SMALL, bias=False, states=False)),
        ("gru_before", Case(**SMALL | {"height": 7}, stride=2)),
        ("lstm_full", Case(**SMALL, padding=(1, 0))),
        ("gru_after", Case(**SMALL | {"kernel": (5, 3)}, recurrent_kernel=(1, 1), states=False)),
    ],
    ids=["one_step", "no_bias_no_states", "stride", "padding", "two_kernels"],
)
def test_shapes(name, case):
    compare(name, case)


def test_masks(launches):
    """Each direction has its own; the plain form with the same seed is the truth."""
    layer = fastrcn.ConvLSTM(2, 3, zoneout=0.3, recurrent_dropout=0.4, bidirectional=True)
    x, results = torch.randn(3, 2, 2, 3, 4, requires_grad=True), []
    for layer.backend in ("reference", "triton"):
        torch.manual_seed(0)
        output, _ = layer(x, lengths=[3, 2])
        results.append([output, *torch.autograd.grad(output.square().sum(), [x, *layer.parameters()])])
    assert launches["two"] >= 6
    for truth, found in zip(*results, strict=True):
        assert_close(found, truth)


def test_many_tiles():
    with use_config(Config(16, 16, 16, 4, 1)):
        compare("lstm_channel", Case(steps=2, batch=2, channels=17, height=3, width=4, kernel=(1, 3), lengths=(2, 1)))


def test_many_chunks(monkeypatch, launches):
    monkeypatch.setattr(TritonProgram, "chunk_pixels", (1, 1 << 62))
    compare("lstm_full", Case(**SMALL | {"steps": 9}, scale=0.2))
    assert launches["one"] == 0


def test_recompute():
    compare("gru_before", LENGTHS, recompute=True)


def test_low_precision():
    compare("lstm_channel", PLAIN, torch.bfloat16)


def test_inputs_convolved_in_the_loop(launches):
    with fastrcn.use_schedule("in_loop"):
        compare("gru_before", LENGTHS)
    assert launches["one"] == 0


def test_in_turn_gives_the_same_numbers(launches):
    found = compare("lstm_channel", PLAIN)
    assert launches["one"] == 0
    launches["two"] = 0
    with fastrcn.use_directions("in_turn"):
        other = compare("lstm_channel", PLAIN)
    assert launches["two"] == 0
    for part, value in found.items():
        assert torch.equal(value, other[part]), part


def test_inference_equals_training():
    subject, tensors = SUBJECTS["lstm"], both_tensors(SUBJECTS["lstm"], LENGTHS, torch.float32)
    with torch.no_grad():
        lean, states = run_both(subject, LENGTHS, tensors)
    output, other = run_both(subject, LENGTHS, tensors)
    assert torch.equal(lean, output)
    assert all(torch.equal(a, b) for a, b in zip(states, other, strict=True))


def test_one_output_without_a_gradient(launches):
    """The kernels of the two directions then differ: they run by themselves, in the same loop."""
    subject, tensors = SUBJECTS["lstm"], both_tensors(SUBJECTS["lstm"], PLAIN, torch.float32)
    exact = {n: t.detach().double().requires_grad_() for n, t in tensors.items()}
    used = [n for n in tensors if not n.endswith("2")]
    found = torch.autograd.grad(run_both(subject, PLAIN, tensors)[0].square().sum(), [tensors[n] for n in used])
    assert launches["one"]
    truth = torch.autograd.grad(run_loops(subject, PLAIN, exact)[0].square().sum(), [exact[n] for n in used])
    for name, a, b in zip(used, found, truth, strict=True):
        assert_close(a, b, name)


def test_second_derivative():
    case, names = Case(steps=2, batch=1, channels=2), ("x", "weight_hh1", "weight_hh2")
    found = []
    for dtype, run in ((torch.float32, run_both), (torch.float64, run_loops)):
        tensors = both_tensors(SUBJECTS["gru_before"], case, dtype)
        output, rest = run(SUBJECTS["gru_before"], case, tensors)
        wanted = [tensors[n] for n in names]
        first = torch.autograd.grad((output.square() * rest[0]).sum(), wanted, create_graph=True)
        found.append(torch.autograd.grad(sum(g.square().sum() for g in first), wanted))
    for name, a, b in zip(names, *found, strict=True):
        assert_close(a, b, name)


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_layers(kind):
    layer = getattr(fastrcn, f"Conv{kind}")(2, 3, num_layers=2, bidirectional=True, batch_first=True)
    x, results = torch.randn(2, 3, 2, 4, 5), []
    for backend, dtype in (("triton", torch.float32), ("reference", torch.float64)):
        layer.to(dtype)
        with fastrcn.use_backend(backend):
            output, states = layer(x.to(dtype), lengths=[3, 2])
        states = states if isinstance(states, tuple) else (states,)
        loss = output.square().sum() + sum(s.sum() for s in states)
        results.append([output, *states, *torch.autograd.grad(loss, list(layer.parameters()))])
    for n, (a, b) in enumerate(zip(*results, strict=True)):
        assert_close(a, b, f"result {n}")


def test_compiled_without_a_second_compilation_for_another_batch():
    torch._dynamo.reset()
    layer = fastrcn.ConvGRU(2, 3, bidirectional=True, backend="triton")
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(layer, fullgraph=True, backend=counter)
    for steps, batch in ((3, 2), (4, 3)):
        x = torch.randn(steps, batch, 2, 4, 3)
        torch._dynamo.mark_dynamic(x, 0)
        torch._dynamo.mark_dynamic(x, 1)
        found, expected = compiled(x)[0], layer(x)[0]
        assert_close(found, expected)
        pairs = (torch.autograd.grad(y.square().sum(), list(layer.parameters())) for y in (found, expected))
        for a, b in zip(*pairs, strict=True):
            assert_close(a, b)
    assert counter.frame_count == 1


def test_opcheck():
    subject, case = (
        SUBJECTS["lstm_channel"],
        Case(steps=1, batch=1, inputs=1, channels=2, height=1, width=2, kernel=(1, 1)),
    )
    tensors = {n: t.detach() for n, t in both_tensors(subject, case, torch.float32).items()}
    own = [
        [tensors[f"{n}{k}"] for n in ("weight_ih", "weight_hh", "bias", "weight_ch", "h0", "c0")] for k in (1, 2)
    ]  # fmt: skip
    head = ("triton", subject.cell.key)
    geometry = ([1, 1], [1, 1], None)
    forward = torch.ops.fastrcn.conv_recurrent_both_fwd.default
    arguments = (*head, [tensors["x"]], *own, None, *geometry, 2)
    torch.library.opcheck(forward, arguments)
    one, other, *rest = forward(*arguments)
    grads = [torch.randn_like(t) for t in (one, other, *rest[:4])]
    backward = torch.ops.fastrcn.conv_recurrent_both_bwd.default
    torch.library.opcheck(
        backward, (*head, grads, [tensors["x"]], *own, None, [one, other], rest[4:], *geometry, [True] * 13)
    )


def test_later_launches_reuse_the_compiled_kernel(monkeypatch):
    """The order of the arguments on that path, which the interpreter itself never takes."""
    kernel, calls, _ = relaunched(triton_together.kernel_of)
    monkeypatch.setattr(triton_together, "kernel_of", kernel)
    compare("lstm_channel", Case(**SMALL | {"steps": 5}, lengths=(5, 2)))
    assert len(calls) >= 6
    assert {grid[1:] for grid in calls} == {(2, 1)}


def test_errors():
    tensors = both_tensors(SUBJECTS["rnn_tanh"], PLAIN, torch.float32)
    tensors["weight_hh2"] = tensors["weight_hh2"].detach()[..., 1:2]
    with pytest.raises(ValueError, match="second: expected tensors of the same shapes as first's"):
        run_both(SUBJECTS["rnn_tanh"], PLAIN, tensors)
    with pytest.raises(ValueError, match=r"second: expected \(weight_ih, .*, got 2 values"):
        conv_recurrent_both(SUBJECTS["rnn_tanh"].cell, tensors["x"], (None,) * 5, (None,) * 2)
    with (
        pytest.raises(ValueError, match="directions: expected one of together, in_turn, got 'both'"),
        fastrcn.use_directions("both"),
    ):
        pass
