"""Files that appear whole, or not at all, tables for them, and the folder of those that may be lost."""

import csv
import io
import os
import stat
import uuid
from pathlib import Path


def cache_folder() -> Path:
    """Where what can be made again is kept, an absolute path: FASTRCN_CACHE, else ``fastrcn`` in the user's folder for
    caches."""
    given = os.environ.get("FASTRCN_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    folder = Path(given).expanduser() if given else Path(base).expanduser() / "fastrcn"
    return folder.absolute()


def make_cache_folder() -> Path:
    """``cache_folder()``; where it is not there, made for its owner alone. Raises OSError where it cannot be."""
    folder = cache_folder()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def only_ours(status: os.stat_result) -> bool:
    """Whether a file or folder is the user's or root's, and neither its group nor others can write it."""
    return status.st_uid in (0, os.getuid()) and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def write_at_once(path, write):
    """``write(another path)`` in the same folder, then move that to ``path``, which is one step.

    Who looks meanwhile, or after a kill at any moment, finds the old file or the new one, whole. Its rights are those
    that the process gives to new files.
    """
    path = Path(path)
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        write(part)
        with part.open("rb+") as file:
            os.fsync(file.fileno())  # before the name is: or a loss of power could leave an empty file
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def write_text_at_once(path, text):
    """``text`` in UTF-8, its line ends as they are."""
    write_at_once(path, lambda place: place.write_bytes(text.encode()))


def csv_text(rows):
    """Rows as CSV."""
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue()
