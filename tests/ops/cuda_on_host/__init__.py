"""The CUDA kernels of the pooling passes, compiled for the host and run there on tensors."""

import os
import shutil
import struct
import subprocess
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import torch

from fastrcn.native import CUDA_TYPE_NUMBERS
from fastrcn.ops.relu_maxpool3d.geometry import Pool

ROOT = Path(__file__).parents[3]
SANITIZE = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")
FORWARD, BACKWARD, SUMS, STATISTICS = range(4)
BUFFERS = ("maps", "pooled", "index", "scale", "shift", "x", "center", "slope", "offset")


def compiler():
    """A C++ compiler, or None."""
    return next(filter(None, map(shutil.which, (os.environ.get("CXX", ""), "g++", "clang++", "c++"))), None)


@cache
def without_sanitizers():
    """Why programs are compiled without the sanitizers; empty where the compiler has some that work."""
    with TemporaryDirectory() as folder:
        source, program = Path(folder, "empty.cpp"), str(Path(folder, "empty"))
        source.write_text("int main() {}\n")
        for command in ([compiler(), *SANITIZE, "-o", program, str(source)], [program]):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                said = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[0]
                return f"{compiler()} has no sanitizers that work here: {said}"
    return ""


def compile_for_host(name, target, *options):
    """Compile one of these programs, with the sanitizers where the compiler has them."""
    # Neither optimised nor inlined: compiling takes longer than running.
    command = [compiler(), "-std=c++17", "-O0", "-DFRCN_ISA=host", "-DFRCN_HD=inline", f"-I{ROOT / 'csrc'}", *options]
    command += [] if without_sanitizers() else SANITIZE
    command += ["-o", str(target), str(Path(__file__).with_name(name))]
    subprocess.run(command, check=True)


def build(folder):
    """Compile the program of the pooling passes."""
    compile_for_host("passes.cpp", folder / "passes")
    return folder / "passes"


class Request(NamedTuple):
    """One call. Maps of ``shape`` (N,C,D,H,W); ``skip``: elements by which they are off their alignment."""

    kind: int
    dtype: torch.dtype
    shape: tuple[int, ...]
    pool: Pool
    last: bool
    buffers: dict[str, torch.Tensor]
    relu: bool = False
    gate: int = 0
    skip: int = 0


def _bytes(tensor, last):
    if tensor is None:
        return b""
    tensor = tensor.movedim(1, -1) if last and tensor.dim() == 5 else tensor
    return tensor.clone(memory_format=torch.contiguous_format).view(-1).view(torch.uint8).numpy().tobytes()


def _fill(tensor, data, at):
    end = at + tensor.numel() * tensor.itemsize
    tensor.view(-1).view(torch.uint8).numpy()[:] = np.frombuffer(data[at:end], np.uint8)
    return end


def run(program, folder, requests):
    """For each request its buffers maps, pooled and index as the call left them, and the totals (2,C)."""
    with open(folder / "requests", "wb") as file:
        for r in requests:
            numbers = [r.kind, CUDA_TYPE_NUMBERS[r.dtype], r.last, r.relu, r.gate, *r.shape]
            numbers += [*r.pool.output_size(r.shape[2:]), *r.pool.numbers(), r.skip * r.dtype.itemsize]
            buffers = [_bytes(r.buffers.get(name), r.last) for name in BUFFERS]
            file.write(struct.pack("=32q", *numbers, *[0] * (32 - len(numbers))))
            file.write(struct.pack(f"={len(buffers)}q", *map(len, buffers)))
            file.write(b"".join(buffers))
    command = [program, folder / "requests", folder / "results"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    data = (folder / "results").read_bytes()
    found, at = [], 0
    for r in requests:
        result = {}
        for name in BUFFERS[:3]:
            like = r.buffers.get(name)
            if like is not None:
                n, c, *size = like.shape
                shape = (n, *size, c) if r.last else like.shape
                tensor = torch.empty(shape, dtype=like.dtype)
                at = _fill(tensor, data, at)
                result[name] = tensor.movedim(-1, 1) if r.last else tensor
        result["totals"] = torch.empty(2, r.shape[1], dtype=torch.float64)
        at = _fill(result["totals"], data, at)
        found.append(result)
    assert at == len(data)
    return found
