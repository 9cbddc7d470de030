"""The model and the data that a configuration names."""

import importlib
import inspect
from collections import defaultdict
from pathlib import Path
from typing import Any, cast

import torch

from fastrcn import data, models
from fastrcn.data.gridded import SUFFIXES
from fastrcn.training.recipes import is_forecaster, recipe_of

DIGITS = "moving-digits"


def class_of(config):
    """The class that says how a model is fed and judged: its own, or that of ``like``."""
    name = config.like or config.model
    if ":" in name:
        raise ValueError(
            f"like: expected the name of a model that {config.model} is fed and judged as, got {config.like}"
        )
    return models.describe(name).model


def _maker(config):
    """The function that makes the model, and the options of its name."""
    if ":" not in config.model:
        entry = models.describe(config.model)
        return entry.model, {**entry.options, **(entry.small if config.small else {})}
    place, _, name = config.model.partition(":")
    make: Any = getattr(importlib.import_module(place), name, None)
    if make is None:
        raise ValueError(f"model: there is no {name} in {place}")
    return make, {}


def _make(config, **known):
    """The model. ``known``: options that it is given where it takes them and ``model_options`` say nothing else."""
    make, options = _maker(config)
    accepted = inspect.signature(make).parameters
    if config.backend is not None and "backend" not in accepted:
        raise ValueError(f"backend: {config.model} has no fused layers, expected none, got {config.backend}")
    if unknown := sorted(set(config.model_options) - set(accepted)):
        raise ValueError(f"model_options: expected options of {config.model} ({', '.join(accepted)}), got {unknown}")
    known |= {"backend": config.backend, "size": config.size, "num_frames": config.frames, "frames": config.frames}
    options |= {name: value for name, value in known.items() if value is not None and name in accepted}
    return make(**{**options, **config.model_options})


def build_model(config, load=True, **known):
    """The model, its weights drawn from the seed, or those of the file ``weights`` where ``load`` is true.

    A file whose last layers have other classes is read before these are exchanged for new ones.

    Args:
        known: what the data say (num_classes, in_channels), for models that take it.
    Raises: ValueError naming the field; FileNotFoundError.
    """
    torch.manual_seed(config.seed)
    if config.weights is None:
        return _make(config, **known)
    state = _state(config.weights) if load else {}
    model = _make(config, **known)
    classes, heads = known.get("num_classes"), getattr(model, "heads", ())
    theirs = {len(state[f"{name}.weight"]) for name in heads if f"{name}.weight" in state}
    other = classes is not None and bool(theirs - {classes})
    if other:
        model = _make(config, **{**known, "num_classes": max(theirs)})
    if load:
        try:
            model.load_state_dict(state)
        except RuntimeError as error:
            raise ValueError(f"weights: {config.weights} does not fit {config.model}: {error}") from error
    if other or config.transfer != "full_ft":
        models.prepare_transfer(model, config.transfer, classes if other else None)
    return model


def _state(path):
    """The state dict in a file: alone, or as the ``model`` of a checkpoint."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"weights: there is no file {path}")
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"weights: {path} cannot be read: {error}") from error
    found = found.get("model", found) if isinstance(found, dict) else found
    if not isinstance(found, dict) or not all(isinstance(value, torch.Tensor) for value in found.values()):
        raise ValueError(f"weights: expected a state dict in {path}, got something else")
    return found


class Clips:
    """How a run's model is fed with labelled videos: its ``recipe``, and the ``protocol`` of their clips and crops.

    Clips have the frames and the size that the model's ``example_inputs`` have, or those that the run asks for.
    """

    def __init__(self, config):
        with torch.device("meta"):
            model = _make(config)
        self.recipe = recipe_of(model, class_of(config))
        name = config.protocol or self.recipe.protocol
        if name not in data.PROTOCOLS:
            raise ValueError(f"protocol: expected one of {', '.join(data.PROTOCOLS)}, got {name!r}")
        frames, size = config.frames, config.size
        if example := getattr(model, "example_inputs", None):
            shape = self.recipe.shape(cast(Any, example)())
            frames, size = frames or shape[0], size or shape[1]
        self.protocol = data.PROTOCOLS[name].scaled(size=size, frames=frames)
        self.config = config

    def read(self, source, *, train, classes=None, skip_unreadable=False):
        """A dataset of labelled videos."""
        return data.VideoFolder(
            source, self.protocol, train=train, inputs=self.recipe.inputs, seed=self.config.seed, classes=classes,
            flow=data.FlowCache(self.config.flow_cache, self.config.flow_method), skip_unreadable=skip_unreadable,
        )  # fmt: skip


def hold_out_videos(dataset, share, seed):
    """Numbers of the entries to train on, and of those kept: a share of the files of each class, drawn from the seed.

    A file is kept with all of its entries; its class is that of its first one.
    """
    label_of: dict[Path, int] = {}
    for entry in dataset.entries:
        label_of.setdefault(entry.path, entry.label)
    of_class = defaultdict(list)
    for path, label in label_of.items():
        of_class[label].append(path)
    generator = torch.Generator().manual_seed(seed)
    kept: set[Path] = set()
    for paths in of_class.values():
        order = torch.randperm(len(paths), generator=generator).tolist()
        kept |= {paths[k] for k in order[: round(share * len(paths))]}
    if not kept:
        raise ValueError(f"hold_out: expected a share that keeps at least one video of a class, got {share}")
    numbers: tuple[list[int], list[int]] = [], []
    for number, entry in enumerate(dataset.entries):
        numbers[entry.path in kept].append(number)
    if not numbers[0]:
        raise ValueError(f"hold_out: expected a share that leaves videos to train on, got {share}")
    return numbers


def is_digits(source):
    """Whether a source is moving digits."""
    return source.split(":")[0] == DIGITS


def is_gridded(path):
    """Whether a path is a NetCDF or HDF5 file, or a folder with such."""
    return path.suffix.lower() in SUFFIXES or (path.is_dir() and any(map(is_gridded, path.iterdir())))


def windows(config, source, *, train, skip_unreadable=False):
    """Windows of sequences for a forecaster. Moving digits are others in training than in tests."""
    no_effect = f", it has no effect on {source}"
    if is_digits(source):
        config.must_be_usual(("variable", "join", "normalize", "color", "step"), no_effect)
        count = source.partition(":")[2] or "10000"
        if not count.isdecimal() or config.frame_size[0] != config.frame_size[1]:
            raise ValueError(f"data: expected {DIGITS}:COUNT and square frames, got {source}, {config.frame_size}")
        return data.MovingDigits(
            int(count), config.past, config.future, size=config.frame_size[0], seed=config.seed + (not train)
        )
    path = Path(source)
    if is_gridded(path):
        if config.variable is None:
            raise ValueError(f"variable: expected the name of one in {source}, got none")
        config.must_be_usual(("frame_size", "color"), no_effect)
        if skip_unreadable:
            raise ValueError(f"skip_unreadable: expected False, which {source} knows no way to do, got True")
        names = config.variable.split(",")
        return data.GriddedWindows(path, names, config.past, config.future, step=config.step, join=config.join)
    config.must_be_usual(("variable", "join", "normalize"), no_effect)
    return data.VideoWindows(
        path, config.past, config.future, size=tuple(config.frame_size), gray=not config.color, step=config.step,
        skip_unreadable=skip_unreadable,
    )  # fmt: skip


def forecasts(config):
    """Whether the run's model is a forecaster."""
    return is_forecaster(class_of(config))
