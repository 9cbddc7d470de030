"""Variables on grids over time in NetCDF-4 and HDF5 files, by h5py: ``pip install h5py``.

Values, missing ones and times by the conventions of the NetCDF Users Guide (attribute conventions) and of CF 1.11,
sections 2.5.1 (missing data) and 8.1 (packed data).
"""

from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

DEFAULT_FILLS = {
    "i2": -32767,
    "u2": 65535,
    "i4": -2147483647,
    "u4": 4294967295,
    "i8": -9223372036854775806,
    "u8": 18446744073709551614,
    "f4": 9.969209968386869e36,
    "f8": 9.969209968386869e36,
}
"""What the NetCDF library writes where nothing was written, by type; bytes have none."""


def _h5py() -> Any:
    try:
        import h5py
    except ImportError as error:
        raise ImportError(
            "NetCDF-4 and HDF5 files are read by h5py, which is not installed: pip install h5py"
        ) from error
    return h5py


class GriddedFile:
    """An open file. Raises, as its methods do, FileNotFoundError or ValueError, which name the file.

    ``open_gridded`` gives one. It must not be used by another process than that which opened it.
    """

    def __init__(self, path, file):
        self.path, self._file = path, file

    def _dataset(self, variable):
        """The HDF5 dataset of a variable that can be read. Raises ValueError naming file and variable."""
        h5py = _h5py()
        dataset = self._file.get(variable)
        if not isinstance(dataset, h5py.Dataset):
            there = []
            self._file.visititems(lambda name, item: there.append(name) if isinstance(item, h5py.Dataset) else None)
            raise ValueError(f"variable: {self.path} has no {variable}, but {', '.join(there) or 'none at all'}")
        if dataset.dtype.kind not in "iuf":
            raise ValueError(f"variable: {variable} in {self.path}: expected numbers, got {dataset.dtype}")
        return dataset

    def shape(self, variable):
        """(T,C,H,W) of a variable; a variable (T,H,W) has C = 1.

        Raises: ValueError naming file and variable, also where time is known to be another dimension than the first.
        """
        dataset = self._dataset(variable)
        if dataset.ndim not in (3, 4):
            came = f"shape {dataset.shape}"
            raise ValueError(f"variable: {variable} in {self.path}: expected (T,H,W) or (T,C,H,W), got {came}")
        names = [dimension[0].name.rpartition("/")[2] if len(dimension) else "" for dimension in dataset.dims]
        if "time" in names[1:]:
            came = f"dimensions {', '.join(names)}"
            raise ValueError(f"variable: {variable} in {self.path}: expected time as the first dimension, got {came}")
        if 0 in dataset.shape[1:]:
            raise ValueError(f"variable: {variable} in {self.path}: expected a grid, got shape {dataset.shape}")
        frames, *channels, height, width = dataset.shape
        scales = dataset.dims[0]
        if len(scales) and _has_numbers(scales[0]) and len(scales[0]) != frames:
            expected = f"as many frames as times, {len(scales[0])}"
            raise ValueError(f"variable: {variable} in {self.path}: expected {expected}, got {frames}")
        return frames, *(channels or [1]), height, width

    def grid(self, variable):
        """Values of the coordinates of a variable's last two dimensions, each None where the file has none."""
        scales = [scales[0] if len(scales) else None for scales in list(self._dataset(variable).dims)[-2:]]
        return [None if scale is None or not _has_numbers(scale) else scale[()] for scale in scales]

    def times(self, variable):
        """(values (T,), units, calendar) of a variable's time coordinate; None where it has none in numbers.

        It is the scale of the first dimension; in a file without such scales what is called time beside the variable.
        """
        dataset = self._dataset(variable)
        scales = dataset.dims[0]
        found = scales[0] if len(scales) else dataset.parent.get("time")
        if not isinstance(found, _h5py().Dataset) or not _has_numbers(found) or found.shape != dataset.shape[:1]:
            return None
        values, known = _decode(found, found[()], None)
        if not known.all():
            raise ValueError(f"source: {self.path}: expected a time for every frame of {variable}, some are missing")
        return values, *(_text(found, name) for name in ("units", "calendar"))

    def frames(self, variable, first, end, fill_value=None):
        """Frames of a variable from ``first`` to before ``end``, and where they are known.

        Args:
            fill_value: another value, as it is stored, that stands for a missing one.
        Returns: float64 and bool (T,C,H,W); values that are missing mean nothing.
        """
        dataset = self._dataset(variable)
        values, known = _decode(dataset, dataset[first:end], fill_value)
        return (values[:, None], known[:, None]) if values.ndim == 3 else (values, known)


@contextmanager
def open_gridded(path):
    """Opens a file for as long as the context lasts; errors of the HDF5 library become ValueError naming the file."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"source: there is no file {path}")
    with path.open("rb") as file:
        begin = file.read(3)
    if not begin:
        raise ValueError(f"source: {path} is empty")
    if begin == b"CDF":
        how = f"nccopy -k nc4 {path.name} new.nc"
        raise ValueError(f"source: {path} is a classic NetCDF file, expected NetCDF-4 or HDF5: convert it: {how}")
    h5py = _h5py()
    if not h5py.is_hdf5(path):
        raise ValueError(f"source: {path} is no NetCDF-4 or HDF5 file")
    try:
        with h5py.File(path, "r") as file:
            yield GriddedFile(path, file)
    except (KeyError, OSError, RuntimeError) as error:
        raise ValueError(f"source: {path} cannot be read: {error}") from error


def _has_numbers(scale):
    """Whether a dimension's scale is a coordinate; else the NetCDF library wrote it for the dimension's name alone."""
    name = str(_text(scale, "NAME"))
    return scale.dtype.kind in "iuf" and not name.startswith("This is a netCDF dimension but not a netCDF variable")


def _attribute(dataset, name):
    """An attribute's numbers (N,), none where it is missing."""
    value = dataset.attrs.get(name)
    return np.empty(0) if value is None else np.ravel(value)


def _text(dataset, name):
    value = dataset.attrs.get(name)
    return value.decode() if isinstance(value, bytes) else value


def _decode(dataset, raw, fill_value):
    """Values float64, and which of them are known, of what is stored."""
    unsigned = raw.dtype.kind == "i" and str(_text(dataset, "_Unsigned")).lower() == "true"

    def stored(numbers):
        """Numbers of an attribute as they would be stored, so that 1e20 equals the float32 next to it."""
        if raw.dtype.kind == "f":
            return numbers.astype(raw.dtype)
        return numbers.astype(raw.dtype).view(data.dtype) if unsigned else numbers

    data = raw.view(raw.dtype.str.replace("i", "u")) if unsigned else raw
    missing = [*_attribute(dataset, "missing_value"), *_attribute(dataset, "_FillValue")]
    default = DEFAULT_FILLS.get(raw.dtype.str[1:])
    if "_FillValue" not in dataset.attrs and default is not None and dataset.fillvalue == raw.dtype.type(default):
        missing.append(default)
    known = np.ones(data.shape, dtype=bool) if data.dtype.kind != "f" else ~np.isnan(data)
    for value in [*missing, *([] if fill_value is None else [fill_value])]:
        known &= data != stored(np.asarray(value))
    scale, offset = _attribute(dataset, "scale_factor"), _attribute(dataset, "add_offset")
    values = data.astype(np.float64)
    if len(scale):
        values *= np.float64(scale[0])
    if len(offset):
        values += np.float64(offset[0])
    lowest, highest = _attribute(dataset, "valid_min"), _attribute(dataset, "valid_max")
    if len(both := _attribute(dataset, "valid_range")) == 2:
        lowest, highest = both[:1], both[1:]
    for limit, outside in ((lowest, np.less), (highest, np.greater)):
        if len(limit):
            # Limits of packed integers are integers; as floats they are in the units of the values (NetCDF Users Guide)
            unpacked = limit.dtype.kind == "f" and data.dtype.kind != "f"
            known &= ~(outside(values, limit[0]) if unpacked else outside(data, stored(limit)[0]))
    return values, known
