"""What the compiler made of the CUDA kernels of convolutions with their stages: registers, loops, fences."""

import re
from collections import Counter

import pytest

from fastrcn.compiler.signature import forward_signatures
from tests.helpers.machine_code import ARCHS, instructions, loops, resources, skip_without
from tests.ops.cuda_on_host.step_cases import STEPS

KERNELS, WALKS = "step_kernel", "walk_kernel"
MOST_REGISTERS = 128
"""Two blocks of 256 threads per processor."""
PRODUCTS = {
    "If": ("HMMA.1688.F32.TF32", "HGMMA.64x{}x8.F32.TF32"),
    "8bfloat16": ("HMMA.16816.F32.BF16", "HGMMA.64x{}x16.F32.BF16"),
    "7float16": ("HMMA.16816.F32", "HGMMA.64x{}x16.F32"),
}
"""A warp's and a warpgroup's of so many columns, by the type of the maps, as mangled names have it."""
COPY, LOAD = "LDGSTS.E.BYPASS.128", "LDSM.16.M88.4"
OF_WARPS = [(8, 6, 2), (16, 8, 3), (32, 12, 4)]
"""For each tile: products, loads of operands and copies of 16 bytes in one turn of a thread's loop."""
OF_WARPGROUPS = [(32, 2), (64, 3), (128, 4)]
"""For each tile: columns of a product and copies."""
ORDER = "FENCE.VIEW.ASYNC.S", "BAR.SYNC.DEFER_BLOCKING", "WARPGROUP.ARRIVE", "WARPGROUP.DEPBAR.LE"
"""Once a turn. Were products serialised, each would have a wait of its own."""
MOST_WALKED = 2
WALKED = {
    (schedule.fingerprint, sig.backward)
    for schedule, sig in STEPS.values()
    if len(forward_signatures(schedule)) <= MOST_WALKED
}
"""Steps of few stages: their kernels may walk over time, with all tiles but the largest."""
TILES = {KERNELS: 3, WALKS: 2}


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize(("pattern", "stages"), [(KERNELS, len(STEPS)), (WALKS, len(WALKED))])
def test_registers(pattern, stages, arch):
    skip_without(arch)
    kernels = resources(arch, pattern)
    assert len(kernels) == len(PRODUCTS) * stages
    for kernel, used in kernels.items():
        assert used["REG"] <= MOST_REGISTERS, f"{kernel}: {used}"
        # Nothing spilled, in the loops or beside them.
        assert used["STACK"] == used["LOCAL"] == 0, f"{kernel}: {used}"


def turns(arch, pattern, product):
    """(kernel, the names of its products, how often each tile's loop has each instruction)."""
    skip_without(arch)
    for kernel, found in loops(arch, pattern, product).items():
        names = next(n for kind, n in PRODUCTS.items() if re.search(f"(Step|Walk|NS_){kind}", kernel))
        counts = sorted((Counter(body) for body in found), key=lambda count: count[COPY])
        assert len(counts) == TILES[pattern], f"{kernel}: {counts}"
        for count in counts:
            assert not [name for name in count if re.match("LDL|STL|FFMA", name)], f"{kernel}: {count}"
        yield kernel, names, counts


@pytest.mark.parametrize("pattern", TILES)
def test_turns_of_warps(pattern):
    """Products on tensor cores, operands that a warp loads together, copies past the registers, nothing spilled."""
    expected = OF_WARPS[: TILES[pattern]]
    for kernel, (product, _), counts in turns("80", pattern, "HMMA"):
        assert [(count[product], count[LOAD], count[COPY]) for count in counts] == expected, f"{kernel}: {counts}"


@pytest.mark.parametrize("pattern", TILES)
def test_turns_of_warpgroups(pattern):
    """Products that read their operands from shared memory, both of a turn on their way at once, by descriptors that
    are in registers of a warp all along."""
    for kernel, (_, product), counts in turns("90a", pattern, "HGMMA"):
        for (columns, copies), count in zip(OF_WARPGROUPS[: TILES[pattern]], counts, strict=True):
            assert (count[product.format(columns)], count[COPY]) == (2, copies), f"{kernel}: {count}"
            assert all(count[name] == 1 for name in ORDER), f"{kernel}: {count}"
            assert not [name for name in count if re.match("HMMA|LDSM|STS|R2UR", name)], f"{kernel}: {count}"


@pytest.mark.parametrize("arch", ARCHS)
def test_blocks_that_wait_for_each_other(arch):
    """They fence, forget what the first-level cache has, and ask memory for the count. Maps are read past that cache;
    nothing is as if it were constant."""
    skip_without(arch)
    for kernel, found in instructions(arch, WALKS).items():
        assert {"MEMBAR.ALL.GPU", "CCTL.IVALL"} <= found, f"{kernel}: {found}"
        assert [name for name in found if re.match(r"RED\w?\.E\.ADD\.STRONG\.GPU", name)], f"{kernel}: {found}"
        assert "LDG.E.STRONG.GPU" in found, f"{kernel}: {found}"
        assert not [name for name in found if re.search("LDG.*CONSTANT|LDL|STL", name)], f"{kernel}: {found}"
        loads = {name for name in found if re.match(r"LDG?\.E\.128", name)}
        assert loads == {"LDG.E.128.STRONG.GPU"}, f"{kernel}: {found}"
