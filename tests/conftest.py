"""Seeds, and a summary of the backends that could not run and why."""

import itertools

import pytest
import torch

from fastrcn import backends, info, memory


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture
def one_thread():
    """For small maps, which take longer on several."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def poisoned_memory(monkeypatch):
    """Uninitialised memory reads as NaN."""
    plain = memory.empty
    monkeypatch.setattr(memory, "empty", lambda *a: plain(*a).fill_(float("nan")))
    torch.use_deterministic_algorithms(True)  # fills torch.empty with NaN
    yield
    torch.use_deterministic_algorithms(False)


def pytest_collection_modifyitems(items):
    # The long ones first, before all those of Triton: begun last, one process would be alone with them in the end.
    items.sort(key=lambda item: [item.get_closest_marker(mark) is None for mark in ("slow", "triton")])
    for item in items:
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device, this machine has none"))


def pytest_terminal_summary(terminalreporter):
    terminalreporter.section("backends")
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    for device in devices:
        for operation, name in itertools.product(info.OPERATIONS, backends.NAMES):
            ok, reason = info.can_run(operation, name, torch.float32, device)
            terminalreporter.write_line(f"{device} {operation} {name}: {'runs' if ok else 'cannot run'}: {reason}")
