"""``fastrcn.compile_cell``: the stages of any cell compiled on this machine, as the built-in ones are at the build."""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from fastrcn import dispatch, native, trial
from fastrcn.cells import BUILT_IN, Cell
from fastrcn.compiler.cuda_library import architectures, build_kernels
from fastrcn.compiler.emit_cpp import header_source
from fastrcn.compiler.library import build
from fastrcn.compiler.schedule import schedule_of
from fastrcn.compiler.signature import backward_signatures, forward_signatures
from fastrcn.layers.weights import Weights
from fastrcn.ops.conv_recurrent.cuda import has_kernels


@dataclass(frozen=True)
class CompiledCell:
    """What became of one cell. ``file``: the library that was loaded for it, if one was."""

    cell: str
    became: str
    file: Path | None = None

    def __str__(self):
        return f"{self.cell}: {self.became}" + (f" ({self.file})" if self.file else "")


@dataclass(frozen=True)
class CompileReport:
    """What ``compile_cell`` did. Its length is the number of cells whose libraries were loaded."""

    cells: tuple[CompiledCell, ...]

    def __len__(self):
        return sum(entry.file is not None for entry in self.cells)

    def __str__(self):
        lines = [f"loaded the compiled stages of {len(self)} of {len(self.cells)} cells"]
        return "\n".join([*lines, *(f"  {entry}" for entry in self.cells)])


def compile_cell(cell_or_layer, backend="cpu", *, arch: str | Sequence[str] | None = None) -> CompileReport:
    """Compile a cell's stages on this machine; from then on its time loop on the backend, ``cpu`` or ``cuda``, runs
    whole in C++, in every layer of this process, those that are there already among them.

    For cells of one's own, and others that are not in ``fastrcn.cells.BUILT_IN``. For ``cpu`` the C++ compiler takes
    seconds; for ``cuda`` nvcc takes longer, most of it for the kernels of convolutions with their stages. That is once:
    the compiled file is kept in the folder that FASTRCN_CACHE names, by default ``fastrcn`` in the user's folder for
    caches. Other processes call this too and find it there; for ``cuda`` they need no nvcc then. Only files are loaded
    that nobody but the user and root can have written.

    Args:
        cell_or_layer: a ``fastrcn.cells.Cell``; or a layer or model, for the cells of all recurrent layers in it, as
            they are in training and in evaluation.
        backend: "cpu" or "cuda".
        arch: for ``cuda`` the architectures that get code, such as "sm_90", or several; None: those of this machine's
            GPUs. Elsewhere the file is found by the same ones.
    Returns:
        what was done, to be printed.
    Raises:
        TypeError: for anything else than a cell or layer. ValueError: for another backend; for an ``arch`` that is no
        such name, has not the GPUs that are here, is missing where there are none, or is given for ``cpu``.
        RuntimeError: where the extension is missing, or was built without CUDA; where there is no C++ compiler (CXX,
        else c++, g++ or clang++) or nvcc (CUDACXX, else in CUDA_HOME, CUDA_PATH, /usr/local/cuda or PATH); where it
        fails, where its result cannot be kept, and where others can write the folder; it names the cell and says what
        became of those before it. What ran before still does.
    """
    if backend not in _COMPILE:
        raise ValueError(f"backend: expected one of {', '.join(_COMPILE)}, got {backend!r}")
    if backend == "cpu" and arch is not None:
        raise ValueError(f"arch: expected None for the cpu backend, got {arch!r}")
    if native.module() is None:
        raise RuntimeError(f"compile_cell: expected the native extension, but {native.missing_reason()}")
    if backend == "cuda" and (missing := native.cuda_missing_reason("register_cuda_kernels")):
        raise RuntimeError(f"compile_cell: expected the extension's CUDA kernels, but {missing}")
    cells, done = _cells_of(cell_or_layer), []
    wanted = architectures(arch) if backend == "cuda" else native.isa()
    try:
        done.extend(_COMPILE[backend](cell, wanted) for cell in cells)
    except RuntimeError as error:
        before = f"\nbefore it: {CompileReport(tuple(done))}" if done else ""
        raise RuntimeError(f"compile_cell: {cells[len(done)]!r}: {error}{before}") from error
    return CompileReport(tuple(done))


def _cells_of(cell_or_layer) -> list[Cell]:
    """Each once."""
    if isinstance(cell_or_layer, Cell):
        return [cell_or_layer]
    if not isinstance(cell_or_layer, nn.Module):
        kind = type(cell_or_layer).__name__
        raise TypeError(f"cell_or_layer: expected a fastrcn.cells.Cell or a torch.nn.Module, got {kind}")
    layers = [module for module in cell_or_layer.modules() if isinstance(module, Weights)]
    cells = [cell for layer in layers for cell in layer.cells]
    return list({cell.key: cell for cell in cells}.values())


def _compile_for_cpu(cell, isa) -> CompiledCell:
    schedule, extension = schedule_of(cell.key), native.module()
    if native.has_cell(schedule, 0):
        return CompiledCell(repr(cell), f"was compiled for {isa} before")
    if problem := _too_wide(schedule):
        return CompiledCell(repr(cell), problem)
    begin = time.perf_counter()
    file, found = build(extension.stage_source, header_source([cell]), _build_info(), isa)
    native.register_stages(file)
    return _loaded(cell, file, found, isa, begin, native.has_cell(schedule, 0))


def _compile_for_gpus(cell, archs) -> CompiledCell:
    schedule, extension = schedule_of(cell.key), native.module()
    is_built_in = schedule.fingerprint in {schedule_of(c.key).fingerprint for c in BUILT_IN}
    if is_built_in and has_kernels(schedule):
        return CompiledCell(repr(cell), "was compiled with the extension")
    if problem := _too_wide(schedule, extension.most_stage_sums):
        return CompiledCell(repr(cell), problem)
    begin = time.perf_counter()
    # Compiled before or not: that may have been for other architectures.
    file, found = build_kernels(extension.cuda_stage_source, header_source([cell]), _build_info(), archs)
    if not has_kernels(schedule):
        extension.register_cuda_kernels(str(file))
        dispatch.forget_decisions()
        trial.forget_comparisons()
    return _loaded(cell, file, found, ", ".join(f"sm_{n}" for n in archs), begin, has_kernels(schedule))


_COMPILE = {"cpu": _compile_for_cpu, "cuda": _compile_for_gpus}


def _build_info() -> Any:
    return json.loads(native.module().build_info)


def _too_wide(schedule, most_sums=None):
    """Why a cell's stages cannot be compiled, or None."""
    signatures = (*forward_signatures(schedule), *backward_signatures(schedule))
    arguments, most = max(len(s.args) for s in signatures), native.module().most_stage_arguments
    if arguments > most:
        return f"stays with PyTorch stages: one has {arguments} buffers, compiled ones {most}"
    sums = max(sum(a.role == "d_param" for a in s.args) for s in signatures)
    if most_sums is not None and sums > most_sums:
        return f"stays with PyTorch stages: one has {sums} gradients of parameters, compiled ones {most_sums}"
    return None


def _loaded(cell, file, found, target, begin, has_it):
    """What became of a cell whose library was loaded; RuntimeError where it is another cell's."""
    if not has_it:
        raise RuntimeError(f"{file}: expected the stages of {cell!r} for {target}, it has none; delete the file")
    seconds = time.perf_counter() - begin
    became = "found in the cache" if found else f"compiled for {target} in {seconds:.1f} s"
    return CompiledCell(repr(cell), became, file)
