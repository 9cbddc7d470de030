"""Choosing a backend: by name, by context, by environment, by itself; and the extension's absence."""

import ast
import json
import os
import subprocess
import sys

import pytest
import torch

import fastrcn
from fastrcn import backends, cells, native

X = torch.randn(3, 2, 2, 4, 5)


def python(code, **environment):
    """Run code in a new interpreter; (status, stdout + stderr)."""
    env = os.environ | {"PYTHONPATH": os.getcwd()} | environment
    env = {k: v for k, v in env.items() if v is not None}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


WHICH = """
import torch, fastrcn
from fastrcn import backends, cells
print(backends.select("conv_recurrent", (cells.ConvLSTM().key, 2), torch.float32, "cpu"))
"""


def explain(**options):
    weights = torch.randn(12, 2, 3, 3), torch.randn(12, 3, 3, 3)
    return backends.explain("conv_recurrent", cells.ConvLSTM(), X, *weights, **options)


def test_automatic_choice_and_explanation():
    found = explain()
    assert found.chosen == "cpu"
    assert [name for name, _, _ in found.backends] == ["triton", "cuda", "cpu", "reference"]
    assert "compiled stages" in str(found)
    assert "reference: runs" in str(found)


def test_explanation_of_other_operations():
    x, weight = torch.randn(1, 2, 4, 5, 6), torch.randn(3, 2, 3, 3, 3)
    conv, norm = "conv3d_relu_maxpool3d", "batch_norm_relu_maxpool3d"
    found = backends.explain(conv, x, weight, padding=1, pool_kernel_size=(1, 2, 2))
    assert found.chosen == "cpu"
    assert "one compiled pass" in str(found)
    wide = backends.explain(conv, x, weight, padding=3, pool_kernel_size=7, pool_padding=3)
    assert wide.chosen == "reference"
    assert "255 cells at most, this one has 343" in wide.because
    asked = backends.explain(norm, x, None, None, training=True, backend="triton")
    assert asked.chosen is None
    assert "triton: cannot run: it runs on cuda tensors" in str(asked)
    assert backends.explain(norm, x.half(), None, None, training=True).chosen == "reference"
    with pytest.raises(ValueError, match=r"pool_kernel_size.*fits.*\(4, 5, 6\).*\(9, 9, 9\)"):
        backends.explain(norm, x, None, None, training=True, pool_kernel_size=9)


def test_context_and_argument():
    with fastrcn.use_backend("reference"):
        assert explain().chosen == "reference"
        assert explain(backend="cpu").chosen == "cpu"
        with fastrcn.use_backend("cpu"):
            assert explain().chosen == "cpu"
        assert explain().chosen == "reference"
    assert explain().chosen == "cpu"


def test_environment():
    assert python(WHICH, FASTRCN_BACKEND="reference")[1].split()[-1] == "reference"
    status, text = python(WHICH, FASTRCN_BACKEND="fast")
    assert status != 0
    assert "FASTRCN_BACKEND: expected one of reference, cpu, triton, cuda, got 'fast'" in text


def test_unknown_names():
    with pytest.raises(ValueError, match=r"backend.*reference, cpu, triton, cuda.*'fast'"), fastrcn.use_backend("fast"):
        pass
    with pytest.raises(ValueError, match=r"operation.*conv_recurrent.*'pool'"):
        backends.explain("pool", cells.ConvLSTM(), X)


def test_backend_by_name_runs_or_raises_its_reason():
    layer = fastrcn.ConvLSTM(2, 3, dtype=torch.float16, backend="cpu")
    with pytest.raises(RuntimeError, match=r"argument backend.*'cpu'.*float32, float64 and bfloat16.*float16"):
        layer(X.half())


def test_fallback_warns_once(monkeypatch):
    monkeypatch.setattr(backends, "_told", set())
    layer = fastrcn.ConvLSTM(2, 3, dtype=torch.float16)
    with pytest.warns(UserWarning, match=r"reference backend \(cpu: it has float32"):
        output, _ = layer(X.half())
    assert output.dtype == torch.float16
    layer(X.half())  # warnings are errors here: a second one would fail


def test_automatic_choice_by_device():
    """On a GPU the backends made for it are left out until they have been measured there; the last of them is named."""
    subject = (cells.ConvLSTM().key, 2)
    assert backends._choose("conv_recurrent", subject, torch.float32, "cpu") == ("cpu", "")
    name, refused = backends._choose("conv_recurrent", subject, torch.bfloat16, "cuda")
    assert name == "reference"
    assert refused.startswith("cuda: ")
    assert backends._choose("conv_recurrent", subject, torch.float32, "xpu")[1] == "no other runs on xpu tensors"


def test_user_cells_run_on_every_backend():
    class Leaky(cells.Cell):
        def step(self, x, h):
            return h / 2 + cells.tanh(cells.conv(x) + cells.conv(h)) / 2

    ok, reason = backends.can_run("conv_recurrent", "cpu", (Leaky().key, 2), torch.float32, "cpu")
    assert ok
    assert "generated PyTorch code" in reason


WITHOUT_EXTENSION = """
import importlib.abc, sys, warnings
class Hide(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "fastrcn._C":
            raise ModuleNotFoundError("No module named 'fastrcn._C'", name="fastrcn._C")
sys.meta_path.insert(0, Hide())
import torch, fastrcn
warnings.simplefilter("always")
with warnings.catch_warnings(record=True) as told:
    layer = fastrcn.ConvLSTM(2, 3)
    for _ in range(2):
        layer(torch.randn(3, 2, 2, 4, 5))[0].sum().backward()
print(len([w for w in told if "not built" in str(w.message)]), layer.weight_hh_l0.grad.abs().sum() > 0)
"""


def test_without_the_extension_everything_runs_on_the_reference():
    status, text = python(WITHOUT_EXTENSION, FASTRCN_REQUIRE_EXT=None)
    assert status == 0, text
    assert text.split()[-2:] == ["1", "tensor(True)"]


def test_required_extension():
    status, text = python(WITHOUT_EXTENSION, FASTRCN_REQUIRE_EXT="1")
    assert status != 0
    assert "FASTRCN_REQUIRE_EXT=1, but the native extension fastrcn._C was not built" in text


def test_extension_is_there_when_required():
    if os.environ.get("FASTRCN_REQUIRE_EXT") == "1":
        assert native.module() is not None


def test_lower_instruction_set():
    status, text = python(WHICH + "from fastrcn import native; print(native.isa())", FASTRCN_ISA="base")
    assert status == 0, text
    assert text.split()[-2:] == ["cpu", "base"]
    assert "FASTRCN_ISA: expected one of" in python("from fastrcn import native; native.isa()", FASTRCN_ISA="mmx")[1]


def test_info(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "fastrcn", "info", "--json"], capture_output=True, text=True, check=True
    )
    facts = json.loads(done.stdout)
    assert facts["fastrcn"] == fastrcn.__version__
    tests = {(t["operation"], t["backend"], t["dtype"]): t for t in facts["self_test"]}
    dtypes = ("float32", "float64", "bfloat16", "float16")
    operations = ("conv_recurrent", "conv3d_relu_maxpool3d", "batch_norm_relu_maxpool3d")
    assert set(tests) == {(o, b, d) for o in operations for b in backends.NAMES for d in dtypes}
    runs = {(o, "reference", d) for o in operations for d in dtypes}
    runs |= {(o, "cpu", d) for o in operations for d in dtypes[:3]}
    runs |= {("conv_recurrent", "triton", d) for d in dtypes if d != "float64" and torch.cuda.is_available()}
    assert {key for key, t in tests.items() if t["ok"]} == runs, tests
    assert all(t["reason"] and "error" not in t for t in tests.values() if not t["ok"])
    (tmp_path / "no_program").write_bytes(b"\x7fELF, or nearly")
    (tmp_path / "no_program").chmod(0o755)
    variables = os.environ | {"CXX": str(tmp_path / "no_program")}
    command = [sys.executable, "-m", "fastrcn", "info"]
    text = subprocess.run(command, capture_output=True, text=True, check=True, env=variables).stdout
    assert "no_program --version: expected a C++ compiler" in text
    assert "self-test" in text
    assert "autotune: off" in text
    assert "backend on GPUs: by name, autotune, measurements of this architecture, an estimate; measured: " in text


def test_info_says_where_autotune_keeps_what_it_found(tmp_path):
    environment = os.environ | {"FASTRCN_AUTOTUNE": "1", "FASTRCN_CACHE": str(tmp_path)}
    command = [sys.executable, "-c", "from fastrcn import info; print(info._autotune())"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    facts = ast.literal_eval(done.stdout)
    assert facts["on"]
    assert facts["folder"] == str(tmp_path)
    assert bool(facts["files"]) == torch.cuda.is_available()


def test_buffers_are_kept_and_given_back():
    from fastrcn import memory

    fastrcn.empty_cache()
    first = memory.empty((1 << 20,), torch.float32, "cpu")
    address = first.data_ptr()
    second = memory.empty((1 << 20,), torch.float32, "cpu")
    assert second.data_ptr() != address
    view = first[5:]
    del first
    assert memory.empty((1 << 20,), torch.float32, "cpu").data_ptr() != address  # a view still holds it
    del view
    assert memory.empty((1 << 20,), torch.float32, "cpu").data_ptr() == address
    fastrcn.empty_cache()
    assert len(memory._kept) == 1  # only `second` is left
