"""Checkpoints: all that a run needs to go on as if it had never stopped, in one file that is replaced in one step.

Weights and optimizer are whole and under the names of the unshared model, however many processes there are, so that a
run may go on with others.
"""

import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

from fastrcn.files import write_at_once

FORMAT = 1


def seed_random_state(seed):
    """Begin the random numbers that ``random_state`` tells of."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 (a model may use it)
    torch.manual_seed(seed)


def random_state():
    """Where this process's random numbers are: of Python, NumPy, PyTorch, and its GPU."""
    kind, keys, *rest = np.random.get_state(legacy=True)  # noqa: NPY002
    state = {
        "python": random.getstate(),
        "numpy": (kind, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_random_state(state):
    """Go on from there."""
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def _whole():
    return StateDictOptions(full_state_dict=True, cpu_offload=True)


def collect(module, optimizer, schedule, scaler, progress, processes) -> dict[str, Any]:
    """The contents of a checkpoint. Every process has to call this; the first one's result is complete.

    ``module``: what is trained, whose attribute ``model`` is the model. ``progress``: plain numbers and lists.
    """
    states = processes.gather(random_state())
    weights = get_model_state_dict(module, options=_whole())
    return {
        "format": FORMAT,
        "model": {name.removeprefix("model."): value for name, value in weights.items()},
        "optimizer": get_optimizer_state_dict(module, optimizer, options=_whole()),
        "schedule": schedule.state_dict(),
        "scaler": scaler.state_dict(),
        "random": states,
        "progress": progress,
    }


def restore(found, module, optimizer, schedule, scaler, processes):
    """Put a checkpoint's contents into all that it was collected from; returns its ``progress``."""
    options = StateDictOptions(full_state_dict=True)
    weights = {f"model.{name}": value for name, value in found["model"].items()}
    set_model_state_dict(module, weights, options=options)
    if found["optimizer"]["state"]:  # SGD without momentum has none, which the function takes for an error
        set_optimizer_state_dict(module, optimizer, found["optimizer"], options=options)
    schedule.load_state_dict(found["schedule"])
    # The rate of the step to come, by the schedule as it is now: with more epochs it is another.
    done = schedule.last_epoch
    rates = [base * factor(done) for base, factor in zip(schedule.base_lrs, schedule.lr_lambdas, strict=True)]
    schedule._last_lr = rates
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    scaler.load_state_dict(found["scaler"])
    if len(found["random"]) == processes.count:
        set_random_state(found["random"][processes.rank])
    return found["progress"]


def save(path, contents):
    """Write a checkpoint."""
    write_at_once(path, lambda place: torch.save(contents, place))


def load(path) -> dict[str, Any]:
    """A checkpoint, on the CPU. Raises FileNotFoundError, and ValueError naming a file that is not one."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"checkpoint: there is no file {path}")
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"checkpoint: {path} cannot be read: {error}") from error
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise ValueError(f"checkpoint: expected one of fastrcn's, format {FORMAT}, in {path}")
    return found
