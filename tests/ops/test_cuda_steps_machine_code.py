"""What the compiler made of the CUDA kernels of convolutions with their stages: registers, loops of products."""

import re
from collections import Counter

import pytest

from tests.helpers.machine_code import ARCHS, loops, resources, skip_without
from tests.ops.cuda_on_host.step_cases import STEPS

KERNELS = "step_kernel"
MOST_REGISTERS = 128
"""Two blocks of 256 threads per processor."""
PRODUCTS = {"If": "HMMA.1688.F32.TF32", "8bfloat16": "HMMA.16816.F32.BF16", "7float16": "HMMA.16816.F32"}
"""By the type of the maps, as mangled names have it."""
PER_TURN = [(8, 6, 2), (16, 8, 3), (32, 12, 4)]
"""For each tile: products, loads of operands and copies of 16 bytes in one turn of a thread's loop."""


@pytest.mark.parametrize("arch", ARCHS)
def test_registers(arch):
    skip_without(arch)
    kernels = resources(arch, KERNELS)
    assert len(kernels) == len(PRODUCTS) * len(STEPS)
    for kernel, used in kernels.items():
        assert used["REG"] <= MOST_REGISTERS, f"{kernel}: {used}"


@pytest.mark.parametrize("arch", ARCHS)
def test_loops(arch):
    """Products on tensor cores, operands that a warp loads together, copies past the registers, nothing spilled."""
    skip_without(arch)
    for kernel, found in loops(arch, KERNELS, "HMMA").items():
        product = next(name for kind, name in PRODUCTS.items() if f"Step{kind}" in kernel or f"NS_{kind}" in kernel)
        counts = [Counter(body) for body in found]
        kinds = product, "LDSM.16.M88.4", "LDGSTS.E.BYPASS.128"
        assert sorted(tuple(count[kind] for kind in kinds) for count in counts) == PER_TURN, f"{kernel}: {counts}"
        for count in counts:
            assert not [name for name in count if re.match("LDL|STL|FFMA", name)], f"{kernel}: {count}"
