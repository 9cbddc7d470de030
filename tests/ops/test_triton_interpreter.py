"""The Triton kernels in Triton's interpreter, on the CPU.

Whether a kernel is interpreted is decided when it is decorated, so this needs a process of its own.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")
ROOT = Path(__file__).parents[2]


@pytest.mark.triton
@pytest.mark.slow
@pytest.mark.parametrize(
    "files",
    [
        ("triton_interpreted.py",),
        ("triton_walk_interpreted.py",),
        ("conv3d_triton_interpreted.py",),
        ("triton_directions_interpreted.py", "triton_inputs_interpreted.py", "triton_volumes_interpreted.py"),
        (
            "triton_autotuned_interpreted.py",
            "triton_norms_interpreted.py",
            "triton_time_loop_interpreted.py",
            "triton_offsets_interpreted.py",
        ),
    ],
    ids=" ".join,
)
def test_in_the_interpreter(files):
    """All tests of some files, those that are short together: a process takes as long to start."""
    paths = [f"tests/ops/{file}" for file in files]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *paths]
    found = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True, timeout=900
    )
    assert found.returncode == 0, found.stdout[-6000:] + found.stderr[-2000:]
