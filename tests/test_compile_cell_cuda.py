"""Cells compiled for GPUs: their files, what nvcc makes of them, and what is refused. The numbers: on the host
ops/cuda_library_on_host.py, on a GPU ops/cuda_compiled_cells.py."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import fastrcn
from fastrcn import info, native
from fastrcn.cells import Cell, conv, peephole, tanh
from fastrcn.compiler.cuda_library import architectures, build_kernels, find_nvcc
from tests.helpers import machine_code
from tests.ops import cuda_on_host
from tests.ops.test_conv_recurrent_machine_code import MOST_REGISTERS, TYPES
from tests.test_compile_cell import ROOT, Leaky, script

pytestmark = pytest.mark.skipif(native.module() is None, reason=f"no extension: {native.missing_reason()}")
VARIABLES = ("CUDACXX", "CUDA_HOME", "CUDA_PATH", "CUDAHOSTCXX", "NVCC_APPEND_FLAGS", "FASTRCN_CACHE")
CALLS = """
import json
import fastrcn
from fastrcn.compiler.schedule import schedule_of
from fastrcn.ops.conv_recurrent import cuda
from tests.test_compile_cell_cuda import Leaky, torch

def ask():
    key = Leaky().key
    return cuda.has_kernels(schedule_of(key)), cuda.can_run((key, 2), torch.float32, "cuda")[1]

found = [ask()]
for _ in range(2):
    (entry,) = fastrcn.compile_cell(fastrcn.ConvRecurrent(Leaky(), 2, 3), backend="cuda", arch="sm_90").cells
    found += [ask(), (entry.became, str(entry.file))]
print(json.dumps(found))
"""


class Peeping(Cell):
    def step(self, x, h):
        return tanh(conv(x) + conv(h) + peephole(h))


@pytest.fixture
def with_kernels():
    problem = native.cuda_missing_reason("register_cuda_kernels")
    if problem:
        pytest.skip(problem)


def quick(path, version="13", then="echo library > stages.so"):
    """The path of something that is run as nvcc."""
    told = f'case "$*" in *--version) echo "Cuda compilation tools, release {version}"; exit;; esac'
    return script(path, f"{told}\n{then}")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache folder of the test's own, and an nvcc that compiles nothing."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CUDACXX", quick(tmp_path / "quick"))
    monkeypatch.setenv("FASTRCN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def built(source="int one;", archs=(90,)):
    """(file, whether it was there)."""
    return build_kernels(source, "", {"cuda_flags": "-O3"}, archs)


def test_the_name_depends_on_text_architectures_and_nvcc(cache, monkeypatch, tmp_path):
    files = [built()[0], built("int other;")[0], built(archs=(80,))[0], built(archs=(80, 90))[0]]
    for name, value in (
        ("CUDACXX", quick(tmp_path / "newer", "14")),
        ("CUDACXX", quick(tmp_path / "quick") + " -DOTHER"),
        ("NVCC_APPEND_FLAGS", "-DOTHER"),
        ("CUDAHOSTCXX", "g++"),
    ):
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            files.append(built()[0])
    assert len(set(files)) == len(files) == len(list(cache.iterdir()))
    assert built() == (files[0], True)
    files[0].write_bytes(b"damaged")
    assert built() == (files[0], False)


def test_what_nvcc_is_asked_for(cache, monkeypatch, tmp_path):
    monkeypatch.setenv("CUDACXX", quick(tmp_path / "quick", then='echo "$@" > stages.so') + " -g")
    monkeypatch.setenv("CUDAHOSTCXX", "my-g++")
    command = built(archs=(80, 90, 100))[0].read_text().split()
    assert command[:2] == ["-g", "-O3"]
    assert command[-5:] == ["-ccbin", "my-g++", "-o", "stages.so", "kernels.cu"]
    codes = re.findall(r"-gencode=arch=compute_(\w+),code=sm_(\w+)", " ".join(command))
    assert codes == [("80", "80"), ("90a", "90a"), ("100", "100")]


def test_without_nvcc(cache, monkeypatch, with_kernels):
    """What was compiled with one is found; else it is missed, and the cell still runs."""
    before = built()
    monkeypatch.setenv("CUDACXX", "/nowhere/nvcc")
    assert built() == (before[0], True)
    with pytest.raises(RuntimeError, match=r"nvcc was not found \(tried CUDACXX, .*PATH\).* still runs") as told:
        fastrcn.compile_cell(Leaky(), backend="cuda", arch="sm_90")
    assert str(told.value) == f"compile_cell: {Leaky()!r}: {info._compile_cell()['cuda']['reason']}"


def test_where_nvcc_is_looked_for(cache, monkeypatch, tmp_path):
    """As by the build."""
    assert find_nvcc().command == (os.environ["CUDACXX"],)
    (tmp_path / "toolkit" / "bin").mkdir(parents=True)
    own = quick(tmp_path / "toolkit" / "bin" / "nvcc", "99")
    monkeypatch.delenv("CUDACXX")
    for name in ("CUDA_PATH", "CUDA_HOME"):
        with monkeypatch.context() as patch:
            patch.setenv(name, str(tmp_path / "toolkit"))
            assert find_nvcc().command == (own,)
            assert info._compile_cell()["cuda"] == {"compiler": "Cuda compilation tools, release 99"}


def test_an_nvcc_that_fails(cache, monkeypatch, tmp_path, with_kernels):
    cases = [
        (script(tmp_path / "silent", "true"), "silent --version: expected the version of nvcc .*CUDACXX"),
        (quick(tmp_path / "fails", then="echo no such GPU >&2; exit 3"), r"kernels\.cu failed with status 3:\nno such"),
        (quick(tmp_path / "idle", then="true"), r"kernels\.cu: no library .*stages\.so"),
        ("'nvcc", 'CUDACXX: expected a command, got "\'nvcc" .No closing quotation'),
    ]
    for name, message in cases:
        monkeypatch.setenv("CUDACXX", name)
        with pytest.raises(RuntimeError, match=f"(?s)compile_cell: {re.escape(repr(Leaky()))}: .*{message}"):
            fastrcn.compile_cell(Leaky(), "cuda", arch="sm_90")


def test_architectures(monkeypatch):
    gpus = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(gpus))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda k: gpus[k])
    assert architectures("sm_90") == (90,)
    assert architectures(["sm_100", "sm_80", "sm_100"]) == (80, 100)
    for none in (None, []):
        with pytest.raises(ValueError, match='arch: expected a name such as "sm_90", as no GPU from sm_80'):
            architectures(none)
    for wrong in ("sm_75", "90", 90, ("sm_90", "sm_90a")):
        with pytest.raises(ValueError, match='arch: expected names such as "sm_90", from sm_80 on, got'):
            architectures(wrong)
    gpus.append((7, 5))
    assert architectures("sm_90") == (90,)
    gpus += [(9, 0), (8, 6), (9, 0)]
    assert architectures(None) == (86, 90)
    assert architectures(["sm_80", "sm_90"]) == (80, 90)
    for wrong in ("sm_80", ["sm_80", "sm_100"]):
        with pytest.raises(ValueError, match="arch: expected sm_90 too, as such a GPU is here, got"):
            architectures(wrong)


def test_arguments_and_cells_that_are_not_compiled(monkeypatch, with_kernels):
    with pytest.raises(ValueError, match="backend: expected one of cpu, cuda, got 'triton'"):
        fastrcn.compile_cell(Leaky(), "triton")
    with pytest.raises(ValueError, match="arch: expected None for the cpu backend, got 'sm_90'"):
        fastrcn.compile_cell(Leaky(), arch="sm_90")
    report = fastrcn.compile_cell(fastrcn.ConvLSTM(2, 3), "cuda", arch="sm_90")
    assert len(report) == 0
    assert "ConvLSTM(peephole=False): was compiled with the extension" in str(report)
    monkeypatch.setattr(native.module(), "most_stage_sums", 0)
    report = fastrcn.compile_cell(Peeping(), "cuda", arch="sm_90")
    assert "stays with PyTorch stages: one has 1 gradients of parameters, compiled ones 0" in str(report)
    monkeypatch.setattr(native, "module", lambda: SimpleNamespace(build_info='{"without_cuda": "no nvcc"}'))
    with pytest.raises(RuntimeError, match="the extension was built without CUDA: no nvcc"):
        fastrcn.compile_cell(Leaky(), "cuda", arch="sm_90")


def test_libraries_that_are_refused(tmp_path, with_kernels):
    compiler = cuda_on_host.compiler() or pytest.skip("no C++ compiler (tried CXX, g++, clang++, c++)")
    library, kind = tmp_path / "library.so", "struct { int abi; unsigned long text; void *table[2]; }"
    cases = [
        ("int other;", "expected a library of kernels, got one without fastrcn_kernel_library"),
        (f'extern "C" {{ {kind} fastrcn_kernel_library = {{2, 32}}; }}', "expected kernels of ABI 1, got 2"),
        (f'extern "C" {{ {kind} fastrcn_kernel_library = {{1, 1}}; }}', r"compiled with another C\+\+ library"),
    ]
    for text, message in cases:
        (tmp_path / "source.cpp").write_text(text)
        command = [compiler, "-shared", "-fPIC", "-o", str(library), str(tmp_path / "source.cpp")]
        subprocess.run(command, check=True)
        with pytest.raises(RuntimeError, match=f"{library}: .*{message}"):
            native.module().register_cuda_kernels(str(library))
        library.unlink()
    with pytest.raises(RuntimeError, match="a library of kernels does not load"):
        native.module().register_cuda_kernels(str(library))


def call(folder, **variables):
    command = [sys.executable, "-c", CALLS]
    variables = os.environ | {"FASTRCN_CACHE": str(folder), "PYTHONPATH": str(ROOT)} | variables
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """What a process that compiles a cell with nvcc saw, and one without nvcc after it."""
    problem = native.cuda_missing_reason("register_cuda_kernels")
    if problem:
        pytest.skip(problem)
    try:
        find_nvcc()
    except RuntimeError as error:
        pytest.skip(str(error))
    folder = tmp_path_factory.mktemp("cache")
    return call(folder), call(folder, CUDACXX="/nowhere/nvcc")


@pytest.mark.slow
def test_compiled_and_found(compiled):
    first, second = compiled
    for found, became in ((first, "compiled for sm_90 in"), (second, "found in the cache")):
        before, after, (said, file), again, (said_again, file_again) = found
        assert (before[0], after[0], again[0]) == (False, True, True)
        assert "stages as generated PyTorch code" in before[1]
        assert "one CUDA kernel per stage" in after[1]
        assert said.startswith(became)
        assert said_again == "found in the cache"
        assert file == file_again == first[2][1]


@pytest.mark.slow
def test_machine_code(compiled):
    """The same kernels as built-in cells have, without spills."""
    machine_code.skip_without_cuobjdump()
    file = Path(compiled[0][2][1])
    kernels = machine_code.resources("90a", "kernel", file)
    # A stage forward and one backward: in four types with packs and with single channels; fused in three, and walks.
    counts = {"stage_kernel": 2 * 4 * 2, "step_kernel": 2 * 3, "walk_kernel": 2 * 3}
    assert {kind: sum(kind in name for name in kernels) for kind in counts} == counts
    assert len(kernels) == sum(counts.values())
    for kernel, used in kernels.items():
        assert used["REG"] <= MOST_REGISTERS, f"{kernel}: {used}"
        assert used["STACK"] == used["LOCAL"] == 0, f"{kernel}: registers spilled: {used}"
    for kernel, found in machine_code.instructions("90a", "kernel", file).items():
        if "stage_kernel" not in kernel:
            assert any(name.startswith("HGMMA") for name in found), f"{kernel}: {found}"
            continue
        lanes, size = machine_code.lanes(kernel), next(n for kind, n in TYPES.items() if f"I{kind}Li" in kernel)
        if lanes > 1:
            assert lanes * size == 16
            for access in ("LDG.E.128", "STG.E.128"):
                assert any(name.startswith(access) for name in found), f"{kernel}: {found}"
