"""What finished runs say of videos without labels: their class, or how they go on."""

from pathlib import Path

import numpy as np
import torch

from fastrcn import data
from fastrcn.data.entries import SUFFIXES, Entry
from fastrcn.files import csv_text, write_text_at_once
from fastrcn.training.build import is_gridded
from fastrcn.training.evaluation import fuse, load_run, shares
from fastrcn.training.loop import autocast, measure, to_device
from fastrcn.training.processes import start
from fastrcn.training.tasks import Classification

CLASSES = "predictions.csv"
SHOWN = 5


def videos_of(paths) -> list[Path]:
    """Files, and the videos in folders however deep. Raises FileNotFoundError, and ValueError where none is."""
    found: list[Path] = []
    for path in map(Path, paths):
        if not path.exists():
            raise FileNotFoundError(f"data: there is no {path}")
        inside = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES)
        if not inside:
            raise ValueError(f"data: expected videos ({', '.join(SUFFIXES)}) in {path}, there is none")
        found += inside
    return found


def predict(runs, paths, out, *, checkpoint="best", fusion_weights=None, **changes) -> list[str]:
    """Classes of videos, or the frames that follow them, written to a folder.

    Args:
        runs: folders of training runs; probabilities of several are averaged, a forecaster is alone.
        paths: videos, or folders of them; of a forecaster also NetCDF and HDF5 files.
        out: folder: ``predictions.csv`` with the likeliest classes; of a forecaster for each video the frames as
            numbers (``.npz``), as a picture and as a GIF, what was seen first.
        checkpoint, fusion_weights, changes: as ``evaluate``.
    Returns: a line for each video.
    Raises: ValueError naming the argument or the video; FileNotFoundError.
    """
    videos, out = videos_of(paths), Path(out)
    parts = shares(fusion_weights, runs)
    with start(changes.get("device"), changes.get("threads")) as processes:
        if processes.count > 1:
            raise ValueError(f"predict: expected one process, got {processes.count}")
        loaded = [load_run(folder, checkpoint, **changes) for folder in runs]
        for _, objective in loaded:
            objective.to(processes.device)
        out.mkdir(parents=True, exist_ok=True)
        if all(isinstance(task, Classification) for task, _ in loaded):
            return _classify(loaded, videos, out, parts, processes)
        if len(loaded) > 1:
            raise ValueError(f"runs: expected one forecaster, or several runs with classes, got {len(loaded)} runs")
        return [_forecast(*loaded[0], video, out, processes) for video in videos]


def _classify(loaded, videos, out, parts, processes):
    classes = loaded[0][0].classes
    entries = [Entry(path, 0) for path in videos]
    records = []
    for task, objective in loaded:
        if task.classes != classes:
            raise ValueError(f"runs: expected the same classes of all, got {classes} and {task.classes}")
        records.append(measure(task, objective, task.read_all(entries), processes, True))
    rows, lines = [("path", "class", "probability")], []
    for path, (_, found) in zip(videos, fuse(records, parts), strict=True):
        best = found.topk(min(SHOWN, len(classes)))
        named = [(classes[k], p) for p, k in zip(best.values.tolist(), best.indices.tolist(), strict=True)]
        rows += [(str(path), name, f"{p:.6f}") for name, p in named]
        lines.append(f"{path}: " + ", ".join(f"{name} {p:.3f}" for name, p in named))
    write_text_at_once(out / CLASSES, csv_text(rows))
    return lines


@torch.no_grad()
def _forecast(task, objective, path, out, processes):
    from fastrcn.visualization.write import write_gif, write_png

    config, place = task.config, out / path.stem
    files = [out / f"{path.stem}{suffix}" for suffix in (".npz", ".png", ".gif")]
    if there := next((file for file in files if file.exists()), None):
        raise FileExistsError(f"out: there is {there} already")
    past, rate, end = _end_of(task, path)
    with autocast(config, processes.device):
        future = objective(*to_device([past[None]], processes.device))[0].float().cpu()
    frames = task.in_units(torch.cat([past, future]))
    np.savez(files[0], past=frames[: len(past)].numpy(), future=frames[len(past) :].numpy())
    if is_gridded(path):
        frames = _from_0_to_1(frames)
    write_png(files[1], torch.cat(list(frames), -1))
    write_gif(files[2], frames.transpose(0, 1), fps=float(rate or 8))
    return f"{path}: {len(future)} frames after frame {end - 1} in {place}.npz, .png, .gif"


def _end_of(task, path):
    """The frames that a forecast of a file begins with (J,C,H,W), their rate, and how many the file has."""
    config = task.config
    if is_gridded(path):
        length = max(config.past, 2)  # the last window of what is seen, and of nothing after it, ends with the file
        found = data.GriddedWindows(path, config.variable.split(","), length - 1, 1)
        end = found.sequences[-1][-1].end
        if after := [pieces for pieces, _ in found.skipped if pieces[-1].end > end]:
            came = after[-1][-1].end - after[-1][0].start
            raise ValueError(f"data: expected {config.past} frames after the last gap in {path}, got {came}")
        past = torch.cat(task.normalized(found)[len(found) - 1][:2])[-config.past :]
        if past.shape[1] != task.facts["channels"]:
            raise ValueError(f"data: expected {task.facts['channels']} channels in {path}, got {past.shape[1]}")
        return past, None, end
    video = data.VideoReader(path)
    if video.frames < config.past:
        raise ValueError(f"data: expected at least {config.past} frames in {path}, got {video.frames}")
    numbers = range(video.frames - config.past, video.frames)
    past = video.read(numbers, size=tuple(config.frame_size), gray=not config.color).float() / 255
    return past, video.rate, video.frames


def _from_0_to_1(frames):
    """Frames (T,C,H,W) of any values as gray ones, a channel above the other: (T,1,C*H,W)."""
    low, high = frames.amin((0, 2, 3), keepdim=True), frames.amax((0, 2, 3), keepdim=True)
    return ((frames - low) / (high - low).clamp_min(1e-12)).flatten(1, 2)[:, None]
