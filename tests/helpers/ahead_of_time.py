"""Triton kernels compiled ahead of time, for many tests by one process: to start one takes as long as two kernels."""

import json
import os
import subprocess
import sys
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from threading import Timer

ROOT = Path(__file__).parents[2]
SERVE = """
import json, sys, traceback
from benchmarks.__main__ import main
for line in sys.stdin:
    try:
        main(["aot", "--json", *json.loads(line)])
    except BaseException:
        print(json.dumps({"error": traceback.format_exc()}))
    print(flush=True)
"""


@contextmanager
def compiler(cache, environment=os.environ):
    """A function: the rows that ``python -m benchmarks aot --json`` prints for its arguments. ``cache``: where Triton
    keeps what it compiled."""
    environment = {k: v for k, v in environment.items() if k != "TRITON_INTERPRET"} | {"TRITON_CACHE_DIR": str(cache)}
    command, pipe = [sys.executable, "-c", SERVE], subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdin=pipe, stdout=pipe, text=True) as process:
        yield partial(_rows, process)


def _rows(process, *arguments):
    process.stdin.write(json.dumps(arguments) + "\n")
    process.stdin.flush()
    watch, rows = Timer(900, process.kill), []
    watch.start()
    try:
        for line in process.stdout:
            if line == "\n":
                break
            rows.append(json.loads(line))
        else:
            raise AssertionError(f"the process ended, with status {process.wait()}")
    finally:
        watch.cancel()
    assert not any("error" in row for row in rows), rows[-1]["error"]
    return rows
