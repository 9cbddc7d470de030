"""Time that work takes on a GPU, by the GPU's own clock: without what Python does before the GPU begins and after it
ends, as in a training that queues its steps."""

import statistics
from typing import Any

import torch

from fastrcn.ops.triton_support import has_triton

_WARM_UP, _RUNS = 3, 20


def has_clock(device):
    """Whether a device has a clock of its own."""
    return torch.device(device).type == "cuda"


def seconds(work):
    """(median, least, most) of several runs, by Triton's do_bench, or by CUDA events where there is no Triton."""
    if has_triton():
        from triton.testing import do_bench

        times: Any = do_bench(work, return_mode="all")
    else:
        times = _by_events(work)
    return statistics.median(times) / 1e3, min(times) / 1e3, max(times) / 1e3


def _by_events(work):
    """Milliseconds of each run."""
    for _ in range(_WARM_UP):
        work()
    events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(_RUNS)]
    for begin, end in events:
        begin.record()
        work()
        end.record()
    torch.cuda.synchronize()
    return [begin.elapsed_time(end) for begin, end in events]
