"""A cell's stages as a library for GPUs: compiled once by nvcc, then kept in the cache folder."""

import os
import re
import shlex
import shutil
from pathlib import Path

import torch

from fastrcn.compiler.library import Compiler, digest_of, find_kept, keep, run_compiler, version_of

_FOLDERS = ("CUDA_HOME", "CUDA_PATH")
_OLDEST = 80
_FEATURES = {90: "90a"}
"""Architectures whose GPUs all have what only their own code may use: the products of warpgroups."""
_VARIABLES = ("NVCC_CCBIN", "NVCC_PREPEND_FLAGS", "NVCC_APPEND_FLAGS")


def find_nvcc() -> Compiler:
    """The machine's nvcc, where the build looks for it: CUDACXX, else CUDA_HOME, CUDA_PATH, /usr/local/cuda, PATH.

    Raises RuntimeError where there is none, and where it does not tell its version.
    """
    command = _nvcc()
    if command is None:
        raise RuntimeError(
            "nvcc was not found (tried CUDACXX, CUDA_HOME, CUDA_PATH, /usr/local/cuda, PATH); without it the cell still"
            " runs, with PyTorch stages"
        )
    return Compiler(tuple(command), version_of(command, "nvcc", "CUDACXX"))


def _nvcc():
    """Its command, or None."""
    given = os.environ.get("CUDACXX") or ""
    try:
        asked = shlex.split(given)
    except ValueError as error:
        raise RuntimeError(f"CUDACXX: expected a command, got {given!r} ({error})") from error
    if asked:
        return asked if shutil.which(asked[0]) else None
    folders = [str(Path(os.environ[name], "bin")) for name in _FOLDERS if os.environ.get(name)]
    found = (shutil.which("nvcc", path=path) for path in (*folders, "/usr/local/cuda/bin", None))
    path = next(filter(None, found), None)
    return path and [path]


def architectures(arch) -> tuple[int, ...]:
    """The numbers of "sm_90" or of several such names; None: of this machine's GPUs, but for those that are too old.

    Raises ValueError for other names, where there are no GPUs to ask, and where code for one of them would be missing.
    """
    gpus = {torch.cuda.get_device_capability(k) for k in range(torch.cuda.device_count())}
    here = sorted(10 * major + minor for major, minor in gpus if 10 * major + minor >= _OLDEST)
    given = list(arch) if isinstance(arch, list | tuple) else [arch]
    names = [f"sm_{number}" for number in here] if arch is None else given
    if not names:
        raise ValueError(f'arch: expected a name such as "sm_90", as no GPU from sm_{_OLDEST} on is here, got {arch!r}')
    numbers = sorted({_number(name) for name in names})
    for gpu in here:
        if not any(gpu // 10 == number // 10 and number <= gpu for number in numbers):
            raise ValueError(f"arch: expected sm_{gpu} too, as such a GPU is here, got {arch!r}")
    return tuple(numbers)


def _number(name):
    found = re.fullmatch(r"sm_(\d+)", name) if isinstance(name, str) else None
    if found is None or int(found[1]) < _OLDEST:
        raise ValueError(f'arch: expected names such as "sm_90", from sm_{_OLDEST} on, got {name!r}')
    return int(found[1])


def build_kernels(source: str, stages: str, build_info: dict, archs: tuple[int, ...]) -> tuple[Path, bool]:
    """The library of the kernels of ``stages``, emitted code, within ``source``, the extension's text around it: (its
    file, whether it was there already). ``build_info``: the extension's, which tells the flags.

    The file's name is made of all that the code depends on. Without nvcc one of any nvcc is taken, as an image may have
    been made with it. Raises RuntimeError as ``library.build``.
    """
    flags = [*build_info["cuda_flags"].split(), "-shared", "-Xcompiler=-fPIC,-fvisibility=hidden"]
    # The runtime's functions are the library's own: PyTorch's may be of another version.
    flags += ["-cudart=static", "-Xlinker=--exclude-libs=ALL"]
    for number in archs:
        code = _FEATURES.get(number, number)
        flags.append(f"-gencode=arch=compute_{code},code=sm_{code}")
    name = f"kernels-{digest_of(source, stages, flags)}"
    nvcc = find_nvcc() if _nvcc() else None
    host = os.environ.get("CUDAHOSTCXX")
    variables = [os.environ.get(variable) for variable in _VARIABLES]
    name += f"-{digest_of(nvcc.version, nvcc.command[1:], host, variables)}" if nvcc else "-*"
    found = find_kept(name)
    if found:
        return found, True
    command = [*(nvcc or find_nvcc()).command, *flags, *(["-ccbin", host] if host else [])]
    return keep(name, run_compiler(command, "kernels.cu", source, stages)), False
