"""What the compiler made of the CUDA kernels of the recurrent stages: registers and memory instructions."""

import json
import re

import pytest

from fastrcn import native
from tests.helpers.machine_code import ARCHS, architectures, instructions, lanes, resources, skip_without
from tests.ops.cuda_on_host.stage_cases import STAGES

KERNELS = r"stage_(sum_)?kernel"
MOST_REGISTERS = 128
"""Two blocks of 256 threads per processor."""


@pytest.mark.parametrize(("kind", "suffix"), [("elf", "-real"), ("ptx", "-virtual")])
def test_architectures(kind, suffix):
    """Code for those that were asked for, and no other."""
    skip_without(ARCHS[0])
    asked = json.loads(native.module().build_info)["cuda_archs"]
    assert architectures(kind) == {name.removesuffix(suffix) for name in asked if name.endswith(suffix)}


@pytest.mark.parametrize("arch", ARCHS)
def test_registers(arch):
    skip_without(arch)
    kernels = resources(arch, KERNELS)
    # Four data types, each with packs of 16 bytes and with single channels.
    assert len(kernels) == 8 * len(STAGES)
    for kernel, used in kernels.items():
        assert used["REG"] <= MOST_REGISTERS, f"{kernel}: {used}"
        assert used["STACK"] == used["LOCAL"] == 0, f"{kernel}: registers spilled: {used}"


@pytest.mark.parametrize("arch", ARCHS)
def test_instructions(arch):
    skip_without(arch)
    kernels = instructions(arch, KERNELS)
    assert {lanes(kernel) for kernel in kernels} == {1, 2, 4, 8}
    for kernel, found in kernels.items():
        assert not {i for i in found if re.match("LDL|STL", i)}, f"{kernel}: local memory"
        if lanes(kernel) == 1:
            continue
        for kind in ("LDG", "STG"):
            sizes = {i for i in found if i.startswith(kind)}
            assert any(i.endswith(".128") for i in sizes), f"{kernel}: no access of 16 bytes: {sizes}"
            if "stage_kernel" in kernel:  # in a kernel with sums, these are doubles
                assert all(".128" in i for i in sizes - {"LDG.E.64", "LDG.E.64.CONSTANT"}), f"{kernel}: {sizes}"
