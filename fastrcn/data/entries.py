"""Which videos a dataset is made of: a folder with a folder per class, or a CSV file; and which of them can be read."""

import csv
import io
from pathlib import Path
from typing import NamedTuple

from fastrcn.data.checks import numbers_within

SUFFIXES = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ts", ".webm", ".wmv")


class Entry(NamedTuple):
    """A video of a dataset: its file, its class, and which of its frames count: from ``start`` to before ``end``."""

    path: Path
    label: int
    start: int = 0
    end: int | None = None


def _visible(folder):
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def read_folder(root):
    """(entries, classes) of a folder whose folders are classes, sorted by name, with nothing but videos in them.

    Hidden files are left out.

    Raises: ValueError naming what is not where it belongs.
    """
    root = Path(root)
    visible = _visible(root)
    classes = [path.name for path in visible if path.is_dir()]
    stray = [path for path in visible if path.suffix.lower() in SUFFIXES and not path.is_dir()]
    entries = []
    for label, name in enumerate(classes):
        inside = _visible(root / name)
        stray += [path for path in inside if path.is_dir() or path.suffix.lower() not in SUFFIXES]
        entries += [Entry(path, label) for path in inside]
        if not inside:
            raise ValueError(f"source: expected videos in every class, there is none in {root / name}")
    if stray:
        expected = f"a folder per class with nothing but videos ({', '.join(SUFFIXES)})"
        raise ValueError(f"source: expected {expected}, got {', '.join(map(str, stray))}; a CSV file can name any")
    return entries, classes


def read_csv(path):
    """(entries, classes) of a CSV file with the columns path, label and, if wanted, start and end.

    Paths are relative to the file's folder. Labels are whole numbers, taken as they are, or else names, numbered in
    sorted order. ``start`` and ``end`` are numbers of frames, ``end`` the first that does not count; empty: all.

    Raises: ValueError naming the file and the line.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"source: expected {path} in UTF-8: {error}") from error
    with io.StringIO(text, newline="") as file:
        table = csv.DictReader(file)
        columns = table.fieldnames or []
        if not {"path", "label"} <= set(columns) <= {"path", "label", "start", "end"}:
            raise ValueError(
                f"source: expected {path} with the columns path,label[,start,end], got {','.join(columns)}"
            )
        lines = [(table.line_num, row) for row in table]
    for number, row in lines:
        if None in row or None in row.values() or not row["path"] or not row["label"]:
            raise ValueError(f"source: {path}, line {number}: expected {','.join(columns)}, got {row}")
    labels = [row["label"] for _, row in lines]
    if all(label.isdecimal() for label in labels):
        classes = [str(k) for k in range(max(map(int, labels), default=-1) + 1)]
        number_of = int
    else:
        classes = sorted(set(labels))
        number_of = classes.index
    entries = []
    for number, row in lines:
        start, end = (row.get(name) or None for name in ("start", "end"))
        if any(bound is not None and not bound.isdecimal() for bound in (start, end)):
            raise ValueError(f"source: {path}, line {number}: expected start and end as frames, got {start}, {end}")
        first, last = int(start or 0), None if end is None else int(end)
        if last is not None and last <= first:
            raise ValueError(f"source: {path}, line {number}: expected an end after the start, got {first}, {last}")
        entries.append(Entry(path.parent / row["path"], number_of(row["label"]), first, last))
    return entries, classes


def read_source(source):
    """(entries, classes) of a folder (``read_folder``) or of a CSV file (``read_csv``).

    Raises: FileNotFoundError; ValueError as they do.
    """
    source = Path(source)
    if not source.exists():
        raise FileNotFoundError(f"source: there is no {source}")
    return (read_folder if source.is_dir() else read_csv)(source)


def read_videos(source):
    """Entries of one video file, of a folder with nothing but videos, or of what ``read_source`` takes.

    Raises: FileNotFoundError; ValueError naming what is not a video.
    """
    source = Path(source)
    if source.is_file() and source.suffix.lower() != ".csv":
        return [Entry(source, 0)]
    if source.is_dir() and not any(path.is_dir() for path in _visible(source)):
        stray = [path for path in _visible(source) if path.suffix.lower() not in SUFFIXES]
        if stray:
            expected = f"a folder with nothing but videos ({', '.join(SUFFIXES)})"
            raise ValueError(f"source: expected {expected}, got {', '.join(map(str, stray))}; a CSV file can name any")
        return [Entry(path, 0) for path in _visible(source)]
    return read_source(source)[0]


def leave_out(entries, check):
    """(entries that ``check`` lets pass, pairs of another and the words of its ValueError or FileNotFoundError)."""

    def why_not(entry):
        try:
            check(entry)
        except (ValueError, FileNotFoundError) as error:
            return str(error)
        return None

    reasons = [(entry, why_not(entry)) for entry in entries]
    return [e for e, why in reasons if why is None], [(e, why) for e, why in reasons if why is not None]


def frames_of(entry, video):
    """The first of an entry's frames, and the one after its last.

    Raises: ValueError naming the video where it does not have them.
    """
    end = video.frames if entry.end is None else entry.end
    if not entry.start < end <= video.frames:
        raise ValueError(f"source: {entry.path} has {video.frames} frames, {entry.start} to {end} were asked for")
    return entry.start, end


def pick(items, indices):
    """Those of a dataset's items with these numbers, in this order.

    Raises: ValueError naming ``indices``.
    """
    return [items[number] for number in numbers_within("indices", indices, len(items))]
