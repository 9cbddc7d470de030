"""What the compiler made of the CUDA kernels of the pooling passes: registers and memory instructions."""

import importlib.util
import json
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest

from fastrcn import native

MOST_REGISTERS = {8: 80, 4: 64, 1: 64}
"""By lanes: three or four blocks of 256 threads per processor."""


def find_cuobjdump():
    """From the CUDA toolkit, or the one that Triton brings."""
    triton = importlib.util.find_spec("triton")
    brought = [str(Path(p, "backends/nvidia/bin")) for p in (triton and triton.submodule_search_locations) or []]
    found = (shutil.which("cuobjdump", path=path) for path in (None, "/usr/local/cuda/bin", *brought))
    return next(filter(None, found), None)


@cache
def dump(option, arch):
    """{kernel: text} of the passes in the built extension."""
    command = [find_cuobjdump(), option, "-arch", f"sm_{arch}", native.module().__file__]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    parts = (part.lstrip(" :").split("\n", 1) for part in re.split(r"Function", text)[1:])
    return {name.strip().rstrip(":"): body for name, body in parts if re.search(r"pool_(sum_)?kernel", name)}


@pytest.fixture(params=["80", "90a"])
def arch(request):
    if native.module() is None:
        pytest.skip(native.missing_reason())
    build = json.loads(native.module().build_info)
    if not build["cuda"]:
        pytest.skip(f"the extension was built without CUDA: {build['without_cuda']}")
    if f"{request.param}-real" not in build["cuda_archs"]:
        pytest.skip(f"the extension was built for {', '.join(build['cuda_archs'])}")
    if find_cuobjdump() is None:
        pytest.skip("no cuobjdump (tried PATH, /usr/local/cuda/bin, Triton)")
    return request.param


def lanes(kernel):
    """How many values a thread has side by side: in the mangled name they follow the type of sums."""
    found = re.search(r"[fd]Li(\d)E", kernel)
    return int(found[1]) if found else 1


def test_registers(arch):
    kernels = dump("-res-usage", arch)
    assert {lanes(kernel) for kernel in kernels} == {1, 4, 8}
    for kernel, text in kernels.items():
        used = {name: int(value) for name, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", text)}
        assert used["REG"] <= MOST_REGISTERS[lanes(kernel)], f"{kernel}: {used}"
        assert used["STACK"] == used["LOCAL"] == 0, f"{kernel}: registers spilled: {used}"


def test_instructions(arch):
    kernels = dump("-sass", arch)
    assert {lanes(kernel) for kernel in kernels} == {1, 4, 8}
    for kernel, text in kernels.items():
        found = set(re.findall(r"/\*[0-9a-f]{4,5}\*/\s+(?:@!?U?P\w+\s+)?([A-Z0-9_.]+)", text))
        passes = "pool_kernel" in kernel
        unwanted = {i for i in found if re.match("LDL|STL" + "|MUFU" * passes, i)}
        assert not unwanted, f"{kernel}: local memory or a division"
        if lanes(kernel) > 1:
            assert any(re.match(r"LDG.*\.128", i) for i in found), f"{kernel}: no load of 16 bytes"
        # A vector of columns that is pooled by two leaves half a vector.
        if lanes(kernel) > 1 and passes and not re.search(r"ForwardRows.*Li2ELi2E", kernel):
            assert any(re.match(r"STG.*\.128", i) for i in found), f"{kernel}: no store of 16 bytes"
