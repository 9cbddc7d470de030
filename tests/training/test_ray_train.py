"""The script for Ray Train, in a cluster of one node and two workers."""

import csv
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fastrcn.training.config import Config
from fastrcn.training.loop import train

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason='needs Ray Train: pip install "ray[train]"'),
]
ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "docs" / "scale-out" / "ray_train.py"


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_two_workers_are_as_one_process(videos, tmp_path, one_thread):
    options = {"model": "slow_fusion_toy", "data": str(videos), "batch_size": 2, "epochs": 2, "workers": 0}
    result = train(Config(**options, small=True, hold_out=1 / 3, out=str(tmp_path / "alone")))
    flags = [text for name, value in options.items() for text in ("--" + name.replace("_", "-"), str(value))]
    env = {
        **os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HOME": str(tmp_path),
        "RAY_USAGE_STATS_ENABLED": "0",
    }  # fmt: skip
    found = subprocess.run(
        [sys.executable, SCRIPT, "--num-workers", "2", "--", *flags, "--small", "--hold-out", "0.34", "--out", "run"],
        cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=600,
    )  # fmt: skip
    assert found.returncode == 0, found.stdout
    run = tmp_path / "run"
    (begun,) = json.loads((run / "environment.json").read_text())
    assert begun["processes"] == 2
    (own, together) = ([float(row["loss"]) for row in rows(place / "steps.csv")] for place in (tmp_path / "alone", run))
    assert len(own) == 4
    assert together == pytest.approx(own, rel=1e-5)
    assert float(rows(run / "epochs.csv")[-1]["validation_loss"]) == pytest.approx(result["validation_loss"], rel=1e-5)


def test_a_worker_that_cannot_train_fails(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    spec = importlib.util.spec_from_file_location("ray_train", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    with pytest.raises(RuntimeError, match="python -m fastrcn train ended with 2"):
        script.train({"folder": str(tmp_path), "flags": ["--model", "c3d", "--data", "nothing", "--out", "run"]})
    assert "nothing" in capsys.readouterr().err
