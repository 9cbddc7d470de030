"""The Triton backend on a GPU: every cell and data type, both schedules, the persistent kernel, repeatability."""

import json
from dataclasses import replace

import pytest
import torch

import fastrcn
from fastrcn import dispatch, measured, trial
from fastrcn.compiler.schedule import schedule_of
from fastrcn.ops import autotune
from fastrcn.ops.conv_recurrent import input_schedule, triton_time_loop
from fastrcn.ops.conv_recurrent.geometry import Geometry
from fastrcn.ops.conv_recurrent.program import Buffer, Normalize
from fastrcn.ops.conv_recurrent.triton_program import TritonProgram
from tests.helpers import normed
from tests.helpers.cells import CASES, SUBJECTS, Case, gradients, make_tensors, run_loop, run_package
from tests.helpers.cuda_graph import captured
from tests.helpers.tolerances import assert_close

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
LARGE = Case(steps=6, batch=3, inputs=20, channels=72, height=23, width=31, scale=0.05, lengths=(6, 1, 4))

VOLUME = Case(
    steps=4, inputs=20, channels=40, depth=9, height=14, width=11, kernel=(3, 3, 3), recurrent_kernel=(3, 1, 5),
    stride=(2, 1, 1), scale=0.05, lengths=(4, 2),
)  # fmt: skip


def on_gpu(tensors):
    return {n: t.detach().cuda().requires_grad_() for n, t in tensors.items()}


def run(name, case, tensors, recompute=False):
    leaves = on_gpu(tensors)
    return {
        n: t.cpu()
        for n, t in gradients(*run_package(SUBJECTS[name], case, leaves, "triton", recompute), leaves).items()
    }


def compare(name, case, dtype=torch.float32, recompute=False):
    """Against the float64 loop on the same values; low precision at most twice as far as the plain loop."""
    subject, tensors = SUBJECTS[name], make_tensors(SUBJECTS[name], case, dtype)
    exact = {n: t.detach().double().requires_grad_() for n, t in tensors.items()}
    truth = gradients(*run_loop(subject, case, exact), exact)
    plain = gradients(*run_loop(subject, case, tensors), tensors) if dtype != torch.float32 else {}
    found = run(name, case, tensors, recompute)
    for part, value in truth.items():
        assert_close(found[part], value, part, dtype, plain.get(part))


@pytest.fixture(autouse=True)
def exact_float32(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@pytest.mark.gpu
@pytest.mark.triton
@pytest.mark.parametrize("schedule", input_schedule.NAMES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", SUBJECTS)
def test_every_cell(name, dtype, schedule):
    with input_schedule.use_schedule(schedule):
        compare(name, CASES["reverse_lengths"], dtype)
        compare(name, LARGE, dtype)


@pytest.mark.gpu
@pytest.mark.triton
@pytest.mark.parametrize("name", ["lstm_channel", "gru_before"])
@pytest.mark.parametrize("case", CASES)
def test_every_case(name, case):
    compare(name, CASES[case])


@pytest.mark.gpu
@pytest.mark.triton
@pytest.mark.parametrize("schedule", input_schedule.NAMES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", SUBJECTS)
def test_volumes(name, dtype, schedule):
    with input_schedule.use_schedule(schedule):
        compare(name, VOLUME, dtype)


@pytest.mark.gpu
@pytest.mark.triton
@pytest.mark.parametrize(
    "case", [replace(LARGE, channels=40, batch=2, lengths=(6, 4)), VOLUME], ids=["maps", "volumes"]
)
@pytest.mark.parametrize("name", SUBJECTS)
def test_persistent_kernel(name, case, monkeypatch):
    """Of so few tiles that all run at once on the GPUs at hand."""
    walks, plain = [], triton_time_loop.walk
    monkeypatch.setattr(triton_time_loop, "walk", lambda *a: walks.append(a) or plain(*a))
    with fastrcn.use_time_loop("persistent"):
        compare(name, case)
    assert [turns for *_, turns in walks] == [case.steps - 2] * 2


@pytest.mark.gpu
@pytest.mark.triton
@pytest.mark.parametrize("name", ["lstm_channel", "gru_before", "stacked"])
def test_persistent_kernel_gives_the_same_at_every_run(name):
    """Bit for bit: a barrier that let a program go too soon would show."""
    case = Case(steps=40, batch=2, inputs=8, channels=48, height=24, width=24, scale=0.05)
    tensors = make_tensors(SUBJECTS[name], case, torch.bfloat16)
    with fastrcn.use_time_loop("persistent"):
        compare(name, case, torch.bfloat16)
        first = run(name, case, tensors)
        for _ in range(5):
            assert all(torch.equal(first[n], t) for n, t in run(name, case, tensors).items())


@pytest.mark.gpu
@pytest.mark.triton
@pytest.mark.parametrize("layer", [fastrcn.ConvGRU, fastrcn.ConvLSTM])
def test_persistent_kernel_of_both_directions(layer):
    """Against launches."""
    net, x = layer(5, 24, bidirectional=True, backend="triton").cuda(), torch.randn(9, 2, 5, 19, 18).cuda()
    found = []
    for way in ("launched", "persistent"):
        with fastrcn.use_directions("together"), fastrcn.use_time_loop(way):
            output, _ = net(x, lengths=[9, 4])
            found.append([output, *torch.autograd.grad(output.square().sum(), list(net.parameters()))])
    for truth, other in zip(*found, strict=True):
        assert_close(other, truth)


@pytest.mark.gpu
@pytest.mark.triton
@pytest.mark.parametrize("layer", [fastrcn.ConvGRU, fastrcn.ConvLSTM])
def test_captured_time_loop(layer, monkeypatch):
    """Bit for bit what launches give; the memory of steps of training of one size soon comes again."""
    graphs = triton_time_loop._Graphs()
    monkeypatch.setattr(triton_time_loop, "_graphs", graphs)
    net, x = layer(5, 24, backend="triton", device="cuda"), torch.empty(7, 2, 5, 19, 18, device="cuda")
    for seed in range(6):
        torch.manual_seed(seed)
        x.normal_()
        found = []
        for name in ("captured", "launched"):
            with fastrcn.use_time_loop(name):
                output, _ = net(x)
                grads = torch.autograd.grad(output.square().sum(), list(net.parameters()))
            found.append([t.clone() for t in (output.detach(), *grads)])
            del output, grads
        assert all(torch.equal(a, b) for a, b in zip(*found, strict=True)), seed
    assert graphs.found


@pytest.mark.gpu
@pytest.mark.triton
@pytest.mark.parametrize("schedule", input_schedule.NAMES)
@pytest.mark.parametrize("name", normed.CELLS)
def test_normalised_cells(name, schedule):
    """Small images are one program's, large ones several programs'; odd channels cannot be read 16 bytes at a time."""
    with input_schedule.use_schedule(schedule):
        normed.compare(name, "triton", torch.float32, lengths=(4, 2, 0), maps=True, reverse=True, device="cuda")
        normed.compare(name, "triton", torch.float32, steps=2, batch=2, size=(65, 63), channels=17, device="cuda")
        normed.compare(name, "triton", torch.float32, size=(1, 1), recompute=True, device="cuda")


@pytest.mark.gpu
@pytest.mark.triton
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_normalisation_of_large_images(dtype):
    """Against PyTorch's on the same GPU, and the same at every run."""
    x = (100 + torch.randn(2, 128, 128, 48, device="cuda")).to(dtype)
    geometry = Geometry(schedule_of(SUBJECTS["lstm"].cell.key), 1, 2, 48, (128, 128), (1, 1), (1, 1), None, False)
    found = []
    for _ in range(3):
        maps, scale = x.clone(), torch.empty(2, 1, 1, 1, device="cuda")
        step = Normalize(Buffer(maps, width=48), Buffer(scale, width=1), 1e-5)
        TritonProgram(geometry, [step], dtype, 2, None, {}).run(0, 1, False)
        found.append(maps)
    truth = torch.nn.functional.layer_norm(x.double(), x.shape[1:])
    plain = torch.nn.functional.layer_norm(x, x.shape[1:])
    assert_close(found[0], truth, plain=plain)
    assert all(torch.equal(found[0], maps) for maps in found[1:])


@pytest.mark.gpu
@pytest.mark.triton
def test_the_fastest_backend_is_chosen(monkeypatch, tmp_path):
    """By timing; no backend gives a warning, which says that it failed or was wrong."""
    monkeypatch.setenv("FASTRCN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(autotune, "_known", {})
    layer, x = fastrcn.ConvLSTM(8, 32, device="cuda"), torch.randn(6, 4, 8, 32, 32, device="cuda")
    with fastrcn.use_autotune():
        output, _ = layer(x)
    with fastrcn.use_backend("reference"):
        assert_close(output, layer(x)[0])
    found = json.loads(autotune.file_of("cuda").read_text())
    (best,) = [choice for key, choice in found.items() if key.startswith("backend conv_recurrent training")]
    assert best[0] in ("triton", "cuda", "reference")


@pytest.mark.gpu
@pytest.mark.triton
@pytest.mark.parametrize("kind", [fastrcn.ConvLSTM, fastrcn.ConvGRU])
def test_what_is_estimated_runs(kind, monkeypatch):
    """Without measurements; no warning says that it failed or was wrong."""
    monkeypatch.setattr(measured, "cases_of", lambda capability: ())
    monkeypatch.setattr(dispatch, "_decide", dispatch._decide.__wrapped__)
    monkeypatch.setattr(trial, "_right", {})
    layer, x = kind(8, 32, device="cuda"), torch.randn(6, 4, 8, 32, 32, device="cuda")
    output, _ = layer(x)
    with fastrcn.use_backend("reference"):
        assert_close(output, layer(x)[0])
    assert list(trial._right.values()) == [True]
    assert next(iter(trial._right)).startswith(("triton cuda:0 ", "cuda cuda:0 "))


@pytest.mark.gpu
@pytest.mark.triton
@pytest.mark.parametrize("name", ["lstm_full", "gru_before"])
def test_recompute(name):
    compare(name, LARGE, recompute=True)


@pytest.mark.gpu
@pytest.mark.triton
def test_training_step_in_a_cuda_graph():
    """Nothing in the operators waits for the GPU, so a whole step can be captured and replayed on new data."""
    layer = fastrcn.ConvGRU(5, 24, backend="triton", device="cuda")
    x, other = torch.randn(2, 7, 2, 5, 19, 18, device="cuda")

    def step(x):
        output, _ = layer(x)
        return [output.detach(), *torch.autograd.grad(output.square().sum(), list(layer.parameters()))]

    expected = [t.clone() for t in step(other)]
    graph, found = captured(lambda: step(x))
    x.copy_(other)
    graph.replay()
    for a, b in zip(found, expected, strict=True):
        assert_close(a, b)
