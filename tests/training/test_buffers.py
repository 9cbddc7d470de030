"""All processes measure with the running statistics that the checkpoint holds: those of the first."""

from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from torch import nn

from fastrcn.training.config import Config
from fastrcn.training.loop import measure
from fastrcn.training.processes import Processes
from tests.helpers.at_once import at_once

pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")


def test_what_is_measured_is_what_is_kept(tmp_path, one_thread):
    def run(rank):
        dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=rank, world_size=2)
        norm = nn.BatchNorm1d(1, eps=0)
        norm.running_mean.fill_(10 * rank)  # each has seen other clips
        task = SimpleNamespace(config=Config(workers=0), record=lambda objective, item: float(objective(item[0])))
        items = [(torch.tensor([float(n)]),) for n in range(3)]
        found = measure(task, norm, items, Processes(rank, 2, torch.device("cpu")))
        dist.barrier()
        return found, norm.running_mean.tolist(), norm.training

    assert at_once(run, 2) == [([0.0, 1.0, 2.0], [0.0], True)] * 2
