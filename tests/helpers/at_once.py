"""A function in several processes at once, which begin with all that this one has imported and patched."""

import multiprocessing
import traceback

import torch


def _run(function, rank, barrier, results):
    torch.set_num_threads(1)  # with more, OpenMP would wait for threads that a fork does not take along
    try:
        barrier.wait(60)
        results.put((rank, True, function(rank)))
    except BaseException:
        results.put((rank, False, traceback.format_exc()))


def at_once(function, count):
    """``function(rank)`` of ``count`` processes, in their order. AssertionError with a traceback where one fails."""
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(count), context.Queue()
    processes = [context.Process(target=_run, args=(function, rank, barrier, results)) for rank in range(count)]
    for process in processes:
        process.start()
    try:
        found = [results.get(timeout=120) for _ in processes]
    finally:
        for process in processes:
            process.join(10)
            process.kill()
    for rank, well, result in sorted(found, key=lambda entry: entry[0]):
        assert well, f"process {rank}: {result}"
    return [result for _, _, result in sorted(found, key=lambda entry: entry[0])]
