"""Which files a run has for training and for validation: in its folder, so that they can be compared."""

from pathlib import Path

from fastrcn.files import csv_text

DATA = "data.csv"


def listing(train, validation) -> str:
    """A CSV table of the files of both datasets, with their sizes, classes, and which of their frames count."""
    rows: list[tuple] = [("part", "path", "bytes", "class", "start", "end")]
    for part, dataset in (("training", train), ("validation", validation)):
        rows += [(part, *row) for row in _rows(dataset)]
    return csv_text(rows)


def _rows(dataset):
    if dataset is None:
        return []
    if hasattr(dataset, "sequences"):  # a part of it has the files of the whole
        paths = dict.fromkeys(piece.path for pieces in dataset.sequences for piece in pieces)
        return [(path, path.stat().st_size, "", "", "") for path in paths]
    if not hasattr(dataset, "entries"):
        return [(type(dataset).__name__, len(dataset), "", "", "")]
    classes = getattr(dataset, "classes", None)
    rows = []
    for path, label, begin, end in dataset.entries:
        rows.append((path, path.stat().st_size, classes[label] if classes else "", begin, "" if end is None else end))
    return rows


def check_listing(folder, found):
    """Raises ValueError where a run in a folder had other data than ``listing`` has ``found``."""
    path = Path(folder) / DATA
    if path.exists() and path.read_bytes() != found.encode():
        raise ValueError(f"data: expected what {path} lists, got other files: not those of the run")
