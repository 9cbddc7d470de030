"""benchmarks/gpu_check.sh: its parts end in time, and its tables together have every case."""

import os
import re
import subprocess
import time
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


SIMULATED = """
waits() { within sleep 60; }
leaves() { sleep 61 & echo $! >"$out/left"; }
skips() { echo "===== 5 skipped in 0.10s ====="; }
passes() { echo "===== 3 passed, 5 skipped in 0.10s ====="; }
part machine 60 true
part waits 1 waits
part leaves 60 leaves
part crashes 60 bash -c 'kill -SEGV $$'
part missing 60 no-such-command
part skips 60 skips
part passes 60 passes
"""


def simulate(out, parts, **options):
    """The script with these parts in place of its own."""
    text = SCRIPT.read_text()
    begin, end = text.index("part machine 60 machine\n"), text.index('for name in "${wanted[@]}"')
    command = ["bash", "-c", text[:begin] + parts + text[end:], str(SCRIPT), str(out)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **options)


def ends(file):
    """Whether the process whose number is in the file ends now. One that has may still be known, without a command."""
    command, until = Path("/proc", file.read_text().strip(), "cmdline"), time.monotonic() + 20
    while command.exists() and command.read_bytes():
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True


def test_parts_that_fail(tmp_path):
    """Each leaves the others as they are, and nothing that runs; tests that were all skipped are no success."""
    with simulate(tmp_path, SIMULATED) as script:
        told, _ = script.communicate(timeout=300)
    assert script.returncode == 1
    lines = [re.sub(r" +\d+ s ", " ", line).split(maxsplit=2) for line in told.splitlines()]
    assert [(line[0], line[1], *line[2:]) for line in lines] == [
        ("machine", "ok"),
        ("waits", "FAILED", "stopped at its limit"),
        ("leaves", "ok"),
        ("crashes", "FAILED"),
        ("missing", "FAILED"),
        ("skips", "FAILED", "5 skipped in 0.10s"),
        ("passes", "ok", "3 passed, 5 skipped in 0.10s"),
    ]
    assert (tmp_path / "summary.txt").read_text() == told
    assert "no-such-command" in (tmp_path / "missing.log").read_text()
    assert ends(tmp_path / "left")


def test_a_signal_ends_the_part_that_runs(tmp_path):
    parts = 'waits() { sleep 60 & echo $! >"$out/begun"; mv "$out/begun" "$out/left"; within sleep 60; }\n'
    with simulate(tmp_path, parts + "part waits 60 waits\npart after 60 true\n") as script:
        until = time.monotonic() + 200
        while not (tmp_path / "left").exists() and time.monotonic() < until:
            time.sleep(0.05)
        script.terminate()
        told, _ = script.communicate(timeout=300)
    assert script.returncode == 143
    assert told == f"{'waits':21} STOPPED by a signal\n" == (tmp_path / "summary.txt").read_text()
    assert ends(tmp_path / "left")


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
