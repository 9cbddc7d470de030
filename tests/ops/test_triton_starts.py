"""How the compiled Triton kernels are started, on a driver that is made up.

A process has one driver, so this needs a process of its own.
"""

import json
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


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU has a driver of its own")
@pytest.mark.triton
@pytest.mark.slow
def test_what_a_step_takes_the_host(tmp_path):
    """``python -m benchmarks host``: a row of times for each layer, in training and in inference."""
    command = [sys.executable, "-m", "benchmarks", "host", "--rounds", "1", "--steps", "5", "--out", str(tmp_path)]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert found.returncode == 0, found.stderr[-2000:]
    rows = json.loads((tmp_path / "host.json").read_text())["rows"]
    loops, clips = ("lstm", "gru", "rnn"), ("conv, ReLU, pool", "batch norm, ReLU, pool")
    expected = [(kind, 5, trains) for kind in loops for trains in (True, False)]
    expected += [(kind, None, trains) for kind in clips for trains in (True, False)]
    assert [(row["kind"], row["steps"], row["trains"]) for row in rows] == expected
    assert [len(row["seconds"]) for row in rows] == 6 * [5] + 4 * [2]
    assert all(min(row["seconds"].values()) > 0 for row in rows)
    lines = found.stdout.splitlines()[4 : 4 + len(rows)]
    for row, line in zip(rows, lines, strict=True):
        assert row["kind"] in line
        assert ("training" if row["trains"] else "inference") in line
