"""How the compiled Triton kernels are started, on a driver that is made up.

A process has one driver, so this needs a process of its own.
"""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton")
ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU has a driver of its own")
@pytest.mark.triton
@pytest.mark.slow
def test_starts():
    """All tests of the file."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/ops/triton_starts.py"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert found.returncode == 0, found.stdout[-6000:] + found.stderr[-2000:]
