"""Finished runs on data: how good they are, alone or several together."""

import dataclasses
import json
import sys
from pathlib import Path

import torch

from fastrcn.files import csv_text, write_text_at_once
from fastrcn.training import checkpoint as checkpoints
from fastrcn.training import config as configs
from fastrcn.training.listing import check_listing, listing
from fastrcn.training.loop import CONFIG, measure
from fastrcn.training.processes import start
from fastrcn.training.tasks import Classification, task_of

NUMBERS, ITEMS = "evaluation.json", "evaluation.csv"


def load_run(folder, checkpoint="best", **changes):
    """(task, its model with the trained weights and its loss) of a run's folder.

    Args:
        checkpoint: "best" or "last". changes: fields of its ``Config``.
    Raises: FileNotFoundError; ValueError naming the file.
    """
    folder = Path(folder)
    config = dataclasses.replace(configs.from_dict(configs.read(folder / CONFIG)), **changes)
    found = checkpoints.load(folder / f"{checkpoint}.pt")
    task = task_of(config, found["facts"])
    objective = task.build(load=False)
    objective.model.load_state_dict(found["model"])
    return task, objective.eval()


def shares(weights, runs):
    """The share of each run's scores: ``fusion_weights`` over their sum. Raises ValueError naming the argument."""
    weights = [1.0] * len(runs) if weights is None else list(weights)
    if len(weights) != len(runs) or min(weights) < 0 or not sum(weights):
        raise ValueError(f"fusion_weights: expected {len(runs)}, not negative, not all 0, got {weights}")
    return [weight / sum(weights) for weight in weights]


def fuse(records, weights):
    """One record for each video of those of several runs: the weighted mean of their probabilities.

    Args:
        records: for each run a list of pairs (label, probabilities (num_classes,)). weights: as ``shares`` gives.
    Raises: ValueError where runs differ in classes or labels.
    """
    fused = []
    for same in zip(*records, strict=True):
        if len({(label, found.shape) for label, found in same}) > 1:
            raise ValueError("runs: expected the same videos and classes of all, got others")
        mean = torch.stack([share * found.double() for (_, found), share in zip(same, weights, strict=True)]).sum(0)
        fused.append((same[0][0], mean))
    return fused


def evaluate(runs, data=None, *, checkpoint="best", fusion_weights=None, out=None, skip_unreadable=False, **changes):
    """Measure runs on labelled videos, or a forecaster on sequences.

    Args:
        runs: folders; the probabilities of several are averaged, such as those of frames and of flow.
        data: as in training; None for each run's own validation.
        checkpoint: "best" or "last". fusion_weights: of the runs.
        skip_unreadable: leave out damaged files, which are named.
        out: folder for the numbers and what was found for each item; None to write nothing.
        changes: other fields of the runs' ``Config``, such as device or workers.
    Returns: names with numbers, or with a number for each step.
    Raises: ValueError naming the argument or the file; FileNotFoundError.
    """
    weights = shares(fusion_weights, runs)
    with start(changes.get("device"), changes.get("threads")) as processes:
        records, first = [], None
        for folder in runs:
            task, objective = load_run(folder, checkpoint, **changes)
            if len(runs) > 1 and not isinstance(task, Classification):
                raise ValueError(f"runs: expected one forecaster, or several runs with classes, got {len(runs)} runs")
            dataset = _dataset(folder, task, data, skip_unreadable)
            if processes.first:
                print(*task.notes, sep="\n", end="\n" if task.notes else "", file=sys.stderr)
            if first is None:
                first = task, dataset
            elif (task.facts, dataset.entries) != (first[0].facts, first[1].entries):
                raise ValueError(f"runs: expected the same videos and classes of all, got others from {folder}")
            objective.to(processes.device)
            records.append(measure(task, objective, dataset, processes, processes.first))
        assert first is not None
        task, dataset = first
        found = fuse(records, weights) if isinstance(task, Classification) else records[0]
        result = task.summary(found)
        if out is not None and processes.first:
            what = {
                "runs": [str(Path(run).resolve()) for run in runs],
                "checkpoint": checkpoint,
                "fusion_weights": weights,
                "data": None if data is None else str(data),
            }
            _write(Path(out), {**result, "of": what}, task.rows(dataset, found))
    return result


def _dataset(folder, task, data, skip_unreadable):
    config = task.config
    if data is not None:
        return task.read_all(data, skip_unreadable=skip_unreadable)
    if config.validation:
        return task.read_all(config.validation, skip_unreadable=skip_unreadable or config.skip_unreadable)
    if not config.hold_out:
        raise ValueError(f"data: expected a source, the run in {config.out} has no validation of its own")
    train, kept = task.read()
    check_listing(folder, listing(train, kept))  # or what was held out would be others
    return kept


def _write(folder, result, rows):
    folder.mkdir(parents=True, exist_ok=True)
    write_text_at_once(folder / NUMBERS, json.dumps(result, indent=1) + "\n")
    write_text_at_once(folder / ITEMS, csv_text(rows))
