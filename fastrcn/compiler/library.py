"""A cell's stages as a library for this machine: compiled once by its C++ compiler, then kept in the cache folder."""

import hashlib
import json
import os
import platform
import shlex
import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from fastrcn._version import __version__
from fastrcn.files import cache_folder, write_at_once

_COMPILERS = ("c++", "g++", "clang++")


class Compiler(NamedTuple):
    """The command of a C++ compiler, and what it says of its version."""

    command: tuple[str, ...]
    version: str

    @property
    def is_gnu(self):
        return "Free Software Foundation" in self.version


def find_compiler() -> Compiler:
    """The machine's C++ compiler: CXX where it is set, else the first of c++, g++ and clang++ that is on PATH.

    Raises RuntimeError where there is none.
    """
    asked = shlex.split(os.environ.get("CXX") or "")
    for command in [asked] if asked else [[name] for name in _COMPILERS]:
        if shutil.which(command[0]):
            version = subprocess.run([*command, "--version"], capture_output=True, text=True, check=False).stdout
            return Compiler(tuple(command), version)
    looked_for = f"CXX={os.environ['CXX']}" if asked else f"CXX, which is not set, then {', '.join(_COMPILERS)} on PATH"
    raise RuntimeError(
        f"no C++ compiler was found (looked for {looked_for}); without one the cell still runs, with PyTorch stages"
    )


def build(source: str, stages: str, build_info: dict, isa: str) -> tuple[Path, bool]:
    """The library of ``stages``, emitted code, within ``source``, the extension's text around it: (its file, whether it
    was there already). ``build_info``: the extension's, which tells the flags for each instruction set.

    The file's name is made of all that the code depends on, and of its own content: a damaged one is compiled anew.
    Raises RuntimeError where there is no compiler, where it fails, and where the folder cannot be written.
    """
    compiler = find_compiler()
    flags = [*build_info["stage_flags"][isa].split(), "-DFRCN_STAGE_LIBRARY", "-shared"]
    flags += build_info["gnu_flags"].split() if compiler.is_gnu else []
    # Not the compiler's place: its version says what it is.
    parts = [source, stages, compiler.version, compiler.command[1:], flags, platform.machine(), __version__]
    key = _digest(json.dumps(parts).encode())
    folder = cache_folder()
    for file in sorted(folder.glob(f"stages-{key}-*.so")):
        if file.stem.endswith(_digest(file.read_bytes())):
            return file, True
    content = _compile(compiler, flags, source, stages)
    file = folder / f"stages-{key}-{_digest(content)}.so"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_at_once(file, lambda place: place.write_bytes(content))
    except OSError as error:
        raise RuntimeError(
            f"{folder}: expected a folder that can be written ({error}); FASTRCN_CACHE names another one"
        ) from error
    return file, False


def _digest(content: bytes):
    return hashlib.sha256(content).hexdigest()[:24]


def _compile(compiler, flags, source, stages) -> bytes:
    with TemporaryDirectory() as folder:
        Path(folder, "stages.cpp").write_text(source)
        Path(folder, "conv_recurrent_stages.h").write_text(stages)
        command = [*compiler.command, *flags, "-o", "stages.so", "stages.cpp"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{shlex.join(command)} failed with status {done.returncode}:\n{done.stderr[-4000:]}")
        return Path(folder, "stages.so").read_bytes()
