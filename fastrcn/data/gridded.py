"""Windows of variables on grids over time, such as radar, satellite and weather data in NetCDF-4 and HDF5 files."""

import copy
import itertools
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from fastrcn.data.checks import check_counts
from fastrcn.data.gridded_file import open_gridded
from fastrcn.data.windows import Windows, windows_of

SUFFIXES = (".cdf", ".h5", ".hdf5", ".he5", ".nc", ".nc4")
BLOCK = 16
"""Frames that ``statistics`` reads at once."""


class Piece(NamedTuple):
    """Frames of a file, from ``start`` to before ``end``. A sequence consists of such pieces, one after another."""

    path: Path
    start: int
    end: int


class GriddedWindows(Windows):
    """Windows of NetCDF-4 and HDF5 files. Items as those of ``Windows``; a missing value is 0, and not valid.

    Missing is what equals _FillValue or missing_value, lies outside valid_range, valid_min or valid_max, was never
    written by the NetCDF library, or is not a number. Packed values (scale_factor, add_offset) are unpacked.

    A sequence ends, and another begins, where the time coordinate takes a step that differs from the usual one (the
    median) by more than half of it; without one in numbers no gap is seen. An item depends on its index only. Files
    are open only while an item is read, so that workers may be forked.

    Args:
        source: a file, or a folder with nothing but such files (``SUFFIXES``), in the order of their names.
        variable: the name of one, (T,H,W) or (T,C,H,W) in each file; or of several, whose channels are put together.
        inputs, targets: frames that are seen, and that are forecast.
        step: frames from the beginning of a window to that of the next.
        join: the files are parts of one sequence; otherwise each is a sequence of its own.
        fill_value: another value that stands for a missing one, as it is stored (packed).
        past_valid: past has 2C channels, the latter C of which are 1 where the former are known, and else 0.
    Attributes: those of ``Windows``; sequences (lists of ``Piece``), skipped (pairs of one that lies between
        gaps and is too short for a window, and of why it was left out), offset and scale (C,) of ``normalized``.
    Raises: ValueError naming the argument, or file and variable; FileNotFoundError; ImportError without h5py, and
        without cftime where files that are joined count time in different units.
    """

    def __init__(
        self, source, variable, inputs, targets, *, step=1, join=False, fill_value=None, past_valid=False
    ):  # fmt: skip
        check_counts(inputs=inputs, targets=targets, step=step)
        self.variables = [variable] if isinstance(variable, str) else list(variable)
        if not self.variables or not all(isinstance(name, str) for name in self.variables):
            raise ValueError(f"variable: expected a name or several, got {variable!r}")
        self.fill_value, self.past_valid = fill_value, past_valid
        files = [_look_into(path, self.variables) for path in _files(Path(source))]
        for file in files[1:]:
            _check_same_grid(file, files[0], self.variables)
        channels = files[0].shape[0]
        self.offset, self.scale = torch.zeros(channels).double(), torch.ones(channels).double()

        self.sequences: list[list[Piece]] = []
        self.skipped: list[tuple[list[Piece], str]] = []
        windows, length = [], inputs + targets
        for group in [files] if join else [[file] for file in files]:
            between = _between_gaps(group)
            where = f"{source if join else group[0].path}{' between gaps' if len(between) > 1 else ''}"
            enough = [pieces for pieces in between if _length(pieces) >= length]
            for pieces in between if enough else ():
                if (has := _length(pieces)) < length:
                    part = f"{pieces[0].path}: between gaps from frame {pieces[0].start} on there are {has} frames"
                    self.skipped.append((pieces, f"source: {part}, at least {length} are needed for a window"))
            for pieces in enough or [max(between, key=_length)]:
                windows += windows_of(len(self.sequences), 0, _length(pieces), length, step, where)
                self.sequences.append(pieces)
        super().__init__(windows, inputs, targets)

    def normalized(self, offset, scale):
        """A copy of the dataset whose values are (value - offset) / scale; missing ones are 0 still.

        Args:
            offset, scale: a number, or (C,), one for each channel; as of ``statistics``. The scale is above 0.
        Raises: ValueError naming the argument.
        """
        chosen = copy.copy(self)
        chosen.offset, chosen.scale = (
            _of_channels(name, value, len(self.offset)) for name, value in (("offset", offset), ("scale", scale))
        )
        if not bool((chosen.scale > 0).all()):
            raise ValueError(f"scale: expected numbers above 0, got {scale}")
        return chosen

    def stored_frames(self, sequence, first, end):
        """Frames of a sequence, unpacked but not normalized, and where they are known: float64 and bool (T,C,H,W).

        Values that are missing mean nothing.
        """
        parts, begin = [], 0
        for path, start, stop in self.sequences[sequence]:
            inside = range(max(first - begin, 0) + start, min(end - begin + start, stop))
            if inside:
                with open_gridded(path) as file:
                    read = [file.frames(v, inside.start, inside.stop, self.fill_value) for v in self.variables]
                parts.append([np.concatenate(arrays, 1) for arrays in zip(*read, strict=True)])
            begin += stop - start
        values, known = (torch.from_numpy(np.concatenate(arrays)) for arrays in zip(*parts, strict=True))
        return values, known

    def _read(self, window):
        end = window.start + self.inputs + self.targets
        values, known = self.stored_frames(window.sequence, window.start, end)
        values = (values - self.offset[:, None, None]) / self.scale[:, None, None]
        return values.where(known, 0.0).float(), known

    def _past(self, frames, known):
        return torch.cat([frames, known.to(frames.dtype)], 1) if self.past_valid else frames


def statistics(dataset):
    """Mean and standard deviation of each channel, to be given to ``GriddedWindows.normalized``.

    Of the known values, before they are normalized, in all frames that the windows reach over, each frame once. What is
    held out takes those of the part to train on.

    Args:
        dataset: ``GriddedWindows``.
    Returns: two (C,), float64.
    Raises: ValueError where a channel has no known value, or only one.
    """
    length = dataset.inputs + dataset.targets
    reached: dict[int, set[int]] = {}
    for window in dataset.windows:
        reached.setdefault(window.sequence, set()).update(range(window.start, window.start + length))
    channels = len(dataset.offset)
    count, mean, squares = (torch.zeros(channels).double() for _ in range(3))
    for sequence, frames in reached.items():
        for first in range(min(frames), max(frames) + 1, BLOCK):
            end = min(first + BLOCK, max(frames) + 1)
            values, known = dataset.stored_frames(sequence, first, end)
            known = known & torch.tensor([k in frames for k in range(first, end)])[:, None, None, None]
            here = known.sum((0, 2, 3)).double()
            center = values.where(known, 0.0).sum((0, 2, 3)) / here.clamp(min=1)
            apart = (values - center[:, None, None]).where(known, 0.0)
            both = (count + here).clamp(min=1)
            # The sums of two parts together (Chan et al. 1979), exact where values are large and close to each other
            squares += apart.square().sum((0, 2, 3)) + (center - mean) ** 2 * count * here / both
            mean += (center - mean) * here / both
            count += here
    for channel in range(channels):
        if not squares[channel] > 0:
            came = f"only {float(mean[channel])}" if count[channel] else "none that is known"
            raise ValueError(f"dataset: expected different values in channel {channel}, got {came}")
    return mean, (squares / count).sqrt()


class _File(NamedTuple):
    path: Path
    frames: int
    shape: tuple[int, int, int]
    grids: list[Any]
    times: Any


def _files(source):
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise FileNotFoundError(f"source: there is no {source}")
    paths = sorted(path for path in source.iterdir() if not path.name.startswith("."))
    stray = [path for path in paths if path.is_dir() or path.suffix.lower() not in SUFFIXES]
    if stray or not paths:
        expected = f"a folder with nothing but files {', '.join(SUFFIXES)}"
        raise ValueError(f"source: expected {expected}, got {', '.join(map(str, stray)) or f'none in {source}'}")
    return paths


def _look_into(path, variables):
    with open_gridded(path) as file:
        shapes = [file.shape(variable) for variable in variables]
        for variable, shape in zip(variables, shapes, strict=True):
            if (shape[0], *shape[2:]) != (shapes[0][0], *shapes[0][2:]):
                expected = f"time and grid of {variables[0]}, (T,C,H,W) of {shapes[0]}"
                raise ValueError(f"variable: {variable} in {path}: expected {expected}, got {shape}")
        channels = sum(shape[1] for shape in shapes)
        grids = [file.grid(variable) for variable in variables]
        return _File(path, shapes[0][0], (channels, *shapes[0][2:]), grids, file.times(variables[0]))


def _check_same_grid(file, first, variables):
    where = f"variable: {', '.join(variables)} in {file.path}: expected"
    if file.shape != first.shape:
        raise ValueError(f"{where} channels and grid {first.shape} as in {first.path}, got {file.shape}")
    for here, there in zip(file.grids, first.grids, strict=True):
        for a, b in zip(here, there, strict=True):
            if a is not None and b is not None and not np.allclose(a, b):
                raise ValueError(f"{where} the coordinates of the grid in {first.path}, got others of the same number")


def _of_channels(name, value, channels):
    found = torch.as_tensor(value, dtype=torch.float64)
    if found.shape not in ((), (channels,)) or not bool(found.isfinite().all()):
        raise ValueError(f"{name}: expected a number or {channels}, one for each channel, got {value}")
    return found.expand(channels)


def _length(pieces):
    return sum(piece.end - piece.start for piece in pieces)


def _between_gaps(files):
    """The pieces of files, in the order of time, that lie between gaps: a list for each sequence."""
    total = sum(file.frames for file in files)
    times = _times(files)
    cuts = []
    if times is not None and total > 1:
        steps = np.diff(times)
        if (steps <= 0).any():
            frame = int(np.argmax(steps <= 0)) + 1
            ends = np.cumsum([file.frames for file in files])
            path = files[int(np.searchsorted(ends, frame, side="right"))].path
            came = f"{times[frame]} after {times[frame - 1]}"
            raise ValueError(f"source: {path}: expected times that increase, got {came}")
        usual = np.median(steps)
        cuts = [int(k) + 1 for k in np.flatnonzero(np.abs(steps - usual) > usual / 2)]
    sequences = []
    for first, end in itertools.pairwise([0, *cuts, total]):
        pieces, begin = [], 0
        for file in files:
            start, stop = max(first - begin, 0), min(end - begin, file.frames)
            if start < stop:
                pieces.append(Piece(file.path, start, stop))
            begin += file.frames
        sequences.append(pieces)
    return sequences


def _times(files):
    """The times of all frames in the units of the first file; None where no file has any."""
    without = [file for file in files if file.times is None]
    if len(without) == len(files):
        return None
    if without:
        raise ValueError(f"source: {without[0].path}: expected a time coordinate as in other files, got none")
    _, units, calendar = files[0].times
    return np.concatenate([_in_units(file, units, calendar) for file in files])


def _in_units(file, units, calendar):
    values, own_units, own_calendar = file.times
    if (own_units, own_calendar) == (units, calendar):
        return values
    try:
        import cftime
    except ImportError as error:
        why = f"{file.path} counts time in {own_units!r}, other files in {units!r}"
        raise ImportError(
            f"source: {why}; cftime, which converts them, is not installed: pip install cftime"
        ) from error
    try:
        dates = cftime.num2date(values, own_units, own_calendar or "standard")
        return np.asarray(cftime.date2num(dates, units, calendar or "standard"), dtype=np.float64)
    except (AttributeError, TypeError, ValueError) as error:
        came = f"{own_units!r} in the calendar {own_calendar or 'standard'}"
        raise ValueError(f"source: {file.path}: expected times as {units!r}, got {came}: {error}") from error
