"""The CUDA kernels of the recurrent stages, compiled for the host, in the place of the extension's."""

import ctypes
import subprocess
import sys
from pathlib import Path

from tests.ops.cuda_on_host import ROOT, compile_for_host, compiler

RUNTIMES = ("libasan.so", "libubsan.so", "libstdc++.so")
"""What a process must have loaded first to use a library that was compiled with the sanitizers."""


def build(folder):
    """(the library, environment variables that a process needs to load it)."""
    subprocess.run([sys.executable, ROOT / "csrc/generate.py", folder / "conv_recurrent_stages.h"], check=True)
    library, options = folder / "stages.so", ("-shared", "-fPIC", f"-I{folder}")
    sources = str(ROOT / "csrc/conv_recurrent/stage_kernels.cpp")
    if not compile_for_host("stages.cpp", library, *options, sources):
        return library, {}
    found = [
        subprocess.run([compiler(), f"-print-file-name={name}"], capture_output=True, text=True, check=True)
        for name in RUNTIMES
    ]
    paths = [path for path in (f.stdout.strip() for f in found) if Path(path).is_absolute()]
    # Python keeps much to the end of the process: no leaks of these kernels, which allocate nothing.
    return library, {"LD_PRELOAD": " ".join(paths), "ASAN_OPTIONS": "detect_leaks=0"}


def _array(values):
    values = list(map(int, values))
    return (ctypes.c_int64 * max(1, len(values)))(*values)


class HostKernels:
    """Called as the extension is."""

    def __init__(self, path):
        self.library = ctypes.CDLL(str(path))
        self.library.launch_cuda_stage.restype = ctypes.c_char_p
        self.launches = []

    def cuda_stage(self, fingerprint, stage, backward):
        return self.library.cuda_stage(fingerprint.encode(), stage, int(backward))

    def launch_cuda_stage(
        self, number, kind, data, pitch, addends, channels, pixels, pixels_per_image, lengths, time, maps, parts, stream
    ):
        self.launches.append((number, addends))
        return self.library.launch_cuda_stage(
            number, kind, _array(data), _array(pitch), len(data), _array(n for a in addends for n in a), len(addends),
            _array((channels, pixels, pixels_per_image)), ctypes.c_int64(lengths), ctypes.c_int64(time), _array(maps),
            len(maps), ctypes.c_int64(parts),
        ).decode()  # fmt: skip
