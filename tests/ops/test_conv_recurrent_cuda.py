"""The ``cuda`` backend of conv_recurrent on a GPU, and its reasons not to run.

Without a GPU its kernels and its Python run on the host: ``test_cuda_stages_on_host``.
"""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import fastrcn
from fastrcn import backends, native
from fastrcn.cells import ConvLSTM, LayerNorm
from fastrcn.compiler.cuda_library import find_nvcc
from fastrcn.functional import conv_recurrent
from fastrcn.ops.conv_recurrent import cuda, cuda_method
from tests.helpers import normed
from tests.helpers.cells import CASES, MGU, SUBJECTS, Case, compare_with_loop, gradients, make_tensors, run_package
from tests.helpers.cuda_graph import captured
from tests.helpers.tolerances import assert_close
from tests.ops.cuda_on_host import normalize_cases, stage_cases, step_cases
from tests.ops.cuda_on_host.normalize_cases import NormalizeCase

ROOT = Path(__file__).parents[2]
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
LARGE = Case(steps=6, batch=3, inputs=20, channels=72, height=23, width=31, scale=0.05, lengths=(6, 1, 4))
WALKS = {
    "small": Case(batch=1, channels=16, height=9, width=10, scale=0.05),
    "kept": LARGE,
    "streaming": replace(LARGE, channels=136, kernel=(5, 5)),
}
"""Of two tiles; with weights that stay in a block's memory; with weights that do not fit."""
# More pixels than the blocks of threads take in one turn.
MANY_TILES = replace(step_cases.LARGE, images=9, size=(1, 65, 67), ended=True)
LARGE_IMAGES = [
    NormalizeCase(3, 1 << 20, slices, source, skip)
    for slices, source, skip in ((1, "own", 0), (128, "other", 0), (37, "own", 1))
]
MANY_PIXELS = stage_cases.StageCase(64, images=5, pixels=9001, ended=True, addend="written", parts=512)


@pytest.fixture(autouse=True)
def exact_float32(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("stage", stage_cases.STAGES)
def test_stage_on_the_gpu(stage, dtype):
    stream = torch.cuda.current_stream().cuda_stream
    for case in (*stage_cases.CASES.values(), MANY_PIXELS):
        stage_cases.check_stage(native.module(), stage, case, dtype, "cuda", stream)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", step_cases.STEPS)
@pytest.mark.parametrize(
    "cases", [[*step_cases.CASES.values()], [step_cases.LARGE, MANY_TILES]], ids=["small", "large"]
)
def test_step_on_the_gpu(cases, name, dtype):
    stream = torch.cuda.current_stream().cuda_stream
    for case in cases:
        step_cases.check_step(native.module(), name, case, dtype, "cuda", stream)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_normalize_on_the_gpu(dtype):
    stream = torch.cuda.current_stream().cuda_stream
    for case in (*normalize_cases.CASES.values(), *LARGE_IMAGES):
        normalize_cases.check_forward(native.module(), case, dtype, "cuda", stream)
        if case.source != "none":
            normalize_cases.check_backward(native.module(), case, dtype, "cuda", stream)


@pytest.mark.gpu
@pytest.mark.parametrize("method", cuda_method.NAMES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", SUBJECTS)
def test_methods_on_the_gpu(name, dtype, method):
    with cuda_method.use_method(method):
        compare_with_loop(name, LARGE, "cuda", dtype, "cuda")


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", SUBJECTS)
def test_every_cell_on_the_gpu(name, dtype):
    compare_with_loop(name, CASES["reverse_lengths"], "cuda", dtype, "cuda")
    compare_with_loop(name, LARGE, "cuda", dtype, "cuda")


@pytest.mark.gpu
def test_cells_of_ones_own_on_the_gpu(tmp_path):
    """Compiled by this machine's nvcc: all tests of a file."""
    try:
        find_nvcc()
    except RuntimeError as error:
        pytest.skip(str(error))
    variables = os.environ | {"FASTRCN_CACHE": str(tmp_path / "cache")}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/ops/cuda_compiled_cells.py"]
    found = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=1800)
    assert found.returncode == 0, found.stdout[-6000:] + found.stderr[-2000:]


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["lstm_channel", "gru_before"])
@pytest.mark.parametrize("case", CASES)
def test_every_case_on_the_gpu(name, case):
    compare_with_loop(name, CASES[case], "cuda", torch.float32, "cuda")


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["lstm_full", "gru_before", "gru_after", "mgu"])
def test_volumes_on_the_gpu(name):
    case = Case(depth=3, height=4, width=5, kernel=(3, 3, 3), stride=(1, 2, 1), lengths=(4, 2), scale=0.2)
    compare_with_loop(name, case, "cuda", torch.float32, "cuda")


@pytest.mark.gpu
@pytest.mark.parametrize("name", normed.CELLS)
def test_layer_normalisation_on_the_gpu(name):
    """Small images, and large ones in several slices."""
    for backend in ("cuda", "reference"):
        normed.compare(name, backend, torch.float32, lengths=(4, 2, 0), maps=True, device="cuda")
        normed.compare(name, backend, torch.float64, reverse=True, recompute=True, device="cuda")
    for dtype in DTYPES:
        normed.compare(name, "cuda", dtype, steps=3, size=(33, 31), channels=24, states=False, device="cuda")


@pytest.mark.gpu
@pytest.mark.parametrize("name", sorted(set(normed.CELLS) - {"one_norm"}))
def test_normalised_time_loop_in_cpp(name, monkeypatch):
    """Nothing of a step is Python, every run gives the same bits, and the loop in Python the same."""
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    cell = normed.CELLS[name][0]
    tensors = {n: t.detach().float().cuda() for n, t in normed.tensors_of(cell, size=(41, 37), channels=16).items()}
    names = ("x", "weight_ih", "weight_hh", "bias", "weight_ch", *cell.states)

    def run():
        leaves = [tensors[n].clone().requires_grad_() for n in names]
        output, states = conv_recurrent(cell, *leaves[:5], tuple(leaves[5:]), backend="cuda")
        return [output, *states, *torch.autograd.grad(output.square().sum(), leaves)]

    with monkeypatch.context() as patch:
        patch.setattr(cuda.Program, "_in_python", None)
        first = run()
        assert all(torch.equal(a, b) for a, b in zip(run(), first, strict=True))
    monkeypatch.setattr(cuda, "_torch_library", lambda device: (None, "not asked for"))
    for a, b in zip(run(), first, strict=True):
        assert_close(a, b)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["lstm_full", "gru_before"])
def test_recompute_on_the_gpu(name):
    compare_with_loop(name, LARGE, "cuda", torch.float32, "cuda", recompute=True)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["lstm_channel", "lstm_full"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("method", cuda_method.NAMES)
def test_every_run_gives_the_same_bits(method, name, dtype, monkeypatch):
    """With cuDNN's deterministic convolutions; the kernels of this package always are."""
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    tensors = make_tensors(SUBJECTS[name], LARGE, dtype)

    def run():
        leaves = {n: t.detach().cuda().requires_grad_() for n, t in tensors.items()}
        with cuda_method.use_method(method):
            return gradients(*run_package(SUBJECTS[name], LARGE, leaves, "cuda"), leaves)

    first = run()
    for _ in range(3):
        assert all(torch.equal(first[n], t) for n, t in run().items())


@pytest.mark.gpu
@pytest.mark.parametrize("case", WALKS.values(), ids=WALKS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", ["rnn_tanh", "lstm", "lstm_channel", "lstm_full", "gru_after", "gru_before"])
def test_one_kernel_for_many_steps(name, dtype, case, monkeypatch):
    """It gives the bits of one kernel for each step."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    tensors, found = make_tensors(SUBJECTS[name], case, dtype), []
    for method in ("fused", "persistent"):
        leaves = {n: t.detach().cuda().requires_grad_() for n, t in tensors.items()}
        with cuda_method.use_method(method), torch.profiler.profile(acc_events=True) as profile:
            found.append(gradients(*run_package(SUBJECTS[name], case, leaves, "cuda"), leaves))
        kernels = [event.key for event in profile.key_averages()]
        assert any("walk_kernel" in kernel for kernel in kernels) is (method == "persistent")
    for part, value in found[0].items():
        assert torch.equal(found[1][part], value), part


@pytest.mark.gpu
@pytest.mark.parametrize("layer", [fastrcn.ConvLSTM, fastrcn.ConvGRU])
def test_one_kernel_for_many_steps_in_a_cuda_graph(layer, monkeypatch):
    """Every replay begins with a zeroed counter."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    x, other = torch.randn(2, 7, 2, 5, 19, 18, device="cuda")
    step = _training_step(layer(5, 24, backend="cuda", device="cuda"))
    with cuda_method.use_method("persistent"):
        expected = [t.clone() for t in step(other)]
        graph, found = captured(lambda: step(x))
    x.copy_(other)
    for _ in range(2):
        graph.replay()
        for a, b in zip(found, expected, strict=True):
            assert_close(a, b)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["lstm_full", "gru_before", "gru_after", "stacked"])
def test_time_loop_in_cpp(name, monkeypatch):
    """Nothing of a step is Python, and both loops give the same."""
    assert cuda._torch_library("cuda")[1] == ""
    with monkeypatch.context() as patch:
        patch.setattr(cuda.Program, "_in_python", None)
        compare_with_loop(name, LARGE, "cuda", torch.float32, "cuda")
    monkeypatch.setattr(cuda, "_torch_library", lambda device: (None, "not asked for"))
    compare_with_loop(name, LARGE, "cuda", torch.float32, "cuda")


@pytest.mark.gpu
def test_backward_under_autocast():
    """Casts belong before the operators; the library's convolutions inside would be cast again."""
    subject = SUBJECTS["lstm"]
    leaves = {n: t.cuda().requires_grad_() for n, t in make_tensors(subject, LARGE, torch.float32).items()}
    output, _ = run_package(subject, LARGE, leaves, "cuda")
    loss = output.square().sum()
    expected = torch.autograd.grad(loss, list(leaves.values()), retain_graph=True)
    with torch.autocast("cuda", torch.bfloat16):
        found = torch.autograd.grad(loss, list(leaves.values()))
    for a, b in zip(found, expected, strict=True):
        assert_close(a, b)


def _training_step(layer):
    def step(x):
        output, _ = layer(x)
        return [output.detach(), *torch.autograd.grad(output.square().sum(), list(layer.parameters()))]

    return step


@pytest.mark.gpu
@pytest.mark.parametrize("layer_norm", [None, "channel"])
@pytest.mark.parametrize("kind", [fastrcn.ConvLSTM, fastrcn.ConvGRU])
def test_training_step_in_a_cuda_graph(kind, layer_norm):
    """Nothing in the operators waits for the GPU, so a whole step can be captured and replayed on new data."""
    options: dict = {"peephole": "channel"} if kind is fastrcn.ConvLSTM else {}
    options |= {"layer_norm": layer_norm}
    layer = kind(5, 24, backend="cuda", device="cuda", **options)
    x, other = torch.randn(2, 7, 2, 5, 19, 18, device="cuda")
    step = _training_step(layer)
    expected = [t.clone() for t in step(other)]
    graph, found = captured(lambda: step(x))
    x.copy_(other)
    graph.replay()
    for a, b in zip(found, expected, strict=True):
        assert_close(a, b)


@pytest.mark.gpu
def test_runs_on_the_current_stream():
    """What the stream is still busy with comes first."""
    layer = fastrcn.ConvLSTM(5, 16, peephole="channel", backend="cuda", device="cuda")
    x = torch.randn(4, 2, 5, 19, 18, device="cuda")
    step = _training_step(layer)
    expected = step(x)
    late = torch.zeros_like(x)
    torch.cuda.synchronize()
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        torch.cuda._sleep(200_000_000)
        late.copy_(x)
        found = step(late)
    side.synchronize()
    for a, b in zip(found, expected, strict=True):
        assert_close(a, b)


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
@pytest.mark.parametrize("method", cuda_method.NAMES)
def test_tensors_of_another_device_than_the_current_one(method):
    with cuda_method.use_method(method):
        compare_with_loop("lstm", LARGE, "cuda", torch.bfloat16, "cuda:1")
    assert torch.cuda.current_device() == 0


def test_reasons(monkeypatch):
    """Every reason not to run names what is missing; a cell that was not compiled runs, and is told how."""

    def ask(cell, dtype, device):
        return backends.can_run("conv_recurrent", "cuda", (cell.key, 2), dtype, device)

    cell = ConvLSTM()
    assert ask(cell, torch.float32, "cpu") == (False, "it runs on cuda tensors, these are on cpu")
    with monkeypatch.context() as patch:
        patch.setattr(native, "module", lambda: None)
        patch.setattr(native, "missing_reason", lambda: "it was not built")
        assert ask(cell, torch.float32, "cuda") == (False, "it was not built")
    with monkeypatch.context() as patch:
        patch.setattr(native, "module", lambda: SimpleNamespace(build_info='{"without_cuda": "no nvcc"}'))
        assert ask(cell, torch.float32, "cuda") == (False, "the extension was built without CUDA: no nvcc")
    known = [s.fingerprint for s, _ in stage_cases.STAGES.values()]
    module = SimpleNamespace(cuda_stage=lambda f, stage, backward: -1 + (f in known))
    monkeypatch.setattr(native, "module", lambda: module)
    monkeypatch.setattr(cuda, "_torch_library", lambda device: (object(), ""))
    assert ask(cell, torch.int32, "cuda") == (
        False,
        "it has float32, float64, bfloat16 and float16, these are int32",
    )
    how = "one CUDA kernel per stage, convolutions in it or the library's, time loop in C++"
    assert ask(cell, torch.float16, "cuda") == (True, how)
    how = (
        "one CUDA kernel per stage, one or two per normalisation, convolutions in it or the library's, time loop in C++"
    )
    assert ask(LayerNorm(cell), torch.float16, "cuda") == (True, how)
    with monkeypatch.context() as patch:
        patch.setattr(cuda, "_torch_library", lambda device: (None, "this PyTorch has no function f"))
        how = "the library's convolutions, one CUDA kernel per stage, time loop in Python: "
        assert ask(cell, torch.float16, "cuda") == (True, how + "this PyTorch has no function f")
    for own in (MGU(), LayerNorm(MGU())):
        ok, reason = ask(own, torch.float32, "cuda")
        assert ok
        assert "stages as generated PyTorch code: this cell was not compiled into the extension" in reason
        assert 'fastrcn.compile_cell(..., backend="cuda") compiles it' in reason


def test_asked_for_by_name_or_not_at_all(monkeypatch):
    with pytest.raises(RuntimeError, match="conv_recurrent: it runs on cuda tensors, these are on cpu"):
        fastrcn.ConvLSTM(2, 3, backend="cuda")(torch.randn(2, 1, 2, 4, 4))
    monkeypatch.setitem(backends._CAN_RUN["conv_recurrent"], "cuda", lambda *a: (True, "all is there"))
    name, refused = backends._choose("conv_recurrent", (ConvLSTM().key, 2), torch.float32, "cuda")
    assert name == "reference"
    assert refused.startswith("cuda: it was not measured on this GPU, and such a call not compared")
