"""Files that are replaced in one step."""

import os
import stat
from pathlib import Path

import pytest

from fastrcn.files import cache_folder, make_cache_folder, only_ours, write_at_once


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


def test_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", "/b")
    monkeypatch.setenv("FASTRCN_CACHE", "~/c")
    monkeypatch.setenv("XDG_CACHE_HOME", "/a")
    assert cache_folder() == Path("/b/c")
    monkeypatch.delenv("FASTRCN_CACHE")
    assert cache_folder() == Path("/a/fastrcn")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path("/b/.cache/fastrcn")
    monkeypatch.chdir(tmp_path)
    for given in (".", "some/where"):
        monkeypatch.setenv("FASTRCN_CACHE", given)
        assert cache_folder().is_absolute()
        assert cache_folder() == tmp_path / given


def test_the_cache_folder_is_made_for_its_owner_alone(monkeypatch, tmp_path):
    monkeypatch.setenv("FASTRCN_CACHE", str(tmp_path / "some" / "where"))
    before = os.umask(0)
    try:
        assert stat.S_IMODE(make_cache_folder().stat().st_mode) == 0o700
    finally:
        os.umask(before)
    cache_folder().chmod(0o755)
    assert stat.S_IMODE(make_cache_folder().stat().st_mode) == 0o755


def test_only_ours(monkeypatch):
    monkeypatch.setattr(os, "getuid", lambda: 7)
    for user, mode, expected in [
        (7, 0o755, True),
        (7, 0o600, True),
        (0, 0o644, True),
        (8, 0o600, False),
        (7, 0o620, False),
        (7, 0o602, False),
        (0, 0o1777, False),
    ]:
        assert only_ours(os.stat_result((stat.S_IFREG | mode, 0, 0, 1, user, 0, 0, 0, 0, 0))) == expected
