"""The fastest of several candidates, such as a kernel's configurations, found by running them once and kept on the
disk. Off unless asked for.

One file holds what was found on one kind of GPU with one version of Triton and of this package: under a key the fields
of what was chosen. Batch and time are in no key, so the first call decides for all that follow: tune on sizes like
those of the work to come.
"""

import json
import math
import os
import re
import threading
import warnings
from contextlib import contextmanager
from dataclasses import astuple
from pathlib import Path
from typing import Any

import torch

from fastrcn._version import __version__
from fastrcn.files import cache_folder, make_cache_folder, write_at_once
from fastrcn.ops.triton_support import capturing, device_of, has_triton, interpreting

_asked: list[tuple] = []
_known: dict[Path, dict] = {}
_told: set[str] = set()
_lock = threading.Lock()


@contextmanager
def use_autotune(enabled=True, *, timer=None):
    """Within this context the configurations of Triton kernels, and on GPUs the backends where none is asked for, are
    measured (or not), whatever FASTRCN_AUTOTUNE says.

    ``timer``: a function that is given another, which launches a kernel once, and returns its time, in any unit; None
    for the median on the GPU. In Triton's interpreter nothing is measured unless a timer is given.
    """
    _asked.append((bool(enabled), timer))
    try:
        yield
    finally:
        _asked.pop()


def enabled():
    """Whether configurations are measured: as the innermost ``use_autotune`` says, else FASTRCN_AUTOTUNE (0 or 1)."""
    if _asked:
        return _asked[-1][0]
    value = os.environ.get("FASTRCN_AUTOTUNE") or "0"
    if value not in ("0", "1"):
        raise ValueError(f"FASTRCN_AUTOTUNE: expected 0 or 1, got {value!r}")
    return value == "1"


def milliseconds(launch):
    """Median time of a launch on the GPU; infinite where it needs more of a processor, or more memory, than there
    is."""
    if not has_triton():
        from torch.utils.benchmark import Timer

        return 1e3 * Timer("launch()", globals={"launch": launch}).blocked_autorange().median
    from triton.runtime.errors import OutOfResources
    from triton.testing import do_bench

    try:
        time: Any = do_bench(launch, return_mode="median")
    except (OutOfResources, torch.OutOfMemoryError):
        return math.inf
    return time


def timer():
    """The function that measures; None where nothing is measured."""
    if not enabled():
        return None
    given = _asked[-1][1] if _asked else None
    return given or (None if interpreting() else milliseconds)


def file_of(device):
    """The file for a GPU's kind."""
    gpu = torch.cuda.get_device_properties(device)
    name = re.sub(r"[^A-Za-z0-9]+", "_", gpu.name)
    versions = f"{_triton_version()}-fastrcn{__version__}"
    return cache_folder() / f"autotune-{name}-sm{gpu.major}{gpu.minor}-{versions}.json"


def _triton_version():
    if not has_triton():
        return "no_triton"
    import triton

    return f"triton{triton.__version__}"


def fastest(tensor, key, candidates, default, start, lasts=lambda: True):
    """The candidate (a dataclass of what JSON has) that is fastest on the GPU of ``tensor``, as found now or before;
    ``default`` where nothing is measured.

    ``key``: a function that names what is chosen for. ``start``: a function that from a candidate makes one that runs
    it once and changes nothing that is used afterwards, or None for a candidate that cannot run. While a CUDA graph is
    captured nothing can be measured: what is not known then has its default. ``lasts``: whether what was found, asked
    when it is, holds for other processes too.
    """
    measure = timer()
    if measure is None:
        return default
    if len(candidates) == 1:
        return candidates[0]
    file, key = file_of(tensor.device), key()
    with _lock:
        found = _recall(file, key, candidates)
    if found is not None:
        return found
    if capturing(tensor):
        return default
    # Without the lock: a candidate may have choices of its own, made in another thread.
    with device_of(tensor):
        times = [math.inf if run is None else measure(run) for run in map(start, candidates)]
    with _lock:
        chosen = default if min(times) == math.inf else candidates[times.index(min(times))]
        if min(times) < math.inf and lasts():
            chosen = _record(file, key, candidates, chosen)
        _known[file][key] = list(astuple(chosen))
        return chosen


def _matching(numbers, candidates):
    """The candidate with these fields; None where there is none any more."""
    return next((c for c in candidates if list(astuple(c)) == numbers), None)


def _recall(file, key, candidates):
    """What is known under a key. The file is read where this process does not know: another may have written."""
    known = _known.setdefault(file, {})
    if key not in known:
        known.update(_read(file))
    return _matching(known.get(key), candidates)


def _read(file):
    try:
        found = json.loads(file.read_text())
        if not isinstance(found, dict):
            raise ValueError(f"expected an object, got {type(found).__name__}")
        return found
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        _tell(file, f"cannot be read ({error}): kernels are measured afresh")
        return {}


def _record(file, key, candidates, chosen):
    """Write what was chosen, and return what stands: where another process was first, its choice, so that all have the
    same."""
    import fcntl  # not on every system on which the package is imported

    try:
        make_cache_folder()
        with open(file.with_suffix(".lock"), "a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            found = _read(file)
            earlier = _matching(found.get(key), candidates)
            if earlier is None:
                text = json.dumps(found | {key: astuple(chosen)}, indent=1, sort_keys=True)
                write_at_once(file, lambda place: place.write_text(text))
            return earlier or chosen
    except OSError as error:
        _tell(file, f"cannot be written ({error}): what was measured is lost with this process")
        return chosen


def _tell(file, what):
    """Once per process."""
    text = f"fastrcn autotune: {file} {what}"
    if text not in _told:
        _told.add(text)
        warnings.warn(text, stacklevel=2)
