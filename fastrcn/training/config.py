"""Everything that decides a training run: from flags, from a YAML file, or from Python."""

import argparse
import contextlib
import dataclasses
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

OPTIMIZERS = ("adamw", "adam", "sgd")
SCHEDULES = ("cosine", "constant")
AMP = ("none", "bfloat16", "float16")
PARALLEL = ("ddp", "fsdp")
TRANSFER = ("full_ft", "fixed")
LOSSES = ("mse", "cross_entropy")


def _option(default, text, **extra) -> Any:
    """A field, with what the command says of it."""
    metadata = {"help": text, **extra}
    if isinstance(default, (dict, list)):
        return field(default_factory=lambda: type(default)(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass
class Config:
    """The options of ``python -m fastrcn train``; each field is the flag of its name, and a key of the YAML file.

    Raises: ValueError naming the field, by ``check``.
    """

    model: str = _option("", "name of a model (fastrcn.models.list_models()), or package.module:function of your own")
    small: bool = _option(False, "the model's small configuration, for trying things out")
    model_options: dict[str, Any] = _option({}, "option of the model's class, several times", metavar="NAME=VALUE")
    weights: str | None = _option(None, "file with a state dict to begin with, also of other classes", metavar="PATH")
    transfer: str = _option("full_ft", "with weights: train all, or the last layer alone (fixed)", choices=TRANSFER)
    like: str | None = _option(None, "a model of your own is fed and judged as this named one", metavar="MODEL")
    backend: str | None = _option(None, "of fastrcn's layers (default: the best that can run)")

    data: str = _option("", "folder with a folder per class, CSV file, video, NetCDF/HDF5 file, or moving-digits")
    validation: str | None = _option(None, "the same for validation, after every epoch", metavar="DATA")
    hold_out: float = _option(0.0, "share of the data kept for validation instead", metavar="SHARE")
    skip_unreadable: bool = _option(False, "leave out files that are damaged or too short; they are counted and named")
    workers: int = _option(2, "processes that read data, for each training process")

    protocol: str | None = _option(None, "whose clips and crops (fastrcn.data.PROTOCOLS); default: the model's paper's")
    frames: int | None = _option(None, "frames of a clip, instead of the protocol's")
    size: int | None = _option(None, "pixels of a crop's side, instead of the protocol's; other sizes in proportion")
    mean: list[float] | None = _option(
        None, "subtracted from red, green, blue (from 0 to 1); default: ImageNet's, for I3D 0.5", nargs=3, metavar="X"
    )
    std: list[float] | None = _option(
        None, "by which they are then divided; default: ImageNet's, for I3D 0.5", nargs=3, metavar="X"
    )
    flow_method: str = _option("tv_l1", "of optical flow, where a model reads it")
    flow_cache: str | None = _option(None, "folder that keeps computed flow", metavar="DIR")

    past: int = _option(10, "forecasters: frames that are seen")
    future: int = _option(10, "forecasters: frames that are predicted")
    frame_size: list[int] = _option([64, 64], "forecasters: height and width of frames", nargs=2, metavar="PIXELS")
    step: int = _option(1, "forecasters: a window begins at every so many frames")
    color: bool = _option(False, "forecasters: red, green and blue instead of gray")
    variable: str | None = _option(None, "forecasters: of NetCDF or HDF5 files; several with commas are channels")
    join: bool = _option(False, "forecasters: such files are parts of one sequence")
    normalize: bool = _option(False, "forecasters: such values less their mean, over their standard deviation")
    loss: str = _option("mse", "forecasters: mse, or cross_entropy of values from 0 to 1", choices=LOSSES)

    epochs: int = _option(10, "times that all data are seen")
    batch_size: int = _option(8, "clips of a step, of all processes together")
    optimizer: str = _option("adamw", "which", choices=OPTIMIZERS)
    learning_rate: float = _option(1e-3, "at its highest")
    momentum: float = _option(0.9, "of sgd")
    weight_decay: float = _option(0.0, "of the optimizer")
    schedule: str = _option("cosine", "of the learning rate, step by step, to zero or not", choices=SCHEDULES)
    warmup: int = _option(0, "steps in which the learning rate rises linearly")
    clip_norm: float | None = _option(None, "gradients of a larger norm are scaled down to it")
    amp: str = _option("none", "type of automatic mixed precision", choices=AMP)
    seed: int = _option(0, "of weights, order, clips, crops and dropout")

    out: str = _option("", "folder of the run", metavar="DIR")
    save_every: int = _option(0, "steps between checkpoints, beside that of every epoch; 0 for none")
    tensorboard: bool = _option(False, "also write a log for TensorBoard")
    device: str | None = _option(None, 'such as "cuda" or "cpu" (default: a GPU if there is one)')
    threads: int | None = _option(None, "of each process on the CPU (default: PyTorch's)")
    parallel: str = _option("ddp", "how several processes (torchrun) share the work", choices=PARALLEL)
    shard: list[str] = _option(
        [], "with fsdp: names of module classes that are sharded on their own, beside fastrcn's recurrent layers",
        nargs="*", metavar="CLASS",
    )  # fmt: skip
    sync_batch_norm: bool = _option(False, "batch normalisation over all processes' clips")

    def check(self):
        """This, if every field is usable."""
        for name in ("model", "data", "out"):
            if not getattr(self, name):
                raise ValueError(f"{name}: expected one, got none")
        for name in ("epochs", "batch_size", "past", "future", "step"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected a positive int, got {getattr(self, name)}")
        for name in ("workers", "warmup", "save_every", "seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: expected a number that is not negative, got {getattr(self, name)}")
        for name in ("frames", "size", "threads", "clip_norm"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name}: expected a positive number, got {value}")
        for name, other, value in (("momentum", "optimizer", "sgd"), ("shard", "parallel", "fsdp")):
            if getattr(self, other) != value:
                self.must_be_usual((name,), f" without {other}={value}")
        if self.std is not None and min(self.std) <= 0:
            raise ValueError(f"std: expected positive numbers, got {self.std}")
        if self.transfer != "full_ft" and self.weights is None:
            raise ValueError(f"transfer: expected full_ft without weights, got {self.transfer!r}")
        if not 0 <= self.hold_out < 1:
            raise ValueError(f"hold_out: expected a share from 0 to below 1, got {self.hold_out}")
        if self.hold_out and self.validation:
            raise ValueError(f"hold_out: expected 0 with validation={self.validation}, got {self.hold_out}")
        if self.learning_rate <= 0:
            raise ValueError(f"learning_rate: expected a positive number, got {self.learning_rate}")
        for each in dataclasses.fields(self):
            choices = each.metadata.get("choices")
            if choices and getattr(self, each.name) not in choices:
                raise ValueError(f"{each.name}: expected one of {', '.join(choices)}, got {getattr(self, each.name)!r}")
        return self

    def must_be_usual(self, names, why):
        """Raises ValueError for the first field among these that differs from its default; ``why`` follows that."""
        for name in names:
            usual, value = getattr(Config(), name), getattr(self, name)
            if value != usual:
                raise ValueError(f"{name}: expected {usual!r}{why}, got {value!r}")


OF_CLASSIFIERS = ("protocol", "frames", "size", "mean", "std", "flow_method", "flow_cache", "transfer")
OF_FORECASTERS = ("past", "future", "frame_size", "step", "color", "variable", "join", "normalize", "loss")
FIELDS = {each.name: each for each in dataclasses.fields(Config)}
CHANGEABLE = ("epochs", "workers", "save_every", "tensorboard", "device", "threads", "parallel", "shard", "out")
"""What may be another when a run is resumed. With more epochs the learning rate's schedule is another too."""


def _kind(name) -> tuple[Any, Any, bool]:
    """(list, dict or None; the type of a value; whether None is one) of a field."""
    kind: Any = FIELDS[name].type
    optional = type(None) in typing.get_args(kind)
    if optional:
        kind = typing.get_args(kind)[0]
    many = typing.get_origin(kind)
    return many, typing.get_args(kind)[-1] if many else kind, optional


def _typed(name, value) -> Any:
    """The value as the field's type; ValueError for one that is not."""
    many, inner, optional = _kind(name)
    if value is None and optional:
        return None
    if many is list:
        if not isinstance(value, (list, tuple)):
            raise ValueError(f"{name}: expected a list, got {value!r}")
        expected = FIELDS[name].metadata.get("nargs")
        if isinstance(expected, int) and len(value) != expected:
            raise ValueError(f"{name}: expected {expected} values, got {value!r}")
        return [_scalar(name, inner, item) for item in value]
    if many is dict:
        if not isinstance(value, dict):
            raise ValueError(f"{name}: expected names with values, got {value!r}")
        return dict(value)
    return _scalar(name, inner, value)


def _scalar(name, kind, value):
    if kind is float and isinstance(value, (int, str)) and not isinstance(value, bool):
        try:
            return float(value)  # YAML reads 1e-3 as text
        except ValueError:
            pass
    if type(value) is not kind:
        raise ValueError(f"{name}: expected {kind.__name__}, got {value!r}")
    return value


def _yaml() -> Any:
    try:
        import yaml
    except ImportError as error:
        raise ImportError('YAML needs PyYAML, which is not installed: pip install "fastrcn[train]"') from error
    return yaml


def from_dict(values) -> Config:
    """A Config of names with values. ValueError for a name that no field has, and for a value of another type."""
    unknown = sorted(set(values) - set(FIELDS))
    if unknown:
        raise ValueError(f"{unknown[0]}: expected one of {', '.join(FIELDS)}")
    return Config(**{name: _typed(name, value) for name, value in values.items()})


def read(path) -> dict[str, Any]:
    """The names and values in a YAML file. Raises FileNotFoundError, and ValueError naming the file."""
    path, yaml = Path(path), _yaml()
    if not path.is_file():
        raise FileNotFoundError(f"config: there is no file {path}")
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"config: {path} is not YAML: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"config: expected names with values in {path}, got {type(found).__name__}")
    return found


def to_yaml(config) -> str:
    """What ``read`` understands, every field named."""
    return _yaml().safe_dump(dataclasses.asdict(config), sort_keys=False)


def _pair(text):
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE, got {text!r}")
    yaml = _yaml()
    try:
        found = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE with a value in YAML, got {text!r}: {error}") from error
    with contextlib.suppress(ValueError):
        found = float(found) if isinstance(found, str) else found  # 5e-1 is text to YAML
    return name, found


def add_arguments(parser, names=tuple(FIELDS)):
    """A flag for each field; what is not given is not in the namespace."""
    for name in names:
        (many, inner, _), metadata = _kind(name), dict(FIELDS[name].metadata)
        default = getattr(Config(), name)
        text = metadata.pop("help")
        if default not in (None, "", False, {}, []) and "default:" not in text:
            shown = " ".join(map(str, default)) if isinstance(default, list) else default
            text += f" (default: {shown})"
        flag, options = "--" + name.replace("_", "-"), {**metadata, "default": argparse.SUPPRESS}
        if inner is bool:
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, help=text, default=argparse.SUPPRESS)
        elif many is dict:
            parser.add_argument("--model-option", dest=name, action="append", type=_pair, help=text, **options)
        else:
            parser.add_argument(flag, type=inner, help=text.replace("%", "%%"), **options)


def joined(before, after) -> dict[str, Any]:
    """The fields of both, the later ones going before; of the options of a model each for itself."""
    options = [values["model_options"] for values in (before, after) if isinstance(values.get("model_options"), dict)]
    both = {**before, **after}
    if len(options) == 2:
        both["model_options"] = {**options[0], **options[1]}
    return both


def given(args) -> dict[str, Any]:
    """The fields that were given as flags."""
    found = {name: value for name, value in vars(args).items() if name in FIELDS}
    if "model_options" in found:
        found["model_options"] = dict(found["model_options"])
    return found
