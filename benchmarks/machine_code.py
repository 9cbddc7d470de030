"""A Triton kernel compiled ahead of time, without a GPU, and what its machine code says."""

import re
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch

from fastrcn.ops.conv_recurrent.triton_config import Config

POINTERS = {torch.float32: "*fp32", torch.float16: "*fp16", torch.bfloat16: "*bf16", torch.uint8: "*u8"}
TENSOR_CORE = re.compile(r"\b(?:HMMA|HGMMA|UTCHMMA|UTCQMMA|UTCIMMA)\b")
FFMA = re.compile(r"\bFFMA2?\b")
WIDE_LOAD = re.compile(r"\b(LDG\.E\S*\.128|LDGSTS\S*\.128|UTMALDG)\b")
GRID_BARRIER = re.compile(r"\bMEMBAR\.\w+\.GPU\b.*?\bLDG\.E\.STRONG\.GPU\b.*?\bCCTL\.IVALL\b", re.DOTALL)
"""Earlier stores reach all processors, the others are waited for, and what L1 holds is dropped."""
READ_ONLY_LOAD = re.compile(r"\bLDG\S*\.CONSTANT\b")
"""By a cache for data that nobody writes while the kernel runs."""
OPCODE = re.compile(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z]\w*)(\S*)", re.MULTILINE)
CLASSES = {
    "tensor": TENSOR_CORE,
    "fp32": re.compile(r"(FFMA|FADD|FMUL)2?|FMNMX3?|FSETP?|FSEL|FCHK"),
    "mufu": re.compile(r"MUFU"),
    "tma": re.compile(r"UTMALDG"),
    "async": re.compile(r"LDGSTS"),
    "load": re.compile(r"LDG"),
    "store": re.compile(r"STG"),
    "matrix": re.compile(r"LDSM|STSM|LDTM|STTM"),
    "shared": re.compile(r"LDS|STS"),
    "local": re.compile(r"LDL|STL"),
    "barrier": re.compile(r"BAR|DEPBAR|LDGDEPBAR|WARPGROUP|WARPSYNC|SYNCS|UTCBAR|MEMBAR|FENCE"),
}
"""Instructions by what they do. ``tma`` and ``async`` copy from global to shared memory; ``matrix`` moves fragments of
matrices between registers and shared or tensor memory. What is in no class is ``other``: addresses and branches."""


@dataclass(frozen=True)
class Row:
    """One compiled kernel. ``spills`` are bytes of local memory, ``main_loops`` how many innermost loops have products.
    Of the one that has most, ``instruction`` names what does them and ``mix`` counts all instructions by class, those
    for global memory also by the bits that a thread moves."""

    kernel: str
    arch: int
    config: Config
    dtype: str
    persistent: bool
    registers: int
    spills: int
    shared: int
    wide_loads: int
    grid_barriers: int
    read_only_loads: int
    main_loops: int
    instruction: str
    mix: dict[str, int]


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


def innermost_loops(listing, product=TENSOR_CORE):
    """Loops as lines of disassembly, but none around one that has products."""
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
        # What waits or fails lies behind the kernel's exit and jumps back.
        if start > end or any(re.search(r"\*/\s+EXIT\b", inner) for inner in lines[start:end]):
            continue
        # Loops end in the order of their nesting.
        if not any(start <= s and product.search("\n".join(lines[s:e])) for s, e in loops):
            loops.append((start, end + 1))
    return ["\n".join(lines[start:end]) for start, end in loops]


def mix_of(loop):
    """How many instructions a loop has of each class."""
    mix = Counter()
    for name, rest in OPCODE.findall(loop):
        kind = next((kind for kind, names in CLASSES.items() if names.fullmatch(name)), "other")
        if kind in ("async", "load", "store"):
            bits = re.search(r"\.[US]?(8|16|64|128)\b", rest)
            kind += f".{bits[1] if bits else 32}"
        mix[kind] += 1
    order = [*CLASSES, "other"]
    return dict(sorted(mix.items(), key=lambda item: order.index(item[0].split(".")[0])))


def analyse(name, compiled, config, arch, dtype, persistent=False) -> Row:
    """Read a kernel's machine code."""
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernel.cubin"
        cubin.write_bytes(compiled.asm["cubin"])
        usage = _tool("cuobjdump", "-res-usage", str(cubin))
        # Without its analysis of branches, a fifth of its time, it prints the same.
        listing = _tool("nvdisasm", "-ndf", "-c", str(cubin))
    product = TENSOR_CORE if TENSOR_CORE.search(listing) else FFMA
    loops = innermost_loops(listing, product)
    loop = max(loops, key=lambda loop: (len(product.findall(loop)), -len(loop)), default="")
    registers, stack = (int(re.findall(rf"{word}:(\d+)", usage)[0]) for word in ("REG", "STACK"))
    return Row(
        name, arch, config, str(dtype).removeprefix("torch."), persistent, registers, stack,
        compiled.metadata.shared, len(WIDE_LOAD.findall(listing)), len(GRID_BARRIER.findall(listing)),
        len(READ_ONLY_LOAD.findall(listing)), sum(bool(product.search(loop)) for loop in loops),
        ", ".join(sorted(set(product.findall(loop)))), mix_of(loop),
    )  # fmt: skip
