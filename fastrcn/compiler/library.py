"""A cell's stages as a library for this machine: compiled once by its C++ compiler, then kept in the cache folder."""

import hashlib
import json
import os
import platform
import shlex
import shutil
import stat
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from fastrcn._version import __version__
from fastrcn.files import cache_folder, make_cache_folder, only_ours, write_at_once

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

    Raises RuntimeError where there is none, and where it does not tell its version.
    """
    given = os.environ.get("CXX") or ""
    try:
        asked = shlex.split(given)
    except ValueError as error:
        raise RuntimeError(f"CXX: expected a command, got {given!r} ({error})") from error
    for command in [asked] if asked else [[name] for name in _COMPILERS]:
        if shutil.which(command[0]):
            return Compiler(tuple(command), version_of(command, "a C++ compiler", "CXX"))
    looked_for = f"CXX={given}" if asked else f"CXX, which is not set, then {', '.join(_COMPILERS)} on PATH"
    raise RuntimeError(
        f"no C++ compiler was found (looked for {looked_for}); without one the cell still runs, with PyTorch stages"
    )


def version_of(command, kind, variable):
    """What a compiler says of its version; ``variable``: the environment's, which names another one. Raises
    RuntimeError where it does not."""
    asked = shlex.join([*command, "--version"])
    try:
        done = subprocess.run([*command, "--version"], capture_output=True, text=True, errors="replace", check=False)
    except OSError as error:
        raise RuntimeError(f"{asked}: expected {kind} ({variable} names another one), it fails: {error}") from error
    if done.returncode or not done.stdout.strip():
        end = f"status {done.returncode}, output {done.stdout[-500:]!r} and errors {done.stderr[-500:]!r}"
        raise RuntimeError(f"{asked}: expected the version of {kind} ({variable} names another one), got {end}")
    return done.stdout


def build(source: str, stages: str, build_info: dict, isa: str) -> tuple[Path, bool]:
    """The library of ``stages``, emitted code, within ``source``, the extension's text around it: (its file, whether it
    was there already). ``build_info``: the extension's, which tells the flags for each instruction set.

    The file's name is made of all that the code depends on. Raises RuntimeError where there is no compiler, where it
    fails, and where the folder cannot be written or others can write it.
    """
    compiler = find_compiler()
    flags = [*build_info["stage_flags"][isa].split(), "-DFRCN_STAGE_LIBRARY", "-shared"]
    flags += build_info["gnu_flags"].split() if compiler.is_gnu else []
    # Not the compiler's place: its version says what it is.
    name = f"stages-{digest_of(source, stages, compiler.version, compiler.command[1:], flags)}"
    found = find_kept(name)
    if found:
        return found, True
    return keep(name, run_compiler([*compiler.command, *flags], "stages.cpp", source, stages)), False


def digest_of(*parts) -> str:
    """Of what makes a library different from others, beside the machine and the package."""
    return _digest(json.dumps([*parts, platform.machine(), __version__]).encode())


def find_kept(name) -> Path | None:
    """The library that was kept under a name, which may have "*" in it: not a damaged one, nor one that somebody else
    than the user and root could have written. Raises RuntimeError as ``keep``."""
    return next(filter(_is_ours_and_whole, sorted(_folder().glob(f"{name}-*.so"))), None)


def keep(name, content: bytes) -> Path:
    """Keep a library in the cache folder: the file's name is its own and its content's. Raises RuntimeError where the
    folder cannot be written or others can write it."""
    file = _folder() / f"{name}-{_digest(content)}.so"
    try:
        write_at_once(file, lambda place: _write(place, content))
    except OSError as error:
        raise RuntimeError(f"{file}: cannot be written ({error}); FASTRCN_CACHE names another folder") from error
    return file


def _folder():
    """The cache folder: what lies in it is run, so nobody else may write there."""
    try:
        folder = make_cache_folder()
        status = folder.stat()
    except OSError as error:
        raise RuntimeError(
            f"{cache_folder()}: expected a folder that can be written ({error}); FASTRCN_CACHE names another one"
        ) from error
    if not only_ours(status):
        raise RuntimeError(
            f"{folder}: expected a folder of user {os.getuid()} or root that neither its group nor others can write, "
            f"got one of user {status.st_uid} with mode {stat.S_IMODE(status.st_mode):04o}: somebody else could have "
            "put code there; FASTRCN_CACHE names another one"
        )
    return folder


def _is_ours_and_whole(file):
    try:
        status = file.lstat()
        ours = stat.S_ISREG(status.st_mode) and only_ours(status)
        return ours and file.stem.endswith(_digest(file.read_bytes()))
    except OSError:  # it cannot be read, or another process has just replaced it
        return False


def _write(place, content):
    """Not for the group to write, whatever rights the process gives to new files: such a file would not be taken."""
    with open(place, "wb", opener=lambda path, flags: os.open(path, flags, 0o644)) as file:
        file.write(content)


def _digest(content: bytes):
    return hashlib.sha256(content).hexdigest()[:24]


def run_compiler(command, file, source, stages) -> bytes:
    """The library that a command makes of ``source``, in a file of this name, and of ``stages``, which it includes.
    Raises RuntimeError where it fails."""
    command = [*command, "-o", "stages.so", file]
    try:
        with TemporaryDirectory() as folder:
            Path(folder, file).write_text(source)
            Path(folder, "conv_recurrent_stages.h").write_text(stages)
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace", check=False)
            if done.returncode == 0:
                return Path(folder, "stages.so").read_bytes()
    except OSError as error:
        raise RuntimeError(f"{shlex.join(command)}: no library came of a folder in TMPDIR: {error}") from error
    raise RuntimeError(f"{shlex.join(command)} failed with status {done.returncode}:\n{done.stderr[-4000:]}")
