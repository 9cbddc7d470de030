"""Peak memory of a piece of work on the CPU."""

import ctypes
import gc
import multiprocessing
from pathlib import Path

from fastrcn import memory

_STATUS, _REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def _status(field):
    """A field of the process's status, in bytes."""
    lines = _STATUS.read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field))


def can_measure_memory() -> bool:
    """Whether this system can say how much memory a piece of work took (Linux)."""
    return _STATUS.exists() and _REFS.exists()


def peak_memory(work) -> int:
    """Bytes by which ``work()`` raised the process's resident memory at its highest. Run ``work`` once before.

    Raises RuntimeError where the system does not tell.
    """
    if not can_measure_memory():
        raise RuntimeError("peak memory: expected Linux's /proc/self/clear_refs, which this system lacks")
    gc.collect()
    memory.empty_cache()
    ctypes.CDLL(None).malloc_trim(0)
    before = _status("VmRSS")
    _REFS.write_text("5")  # sets the highest mark back to the present
    work()
    return max(0, _status("VmHWM") - before)


def _measure(queue, function, args):
    work = function(*args)
    work()
    queue.put(peak_memory(work))


def peak_memory_in_new_process(function, *args) -> int:
    """``peak_memory`` of the work that ``function(*args)`` returns, in a fresh process, after one run to warm up."""
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=_measure, args=(queue, function, args))
    process.start()
    while process.is_alive() and queue.empty():
        process.join(0.1)
    if queue.empty():
        raise RuntimeError(f"peak memory: the measuring process ended with status {process.exitcode}")
    found = queue.get()
    process.join()
    return found
