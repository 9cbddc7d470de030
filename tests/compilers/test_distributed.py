"""DDP and FSDP2: two processes with the layers of all columns have the mean of each one's gradients."""

import os

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from tests.compilers.subjects import AXES, SUBJECTS, Everything, inputs, weighted
from tests.compilers.table import columns_with
from tests.helpers.tolerances import assert_close

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]


def _module():
    torch.manual_seed(0)
    return Everything(SUBJECTS)


def _loss(module, given, rank):
    """Of a process's two sequences; its random numbers are its own."""
    own = {name: t.narrow(AXES[name][1], 2 * rank, 2) for name, t in given.items()}
    torch.manual_seed(rank)
    return weighted([output for outputs in module(**own).values() for output in outputs])


def _train_on(rank, folder, kind):
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    torch.set_num_threads(1)
    model = _module()
    if kind == "ddp":
        model = nn.parallel.DistributedDataParallel(model)
    else:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh("cpu", (2,))
        for layer in model.values():
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
    _loss(model, torch.load(f"{folder}/inputs.pt"), rank).backward()
    grads = {}
    for name, p in model.named_parameters():
        grads[name.removeprefix("module.")] = p.grad.full_tensor() if kind == "fsdp2" else p.grad
    if rank == 0:
        torch.save(grads, f"{folder}/grads.pt")
    dist.barrier()
    # Gloo's destructor joins, with Python's lock held, a thread that may be waiting for that lock: leave without it.
    os._exit(0)


def _gradients(kind, folder):
    """(the gradients of two processes, the means of what each one's loss has in this process), by name."""
    given = inputs(3, 4)
    torch.save(given, folder / "inputs.pt")
    mp.spawn(_train_on, args=(str(folder), kind), nprocs=2)
    parts = []
    for rank in range(2):
        module = _module()
        _loss(module, given, rank).backward()
        parts.append({name: p.grad for name, p in module.named_parameters()})
    return torch.load(folder / "grads.pt"), {name: (parts[0][name] + parts[1][name]) / 2 for name in parts[0]}


@pytest.fixture(scope="module")
def of_ddp(tmp_path_factory):
    return _gradients("ddp", tmp_path_factory.mktemp("ddp"))


@pytest.fixture(scope="module")
def of_fsdp2(tmp_path_factory):
    return _gradients("fsdp2", tmp_path_factory.mktemp("fsdp2"))


def _check(column, gradients):
    found, truth = gradients
    names = [name for name in truth if name.startswith(f"{column}.")]
    assert len(names) >= 3
    for name in names:
        assert_close(found[name], truth[name], name)


@pytest.mark.parametrize("column", columns_with("test_ddp", "yes"))
def test_ddp(column, of_ddp):
    _check(column, of_ddp)


@pytest.mark.parametrize("column", columns_with("test_fsdp2", "yes"))
def test_fsdp2(column, of_fsdp2):
    _check(column, of_fsdp2)
