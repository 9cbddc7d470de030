"""Wheels and the source archive: what is in them, and that a wheel works where there is no checkout."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest
import torch

from fastrcn import __version__
from fastrcn.info import OPERATIONS
from tests.helpers import loops
from tests.helpers.tolerances import assert_close

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
FOLDERS = ("benchmarks", "csrc", "docs", "fastrcn", "tests")
EXTENSION = f"fastrcn/_C{sysconfig.get_config_var('EXT_SUFFIX')}"
QUICK = "-DCMAKE_CXX_FLAGS_RELEASE=-O1 " + " ".join(
    f"-DFASTRCN_HAS_{isa}=0" for isa in ("avx2", "avx512", "avx512_bf16")
)
"""For CMake, where a build has nothing to begin with: it is to work, not to be fast."""

STEPS = """
import json
import torch
import fastrcn
from fastrcn import native

torch.manual_seed(0)
layer = fastrcn.ConvLSTM(2, 3, 3).double()
x = torch.randn(4, 2, 2, 5, 6, dtype=torch.float64, requires_grad=True)
output, state = layer(x)
weight = torch.randn_like(output)
grads = torch.autograd.grad((output * weight).sum(), [x, *layer.parameters()])
found = {"x": x.detach(), "weight": weight, "output": output.detach(), "grads": grads}
torch.save(found | layer.state_dict(), "found.pt")
print(json.dumps([fastrcn.__file__, hasattr(native.module(), "cuda_stage")]))
"""


def run(*command, cwd, **variables):
    """What a command prints, in this environment but for the paths of Python; AssertionError where it fails."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | variables
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-6000:]
    return done.stdout


def build(source, folder, **variables):
    """A wheel, by the tools that are here."""
    command = [sys.executable, "-m", "pip", "wheel", str(source), "--no-build-isolation", "--no-deps", "--no-index"]
    run(*command, "--wheel-dir", str(folder), cwd=folder, **variables)
    (wheel,) = folder.glob("*.whl")
    return wheel


def files_of(wheel):
    """Of the package, after a look at those about it."""
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    about = {name for name in names if name.startswith(f"fastrcn-{__version__}.dist-info/")}
    assert {Path(name).name for name in about} >= {"LICENSE", "METADATA", "RECORD", "WHEEL"}
    return names - about


def modules_and_measurements():
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "fastrcn").rglob("*.py")}
    return modules | {f"fastrcn/measured_on/{p.name}" for p in (ROOT / "benchmarks/results").glob("dispatch-sm*.json")}


def install(wheel, folder):
    """The Python of an environment with this wheel, which also sees the packages that are here."""
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    site = Path(run(str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).strip())
    # Its lines are appended as they are: an editable install of the checkout, itself such a file, is not seen.
    (site / "here.pth").write_text("\n".join(path for path in sys.path if path.endswith("-packages")))
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--no-index", str(wheel)]
    run(*command, cwd=folder)
    return str(python)


def check_steps(python, folder, **variables):
    """A ConvLSTM, forward and backward, against the loop. Returns whether the wheel has CUDA kernels."""
    place, cuda = json.loads(run(python, "-c", STEPS, cwd=folder, **variables))
    assert Path(place).is_relative_to(Path(python).parents[1])
    found = torch.load(folder / "found.pt")
    x, p = found["x"].requires_grad_(), {name: found[f"{name}_l0"] for name in ("weight_ih", "weight_hh", "bias")}
    for value in p.values():
        value.requires_grad_()
    zero = torch.zeros(2, 3, 5, 6, dtype=torch.float64)
    truth, _ = loops.run(loops.lstm_step, p, x, (zero, zero))
    assert_close(found["output"], truth.detach(), "output")
    grads = torch.autograd.grad((truth * found["weight"]).sum(), [x, *p.values()])
    for name, grad, expected in zip(("x", *p), found["grads"], grads, strict=True):
        assert_close(grad, expected, name)
    return cuda


def check_info(python, folder, **variables):
    """What ``fastrcn info`` tells of the extension, with which each operation runs on the CPU."""
    facts = json.loads(run(python, "-m", "fastrcn", "info", "--json", cwd=folder, **variables))
    assert facts["fastrcn"] == __version__
    tests = [t for t in facts["self_test"] if (t["backend"], t["dtype"]) in (("cpu", "float32"), ("cpu", "float64"))]
    assert len(tests) == 2 * len(OPERATIONS)
    assert all(test["ok"] == facts["extension"]["built"] for test in tests), tests
    return facts["extension"]


def test_wheel_of_the_checkout(tmp_path):
    """Built in the checkout's own folder: what is compiled there already is used."""
    wheel = build(ROOT, tmp_path)
    assert files_of(wheel) == modules_and_measurements() | {EXTENSION}
    python = install(wheel, tmp_path / "venv")
    cuda = check_steps(python, tmp_path, FASTRCN_REQUIRE_EXT="1")
    built = check_info(python, tmp_path, FASTRCN_REQUIRE_EXT="1")["build"]
    assert bool(built["cuda"]) == cuda
    if shutil.which("nvcc") and os.environ.get("FASTRCN_CUDA") != "0":
        assert cuda, built["without_cuda"]


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """What the source archive holds, unpacked; made from a copy, as setuptools also packs what it packed before."""
    copy, out = tmp_path_factory.mktemp("checkout"), tmp_path_factory.mktemp("sdist")
    for path in ROOT.iterdir():
        if path.name in FOLDERS:
            shutil.copytree(path, copy / path.name, ignore=shutil.ignore_patterns("__pycache__"))
        elif path.is_file():
            shutil.copy(path, copy)
    run(sys.executable, "-c", f"from setuptools import build_meta; build_meta.build_sdist({str(out)!r})", cwd=copy)
    run("tar", "-xzf", f"fastrcn-{__version__}.tar.gz", cwd=out)
    return out / f"fastrcn-{__version__}"


def listed(folder):
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix() for path in paths if path.suffix not in (".pyc", ".so")}


def test_source_archive(sources):
    for name in FOLDERS:
        assert listed(sources / name) == listed(ROOT / name)
    assert not list(sources.rglob("*.so"))
    top = {path.name for path in sources.iterdir() if path.is_file()}
    assert top >= {"CMakeLists.txt", "LICENSE", "Makefile", "README.md", "pyproject.toml", "setup.py"}


def test_wheel_without_cuda(sources, tmp_path):
    """From the source archive alone."""
    wheel = build(sources, tmp_path, FASTRCN_CUDA="0", CMAKE_ARGS=QUICK)
    assert files_of(wheel) == modules_and_measurements() | {EXTENSION}
    python = install(wheel, tmp_path / "venv")
    assert not check_steps(python, tmp_path, FASTRCN_REQUIRE_EXT="1")
    built = check_info(python, tmp_path, FASTRCN_REQUIRE_EXT="1")["build"]
    assert (built["cuda"], built["without_cuda"]) == ("", "switched off by FASTRCN_CUDA=0")


def test_wheel_without_the_extension(sources, tmp_path):
    """What an older build left behind is not in it."""
    shutil.copytree(sources, tmp_path / "source")
    left = tmp_path / "source" / "build" / "lib" / "fastrcn"
    left.mkdir(parents=True)
    (left / "gone.py").touch()
    wheel = build(tmp_path / "source", tmp_path, FASTRCN_NATIVE="0")
    assert wheel.name.endswith("-py3-none-any.whl")
    assert files_of(wheel) == modules_and_measurements()
    python = install(wheel, tmp_path / "venv")
    assert not check_steps(python, tmp_path, FASTRCN_REQUIRE_EXT="0")
    assert not check_info(python, tmp_path, FASTRCN_REQUIRE_EXT="0")["built"]
