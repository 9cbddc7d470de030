"""Which items each step of an epoch takes, and which of them each process."""

import torch
from torch.utils.data import DataLoader, Sampler


class EpochBatches(Sampler):
    """The batches of one epoch, in an order drawn from (seed, epoch), for one of ``count`` processes.

    All processes together take ``batch_size`` items a step. An epoch sees every item; where the last batch lacks some
    it begins again with the epoch's first. ``begin``: how many steps are done already.

    Raises: ValueError naming the argument.
    """

    def __init__(self, items, batch_size, seed, rank=0, count=1):
        if batch_size % count:
            raise ValueError(f"batch_size: expected a multiple of the {count} processes, got {batch_size}")
        if not items:
            raise ValueError("data: expected at least one item, got none")
        self.items, self.batch_size, self.seed, self.rank, self.each = (
            items,
            batch_size,
            seed,
            rank,
            batch_size // count,
        )
        self.epoch = self.begin = 0

    @property
    def steps(self):
        """Of an epoch."""
        return -(-self.items // self.batch_size)

    def __len__(self):
        return self.steps - self.begin

    def __iter__(self):
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        order = torch.randperm(self.items, generator=generator)
        order = order.repeat(-(-self.batch_size // self.items) + 1)[: self.steps * self.batch_size]
        for batch in order.view(self.steps, self.batch_size)[self.begin :]:
            yield batch[self.rank * self.each : (self.rank + 1) * self.each].tolist()


def loader(dataset, batches, workers, pin) -> DataLoader:
    """Reads batches in other processes. Takes no random numbers from PyTorch's own generator."""
    return DataLoader(
        dataset, batch_sampler=batches, num_workers=workers, pin_memory=pin, generator=torch.Generator(),
        persistent_workers=workers > 0,
    )  # fmt: skip


def one_by_one(dataset, indices, workers, pin) -> DataLoader:
    """Items as they are, each with a first dimension of 1: those of a video's test clips differ in number."""
    return DataLoader(dataset, sampler=indices, num_workers=workers, pin_memory=pin, generator=torch.Generator())
