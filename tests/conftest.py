"""Seeds, and a summary of the backends that could not run and why."""

import pytest
import torch

from fastrcn import backends, cells


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def pytest_collection_modifyitems(items):
    for item in items:
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device, this machine has none"))


def pytest_terminal_summary(terminalreporter):
    terminalreporter.section("backends")
    key = cells.ConvLSTM().key
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    for device in devices:
        for name in backends.NAMES:
            ok, reason = backends.can_run("conv_recurrent", name, key, torch.float32, device)
            terminalreporter.write_line(f"{device} {name}: {'runs' if ok else 'cannot run'}: {reason}")
