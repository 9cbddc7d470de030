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
PARTS = (("program", "loop"), ("steps", "walks", "norms"))
"""Each a test, with a build of its own, so that two processes can share them."""


@pytest.mark.parametrize("part", PARTS, ids="-".join)
def test_on_the_host(part, tmp_path):
    """All tests of these files."""
    if cuda_on_host.compiler() is None:
        pytest.skip("no C++ compiler (tried CXX, g++, clang++, c++)")
    library, needed = stages.build(tmp_path)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    command += [f"tests/ops/cuda_{name}_on_host.py" for name in part]
    # The maps are small: threads would only wait for each other.
    variables = os.environ | needed | {"FASTRCN_HOST_STAGES": str(library), "OMP_NUM_THREADS": "1"}
    found = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=900)
    assert found.returncode == 0, found.stdout[-6000:] + found.stderr[-4000:]
