"""Seeds, and a summary of the backends that could not run and why."""

import itertools

import pytest
import torch

from fastrcn import backends, info, memory
from fastrcn.ops.triton_support import has_triton, interpreting


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


def pytest_configure():
    if interpreting() and has_triton():
        from triton.runtime import interpreter

        # It would look for overflows in each sum of integers, which takes it a third of its time, and tell of none.
        interpreter.interpreter_builder.options = interpreter.InterpreterOptions(sanitize_overflow=False)


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
