"""The oldest Triton that the package runs on: some tests of each kind, in processes that find it first.

``make test`` installs it.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.helpers.ahead_of_time import compiler
from tests.ops.test_triton_compile import check

triton = pytest.importorskip("triton")
VERSION = "3.6.0"
FOLDER = Path(sys.prefix) / f"triton-{VERSION}"

pytestmark = [
    pytest.mark.triton,
    pytest.mark.slow,
    pytest.mark.skipif(triton.__version__ == VERSION, reason=f"all other tests are of Triton {VERSION}"),
]


@pytest.fixture(scope="module")
def environment():
    """In which Python finds it."""
    paths = [str(FOLDER), *filter(None, [os.environ.get("PYTHONPATH")])]
    made = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, "-c", "import triton; print(triton.__version__)"]
    found = subprocess.run(command, env=made, capture_output=True, text=True, check=True).stdout.strip()
    assert found == VERSION, f"{FOLDER}: expected Triton {VERSION}, which `make test` installs, found {found}"
    return made


def run(environment, *tests):
    """Tests by their ids, of files of this folder."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests]
    # NumPy's, of Triton's interpreter.
    command += ["-W", "ignore:Conversion of an array with ndim > 0:DeprecationWarning"]
    found = subprocess.run(
        command, cwd=Path(__file__).parent, env=environment, capture_output=True, text=True, timeout=900
    )
    assert found.returncode == 0, found.stdout[-6000:] + found.stderr[-2000:]


def test_in_the_interpreter(environment):
    run(
        environment | {"TRITON_INTERPRET": "1"},
        "triton_interpreted.py::test_equals_hand_written_loop[hoisted-reverse_lengths-gru_before]",
        "triton_interpreted.py::test_equals_hand_written_loop[in_loop-plain-stacked]",
        "triton_interpreted.py::test_low_precision_is_no_worse_than_twice_the_plain_loop[bfloat16-lstm_full]",
        "triton_interpreted.py::test_many_tiles[parts-gru_after]",
        "triton_directions_interpreted.py::test_equals_hand_written_loops[lstm]",
        "triton_norms_interpreted.py::test_normalised_before_the_loop_and_recomputed_in_slices",
        "triton_volumes_interpreted.py::test_equals_hand_written_loop[lstm_full]",
        "triton_walk_interpreted.py::test_every_cell[gru_before]",
        "conv3d_triton_interpreted.py::test_conv_in_low_precision",
        "conv3d_triton_interpreted.py::test_batch_norm[plain-training]",
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU has a driver of its own")
def test_starts(environment):
    run(
        environment,
        "triton_starts.py::test_later_starts_are_those_of_the_first_kind[lstm_full]",
        "triton_starts.py::test_later_starts_are_those_of_the_first_kind[normed_one_norm]",
        "triton_starts.py::test_a_walk_passes_what_its_steps_pass[both]",
        "triton_starts.py::test_each_phase_of_a_walk_is_a_function_of_its_own",
        "triton_starts.py::test_pooled_convolutions_start[fused]",
    )


@pytest.fixture(scope="module")
def rows(environment, tmp_path_factory):
    """A function: what ``python -m benchmarks aot --json`` finds."""
    with compiler(tmp_path_factory.mktemp("triton"), environment) as found:
        yield found


@pytest.mark.parametrize(
    "arguments",
    [
        ("--cells", "lstm", "--arch", "90", "--largest"),
        ("--cells", "gru", "--arch", "80", "--persistent", "--largest"),
        ("--operation", "conv3d_relu_maxpool3d", "--arch", "100", "--largest"),
        ("--operation", "batch_norm_relu_maxpool3d", "--arch", "90", "--largest"),
        ("--operation", "normalize", "--arch", "90"),
    ],
    ids=" ".join,
)
def test_compiled(arguments, rows):
    found = rows(*arguments)
    assert found
    products = arguments[1] not in ("batch_norm_relu_maxpool3d", "normalize")
    for row in found:
        assert row["spills"] == 0, row
        if products:
            check(row)
