"""Models by name: ``create("gru_rcn", num_classes=101)``, ``list_models()``."""

from collections.abc import Callable
from dataclasses import dataclass, field
from fnmatch import fnmatch
from typing import Any

from torch import nn


@dataclass(frozen=True)
class Entry:
    """A model as it can be made by name.

    ``paper``: authors, year, identifier. ``kernels``: the layers or operators of this package that it runs on; empty
    where it is plain PyTorch. ``options``: what makes the variant of that name out of the class. ``small``: a
    configuration that runs in a moment, for tests.
    """

    name: str
    model: Callable[..., nn.Module]
    paper: str
    kernels: tuple[str, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    small: dict[str, Any] = field(default_factory=dict)


_ENTRIES: dict[str, Entry] = {}


def register(name, *, paper, kernels=(), small=None, **options):
    """Decorates a model's class; may be applied several times, once for each variant that has a name.

    The class must have ``example_inputs(batch)``, which gives the arguments of a forward pass as a tuple.
    """

    def add(model):
        if name in _ENTRIES:
            raise ValueError(f"name: there is a model {name!r} already")
        kernels_of = (kernels,) if isinstance(kernels, str) else tuple(kernels)
        _ENTRIES[name] = Entry(name, model, paper, kernels_of, options, small or {})
        return model

    return add


def describe(name) -> Entry:
    """What is known of a model. Raises ValueError for a name that no model has."""
    if name not in _ENTRIES:
        raise ValueError(f"name: expected one of {', '.join(list_models())}, got {name!r}")
    return _ENTRIES[name]


def list_models(pattern="*") -> list[str]:
    """Names of the models, sorted; ``pattern`` as in file names."""
    return sorted(name for name in _ENTRIES if fnmatch(name, pattern))


def create(name, *, small=False, **options) -> nn.Module:
    """Make a model by name, in its paper's size, or in a ``small`` one for trying things out.

    ``options`` are those of the model's class and take the place of what the name or ``small`` says. Raises ValueError
    for an unknown name, and what the class raises.
    """
    entry = describe(name)
    return entry.model(**{**entry.options, **(entry.small if small else {}), **options})
