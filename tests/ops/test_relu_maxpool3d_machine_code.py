"""What the compiler made of the CUDA kernels of the pooling passes: registers and memory instructions."""

import re

import pytest

from tests.helpers.machine_code import ARCHS, instructions, lanes, resources, skip_without

KERNELS = r"pool_(sum_)?kernel"
MOST_REGISTERS = {8: 80, 4: 64, 1: 64}
"""By lanes: three or four blocks of 256 threads per processor."""


@pytest.mark.parametrize("arch", ARCHS)
def test_registers(arch):
    skip_without(arch)
    kernels = resources(arch, KERNELS)
    assert {lanes(kernel) for kernel in kernels} == {1, 4, 8}
    for kernel, used in kernels.items():
        assert used["REG"] <= MOST_REGISTERS[lanes(kernel)], f"{kernel}: {used}"
        assert used["STACK"] == used["LOCAL"] == 0, f"{kernel}: registers spilled: {used}"


@pytest.mark.parametrize("arch", ARCHS)
def test_instructions(arch):
    skip_without(arch)
    kernels = instructions(arch, KERNELS)
    assert {lanes(kernel) for kernel in kernels} == {1, 4, 8}
    for kernel, found in kernels.items():
        passes = "pool_kernel" in kernel
        unwanted = {i for i in found if re.match("LDL|STL" + "|MUFU" * passes, i)}
        assert not unwanted, f"{kernel}: local memory or a division"
        if lanes(kernel) > 1:
            assert any(re.match(r"LDG.*\.128", i) for i in found), f"{kernel}: no load of 16 bytes"
        # A vector of columns that is pooled by two leaves half a vector.
        if lanes(kernel) > 1 and passes and not re.search(r"ForwardRows.*Li2ELi2E", kernel):
            assert any(re.match(r"STG.*\.128", i) for i in found), f"{kernel}: no store of 16 bytes"
