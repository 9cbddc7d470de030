"""Cells compiled on this machine: their files, and what is refused. The numbers: ops/compiled_cells.py."""

import json
import os
import shlex
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from torch import nn

import fastrcn
from fastrcn import info, native
from fastrcn.cells import Cell, conv, tanh
from fastrcn.compiler.emit_cpp import header_source
from fastrcn.compiler.library import build, find_compiler
from fastrcn.compiler.schedule import schedule_of
from tests.helpers.at_once import at_once
from tests.helpers.tolerances import assert_close
from tests.ops import cuda_on_host

ROOT = Path(__file__).parents[1]
pytestmark = [
    pytest.mark.skipif(native.module() is None, reason=f"no extension: {native.missing_reason()}"),
    pytest.mark.skipif(cuda_on_host.compiler() is None, reason="no C++ compiler (tried CXX, g++, clang++, c++)"),
]


class Leaky(Cell):
    def step(self, x, h):
        return h / 2 + tanh(conv(x) + conv(h)) / 2


class Slower(Cell):
    def step(self, x, h):
        return h / 4 * 3 + tanh(conv(x) + conv(h)) / 4


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache folder of the test's own, and the machine's compiler in a hurry: it does not optimise."""
    monkeypatch.setenv("CXX", script(tmp_path / "quick", f'exec {shlex.join(find_compiler().command)} "$@" -O0'))
    monkeypatch.setenv("FASTRCN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def script(path, text):
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def compile_and_run(rank):
    """In a process that ends with the test: what is compiled there is not known here."""
    entry = fastrcn.compile_cell(Leaky()).cells[0]
    assert native.has_cell(schedule_of(Leaky().key), 0)
    layer, x = fastrcn.ConvRecurrent(Leaky(), 2, 5).double(), torch.randn(3, 2, 2, 4, 3, dtype=torch.float64)
    with torch.no_grad():
        found = layer(x)[0]
        layer.backend = "reference"
        assert_close(found, layer(x)[0])
    return entry.became.split()[0], str(entry.file)


SECOND = """
import fastrcn
from tests.helpers.cells import MGU
print(fastrcn.compile_cell(fastrcn.ConvRecurrent(MGU(), 2, 3)))
"""


@pytest.mark.slow
def test_compiled_cells_and_a_second_process(tmp_path):
    """All tests of a file; then another process, with a compiler of the same version that compiles nothing."""
    variables = os.environ | {"FASTRCN_CACHE": str(tmp_path / "cache"), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/ops/compiled_cells.py"]
    found = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=900)
    assert found.returncode == 0, found.stdout[-6000:] + found.stderr[-2000:]
    version = f'[ "$1" = --version ] && exec {shlex.join(find_compiler().command)} --version'
    variables["CXX"] = script(tmp_path / "fails", f"{version}\nexit 1")
    variables["PYTHONHASHSEED"] = "5"  # the emitted text does not depend on it
    command = [sys.executable, "-c", SECOND]
    text = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, check=True).stdout
    assert "tests.helpers.cells.MGU(): found in the cache" in text


def test_two_processes_at_once_and_a_damaged_file(cache):
    (became, file), (_, other) = at_once(compile_and_run, 2)
    assert became == "compiled"
    assert {str(p) for p in cache.iterdir()} == {file, other}
    for whole in cache.iterdir():
        content = whole.read_bytes()
        whole.write_bytes(content[: len(content) // 2])
    assert at_once(compile_and_run, 1)[0][0] == "compiled"
    assert at_once(compile_and_run, 1)[0][0] == "found"
    assert not native.has_cell(schedule_of(Leaky().key), 0)


def build_it(source, cell=None):
    """(file, whether it was there)."""
    build_info = json.loads(native.module().build_info)
    return build(source, header_source([cell or Leaky()]), build_info, native.isa())


def built(source=None, cell=None):
    return build_it(native.module().stage_source if source is None else source, cell)[0]


def test_other_libraries_are_refused(cache):
    source = native.module().stage_source
    assert source.count("kStageAbi = 1;") == 1
    with pytest.raises(RuntimeError, match="expected stages of ABI 1, got 2"):
        native.register_stages(built(source.replace("kStageAbi = 1;", "kStageAbi = 2;")))
    with pytest.raises(RuntimeError, match="expected a library of stages, got one without"):
        native.register_stages(built("int other;"))
    with pytest.raises(RuntimeError, match="its instruction set tomorrow is not usable here"):
        native.register_stages(built("#undef FRCN_ISA\n#define FRCN_ISA tomorrow\n" + source))
    with pytest.raises(RuntimeError, match="does not load"):
        native.register_stages(cache / "missing.so")
    assert not native.has_cell(schedule_of(Leaky().key), 0)


def test_the_name_depends_on_text_compiler_and_options(cache, monkeypatch, tmp_path):
    names = {built().name.split("-")[1], built("int other;").name.split("-")[1]}
    quick = os.environ["CXX"]
    monkeypatch.setenv("CXX", f"{quick} -DOTHER")
    names.add(built().name.split("-")[1])
    monkeypatch.setenv("CXX", script(tmp_path / "newer", f'[ "$1" = --version ] && echo 99 && exit\nexec {quick} "$@"'))
    names.add(built().name.split("-")[1])
    assert len(names) == len(list(cache.iterdir())) == 4


def test_without_a_compiler(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(RuntimeError, match=r"CXX, which is not set, then c\+\+, g\+\+, clang\+\+.*still runs"):
        fastrcn.compile_cell(Leaky())
    monkeypatch.setenv("CXX", "/nowhere/cxx -O2")
    with pytest.raises(RuntimeError, match=r"looked for CXX=/nowhere/cxx -O2.*with PyTorch stages"):
        fastrcn.compile_cell(Leaky())
    fastrcn.ConvRecurrent(Leaky(), 2, 3)(torch.randn(2, 1, 2, 4, 4))[0].sum().backward()


def test_a_compiler_that_does_not_run(monkeypatch, tmp_path):
    no_program = tmp_path / "no_program"
    no_program.write_bytes(b"\x7fELF, or nearly")
    no_program.chmod(0o755)
    cases = [
        (
            str(no_program),
            "no_program --version: expected a C\\+\\+ compiler .*CXX.* it fails: .*Exec format error",
        ),
        (script(tmp_path / "silent", "true"), "silent --version: expected the version .*CXX.* got status 0, output ''"),
        (script(tmp_path / "fails", "echo no licence >&2; exit 3"), "got status 3, .* errors 'no licence"),
        ("'g++", 'CXX: expected a command, got "\'g\\+\\+" .No closing quotation'),
    ]
    for name, message in cases:
        monkeypatch.setenv("CXX", name)
        with pytest.raises(RuntimeError, match=message) as told:
            fastrcn.compile_cell(Leaky())
        assert str(told.value) == f"compile_cell: {Leaky()!r}: {info._compile_cell()['cpu']['reason']}"


def test_what_fails_is_told(cache, monkeypatch, tmp_path):
    with pytest.raises(RuntimeError, match=r"(?s)stages\.cpp failed with status 1:.*no such loops"):
        built("#error no such loops")
    (tmp_path / "file").touch()
    monkeypatch.setenv("FASTRCN_CACHE", str(tmp_path / "file" / "folder"))
    with pytest.raises(RuntimeError, match=r"file/folder: expected a folder that can be written .*FASTRCN_CACHE"):
        built("int other;")


def test_errors_and_empty_reports(monkeypatch):
    with pytest.raises(TypeError, match=r"cell_or_layer: expected a fastrcn.cells.Cell or a torch.nn.Module, got type"):
        fastrcn.compile_cell(Leaky)
    assert str(fastrcn.compile_cell(nn.Linear(2, 2))) == "loaded the compiled stages of 0 of 0 cells"
    assert "ConvLSTM(peephole=False): was compiled for" in str(fastrcn.compile_cell(fastrcn.ConvLSTM(2, 3)))
    with monkeypatch.context() as patch:
        patch.setattr(native.module(), "most_stage_arguments", 5)
        report = fastrcn.compile_cell(Leaky())
    assert len(report) == 0
    assert "Leaky(): stays with PyTorch stages: one has 6 buffers, compiled ones 5" in str(report)
    monkeypatch.setattr(native, "module", lambda: None)
    with pytest.raises(RuntimeError, match="compile_cell: expected the native extension, but"):
        fastrcn.compile_cell(Leaky())


def test_what_others_can_have_written_is_compiled_anew(cache):
    before = os.umask(0o002)  # new files are for the group to write
    try:
        file, _ = build_it("int other;")
    finally:
        os.umask(before)
    assert [stat.S_IMODE(p.stat().st_mode) for p in (cache, file)] == [0o700, 0o644]
    assert build_it("int other;") == (file, True)
    cache.chmod(0o755)
    assert build_it("int other;") == (file, True)
    file.chmod(0o664)
    assert build_it("int other;") == (file, False)
    assert stat.S_IMODE(file.stat().st_mode) == 0o644
    file.rename(cache / "elsewhere")
    file.symlink_to(cache / "elsewhere")
    assert build_it("int other;") == (file, False)
    assert not file.is_symlink()
    file.unlink()
    file.mkdir()
    with pytest.raises(RuntimeError, match=rf"{file}: cannot be written .*FASTRCN_CACHE"):
        build_it("int other;")
    cache.chmod(0o777)
    with pytest.raises(RuntimeError, match=rf"{cache}: expected a folder .* with mode 0777: .*FASTRCN_CACHE"):
        build_it("int other;")


def test_a_library_of_another_cell_is_told(cache):
    """Under the name of the asked one, and whole."""
    ours, others = built(), built(cell=Slower())
    planted = ours.with_name(f"{ours.stem.rpartition('-')[0]}-{others.stem.rpartition('-')[2]}.so")
    others.rename(planted)
    ours.unlink()

    def run(rank):
        with pytest.raises(RuntimeError, match=rf"Leaky\(\): {planted}: expected the stages of .*Leaky.* it has none"):
            fastrcn.compile_cell(Leaky())

    at_once(run, 1)


def test_a_failure_at_the_second_cell_names_it(cache, monkeypatch, tmp_path):
    once = f'[ "$1" = --version ] || mkdir {tmp_path / "once"} || exit 1'
    monkeypatch.setenv("CXX", script(tmp_path / "once.sh", f'{once}\nexec {os.environ["CXX"]} "$@"'))
    layers = nn.ModuleList([fastrcn.ConvRecurrent(Leaky(), 2, 3), fastrcn.ConvRecurrent(Slower(), 2, 3)])

    def run(rank):
        with pytest.raises(RuntimeError) as told:
            fastrcn.compile_cell(layers)
        assert native.has_cell(schedule_of(Leaky().key), 0)
        return str(told.value)

    (text,) = at_once(run, 1)
    error, before = text.split("\nbefore it: ")
    assert error.startswith(f"compile_cell: {Slower()!r}: ")
    assert "failed with status 1" in error
    assert before.startswith(f"loaded the compiled stages of 1 of 1 cells\n  {Leaky()!r}: compiled for")


def test_no_temporary_folder_and_no_result(cache, monkeypatch, tmp_path):
    with monkeypatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
        with pytest.raises(RuntimeError, match=r"stages\.cpp: no library .* TMPDIR: .*No such file .*missing"):
            built("int other;")
    monkeypatch.setenv("CXX", script(tmp_path / "idle", "echo idle 1.0"))
    with pytest.raises(RuntimeError, match=r"idle .*stages\.cpp: no library .*stages\.so"):
        built("int other;")
