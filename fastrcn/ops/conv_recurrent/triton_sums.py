"""How many sums of convolutions a kernel of a cell makes at once: each takes registers of every thread."""

from concurrent.futures import ThreadPoolExecutor
from functools import cache

from fastrcn.compiler.schedule import schedule_of
from fastrcn.ops.conv_recurrent.dry_run import dry_run
from fastrcn.ops.conv_recurrent.fused import Save
from fastrcn.ops.conv_recurrent.input_schedule import asked_schedule
from fastrcn.ops.conv_recurrent.triton_config import MOST_SLOTS
from fastrcn.ops.conv_recurrent.triton_work import Work, split


def most_sums(key):
    """The sums of the phase of a cell that makes most, forward or backward; where those of all phases together are no
    more than ``MOST_SLOTS``, their number."""
    schedule = schedule_of(key)
    together = max(sum(len(group.slots) for group in schedule.groups), len(schedule.operands))
    return together if together <= MOST_SLOTS else _of_phases(key, asked_schedule())


@cache
def _of_phases(key, schedule):
    """``schedule``: what is asked for, which the dry run follows; else inputs are convolved in the loop, where no phase
    makes fewer sums."""
    counts = []

    class Counter:
        """Counts the sums of the phases of a program and runs nothing."""

        chunk_pixels, fewest_chunks, runs_whole = (1, 1), (1, 1), False

        @staticmethod
        def convolves_inputs(geometry, dtype, device):
            return True

        def __init__(self, geometry, steps, *arguments):
            works = [work for work in split(steps) if isinstance(work, Work)]
            counts.extend(len(work.slots(geometry.channels)) for work in works)

        def run(self, start, count, is_first):
            pass

        run_backward = run

    def count():
        for save in (Save.NOTHING, Save.STATES):
            dry_run(Counter, Counter, key, save=save)

    # Modes of PyTorch, such as that of tensors without memory, are of one thread.
    with ThreadPoolExecutor(1) as thread:
        thread.submit(count).result()
    return max(counts)
