"""CUTLASS: where the tensor cores' instructions have their operands and sums, for what stands for these on the host."""

import shutil
import subprocess
from importlib import util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_products_on_the_host_are_those_of_cutlass(tmp_path):
    package, nvcc = util.find_spec("cutlass_library"), shutil.which("nvcc")
    if package is None or nvcc is None:
        pytest.skip(
            "needs CUTLASS's headers (pip install --no-deps nvidia-cutlass==4.2.0.0) and nvcc, which compiles them"
        )
    (headers,) = package.submodule_search_locations or ()
    folders = (Path(headers, "source", "include"), ROOT / "csrc", ROOT / "tests")
    program = tmp_path / "cutlass"
    options = ("-std=c++17", "-arch=sm_90a", "--expt-relaxed-constexpr", "-DFRCN_ISA=host", "-Xcompiler=-Wno-psabi")
    source = Path(__file__).with_name("cutlass.cu")
    subprocess.run([nvcc, *options, *(f"-I{f}" for f in folders), str(source), "-o", str(program)], check=True)
    done = subprocess.run([program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "0 differences\n"), done.stdout + done.stderr
