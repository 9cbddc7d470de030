"""What the compiler made of the CUDA kernels of the recurrent stages and normalisations: registers and memory
instructions."""

import json
import re

import pytest

from fastrcn import native
from tests.helpers.machine_code import ARCHS, architectures, instructions, lanes, resources, skip_without
from tests.ops.cuda_on_host.stage_cases import STAGES

KERNELS, NORMS = r"stage_(sum_)?kernel", "normalize_kernel"
MOST_REGISTERS = 128
"""Two blocks of 256 threads per processor."""
MOST_IN_NORMS = 64
"""Four of them."""
TYPES = {"NS_8bfloat16Ef": 2, "NS_7float16Ef": 2, "ff": 4, "dd": 8}
"""Bytes of a value, by the types of maps and sums, as mangled names have them."""
WIDTHS = {16: ".128", 8: ".64", 4: ".E"}
"""How the name of an access of so many bytes ends."""
MOST_VALUES = {2: 112, 4: 112, 8: 40}
"""That a thread holds, by the bytes of a map's value."""


def packs_of(signature, size):
    """Channels that a thread of a stage's kernel has side by side in memory that is aligned."""
    held, count = sum(arg.mode != "store" for arg in signature.args), 16 // size
    while count > 1 and held * count > MOST_VALUES[size]:
        count //= 2
    return count


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
    names = [re.search(r"stage_(\w{12}_\d_\w{3})_lanesI(\w+)Li(\d)E", kernel) for kernel in kernels]
    found = [(n[1].replace("_", "-"), n[2], int(n[3])) for n in names if n]
    # Four data types, each with packs and with single channels.
    expected = {
        (stage, kind, count)
        for stage, (_, sig) in STAGES.items()
        for kind, size in TYPES.items()
        for count in (1, packs_of(sig, size))
    }
    assert len(kernels) == len(found) == len(expected)
    assert set(found) == expected
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
        width = lanes(kernel) * next(size for kind, size in TYPES.items() if f"I{kind}Li" in kernel)
        for kind in ("LDG", "STG"):
            sizes = {i for i in found if i.startswith(kind)}
            assert any(i.endswith(WIDTHS[width]) for i in sizes), f"{kernel}: no access of {width} bytes: {sizes}"
            if width == 16 and "stage_kernel" in kernel:  # in a kernel with sums, these are doubles
                assert all(".128" in i for i in sizes - {"LDG.E.64", "LDG.E.64.CONSTANT"}), f"{kernel}: {sizes}"


@pytest.mark.parametrize("arch", ARCHS)
def test_normalisations(arch):
    """Two kernels each way, in four data types, with packs of 16 bytes and with single values."""
    skip_without(arch)
    kernels = resources(arch, NORMS)
    assert len(kernels) == 2 * 2 * 4 * 2
    for kernel, used in kernels.items():
        assert used["REG"] <= MOST_IN_NORMS, f"{kernel}: {used}"
        assert used["STACK"] == used["LOCAL"] == 0, f"{kernel}: registers spilled: {used}"
    for kernel, found in instructions(arch, NORMS).items():
        assert not {i for i in found if re.match("LDL|STL|ATOM|RED", i)}, f"{kernel}: {found}"
        if lanes(kernel) > 1:
            assert [i for i in found if re.match(r"LDG?\.E\.128", i)], f"{kernel}: {found}"
            assert "STG.E.128" in found or "SumSlices" in kernel, f"{kernel}: {found}"
