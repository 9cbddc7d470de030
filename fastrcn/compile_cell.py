"""``fastrcn.compile_cell``: the stages of any cell compiled on this machine, as the built-in ones are at the build."""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from fastrcn import native
from fastrcn.cells import Cell
from fastrcn.compiler.emit_cpp import header_source
from fastrcn.compiler.library import build
from fastrcn.compiler.schedule import schedule_of
from fastrcn.compiler.signature import backward_signatures, forward_signatures
from fastrcn.layers.weights import Weights


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


def compile_cell(cell_or_layer) -> CompileReport:
    """Compile a cell's stages with this machine's C++ compiler; from then on its time loop on the ``cpu`` backend runs
    whole in C++, in every layer of this process, those that are there already among them.

    For cells of one's own, and others that are not in ``fastrcn.cells.BUILT_IN``; takes seconds, once: the compiled
    file is kept in the folder that FASTRCN_CACHE names, by default ``fastrcn`` in the user's folder for caches. Other
    processes call this too and find it there. Only files are loaded that nobody but the user and root can have written.

    Args:
        cell_or_layer: a ``fastrcn.cells.Cell``; or a layer or model, for the cells of all recurrent layers in it, as
            they are in training and in evaluation.
    Returns:
        what was done, to be printed.
    Raises:
        TypeError: for anything else. RuntimeError: where the extension is missing, where there is no C++ compiler (CXX,
        else c++, g++ or clang++), where it fails, where its result cannot be kept, and where others can write the
        folder; it names the cell and says what became of those before it. What ran before still does.
    """
    if native.module() is None:
        raise RuntimeError(f"compile_cell: expected the native extension, but {native.missing_reason()}")
    cells, done = _cells_of(cell_or_layer), []
    try:
        done.extend(_compile(cell) for cell in cells)
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


def _compile(cell) -> CompiledCell:
    schedule, extension, isa = schedule_of(cell.key), native.module(), native.isa()
    if native.has_cell(schedule, 0):
        return CompiledCell(repr(cell), f"was compiled for {isa} before")
    signatures = (*forward_signatures(schedule), *backward_signatures(schedule))
    arguments, most = max(len(signature.args) for signature in signatures), extension.most_stage_arguments
    if arguments > most:
        return CompiledCell(repr(cell), f"stays with PyTorch stages: one has {arguments} buffers, compiled ones {most}")
    begin = time.perf_counter()
    info: Any = json.loads(extension.build_info)
    file, found = build(extension.stage_source, header_source([cell]), info, isa)
    native.register_stages(file)
    if not native.has_cell(schedule, 0):
        raise RuntimeError(f"{file}: expected the stages of {cell!r} for {isa}, it has none; delete the file")
    seconds = time.perf_counter() - begin
    return CompiledCell(repr(cell), "found in the cache" if found else f"compiled for {isa} in {seconds:.1f} s", file)
