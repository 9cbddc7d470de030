"""Gridded files: values and missing ones against the NetCDF library and by hand; windows, gaps, errors."""

import sys

import h5py
import netCDF4
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from fastrcn.data import GriddedWindows, statistics

PACKED = np.array([[[-32768, -5, 0], [7, 100, 32767]], [[-9, 1, 2], [3, -9, 5]], [[10, 20, 30], [40, 50, 60]]])
KINDS = {
    # type, attributes, values as stored
    "packed": (
        "i2",
        {"_FillValue": -9, "missing_value": np.int16(7), "scale_factor": 0.01, "add_offset": 273.15},
        PACKED,
    ),
    "several_missing": ("i2", {"missing_value": np.array([0, 7], "i2")}, PACKED),
    "range": ("i2", {"valid_range": np.array([-5, 50], "i2"), "scale_factor": np.float32(0.5)}, PACKED),
    "limits": ("i2", {"valid_min": np.int16(-5), "valid_max": np.int16(40)}, PACKED),
    "default_fill": ("i2", {}, np.where(PACKED < 3, -32767, PACKED)),
    "unsigned": ("i1", {"_Unsigned": "true", "_FillValue": -28, "scale_factor": 0.5}, PACKED % 256 - 128),
    "floats": ("f4", {"missing_value": np.float32(1e20)}, np.where(PACKED == 7, 1e20, PACKED / 3)),
    "nan": ("f4", {"_FillValue": np.nan}, np.where(PACKED == 7, np.nan, PACKED / 3)),
    "doubles": ("f8", {"valid_max": 10.1}, PACKED / 3),
}


@pytest.mark.parametrize("name", KINDS)
def test_values_are_those_of_the_netcdf_library(tmp_path, name):
    kind, attributes, stored = KINDS[name]
    attributes = dict(attributes)
    path = tmp_path / "a.nc"
    with netCDF4.Dataset(path, "w") as file:
        for dimension, size in (("time", None), ("y", 2), ("x", 3)):
            file.createDimension(dimension, size)
        fill = attributes.pop("_FillValue", None)
        variable = file.createVariable("v", kind, ("time", "y", "x"), fill_value=fill, zlib=True)
        variable.setncatts(attributes)
        variable.set_auto_maskandscale(False)
        variable[:] = stored.astype(kind)
    with netCDF4.Dataset(path) as file:
        expected = np.ma.masked_invalid(file["v"][:])
    past, future, valid = GriddedWindows(path, "v", 2, 1)[0]
    found = np.concatenate([past, future])[:, 0]
    np.testing.assert_allclose(found, expected.filled(0), rtol=1e-6)
    known = GriddedWindows(path, "v", 2, 1, past_valid=True)[0][0][:, 1]
    assert np.array_equal(np.concatenate([known == 1, valid[:, 0]]), ~np.ma.getmaskarray(expected))
    assert found.dtype == np.float32
    assert np.ma.getmaskarray(expected).any()


@pytest.mark.parametrize(
    ("kind", "fill", "values", "attributes", "known"),
    [
        ("i2", False, [-32767, 1], {}, [True, True]),  # a writer without filling writes nothing but values
        ("i1", None, [-127, 1], {}, [True, True]),  # bytes have no default, by the NetCDF Users Guide
        ("f4", None, [1e20, 1], {"missing_value": 1e20}, [False, True]),  # told in another type than the values
        ("i2", None, [8, 11], {"valid_max": 1.0, "scale_factor": 0.1}, [True, False]),  # in the values' units, likewise
    ],
)
def test_where_the_python_library_does_otherwise(tmp_path, kind, fill, values, attributes, known):
    """It masks the first two, and warns and ignores what is told in the last two."""
    with netCDF4.Dataset(tmp_path / "a.nc", "w") as file:
        for dimension, size in (("time", 2), ("y", 1), ("x", 2)):
            file.createDimension(dimension, size)
        variable = file.createVariable("v", kind, ("time", "y", "x"), fill_value=fill)
        variable.setncatts(attributes)
        variable.set_auto_maskandscale(False)
        variable[:] = np.array(values, kind)
    _, future, valid = GriddedWindows(tmp_path / "a.nc", "v", 1, 1)[0]
    assert valid.flatten().tolist() == known
    unpacked = np.array(values) * attributes.get("scale_factor", 1)
    assert future.flatten().tolist() == pytest.approx(np.where(known, unpacked, 0))


def write(path, frames, times=None, units="hours since 2020-01-01", name="v", **attributes):
    """Frames (T,...) and their times, by the NetCDF library."""
    with netCDF4.Dataset(path, "a" if path.exists() else "w") as file:
        sizes = dict(
            zip(("time", "channel", "y", "x") if frames.ndim == 4 else ("time", "y", "x"), frames.shape, strict=True)
        )
        for dimension, size in sizes.items():
            if dimension not in file.dimensions:
                file.createDimension(dimension, None if dimension == "time" else size)
        variable = file.createVariable(name, frames.dtype, tuple(sizes))
        variable.setncatts(attributes)
        variable.set_auto_maskandscale(False)
        variable[:] = frames
        if times is not None:
            coordinate = file.createVariable("time", "f8", ("time",))
            coordinate.units, coordinate[:] = units, times
    return path


def numbered(first, count, height=1, width=2):
    return np.arange(first, first + count, dtype="f4")[:, None, None].repeat(height, 1).repeat(width, 2)


def numbers(data):
    return [torch.cat(item[:2])[:, 0, 0, 0].tolist() for item in data]


def test_by_hand(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        stored = np.array([[[1, 2]], [[3, -1]], [[5, 7]], [[-2, -1]]], "i2")
        group = file.create_group("radar")
        group["rain"] = stored
        group["rain"].attrs.update({"_FillValue": np.int16(-1), "scale_factor": 0.5, "add_offset": 10.0})
        group["wind"] = np.stack([stored, stored * 10], 1).astype("f8")
    data = GriddedWindows(tmp_path / "a.h5", ["radar/rain", "radar/wind"], 1, 2, fill_value=-2)
    assert len(data) == 2
    past, future, valid = data[1]
    assert past.tolist() == [[[[11.5, 0]], [[3, -1]], [[30, -10]]]]
    assert future.tolist() == [[[[12.5, 13.5]], [[5, 7]], [[50, 70]]], [[[0, 0]], [[0, -1]], [[-20, -10]]]]
    assert valid.tolist() == [[[[True, True]]] * 3, [[[False, False]], [[False, True]], [[True, True]]]]
    offset, scale = statistics(data)
    rain = np.array([10.5, 11, 11.5, 12.5, 13.5])
    wind = np.array([1, 2, 3, -1, 5, 7, -1.0])
    strong = np.array([10, 20, 30, -10, 50, 70, -20, -10.0])
    assert offset.numpy() == pytest.approx([rain.mean(), wind.mean(), strong.mean()], rel=1e-14)
    assert scale.numpy() == pytest.approx([rain.std(), wind.std(), strong.std()], rel=1e-14)
    first, second = data.select([0]), data.normalized(offset, scale)
    assert statistics(first)[0][0] == pytest.approx(np.mean(rain)), "of frames 0 to 2, which have all of them"
    changed = second[1]
    assert changed[0][0, 0, 0].tolist() == pytest.approx([(11.5 - rain.mean()) / rain.std(), 0], rel=1e-6)
    assert changed[1][1, 0].tolist() == [[0, 0]], "missing values are 0 after all"
    assert torch.equal(changed[2], valid)
    assert torch.equal(data[1][0], past), "the dataset itself stays"
    with_known = GriddedWindows(tmp_path / "a.h5", "radar/rain", 1, 2, past_valid=True)
    assert with_known[1][0].tolist() == [[[[11.5, 0]], [[1, 0]]]]


def test_statistics_of_large_values_in_many_blocks(tmp_path, monkeypatch):
    frames = 1e6 + np.random.default_rng(0).normal(size=(150, 2, 2))
    frames[::7, 0, 0] = np.nan
    data = GriddedWindows(write(tmp_path / "a.nc", frames), "v", 2, 1)
    offset, scale = statistics(data)
    assert offset.item() == pytest.approx(np.nanmean(frames), rel=1e-13)
    assert scale.item() == pytest.approx(np.nanstd(frames), rel=1e-9)
    assert statistics(data.split(0.2)[0])[1].item() == pytest.approx(np.nanstd(frames[:120]), rel=1e-9)
    apart = data.select([0, 140])
    assert statistics(apart)[1].item() == pytest.approx(np.nanstd(frames[[0, 1, 2, 140, 141, 142]]), rel=1e-9)


def test_files_of_a_folder(tmp_path):
    write(tmp_path / "2.nc", numbered(100, 4), [4, 5, 6, 7])
    write(tmp_path / "1.nc", numbered(0, 4), [0, 1, 2, 3])
    apart = GriddedWindows(tmp_path, "v", 2, 1)
    assert numbers(apart) == [[0, 1, 2], [1, 2, 3], [100, 101, 102], [101, 102, 103]]
    joined = GriddedWindows(tmp_path, "v", 2, 1, join=True, step=2)
    assert numbers(joined) == [[0, 1, 2], [2, 3, 100], [100, 101, 102]]
    assert joined.sequences == [[(tmp_path / "1.nc", 0, 4), (tmp_path / "2.nc", 0, 4)]]
    for batch, other in zip(DataLoader(joined), DataLoader(joined, num_workers=2), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(batch, other, strict=True))


def test_no_window_crosses_a_gap(tmp_path):
    # One hour apart; hours are missing between 3 and 6, and between 7 and 10; 6 and 7 are too few for a window
    write(tmp_path / "1.nc", numbered(0, 6), [0, 1, 2, 3, 6, 7])
    write(tmp_path / "2.nc", numbered(6, 4), np.array([10, 11, 12, 13]) * 60, units="minutes since 2020-01-01")
    data = GriddedWindows(tmp_path, "v", 2, 1, join=True)
    assert numbers(data) == [[0, 1, 2], [1, 2, 3], [6, 7, 8], [7, 8, 9]]
    ((pieces, why),) = data.skipped
    assert pieces == [(tmp_path / "1.nc", 4, 6)]
    assert "1.nc: between gaps from frame 4 on there are 2 frames, at least 3 are needed" in why
    assert [len(pieces) for pieces in data.sequences] == [1, 1]
    alone = GriddedWindows(tmp_path / "1.nc", "v", 2, 1)
    assert numbers(alone) == [[0, 1, 2], [1, 2, 3]]
    assert alone.skipped == data.skipped
    months = write(tmp_path / "months.nc", numbered(0, 5), [0, 31, 59, 90, 120], units="days since 2021-01-01")
    assert len(GriddedWindows(months, "v", 2, 1)) == 3


def test_units_that_cannot_be_converted(tmp_path, monkeypatch):
    write(tmp_path / "1.nc", numbered(0, 4), range(4))
    write(tmp_path / "2.nc", numbered(4, 4), range(4), units="paces")
    with pytest.raises(ValueError, match=r"2.nc: expected times as 'hours since 2020-01-01', got 'paces' in the cal"):
        GriddedWindows(tmp_path, "v", 2, 1, join=True)
    monkeypatch.setitem(sys.modules, "cftime", None)
    with pytest.raises(ImportError, match="pip install cftime"):
        GriddedWindows(tmp_path, "v", 2, 1, join=True)
    assert len(GriddedWindows(tmp_path, "v", 2, 1)) == 4, "apart they need no common time"


def test_times_that_do_not_increase(tmp_path):
    write(tmp_path / "1.nc", numbered(0, 4), [0, 1, 2, 3])
    write(tmp_path / "2.nc", numbered(0, 4), [3, 4, 5, 6])
    with pytest.raises(ValueError, match=r"2.nc: expected times that increase, got 3.0 after 3.0"):
        GriddedWindows(tmp_path, "v", 2, 1, join=True)


def raises(path, words, variable="v", **options):
    with pytest.raises((ValueError, FileNotFoundError), match=words) as caught:
        list(GriddedWindows(path, variable, 2, 1, **options))
    assert str(path) in str(caught.value)


def test_files_that_cannot_be_read(tmp_path):
    raises(tmp_path / "none.nc", "source: there is no ")
    (tmp_path / "empty.nc").write_bytes(b"")
    raises(tmp_path / "empty.nc", "is empty")
    (tmp_path / "text.nc").write_text("not a grid " * 100)
    raises(tmp_path / "text.nc", "is no NetCDF-4 or HDF5 file")
    with netCDF4.Dataset(tmp_path / "classic.nc", "w", format="NETCDF3_CLASSIC") as file:
        file.createDimension("x", 2)
    raises(tmp_path / "classic.nc", "is a classic NetCDF file, expected .*: nccopy -k nc4 classic.nc new.nc")
    path = tmp_path / "cut.h5"
    with h5py.File(path, "w") as file:
        values = np.random.default_rng(0).integers(0, 1000, (40, 20, 20))
        file.create_dataset("v", data=values, chunks=(1, 20, 20), compression="gzip", fletcher32=True)
        where = file["v"].id.get_chunk_info(20).byte_offset
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    raises(path, "cannot be read: .*truncated")
    path.write_bytes(whole[:where] + bytes(100) + whole[where + 100 :])
    raises(path, "cannot be read: ")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "x.txt").write_text("")
    with pytest.raises(ValueError, match=r"a folder with nothing but files .* got .*x.txt"):
        GriddedWindows(tmp_path / "folder", "v", 2, 1)


def test_variables_that_do_not_fit(tmp_path):
    path = write(tmp_path / "a.nc", numbered(0, 4), [0, 1, 2, 3])
    raises(path, "variable: .*a.nc has no rain, but .*v", variable="rain")
    raises(path, r"variable: time in .*a.nc: expected \(T,H,W\) or \(T,C,H,W\), got shape \(4,\)", variable="time")
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["v"], file["other"], file["none"] = np.zeros((4, 2, 2)), np.zeros((4, 2, 3)), np.zeros((4, 0, 2))
        file["words"] = np.full((4, 2, 2), b"x")
    path = tmp_path / "b.h5"
    raises(path, "words in .*: expected numbers, got", variable="words")
    raises(path, "none in .*: expected a grid, got", variable="none")
    raises(path, "other in .*b.h5: expected time and grid of v", variable=["v", "other"])


def test_files_that_do_not_fit_each_other(tmp_path):
    write(tmp_path / "1.nc", numbered(0, 4))
    write(tmp_path / "2.nc", numbered(0, 2))
    raises(tmp_path / "2.nc", "2.nc has 2 frames, at least 3 are needed for a window")
    with pytest.raises(ValueError, match=r"2.nc has 2 frames, at least 3 are needed for a window"):
        GriddedWindows(tmp_path, "v", 2, 1)
    assert len(GriddedWindows(tmp_path, "v", 2, 1, join=True)) == 4
    (tmp_path / "2.nc").unlink()
    write(tmp_path / "2.nc", numbered(0, 4, width=3))
    with pytest.raises(ValueError, match=r"2.nc: expected channels and grid \(1, 1, 2\) as in .*1.nc, got \(1, 1, 3\)"):
        GriddedWindows(tmp_path, "v", 2, 1)


def test_grids_with_other_coordinates(tmp_path):
    for name, start in (("1.h5", 0.0), ("2.h5", 0.5)):
        with h5py.File(tmp_path / name, "w") as file:
            file["v"], file["x"] = numbered(0, 4), start + np.arange(2.0)
            file["x"].make_scale("x")
            file["v"].dims[2].attach_scale(file["x"])
    with pytest.raises(ValueError, match=r"2.h5: expected the coordinates of the grid in .*1.h5"):
        GriddedWindows(tmp_path, "v", 2, 1)


def test_time_at_another_place(tmp_path):
    with netCDF4.Dataset(tmp_path / "a.nc", "w") as file:
        for dimension in ("y", "x", "time"):
            file.createDimension(dimension, 3)
        file.createVariable("v", "f4", ("y", "x", "time"))[:] = 1
    raises(tmp_path / "a.nc", "expected time as the first dimension, got dimensions y, x, time")


def test_frames_that_were_never_written(tmp_path):
    path = write(tmp_path / "a.nc", numbered(0, 4), range(6))
    raises(path, "v in .*: expected as many frames as times, 6, got 4")


def test_bad_options(tmp_path):
    path = write(tmp_path / "a.nc", numbered(0, 4))
    data = GriddedWindows(path, "v", 2, 1)
    for name in ("offset", "scale"):
        for wrong in ([1.0, 2.0], float("nan")):
            with pytest.raises(ValueError, match=f"{name}: expected a number or 1, one for each channel, got"):
                data.normalized(**{"offset": 0, "scale": 1, name: wrong})
    with pytest.raises(ValueError, match="scale: expected numbers above 0, got 0"):
        data.normalized(0, 0)
    with pytest.raises(ValueError, match=r"variable: expected a name or several, got \[\]"):
        GriddedWindows(path, [], 2, 1)
    with pytest.raises(ValueError, match="inputs: expected a positive int, got 0"):
        GriddedWindows(path, "v", 0, 1)
    with pytest.raises(ValueError, match=r"dataset: expected different values in channel 0, got only 0.0"):
        statistics(GriddedWindows(write(tmp_path / "b.nc", 0 * numbered(0, 4)), "v", 2, 1))
    with pytest.raises(ValueError, match="dataset: expected different values in channel 0, got none that is known"):
        statistics(GriddedWindows(tmp_path / "b.nc", "v", 2, 1, fill_value=0))


def test_without_h5py(tmp_path, monkeypatch):
    path = write(tmp_path / "a.nc", numbered(0, 4))
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ImportError, match="pip install h5py"):
        GriddedWindows(path, "v", 2, 1)
