"""Commands of the package in processes of their own, to their end or killed on the way."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path


def _start(*arguments, launcher=()):
    command = [sys.executable, *launcher, "-m", "fastrcn", *map(str, arguments)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    root = Path(__file__).parents[2]
    # A group of its own, so that a kill reaches the processes that it has started too.
    return subprocess.Popen(
        command, env=env, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def run_to_end(*arguments, launcher=()):
    """Its output; AssertionError with it where the command fails."""
    process = _start(*arguments, launcher=launcher)
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    return output


def run_and_kill(log, rows, *arguments):
    """Kill the command without warning once its CSV file has so many rows. Returns how many it has come to."""
    process = _start(*arguments)
    until = time.monotonic() + 300
    try:
        while not log.exists() or len(log.read_text().splitlines()) <= rows:
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < until, "the command did not come so far"
            time.sleep(0.01)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    return len(log.read_text().splitlines()) - 1
