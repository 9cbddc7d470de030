"""A Triton kernel compiled ahead of time, without a GPU, and what its machine code says."""

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch

from fastrcn.ops.conv_recurrent.triton_config import Config

POINTERS = {torch.float32: "*fp32", torch.float16: "*fp16", torch.bfloat16: "*bf16", torch.uint8: "*u8"}
TENSOR_CORE = re.compile(r"\b(HMMA|HGMMA|UTCHMMA|UTCQMMA|UTCIMMA)\b")
WIDE_LOAD = re.compile(r"\b(LDG\.E\S*\.128|LDGSTS\S*\.128|UTMALDG)\b")
NARROW_LOAD = re.compile(r"\b(?:LDG|LDGSTS)\.(?!\S*\.128)\S*")
LOCAL = re.compile(r"\b(LDL|STL)\b")
GRID_BARRIER = re.compile(r"\bMEMBAR\.\w+\.GPU\b.*?\bLDG\.E\.STRONG\.GPU\b.*?\bCCTL\.IVALL\b", re.DOTALL)
"""Earlier stores reach all processors, the others are waited for, and what L1 holds is dropped."""
READ_ONLY_LOAD = re.compile(r"\bLDG\S*\.CONSTANT\b")
"""By a cache for data that nobody writes while the kernel runs."""


@dataclass(frozen=True)
class Row:
    """One compiled kernel. ``spills`` are bytes of local memory, ``loop_local`` accesses to it inside the main loop,
    ``loop_narrow_loads`` loads of less than 16 bytes there from global memory; ``main_loops``: how many innermost loops
    have tensor core instructions."""

    kernel: str
    arch: int
    config: Config
    dtype: str
    persistent: bool
    registers: int
    spills: int
    shared: int
    loop_instructions: int
    instruction: str
    tensor_core: int
    wide_loads: int
    loop_wide_loads: int
    loop_narrow_loads: int
    loop_local: int
    main_loops: int
    grid_barriers: int
    read_only_loads: int


def compile_kernel(kernel, signature, constants, aligned, arch, options):
    """What ``triton.compile`` makes of a kernel for a compute capability. ``aligned``: positions of the arguments that
    are multiples of 16; CUDA tensors are."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    attributes = {(k,): [["tt.divisibility", 16]] for k in aligned}
    source = ASTSource(kernel, signature | dict.fromkeys(constants, "constexpr"), constants, attributes)
    return triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)


def _tool(name, *arguments):
    import triton.backends.nvidia

    tool = Path(triton.backends.nvidia.__file__).parent / "bin" / name
    return subprocess.run([tool, *arguments], check=True, capture_output=True, text=True).stdout


def innermost_loops(listing):
    """Loops as lines of disassembly, but none around one that has tensor core instructions."""
    labels, lines = {}, []
    for line in listing.splitlines():
        label = re.match(r"^(\.L_x_\d+):", line)
        if label:
            labels[label[1]] = len(lines)
        elif re.match(r"^\s+/\*[0-9a-f]{4,}\*/", line):
            lines.append(line)
    loops = []
    for end, line in enumerate(lines):
        target = re.search(r"\bBRA\S*.*`\((\.L_x_\d+)\)", line)
        start = labels.get(target[1], end + 1) if target else end + 1
        # Loops end in the order of their nesting.
        if start <= end and not any(start <= s and TENSOR_CORE.search("\n".join(lines[s:e])) for s, e in loops):
            loops.append((start, end + 1))
    return ["\n".join(lines[start:end]) for start, end in loops]


def analyse(name, compiled, config, arch, dtype, persistent=False) -> Row:
    """Read a kernel's machine code."""
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernel.cubin"
        cubin.write_bytes(compiled.asm["cubin"])
        usage = _tool("cuobjdump", "-res-usage", str(cubin))
        listing = _tool("nvdisasm", "-c", str(cubin))
    loops = innermost_loops(listing)
    loop = max(loops, key=lambda loop: (len(TENSOR_CORE.findall(loop)), -len(loop)), default="")
    found = TENSOR_CORE.findall(loop)
    registers, stack = (int(re.findall(rf"{word}:(\d+)", usage)[0]) for word in ("REG", "STACK"))
    return Row(
        name, arch, config, str(dtype).removeprefix("torch."), persistent, registers, stack,
        compiled.metadata.shared, loop.count("\n") + 1, ", ".join(sorted(set(found))), len(found),
        len(WIDE_LOAD.findall(listing)), len(WIDE_LOAD.findall(loop)), len(NARROW_LOAD.findall(loop)),
        len(LOCAL.findall(loop)),
        sum(bool(TENSOR_CORE.search(loop)) for loop in loops), len(GRID_BARRIER.findall(listing)),
        len(READ_ONLY_LOAD.findall(listing)),
    )  # fmt: skip
