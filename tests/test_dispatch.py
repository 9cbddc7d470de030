"""The backend that measurements choose, with files and GPUs that are made up: tensors of the CPU count as a GPU's."""

import json
import shutil
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import fastrcn
from benchmarks import conv3d, recurrent
from benchmarks import dispatch as command
from fastrcn import backends, cells, dispatch, info, measured, native, trial
from fastrcn.cost import Device
from fastrcn.layers.conv3d import BatchNormReLUPool3d
from fastrcn.ops import autograd, autotune
from fastrcn.ops.conv3d_relu_maxpool3d.geometry import Conv
from fastrcn.ops.conv_recurrent.op import BothCall
from fastrcn.ops.relu_maxpool3d.geometry import Pool
from fastrcn.ops.sizes import Sizes

BACKENDS = ("triton", "cuda", "reference")
LSTM, GRU = ((cell.key, 2) for cell in (cells.ConvLSTM(), cells.ConvGRU()))
SIZES = Sizes(16, 64, (32, 32), 4, 10, 9)
built = pytest.mark.skipif(native.module() is None, reason=native.missing_reason() or "there is an extension")


def forget():
    dispatch._decide.cache_clear()
    measured.cases_of.cache_clear()


@pytest.fixture(autouse=True)
def gpu(monkeypatch, tmp_path):
    """One of compute capability 9.0; nothing was measured."""
    monkeypatch.setattr(dispatch, "device_of", lambda index: Device(90, 132))
    monkeypatch.setattr(measured, "file_of", lambda capability: tmp_path / f"dispatch-sm{capability}.json")
    monkeypatch.delenv("FASTRCN_BACKEND", raising=False)
    forget()
    yield
    forget()


def row(name, seconds, what=LSTM, dtype=torch.bfloat16, training=True, operation="conv_recurrent", **sizes):
    work = dispatch.workload(operation, what, dtype, training, SIZES._replace(**sizes))
    return {"name": name, "group": measured.group_of(work), "sizes": measured.sizes_of(work), "seconds": seconds}


def write(*rows, capability=90):
    text = json.dumps({"facts": {}, "capability": capability, "cases": rows})
    measured.file_of(capability).write_text(text)
    forget()


def decide(what=LSTM, dtype=torch.bfloat16, training=True, able=BACKENDS, operation="conv_recurrent", **sizes):
    return dispatch.decide(operation, what, dtype, training, SIZES._replace(**sizes), able, 0)


FIRST = {"reference": 3e-3, "cuda": 1e-3, "triton": 2e-3}
SECOND = {"reference": 1e-3, "cuda": 2e-3, "triton": 3e-3}


def test_the_nearest_case_decides():
    write(row("narrow", FIRST), row("wide", SECOND, channels=256))
    because = "measured on sm_90: cuda 1 ms, triton 2 ms, reference 3 ms in case narrow"
    assert decide(channels=96) == ("cuda", because, True)
    assert decide(channels=160).backend == "reference"
    assert decide(able=("triton", "reference")).backend == "triton"
    # Batch and time are one size.
    assert decide(images=40, steps=1).because.endswith("case narrow")


@pytest.mark.parametrize("size", ["inputs", "channels", "size", "images", "steps", "cells"])
def test_every_size_counts(size):
    write(row("narrow", SECOND))
    value = getattr(SIZES, size)
    for factor, near in ((3, True), (5, False)):
        more = (factor * value[0], value[1]) if size == "size" else factor * value
        assert decide(**{size: more}).because.startswith("measured on" if near else "estimated"), factor


def test_too_far_the_model_decides_among_what_ran():
    write(row("small", FIRST), row("other kind", FIRST, what=GRU))
    far = decide(channels=1024, cells=25)
    assert far.backend == "cuda"
    assert far.because.startswith("estimated, as no case measured on sm_90 is near: cuda (convolution and stage) ")
    for other in ({"what": GRU, "channels": 1024}, {"training": False}, {"dtype": torch.float32}):
        assert decide(**other).because.startswith("estimated")
    assert decide(dtype=torch.float16).because.startswith("measured")
    # Never one that failed wherever it was tried.
    write(row("small", {"reference": 1e-3, "triton": 2e-3}))
    backend, because, _ = decide(channels=1024, cells=25)
    assert backend == "reference"  # the library's product is the faster one
    assert "triton (fused)" in because
    assert "cuda" not in because


def test_peepholes_are_no_other_kind_and_own_cells_are():
    class Own(cells.Cell):
        def step(self, x, h):
            return h / 3 + cells.tanh(cells.conv(x) + cells.conv(h)) / 2

    write(row("one", FIRST), row("plain", FIRST, what=(cells.ConvRNN().key, 2)))
    assert decide((cells.ConvLSTM("channel").key, 2)).because.startswith("measured")
    measurable = not hasattr(native.module(), "cuda_stage")
    assert decide((Own().key, 2)).because.startswith("measured") == measurable


def test_clips():
    conv, pool = Conv.of(1, 1, 1, 1), Pool.of(2)
    operation, sizes = "conv3d_relu_maxpool3d", {"size": (8, 28, 28), "steps": 1}
    assert not decide((conv, True, pool), operation=operation, **sizes).ran
    write(row("c3d", SECOND, (conv, True, pool), operation=operation, **sizes))
    assert decide((conv, True, pool), operation=operation, **sizes).because.endswith("case c3d")
    other = decide((conv, True, Pool()), operation=operation, **sizes)
    assert other.because.startswith("estimated")
    # No other operation ran on this architecture.
    assert not decide().ran
    assert not decide((True, pool), operation="batch_norm_relu_maxpool3d", **sizes).ran


def test_without_measurements_the_model_decides():
    write(row("another GPU", FIRST, channels=64), capability=80)
    backend, because, ran = decide(channels=256, cells=25)
    assert (backend, ran) == ("cuda", False)
    assert because.startswith("estimated, as nothing was measured on sm_90: cuda (convolution and stage) ")


BROKEN = {
    "no JSON": "{",
    "a list": "[]",
    "another capability": '{"capability": 80, "cases": []}',
    "no cases": '{"capability": 90}',
    "no time": json.dumps({"capability": 90, "cases": [row("a", {"reference": 0})]}),
    "a word for a time": json.dumps({"capability": 90, "cases": [row("a", {"reference": "1"})]}),
    "sizes missing": json.dumps({"capability": 90, "cases": [row("a", FIRST) | {"sizes": [1, 2]}]}),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_told_and_counts_as_none(name):
    measured.file_of(90).write_text(BROKEN[name])
    with pytest.warns(UserWarning, match=r"dispatch-sm90.json cannot be read .*as if nothing had been measured"):
        assert decide().because.startswith("estimated, as nothing was measured on sm_90: triton")
    decide(channels=65)  # warnings are errors here: it is told once


def test_a_backend_that_cannot_run_or_is_unknown_is_never_chosen():
    write(row("a", {"quick": 1e-9}))
    assert decide()[::2] == ("triton", False)
    write(row("a", {"quick": 1e-9} | FIRST))
    assert decide(able=("triton", "reference")).backend == "triton"


def test_no_gpu_decides_nothing(monkeypatch):
    monkeypatch.setattr(dispatch, "device_of", lambda index: None)
    assert decide() == (None, "", True)


@pytest.fixture
def ran(monkeypatch):
    """The backends that calls of the CPU, which counts as a GPU, ran on."""
    monkeypatch.setattr(backends, "_DECIDED", ("cpu",))
    names, plain = [], backends.select

    def noted(*arguments):
        names.append(plain(*arguments))
        return names[-1]

    monkeypatch.setattr(backends, "select", noted)
    return names


def slow_and_fast(slow, fast, **options):
    layer = {"dtype": torch.float32, "inputs": 3, "channels": 4, "size": (6, 6), "images": 2, "steps": 5} | options
    return row("here", {slow: 2e-3, fast: 1e-3}, **layer)


@built
def test_precedence(ran, monkeypatch, tmp_path):
    """By name, then by timing, then as measured, then what can run best."""
    layer, x = fastrcn.ConvLSTM(3, 4), torch.randn(5, 2, 3, 6, 6)
    layer(x)
    write(slow_and_fast("cpu", "reference"))
    layer(x)
    with fastrcn.use_backend("cpu"):
        layer(x)
    with torch.no_grad():
        write(slow_and_fast("cpu", "reference", training=False))
        layer(x)
    write(slow_and_fast("cpu", "reference"))
    monkeypatch.setattr(trial, "_is_on_gpu", lambda tensor: True)
    made_up = SimpleNamespace(name="Made Up", major=9, minor=0, multi_processor_count=132)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: made_up)
    monkeypatch.setattr(autotune, "_known", {})
    monkeypatch.setenv("FASTRCN_CACHE", str(tmp_path / "cache"))
    left = iter((2, 1))  # of plain PyTorch, then of the other
    with fastrcn.use_autotune(timer=lambda run: next(left)):
        layer(x)
    assert ran == ["cpu", "reference", "cpu", "reference", "cpu"]


@pytest.fixture
def compared(monkeypatch, ran):
    """The backends that ran in comparisons, where the model finds `cpu` the fastest and nothing was measured."""
    names, plain = [], trial.Trial.run
    monkeypatch.setattr(trial.Trial, "run", lambda self, name: names.append(name) or plain(self, name))
    monkeypatch.setattr(trial, "_is_on_gpu", lambda tensor: True)
    monkeypatch.setattr(trial, "_right", {})
    monkeypatch.setattr(dispatch, "in_order", lambda *_: [(1e-3, "cpu", "fused"), (2e-3, "reference", "plain")])
    return names


@built
def test_an_estimate_runs_once_it_was_compared(ran, compared):
    """Whatever batch and time; anything else is compared anew."""
    layer, x = fastrcn.ConvLSTM(3, 4), torch.randn(5, 2, 3, 6, 6)
    state = torch.get_rng_state()
    output, _ = layer(x)
    assert torch.equal(torch.get_rng_state(), state)
    assert compared == ["reference", "cpu"]
    output.sum().backward()
    layer(torch.randn(3, 1, 3, 6, 6))
    assert (len(compared), ran) == (2, ["cpu", "cpu"])
    for n, other in enumerate((lambda: layer(x[..., 1:]), lambda: layer(x, lengths=[5, 3]), layer.double), 2):
        other()
        layer(x.to(layer.weight_ih_l0.dtype))
        assert len(compared) == 2 * n
    with torch.no_grad():
        layer(x.double())
    assert len(compared) == 10
    assert set(ran) == {"cpu"}


def replaced(monkeypatch, **results):
    """Have backends give something else in comparisons, made of what they give."""
    plain = trial.Trial.run
    monkeypatch.setattr(
        trial.Trial, "run", lambda self, name: results.get(name, lambda run: run())(lambda: plain(self, name))
    )


def out_of_memory(run):
    raise torch.OutOfMemoryError("of 80 GiB")


def in_error(run):
    raise RuntimeError("no such kernel")


UNEQUAL = {
    "wrong": (lambda run: [1.2 * t for t in run()], "backend 'cpu' is not chosen for conv_recurrent"),
    "not a number": (lambda run: [t * float("nan") for t in run()], "backend 'cpu' is not chosen for conv_recurrent"),
    "failing": (in_error, "backend 'cpu' failed in a trial of conv_recurrent: no such kernel"),
    "out of memory": (out_of_memory, "backend 'cpu' failed in a trial of conv_recurrent: of 80 GiB"),
}


@built
@pytest.mark.parametrize("name", UNEQUAL)
def test_an_estimate_that_is_wrong_does_not_run(name, monkeypatch, ran, compared):
    results, message = UNEQUAL[name]
    replaced(monkeypatch, cpu=results)
    layer, x = fastrcn.ConvLSTM(3, 4), torch.randn(5, 2, 3, 6, 6)
    with pytest.warns(UserWarning, match=message):
        layer(x)
    layer(x)  # told once
    assert ran == ["reference", "reference"]
    assert compared.count("reference") == 1


@built
def test_without_memory_for_plain_pytorch_an_estimate_runs(monkeypatch, ran, compared):
    replaced(monkeypatch, reference=out_of_memory)
    layer, x = fastrcn.ConvLSTM(3, 4), torch.randn(5, 2, 3, 6, 6)
    with pytest.warns(UserWarning, match="backend 'cpu' is not compared with plain PyTorch, which has no memory"):
        layer(x)
    layer(x)
    assert ran == ["cpu", "cpu"]


@built
def test_what_is_not_finite_is_not_compared(monkeypatch, ran, compared):
    monkeypatch.setitem(backends._UNTRIED, "cpu", "not tried")
    layer, x = fastrcn.ConvLSTM(3, 4), torch.randn(5, 2, 3, 6, 6)
    with pytest.warns(UserWarning, match="not tried"):
        layer(x * float("inf"))
    layer(x)
    assert (ran, compared) == (["reference", "cpu"], ["reference", "reference", "cpu"])


@built
def test_while_a_graph_is_captured_nothing_is_compared(monkeypatch, ran, compared):
    monkeypatch.setitem(backends._UNTRIED, "cpu", "not tried either")
    monkeypatch.setattr(trial, "capturing", lambda tensor: len(ran) != 1)
    layer, x = fastrcn.ConvLSTM(3, 4), torch.randn(5, 2, 3, 6, 6)
    with pytest.warns(UserWarning, match="not tried either"):
        layer(x)
    layer(x)
    layer(x)
    assert (ran, compared) == (["reference", "cpu", "cpu"], ["reference", "cpu"])


@built
def test_an_estimate_for_clips(ran, compared):
    x = torch.randn(2, 3, 4, 6, 6)
    for _ in range(2):
        BatchNormReLUPool3d(3, pool_kernel_size=2)(x)
        fastrcn.ConvReLUPool3d(3, 4, 3, pool_kernel_size=2)(x)
    assert ran == ["cpu"] * 4
    assert compared == ["reference", "cpu"] * 2


@built
@pytest.mark.parametrize("right", [True, False])
def test_both_directions_as_one_call_are_compared_too(right, monkeypatch, ran, compared):
    """Where the backend that an estimate chose for one has such a call: here plain PyTorch stands in for it."""
    monkeypatch.setattr(backends, "BOTH_DIRECTIONS", ("cpu",))
    wrong, calls = 1 if right else 2, []

    def together(call, tensors, differentiated):
        calls.append(call)
        return tuple(wrong * t for t in BothCall.plain(call, tensors))

    plain = autograd.run
    monkeypatch.setattr(
        autograd, "run", lambda call, *rest: (together if isinstance(call, BothCall) else plain)(call, *rest)
    )
    layer, x = fastrcn.ConvGRU(3, 4, bidirectional=True), torch.randn(5, 2, 3, 6, 6)
    with nullcontext() if right else pytest.warns(UserWarning, match="backend 'cpu' is not chosen for conv_recurrent"):
        found, _ = layer(x)
    assert torch.allclose(layer(x)[0], found)
    with fastrcn.use_backend("reference"):
        assert torch.allclose(layer(x)[0], found, atol=1e-6)
    assert [call.backend for call in calls] == (["cpu"] * 3 if right else ["cpu"])
    assert compared == ["reference", "cpu"] * 2
    with fastrcn.use_backend("cpu"):  # by its name it is not looked at
        assert torch.allclose(layer(x)[0], wrong * found, atol=1e-6)


@built
def test_explanation_of_an_estimate(compared):
    inputs = torch.randn(5, 2, 3, 6, 6), torch.randn(16, 3, 3, 3), torch.randn(16, 4, 3, 3)
    found = backends.explain("conv_recurrent", cells.ConvLSTM(), *inputs)
    assert found.chosen == "cpu"
    because = "estimated, as nothing was measured on sm_90: cpu (fused) 1 ms, reference (plain) 2 ms"
    assert found.because == f"once such a call was compared with plain PyTorch: {because}"
    assert not compared


@built
def test_explanation(monkeypatch):
    monkeypatch.setattr(backends, "_DECIDED", ("cpu",))
    tensors = torch.randn(5, 2, 3, 6, 6), torch.randn(16, 3, 3, 3), torch.randn(16, 4, 3, 3)
    write(slow_and_fast("cpu", "reference", training=False))
    found = backends.explain("conv_recurrent", cells.ConvLSTM(), *tensors)
    assert found.chosen == "reference"
    assert found.because == "measured on sm_90: reference 1 ms, cpu 2 ms in case here"
    write(slow_and_fast("reference", "cpu"))
    found = backends.explain("conv_recurrent", cells.ConvLSTM(), *(t.requires_grad_() for t in tensors))
    assert found.because == "measured on sm_90: cpu 1 ms, reference 2 ms in case here"


@built
@pytest.mark.parametrize(("slow", "fast"), [("cpu", "reference"), ("reference", "cpu")])
def test_compiled_calls_take_what_is_fastest_over_the_group(slow, fast, monkeypatch):
    """Without looking at sizes, so that no other T or B compiles anew; plain PyTorch itself does."""
    monkeypatch.setattr(backends, "_DECIDED", ("cpu",))
    asked, plain = [], dispatch._overall
    monkeypatch.setattr(dispatch, "_overall", lambda *a: asked.append(plain(*a)) or asked[-1])
    write(slow_and_fast(slow, fast), row("opposite", {slow: 9e-4, fast: 1e-3}, dtype=torch.float32))
    torch._dynamo.reset()
    compiled = torch.compile(fastrcn.ConvLSTM(3, 4), backend="eager", fullgraph=True, dynamic=True)
    compiled(torch.randn(5, 2, 3, 6, 6))
    with torch._dynamo.config.patch(error_on_recompile=fast == "cpu"):
        compiled(torch.randn(7, 4, 3, 6, 6))
    assert set(asked) == {(fast, "fastest over 2 measured cases", True)}


TINY = {"sizes": (3, 2, 4, 4, 5, 6), "kernel": (3, 3), "quick": True}
CLIP = {"sizes": (1, 2, 8, 4, 6, 6), "norm": True, "options": {"kernel_size": 3, "pool_kernel_size": 2}}


@built
def test_command(monkeypatch, tmp_path, capsys):
    """Every call runs on every backend, is compared and written down; times are made up."""
    monkeypatch.setattr(recurrent, "CASES", [recurrent.RecurrentCase("tiny", "", **TINY)])
    monkeypatch.setattr(conv3d, "CASES", [conv3d.Conv3dCase("clip", "", **CLIP)])
    monkeypatch.setattr(command, "_DEVICE", "cpu")
    monkeypatch.setattr(command, "measure_ceilings", lambda dtype, device: (1e9, 1e9))
    monkeypatch.setattr(trial, "_is_on_gpu", lambda tensor: True)
    times = iter(range(1, 1000))
    monkeypatch.setattr(autotune, "milliseconds", lambda run: run() and next(times))
    assert command.main(["--dtypes", "float32", "--out", str(tmp_path)], lambda *_: {"commit": "abc"}) == 0
    cases = measured.read(measured.file_of(90), 90)
    found = {(c.name, c.group[0], c.group[-1]) for c in cases}
    assert {("tiny float32", "conv_recurrent", train) for train in (True, False)} < found
    assert ("clip float32", "batch_norm_relu_maxpool3d", True) in found  # in inference it is in the convolution
    assert all(set(c.seconds) == {"cpu", "reference"} for c in cases)
    assert cases[0].sizes == (4, 4, 30, 6, 9)
    assert "dispatch-sm90.json" in capsys.readouterr().out
    monkeypatch.setattr(backends, "_DECIDED", ("cpu",))
    forget()
    inputs = torch.randn(3, 2, 4, 5, 6), torch.randn(16, 4, 3, 3), torch.randn(16, 4, 3, 3)
    found = backends.explain("conv_recurrent", cells.ConvLSTM(), *inputs)
    assert found.chosen == "reference"
    assert found.because.endswith("in case tiny float32")


@built
def test_command_leaves_out_what_is_wrong(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(recurrent, "CASES", [recurrent.RecurrentCase("tiny", "", **TINY)])
    monkeypatch.setattr(command, "_DEVICE", "cpu")
    monkeypatch.setattr(command, "measure_ceilings", lambda dtype, device: (1e9, 1e9))
    monkeypatch.setattr(trial, "_is_on_gpu", lambda tensor: True)
    monkeypatch.setattr(autotune, "milliseconds", lambda run: 1.0)
    plain = trial.Trial.run

    def wrong(self, backend):
        if backend == "cpu" and not self.differentiated:
            raise RuntimeError("no memory")
        return [(1.5 if backend == "cpu" else 1) * t for t in plain(self, backend)]

    monkeypatch.setattr(trial.Trial, "run", wrong)
    arguments = ["--cases", "tiny", "--dtypes", "float32", "--out", str(tmp_path)]
    with pytest.warns(UserWarning, match="backend 'cpu' is not chosen"):
        assert command.main(arguments, lambda *_: {}) == 1
    told = capsys.readouterr().err
    assert "tiny float32: conv_recurrent on cpu: wrong results" in told
    assert "tiny float32: conv_recurrent on cpu: RuntimeError: no memory" in told
    assert [set(c.seconds) for c in measured.read(measured.file_of(90), 90)] == [{"reference"}] * 2


def test_command_without_a_gpu(monkeypatch, capsys):
    monkeypatch.setattr(dispatch, "device_of", lambda index: None)
    assert command.main([], None) == 1
    assert "PyTorch finds no CUDA device" in capsys.readouterr().err


def test_measurements_reach_installed_packages(tmp_path):
    """The build puts them where an installed package looks for them."""
    root, source = Path(__file__).parent.parent, tmp_path / "source"
    (source / "fastrcn").mkdir(parents=True)
    (source / "benchmarks" / "results").mkdir(parents=True)
    for name in ("setup.py", "pyproject.toml", "README.md", "fastrcn/_version.py"):
        shutil.copy(root / name, source / name)
    (source / "fastrcn" / "__init__.py").touch()
    (source / "benchmarks" / "results" / "dispatch-sm90.json").write_text("{}")
    built = [sys.executable, "setup.py", "-q", "build_py", "--build-lib", str(tmp_path / "lib")]
    done = subprocess.run(built, cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    place = tmp_path / "lib" / "fastrcn" / "measured_on" / "dispatch-sm90.json"
    assert place.read_text() == "{}"


def test_where_files_are(monkeypatch, tmp_path):
    monkeypatch.undo()
    root = Path(__file__).parent.parent
    assert measured.file_of(90) == root / "benchmarks" / "results" / "dispatch-sm90.json"
    monkeypatch.setattr(measured, "_PACKAGE", tmp_path / "fastrcn")
    assert measured.file_of(100) == tmp_path / "fastrcn" / "measured_on" / "dispatch-sm100.json"


def test_info(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert info._dispatch()["measured"] == {"sm_90": {"cases": 0, "file": None}}
    write(row("a", FIRST), row("b", SECOND))
    assert info._dispatch()["measured"] == {"sm_90": {"cases": 2, "file": str(measured.file_of(90))}}
