"""Triton on a CUDA driver that is made up (``cuda_driver.c``): kernels are compiled for a Hopper GPU and started as on
one, with addresses of CPU tensors, but what is started does nothing and is recorded. For a process of its own."""

import ctypes
import re
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from fastrcn.ops.conv_recurrent import triton_launch, triton_program, triton_together
from fastrcn.ops.relu_maxpool3d import triton_passes

PROCESSORS = 132
_TYPES = {"64": ctypes.c_uint64, "32": ctypes.c_int32, "16": ctypes.c_int16, "8": ctypes.c_int8}


@dataclass(frozen=True)
class Start:
    """One start of a kernel: its name, its programs along each axis, threads and bytes of shared memory of a program,
    whether all run at once, the values of its parameters, addresses as numbers, and what Triton made of its source."""

    kernel: str
    grid: tuple[int, ...]
    threads: int
    shared: int
    cooperative: bool
    parameters: tuple[int, ...]
    code: str = field(compare=False, repr=False)


def install(folder, monkeypatch, record=True) -> list[Start]:
    """Make it Triton's driver, and have the package take CPU tensors for a GPU's. Returns the list of all starts, which
    stays empty unless they are to be recorded: that takes longer than to start a kernel."""
    import triton.runtime
    from triton import knobs
    from triton.backends.nvidia import driver

    # Asked now, while it finds no driver, PyTorch does not ask this one later.
    if torch.cuda.is_available():
        raise RuntimeError("expected a machine without a GPU: there is a driver already")
    include = Path(driver.__file__).parent / "include"
    library = Path(folder) / "libcuda.so.1"
    source = Path(__file__).with_name("cuda_driver.c")
    flags = ["-shared", "-fPIC", "-I", str(include), "-Wl,-soname,libcuda.so.1"]
    subprocess.run(["cc", *flags, str(source), "-o", str(library)], check=True)
    monkeypatch.setenv("TRITON_LIBCUDA_PATH", str(folder))
    # Nothing that was compiled before: Triton's cache knows a kernel by its source, not by its names.
    monkeypatch.setenv("TRITON_CACHE_DIR", str(folder))
    # By its name Triton finds this one, loaded already.
    cuda = ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
    starts: list[Start] = []
    layouts: dict[int, tuple] = {}

    def loaded(module, function, name, files, hash):
        code, ptx = (
            next(Path(path).read_text() for file, path in files.items() if file.endswith(end))
            for end in (".source", ".ptx")
        )
        (parameters,) = re.findall(rf"\.entry {re.escape(name)}\((.*?)\)", ptx, re.S)
        layouts[function] = name, [_TYPES[size] for size in re.findall(r"\.param \.\w(\d+)", parameters)], code

    @ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.POINTER(ctypes.c_uint), ctypes.POINTER(ctypes.c_void_p))
    def started(function, sizes, parameters):
        name, types, code = layouts[function]
        values = tuple(kind.from_address(parameters[n]).value for n, kind in enumerate(types))
        starts.append(Start(name, tuple(sizes[:3]), sizes[3], sizes[4], bool(sizes[5]), values, code))

    if record:
        cuda.set_listener(started)
    monkeypatch.setattr(knobs.runtime, "kernel_load_end_hook", loaded)
    made: Any = driver.CudaDriver()
    made.get_current_device = lambda: 0
    made.set_current_device = lambda device: None
    made.get_current_stream = lambda device: 0
    made.get_device_capability = lambda device=0: (9, 0)
    made.listener = started  # it lives as long
    triton.runtime.driver.set_active(made)
    gpu = SimpleNamespace(major=9, minor=0, multi_processor_count=PROCESSORS)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device=None: gpu)
    for module in (triton_program, triton_passes):
        monkeypatch.setattr(module, "problem_of", lambda dtype, device: None)
    for module in (triton_launch, triton_together):
        monkeypatch.setattr(module, "processors", lambda device: PROCESSORS)
    return starts
