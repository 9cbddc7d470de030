"""Two processes on the CPU train as one does: with DDP, and with FSDP2, which shares out weights and optimizer."""

import csv

import pytest
import torch

from fastrcn import BatchNormReLUPool3d
from fastrcn.training import checkpoint
from fastrcn.training.processes import Processes, share, start, synchronize
from tests.helpers.killed import run_to_end

TWO = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")

SGD = ("--optimizer", "sgd", "--momentum", "0", "--learning-rate", "0.1")


def table(path, *columns):
    with path.open(newline="") as file:
        return torch.tensor([[float(row[c]) for c in columns] for row in csv.DictReader(file)], dtype=torch.float64)


def options(videos, out, *more):
    # LSTM and 3-D convolutions, both on fastrcn's layers; no dropout and no batch normalisation.
    return [
        "train", "--model", "tests.helpers.own_model:make_recurrent", "--like", "c3d", "--frames", "8", "--size", "24",
        "--data", videos, "--hold-out", "0.34", "--epochs", "2", "--batch-size", "4", "--clip-norm", "0.5",
        "--workers", "0", "--out", out, *more,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def alone(videos, tmp_path_factory):
    out = tmp_path_factory.mktemp("alone") / "run"
    run_to_end(*options(videos, out, *SGD))
    return out


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_processes_are_as_one(videos, alone, tmp_path, parallel):
    out = tmp_path / "run"
    output = run_to_end(*options(videos, out, "--parallel", parallel, *SGD), launcher=TWO)
    assert output.count("validation_loss") == 1  # one of them tells
    columns = "loss", "gradient_norm"
    found, expected = table(out / "steps.csv", *columns), table(alone / "steps.csv", *columns)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    columns = "validation_loss", "accuracy"
    found, expected = table(out / "epochs.csv", *columns), table(alone / "epochs.csv", *columns)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    # Weights have moved by the gradients alone. They are whole in the file, under the names of the model alone.
    found, expected = (checkpoint.load(place / "last.pt") for place in (out, alone))
    assert found["model"].keys() == expected["model"].keys()
    for name, value in expected["model"].items():
        torch.testing.assert_close(found["model"][name], value, rtol=1e-5, atol=1e-6)
    assert len(found["random"]) == 2
    # One process goes on with what two have begun.
    run_to_end("train", "--resume", "--epochs", "3", "--out", out)
    assert checkpoint.load(out / "last.pt")["progress"]["epoch"] == 3


@pytest.mark.slow
def test_a_run_of_two_goes_on_with_two(videos, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    more = "--parallel", "fsdp", "--schedule", "constant"  # and AdamW, whose state is shared out too
    run_to_end(*options(videos, whole, *more), launcher=TWO)
    run_to_end(*options(videos, parts, *more, "--epochs", "1"), launcher=TWO)
    run_to_end("train", "--resume", "--epochs", "2", "--out", parts, launcher=TWO)
    assert (parts / "epochs.csv").read_bytes() == (whole / "epochs.csv").read_bytes()
    found, expected = (checkpoint.load(place / "last.pt") for place in (parts, whole))
    assert all(torch.equal(found["model"][name], value) for name, value in expected["model"].items())


def test_classes_that_are_to_be_sharded_must_be_there():
    net = torch.nn.Sequential(torch.nn.Linear(2, 2))
    one = Processes(0, 1, torch.device("cpu"))
    assert share(net, one, "fsdp", ["Linear"]) is net
    with pytest.raises(ValueError, match=r"shard: expected classes of the model's modules \(Linear, Sequential\), got"):
        share(net, one, "fsdp", ["Bottleneck"])


def test_what_cannot_be_synchronized_is_named():
    gpu = Processes(0, 2, torch.device("cuda", 0))
    net = torch.nn.Sequential(torch.nn.Conv3d(3, 4, 1), torch.nn.BatchNorm3d(4))
    assert isinstance(synchronize(net, gpu)[1], torch.nn.SyncBatchNorm)
    with pytest.raises(ValueError, match="sync_batch_norm: expected False on the CPU"):
        synchronize(net, Processes(0, 2, torch.device("cpu")))
    net[1] = BatchNormReLUPool3d(4, pool_kernel_size=2)
    with pytest.raises(ValueError, match=r"sync_batch_norm: expected plain .* 1 is BatchNormReLUPool3d"):
        synchronize(net, gpu)


def test_devices_by_name(monkeypatch):
    with pytest.raises(ValueError, match='device: expected a name such as "cuda" or "cpu", got \'gpu\''), start("gpu"):
        pass
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="device: expected cpu, PyTorch finds no GPU here"), start("cuda"):
        pass
    with pytest.raises(ValueError, match="threads: expected a positive int, got -1"), start("cpu", -1):
        pass
    with start() as processes:
        assert (processes.rank, processes.count, processes.device.type) == (0, 1, "cpu")

    taken = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: taken.append(str(device)))
    for name in (None, "cuda", "cuda:1"):
        with start(name):
            pass
    assert taken == ["cuda:2", "cuda:2", "cuda:1"]  # a device without a number cannot be set


def test_what_the_first_process_cannot_do_is_an_error_in_all(monkeypatch):
    def fail():
        raise ValueError("full disk")

    gathered = []

    def gather(self, thing):
        gathered.append(thing)
        return [gathered[0], None]

    monkeypatch.setattr(Processes, "gather", gather)
    for rank in (0, 1):
        with pytest.raises(ValueError, match="full disk"):
            Processes(rank, 2, torch.device("cpu")).once(fail)
    assert gathered[1] is None
