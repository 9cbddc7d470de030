"""python -m benchmarks: a case that fails is told, and hides no other; what is measured is written at once."""

import json

import pytest

from benchmarks import __main__ as command
from benchmarks import models

CASES = ["--cases", "tiny,rvm-stream,volume-c8", "--baselines", "nn", "--rounds", "1", "--no-memory", "--out"]


@pytest.fixture(autouse=True)
def ceilings(monkeypatch):
    for module in (command, models):
        monkeypatch.setattr(module, "measure_ceilings", lambda dtype, device: (1e9, 1e9))


def named(path):
    return [row["case"] for row in json.loads(path.read_text())["results"]]


def test_failing_case(monkeypatch, tmp_path, capsys):
    run, before = command.run_case, []

    def fail_second(case, *rest):
        before.append(named(tmp_path / "cpu-float32.json") if before else [])
        if len(before) == 2:
            raise RuntimeError("out of order")
        return run(case, *rest)

    monkeypatch.setattr(command, "run_case", fail_second)
    assert command.main([*CASES, str(tmp_path)]) == 1
    assert before == [[], ["rvm-stream"], ["rvm-stream"]]
    assert named(tmp_path / "cpu-float32.json") == ["rvm-stream", "tiny"]
    assert "failed: volume-c8: RuntimeError: out of order" in capsys.readouterr().err


def test_all_succeed(tmp_path, capsys):
    assert command.main([*CASES, str(tmp_path)]) == 0
    assert named(tmp_path / "cpu-float32.json") == ["rvm-stream", "volume-c8", "tiny"]
    assert "failed" not in capsys.readouterr().err


def test_failing_model(monkeypatch, tmp_path, capsys):
    run = models.run

    def fail_first(case, *rest):
        if case.name == "encoder_forecaster":
            raise RuntimeError("out of memory")
        return run(case, *rest)

    monkeypatch.setattr(models, "run", fail_first)
    arguments = [
        "models",
        "--models",
        "encoder_forecaster,multi_lstm",
        "--small",
        "--rounds",
        "1",
        "--no-memory",
        "--out",
        str(tmp_path),
    ]
    assert command.main(arguments) == 1
    assert named(tmp_path / "models-cpu.json") == ["multi_lstm"]
    assert "failed: encoder_forecaster: RuntimeError: out of memory" in capsys.readouterr().err
