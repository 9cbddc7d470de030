"""What the compiler made of the extension's CUDA kernels, read with cuobjdump."""

import importlib.util
import json
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest

from fastrcn import native

ARCHS = ("80", "90a", "100")
_INSTRUCTION = re.compile(r"/\*([0-9a-f]{4,5})\*/\s+(?:@!?U?P\w+\s+)?([A-Z0-9_.x]+)([^;]*)")


def _find_cuobjdump():
    """From the CUDA toolkit, or the one that Triton brings."""
    triton = importlib.util.find_spec("triton")
    brought = [str(Path(p, "backends/nvidia/bin")) for p in (triton and triton.submodule_search_locations) or []]
    found = (shutil.which("cuobjdump", path=path) for path in (None, "/usr/local/cuda/bin", *brought))
    return next(filter(None, found), None)


def skip_without_cuobjdump():
    if _find_cuobjdump() is None:
        pytest.skip("no cuobjdump (tried PATH, /usr/local/cuda/bin, Triton)")


def skip_without(arch):
    """Skip a test where the extension has no code for the architecture, or nothing can read it."""
    if native.module() is None:
        pytest.skip(native.missing_reason())
    build = json.loads(native.module().build_info)
    if not build["cuda"]:
        pytest.skip(f"the extension was built without CUDA: {build['without_cuda']}")
    if f"{arch}-real" not in build["cuda_archs"]:
        pytest.skip(f"the extension was built for {', '.join(build['cuda_archs'])}")
    skip_without_cuobjdump()


def architectures(kind):
    """Those that the extension has code for, of kind "elf" (machine code) or "ptx"."""
    command = [_find_cuobjdump(), f"--list-{kind}", native.module().__file__]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return set(re.findall(rf"sm_(\w+)\.(?:cubin|{kind})", text))


@cache
def _dump(option, arch, file):
    command = [_find_cuobjdump(), option, "-arch", f"sm_{arch}", file or native.module().__file__]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    parts = (part.lstrip(" :").split("\n", 1) for part in re.split(r"Function", text)[1:])
    return {name.strip().rstrip(":"): body for name, body in parts}


def _kernels(option, arch, pattern, file=None):
    return {name: body for name, body in _dump(option, arch, file).items() if re.search(pattern, name)}


def resources(arch, pattern, file=None):
    """{kernel: {resource: amount}} of the kernels whose mangled names match: REG, STACK, LOCAL, SHARED ... ``file``:
    another library than the extension."""
    return {
        name: {kind: int(value) for kind, value in re.findall(r"([A-Z]+):(\d+)", text)}
        for name, text in _kernels("-res-usage", arch, pattern, file).items()
    }


def instructions(arch, pattern, file=None):
    """{kernel: the set of its instructions} of the kernels whose mangled names match."""
    return {
        name: {kind for _, kind, _ in _INSTRUCTION.findall(text)}
        for name, text in _kernels("-sass", arch, pattern, file).items()
    }


def loops(arch, pattern, instruction):
    """{kernel: [names of the instructions of each innermost loop that has ``instruction``, in order]}."""
    found = {}
    for name, text in _kernels("-sass", arch, pattern).items():
        lines = [(int(at, 16), kind, rest) for at, kind, rest in _INSTRUCTION.findall(text)]
        targets = [(re.search(r"0x([0-9a-f]+)", rest), at) for at, kind, rest in lines if kind.startswith("BRA")]
        spans = [(int(to[1], 16), at) for to, at in targets if to and int(to[1], 16) < at]
        inner = [s for s in spans if not any(s[0] <= first and last < s[1] for first, last in spans)]
        names = [[kind for at, kind, _ in lines if first <= at <= last] for first, last in inner]
        found[name] = [body for body in names if any(kind.startswith(instruction) for kind in body)]
    return found


def lanes(kernel):
    """How many values a thread has side by side: in the mangled name they follow the type of sums."""
    found = re.search(r"[fd]Li(\d)E", kernel)
    return int(found[1]) if found else 1
