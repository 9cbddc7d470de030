"""The CUDA kernels of the recurrent stages and their time loop, compiled for the host, in the place of the
extension's."""

import importlib.util
import subprocess
import sys
import sysconfig
from pathlib import Path

import torch

from fastrcn.compiler.emit_cpp import header_source
from tests.ops.cuda_on_host import ROOT, compile_for_host, compiler, without_sanitizers

RUNTIMES = ("libasan.so", "libubsan.so", "libstdc++.so")
"""What a process must have loaded first to use a library that was compiled with the sanitizers."""
SOURCES = ("stage_kernels.cpp", "step_kernels.cpp", "kernel_tables.cpp", "torch_library.cpp", "device_program.cpp")


def build(folder):
    """(the module's library, environment variables that a process needs to load it)."""
    subprocess.run([sys.executable, ROOT / "csrc/generate.py", folder / "conv_recurrent_stages.h"], check=True)
    library, options = folder / "stages.so", ["-shared", "-fPIC", "-fvisibility=hidden", f"-I{folder}"]
    module = _compile_module(folder, options[1:])
    sources = [str(ROOT / "csrc/conv_recurrent" / name) for name in SOURCES]
    sources += [str(Path(__file__).with_name(name)) for name in ("steps.cpp", "normalize.cpp")]
    compile_for_host("stages.cpp", library, *options, *sources, str(module), "-ldl")
    if without_sanitizers():
        return library, {}
    found = [
        subprocess.run([compiler(), f"-print-file-name={name}"], capture_output=True, text=True, check=True)
        for name in RUNTIMES
    ]
    paths = [path for path in (f.stdout.strip() for f in found) if Path(path).is_absolute()]
    # Python keeps much to the end of the process: no leaks are looked for.
    return library, {"LD_PRELOAD": " ".join(paths), "ASAN_OPTIONS": "detect_leaks=0"}


def build_library(folder, cells):
    """The library of the kernels of other cells."""
    (folder / "conv_recurrent_stages.h").write_text(header_source(cells))
    sources = [str(Path(__file__).with_name(name)) for name in ("stages.cpp", "steps.cpp")]
    library = folder / "library.so"
    compile_for_host("library.cpp", library, "-shared", "-fPIC", "-fvisibility=hidden", f"-I{folder}", *sources)
    return library


def _compile_module(folder, options):
    """The object file of the bindings, without warnings about the code of Python and of pybind11, which PyTorch
    brings."""
    headers = [Path(torch.__file__).parent / "include", sysconfig.get_path("include")]
    options = [*options, f"-I{ROOT / 'csrc'}", *(word for path in headers for word in ("-isystem", str(path)))]
    source, module = Path(__file__).with_name("stages_module.cpp"), folder / "stages_module.o"
    subprocess.run([compiler(), "-std=c++17", "-O0", *options, "-c", str(source), "-o", str(module)], check=True)
    return module


def load(path):
    """The module, which has what the extension has."""
    spec = importlib.util.spec_from_file_location("stages", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
