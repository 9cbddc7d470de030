"""Builds the native extension fastrcn._C with CMake. All else about the package is in pyproject.toml.

Read from the environment:

    FASTRCN_NATIVE=0       leave the extension out: a pure-Python package
    FASTRCN_CUDA           CUDA kernels: 0 (none), 1 (required), auto (the default: where nvcc is found)
    FASTRCN_CUDA_ARCHS     GPU architectures as CMake writes them, for example "90a-real 90-virtual"
    CMAKE_ARGS             more arguments for CMake

CXX, CXXFLAGS, CUDACXX, CUDA_HOME and CMAKE_BUILD_PARALLEL_LEVEL work as usual.
"""

import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py
from setuptools.errors import CompileError

ROOT = Path(__file__).resolve().parent
OLDEST_CMAKE = (3, 21)
WITHOUT = "Or set FASTRCN_NATIVE=0 to install fastrcn without its native extension (slower)."


def output_of(*command):
    """What a command prints; None where it is missing or fails."""
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def find_tool(name):
    """A working program next to this Python (an environment that is not activated) or on PATH; None without."""
    for folder in (sysconfig.get_path("scripts"), None):
        path = shutil.which(name, path=folder)
        if path and output_of(path, "--version"):
            return path
    return None


def find_cmake():
    cmake = find_tool("cmake") or ""
    version = re.search(r"(\d+)\.(\d+)", output_of(cmake, "--version") or "")
    if version is None or tuple(map(int, version.groups())) < OLDEST_CMAKE:
        found = f"found {cmake} {version[0]}" if version else "found none"
        oldest = ".".join(map(str, OLDEST_CMAKE))
        raise CompileError(f"fastrcn needs CMake {oldest} or later, {found}. Run: pip install cmake ninja\n{WITHOUT}")
    return cmake


def find_pybind11():
    """The folder of pybind11's headers: the package's own, else the copy that PyTorch brings."""
    if importlib.util.find_spec("pybind11"):
        import pybind11

        return pybind11.get_include()
    torch = importlib.util.find_spec("torch")  # not imported: that takes seconds
    for package in (torch.submodule_search_locations or []) if torch else []:
        if Path(package, "include", "pybind11", "pybind11.h").exists():
            return str(Path(package, "include"))
    raise CompileError(f"fastrcn needs pybind11 to build. Run: pip install pybind11\n{WITHOUT}")


class CMakeBuild(build_ext):
    def build_extension(self, ext):
        if not importlib.util.find_spec("sympy"):
            raise CompileError(f"fastrcn needs SymPy to build. Run: pip install sympy\n{WITHOUT}")
        cmake, ninja = find_cmake(), find_tool("ninja")
        options = {
            "CMAKE_BUILD_TYPE": "Release",
            "Python_EXECUTABLE": sys.executable,
            "FASTRCN_PYBIND11_INCLUDE": find_pybind11(),
            "FASTRCN_VERSION": self.distribution.get_version(),
            "FASTRCN_CUDA": os.environ.get("FASTRCN_CUDA", "auto"),
            "FASTRCN_CUDA_ARCHS": os.environ.get("FASTRCN_CUDA_ARCHS", ""),
        }
        if ninja:
            options["CMAKE_MAKE_PROGRAM"] = ninja
        configure = [cmake, "-S", str(ROOT), "-G", "Ninja" if ninja else "Unix Makefiles"]
        configure += [f"-D{name}={value}" for name, value in options.items()]
        configure += shlex.split(os.environ.get("CMAKE_ARGS", ""))

        build = ROOT / "build" / f"native-{sys.implementation.cache_tag}"
        self.drop_stale(build, configure)
        # Outside what makes a build stale: a new commit recompiles one file only.
        commit = output_of("git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*")
        commit = commit if commit and (ROOT / ".git").exists() else ""
        jobs = os.environ.get("CMAKE_BUILD_PARALLEL_LEVEL") or str(os.cpu_count() or 1)
        try:
            subprocess.run([*configure, "-B", str(build), f"-DFASTRCN_COMMIT={commit}"], check=True)
            subprocess.run([cmake, "--build", str(build), "--parallel", jobs], check=True)
        except subprocess.CalledProcessError:
            raise CompileError(
                "fastrcn's native extension did not build; the compiler's or CMake's own message is above "
                f"(pip shows it with -v).\n{WITHOUT}"
            ) from None
        target = Path(self.get_ext_fullpath(ext.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        self.copy_file(str(build / target.name), str(target))

    def drop_stale(self, build, configure):
        """Remove a build folder that other tools made, or in another place: CMake would keep their paths."""
        names = ("CXX", "CXXFLAGS", "LDFLAGS", "CUDACXX", "CUDAFLAGS", "CUDAHOSTCXX", "CUDA_HOME", "CUDA_PATH")
        environment = {name: os.environ.get(name) for name in names}
        key = json.dumps([str(build), configure, environment, shutil.which("nvcc")], indent=1)
        stamp = build / "configured-with.json"
        if build.exists() and not (stamp.exists() and stamp.read_text() == key):
            shutil.rmtree(build)
        build.mkdir(parents=True, exist_ok=True)
        stamp.write_text(key)


class BuildWithMeasurements(build_py):
    """Puts the times by which backends are chosen into the package; an editable one reads them where they lie."""

    def run(self):
        package = Path(self.build_lib, "fastrcn")
        if not self.editable_mode and package.exists():
            shutil.rmtree(package)  # an earlier build's modules, of which some may be gone
        super().run()
        if self.editable_mode:
            return
        target = package / "measured_on"
        for file in sorted((ROOT / "benchmarks" / "results").glob("dispatch-sm*.json")):
            self.mkpath(str(target))
            self.copy_file(str(file), str(target / file.name))


native = os.environ.get("FASTRCN_NATIVE", "1") != "0"
setup(
    license="BSD-3-Clause",  # here, not in pyproject.toml: old and new setuptools disagree on how to write it there
    ext_modules=[Extension("fastrcn._C", sources=[])] if native else [],
    cmdclass={"build_ext": CMakeBuild, "build_py": BuildWithMeasurements},
)
