"""Times of the backends that were measured on a kind of GPU: what ``python -m benchmarks dispatch`` wrote, and the case
in it that is nearest to a call."""

import json
import math
import warnings
from functools import cache
from pathlib import Path
from typing import NamedTuple

from fastrcn.cost import Steps, Workload

_FAR = 2.0
"""Distance from which a case says nothing of a call: of two doublings, of one size or of several."""

_PACKAGE = Path(__file__).parent


class Case(NamedTuple):
    """``group``, ``sizes``: see ``group_of`` and ``sizes_of``. ``seconds``: by backend, of those whose results were
    right."""

    name: str
    group: tuple[str, str, str, bool]
    sizes: tuple[int, ...]
    seconds: dict[str, float]


def group_of(work: Workload):
    """What a case has in common with the calls that it may stand for."""
    kind = work.kind
    name = str(kind) if isinstance(kind, Steps) else "no window" if kind.identity else "window"
    return work.operation, name, work.numbers, work.training


def sizes_of(work: Workload):
    """By what the distance goes."""
    s = work.sizes
    return s.inputs, s.channels, s.pixels, s.images * s.steps, s.cells


def file_of(capability):
    """Where the times of a compute capability (80, 90 ...) are: in an installed package, or in a checkout."""
    name, checkout = f"dispatch-sm{capability}.json", _PACKAGE.parent
    results = checkout / "benchmarks" / "results"
    return (results if (checkout / "pyproject.toml").exists() else _PACKAGE / "measured_on") / name


@cache
def cases_of(capability) -> tuple[Case, ...]:
    """What was measured on a compute capability; none where there is no file or, with a warning, a broken one."""
    file = file_of(capability)
    try:
        return read(file, capability)
    except FileNotFoundError:
        return ()
    except (OSError, ValueError, TypeError, KeyError) as error:
        told = f"{type(error).__name__}: {error}"
        warnings.warn(f"fastrcn: {file} cannot be read ({told}): as if nothing had been measured", stacklevel=2)
        return ()


def read(file, capability) -> tuple[Case, ...]:
    """A file's cases. Raises ValueError, TypeError or KeyError where it is none, or of another compute capability."""
    found = json.loads(file.read_text())
    if found["capability"] != capability:
        raise ValueError(f"expected compute capability {capability}, got {found['capability']}")
    cases = tuple(Case(c["name"], tuple(c["group"]), tuple(c["sizes"]), dict(c["seconds"])) for c in found["cases"])
    for case in cases:
        positive = all(n > 0 for n in (*case.sizes, *case.seconds.values()))
        if len(case.group) != 4 or len(case.sizes) != 5 or not positive:
            raise ValueError(f"expected a group, five sizes and times above zero, got {case}")
    return cases


def nearest(cases, work: Workload) -> Case | None:
    """The nearest case of the call's group, by the root of the sum of squares of the sizes' doublings; None where none
    is near."""
    here = [math.log2(max(1, n)) for n in sizes_of(work)]
    away = [(math.dist([math.log2(n) for n in c.sizes], here), c) for c in cases if c.group == group_of(work)]
    distance, case = min(away, key=lambda pair: pair[0], default=(math.inf, None))
    return case if distance < _FAR else None
