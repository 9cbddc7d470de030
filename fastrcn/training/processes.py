"""The processes that share a training run: one, or those that ``torchrun`` has started."""

import os
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.nn.parallel import DistributedDataParallel

from fastrcn.layers import ConvRecurrent


@dataclass(frozen=True)
class Processes:
    """This process among ``count``, and the device that it computes on."""

    rank: int
    count: int
    device: torch.device

    @property
    def first(self):
        """Whether this one writes the files and tells how it goes."""
        return self.rank == 0

    def gather(self, thing) -> list[Any]:
        """What every process has, in order, in every process."""
        if self.count == 1:
            return [thing]
        found: list[Any] = [None] * self.count
        dist.all_gather_object(found, thing)
        return found

    def mean(self, value: torch.Tensor) -> float:
        """The mean over the processes of a number."""
        value = value.detach().double().cpu() if self.device.type == "cpu" else value.detach().float()
        if self.count > 1:
            value = value.clone()
            dist.all_reduce(value)
            value /= self.count
        return float(value)

    def share_buffers(self, module: nn.Module):
        """Give all processes the first one's buffers, such as batch normalisation's running statistics."""
        if self.count > 1:
            for buffer in module.buffers():
                dist.broadcast(buffer, 0)

    def once(self, action):
        """``action()`` in the first process; what it raises is raised in all, so that none waits for the others."""
        failed = None
        if self.first:
            try:
                action()
            except (ValueError, OSError, ImportError) as error:
                failed = error
        failed = self.gather(failed)[0]
        if failed is not None:
            raise failed

    def wait(self):
        """Until all processes are here."""
        if self.count > 1:
            dist.barrier()


def is_first() -> bool:
    """Whether this process is the first of those that torchrun has started, or the only one."""
    return os.environ.get("RANK", "0") == "0"


def _device(name, together):
    """The device of a name, or the best; ValueError where there is none such."""
    try:
        kind = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError:
        raise ValueError(f'device: expected a name such as "cuda" or "cpu", got {name!r}') from None
    if kind.type != "cuda":
        return kind
    if not torch.cuda.is_available():
        raise ValueError(f"device: expected cpu, PyTorch finds no GPU here, got {name!r}")
    if together and kind.index is not None:
        raise ValueError(f'device: expected "cuda" with torchrun, which gives each process its own, got {name!r}')
    if kind.index is None:
        own = os.environ.get("LOCAL_RANK") if together else None
        kind = torch.device("cuda", torch.cuda.current_device() if own is None else int(own))
    return kind


@contextmanager
def start(device=None, threads=None):
    """Join the processes that torchrun has started, or a process group that there is; else this is the only one.

    Each process computes on the GPU of its number on its machine, or all on the CPU, with so many ``threads``.

    Raises: ValueError naming the argument.
    """
    if threads is not None:
        if threads < 1:
            raise ValueError(f"threads: expected a positive int, got {threads}")
        torch.set_num_threads(threads)
    together = dist.is_initialized() or ("RANK" in os.environ and "WORLD_SIZE" in os.environ)
    kind = _device(device, together)
    if kind.type == "cuda":
        torch.cuda.set_device(kind)
    begun = together and not dist.is_initialized()
    if begun:
        dist.init_process_group(backend="nccl" if kind.type == "cuda" else "gloo")
    try:
        yield Processes(dist.get_rank(), dist.get_world_size(), kind) if together else Processes(0, 1, kind)
    finally:
        if begun:
            dist.destroy_process_group()


def synchronize(module: nn.Module, processes: Processes) -> nn.Module:
    """A module whose batch normalisations take the mean and variance of all processes' clips.

    Raises: ValueError on the CPU, and where a normalisation does more than that, which would be lost.
    """
    if processes.device.type == "cpu":
        raise ValueError("sync_batch_norm: expected False on the CPU, PyTorch synchronises on GPUs only, got True")
    plain = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
    for name, part in module.named_modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm) and type(part) not in plain:
            raise ValueError(f"sync_batch_norm: expected plain batch normalisations, {name} is {type(part).__name__}")
    return nn.SyncBatchNorm.convert_sync_batchnorm(module)


def share(module: nn.Module, processes: Processes, parallel, shard=()) -> nn.Module:
    """A module whose processes average their gradients: DDP, or FSDP2, which also shares out weights and optimizer.

    With FSDP2 fastrcn's recurrent layers, and modules of the classes named in ``shard``, are gathered each when it
    runs, all else with the whole. Raises ValueError for a name in ``shard`` that no module's class has.
    """
    names = {type(m).__name__ for m in module.modules()}
    if unknown := sorted(set(shard) - names):
        raise ValueError(f"shard: expected classes of the model's modules ({', '.join(sorted(names))}), got {unknown}")
    if processes.count == 1:
        return module
    if parallel == "ddp":
        ids = None if processes.device.index is None else [processes.device.index]
        return DistributedDataParallel(module, device_ids=ids)
    for inner in reversed(list(module.modules())):  # the innermost first
        if inner is not module and (isinstance(inner, ConvRecurrent) or type(inner).__name__ in shard):
            fully_shard(inner)
    fully_shard(module)
    return module


@contextmanager
def gathered(module):
    """Weights that FSDP2 has shared out are whole meanwhile, so that processes may run it at times of their own."""
    parts = [m for m in module.modules() if isinstance(m, FSDPModule)]
    for part in parts:
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    try:
        yield
    finally:
        for k, part in enumerate(parts):
            part.reshard()
            part.set_reshard_after_forward(k > 0, recurse=False)
