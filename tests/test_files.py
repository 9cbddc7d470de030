"""Files that are replaced in one step."""

import stat
from pathlib import Path

import pytest

from fastrcn.files import cache_folder, write_at_once


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")

    def fail(place):
        place.write_text("half")
        assert path.read_text() == "old"
        raise RuntimeError("full disk")

    with pytest.raises(RuntimeError, match="full disk"):
        write_at_once(path, fail)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    write_at_once(path, lambda place: place.write_text("new"))
    assert path.read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_written_files_have_the_rights_of_others(tmp_path):
    (tmp_path / "plain").touch()
    write_at_once(tmp_path / "ours", lambda place: place.write_text("x"))
    rights = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "ours")]
    assert rights[0] == rights[1]


def test_cache_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/b")
    monkeypatch.setenv("FASTRCN_CACHE", "~/c")
    monkeypatch.setenv("XDG_CACHE_HOME", "/a")
    assert cache_folder() == Path("/b/c")
    monkeypatch.delenv("FASTRCN_CACHE")
    assert cache_folder() == Path("/a/fastrcn")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path("/b/.cache/fastrcn")
