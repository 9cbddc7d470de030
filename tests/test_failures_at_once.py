"""The plugin that tells failures when they happen: a run that is killed has told them, side by side too."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

TESTS = """
import time

def test_wrong():
    assert "found" == "expected"

def test_long():
    time.sleep(600)
"""


@pytest.mark.parametrize("options", [(), ("-p", "xdist", "-n", "1")], ids=["alone", "side_by_side"])
def test_killed_run(tmp_path, options):
    (tmp_path / "test_made_up.py").write_text(TESTS)
    command = [sys.executable, "-m", "pytest", "-p", "tests.helpers.failures_at_once", *options, "--rootdir"]
    with open(tmp_path / "log", "w") as log:
        run = subprocess.Popen([*command, tmp_path, tmp_path], cwd=Path(__file__).parents[1], stdout=log)
        for _ in range(300):
            time.sleep(0.1)
            if "AssertionError" in (tmp_path / "log").read_text():
                break
        run.send_signal(signal.SIGKILL)
        run.wait()
    text = (tmp_path / "log").read_text()
    assert "test_wrong, call:" in text
    assert "assert 'found' == 'expected'" in text
