"""The kernels of the recurrent stages and the program that launches them, on the host, under the sanitizers.

The sanitizers must be there before anything else is loaded, so this needs a process of its own.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.ops import cuda_on_host
from tests.ops.cuda_on_host import stages

ROOT = Path(__file__).parents[2]
PARTS = (("program", "loop", "norms", "library"), ("steps", "walks"))
"""Each a test, with a build of its own, so that two processes can share them."""


def compiler():
    found = cuda_on_host.compiler()
    return found or pytest.skip("no C++ compiler (tried CXX, g++, clang++, c++)")


@pytest.fixture
def sanitizing():
    """A compiler that has the sanitizers; skips, with the reason, where the tests below run without them."""
    found = compiler()
    if cuda_on_host.without_sanitizers():
        pytest.skip(cuda_on_host.without_sanitizers())
    return found


def test_sanitizers_find_a_wrong_access(sanitizing, tmp_path):
    source = tmp_path / "wrong.cpp"
    source.write_text("int main(int n, char **) { return (new int[1])[n]; }\n")
    subprocess.run([sanitizing, *cuda_on_host.SANITIZE, "-o", str(tmp_path / "wrong"), str(source)], check=True)
    done = subprocess.run([tmp_path / "wrong"], capture_output=True, text=True, check=False)
    assert "AddressSanitizer: heap-buffer-overflow" in done.stderr


def test_what_does_not_compile_with_the_sanitizers(sanitizing, tmp_path, capfd):
    """It is not tried without them, and the compiler's words are shown."""
    with pytest.raises(subprocess.CalledProcessError):
        cuda_on_host.compile_for_host("passes.cpp", tmp_path / "passes", "-fsanitize=thread")
    assert "-fsanitize=thread" in capfd.readouterr().err


def test_a_compiler_without_sanitizers(tmp_path, monkeypatch):
    """The reason is what it says of an empty program."""
    path = tmp_path / "compiler"
    path.write_text("#!/bin/sh\necho cannot find libasan >&2\nexit 1\n")
    path.chmod(0o755)
    monkeypatch.setattr(cuda_on_host, "compiler", lambda: str(path))
    reason = cuda_on_host.without_sanitizers.__wrapped__()
    assert reason == f"{path} has no sanitizers that work here: cannot find libasan"


@pytest.mark.parametrize("part", PARTS, ids="-".join)
def test_on_the_host(part, tmp_path):
    """All tests of these files."""
    compiler()
    library, needed = stages.build(tmp_path)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    command += [f"tests/ops/cuda_{name}_on_host.py" for name in part]
    # The maps are small: threads would only wait for each other.
    variables = os.environ | needed | {"FASTRCN_HOST_STAGES": str(library), "OMP_NUM_THREADS": "1"}
    found = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=900)
    assert found.returncode == 0, found.stdout[-6000:] + found.stderr[-4000:]
