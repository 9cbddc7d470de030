"""benchmarks/gpu_check.sh: its parts end in time, and its tables together have every case."""

import os
import re
import subprocess
from pathlib import Path

from benchmarks import cases

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "gpu_check.sh"
PARTS = re.findall(r'^ *part "?([\w$-]+)"? (\d+) ((?:.*\\\n)*.*)$', SCRIPT.read_text(), re.MULTILINE)


def test_no_time_is_left(tmp_path):
    """Then parts that did not run are told, and one that there is not."""
    command = ["bash", str(SCRIPT), str(tmp_path / "out"), "info", "nothing"]
    found = subprocess.run(
        command, env=os.environ | {"FASTRCN_GPU_LIMIT": "0"}, capture_output=True, text=True, timeout=300
    )
    assert found.returncode == 1
    lines = (tmp_path / "out" / "summary.txt").read_text().splitlines()
    assert lines[:3] == [f"{name:21} NOT RUN: no time was left" for name in ("machine", "build", "info")]
    assert lines[3].startswith("nothing is no part; there are: machine build info tests bench-bf16 ")
    assert found.stdout.splitlines() == lines


def test_limits():
    """Every part in a call of ten minutes; building, correctness and the first tables in half an hour."""
    limits = {name: int(seconds) for name, seconds, _ in PARTS}
    assert len(limits) == len(PARTS)
    assert max(limits.values()) <= 600
    assert list(limits)[:6] == ["machine", "build", "info", "tests", "bench-bf16", "bench-conv3d"]
    assert sum(list(limits.values())[:6]) <= 1740


def test_every_case_is_measured():
    measured = {}
    for name, _, command in PARTS:
        for patterns in re.findall(r"--cases '([^']*)'", command):
            for pattern in patterns.split(","):
                assert cases.find(pattern), f"{name}: {pattern} matches no case"
            measured[name] = {case.name for case in cases.find(patterns)}
    tables = [measured[name] for name in ("bench-bf16", "bench-conv3d", "bench-own")]
    assert set.union(*tables) == {case.name for case in cases.CASES}
    assert sum(map(len, tables)) == len(cases.CASES)
