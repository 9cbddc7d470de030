"""The GPU's own clock in the benchmarks, with one that is made up: what is timed, and what the table says of it."""

from types import SimpleNamespace

import pytest
import torch

from benchmarks import cases, device_time, report, runner

FACTS = {"fastrcn": "0", "commit": "abc", "torch": "2", "dtype": "float32", "device": "made up", "threads": 1}
FACTS |= {"backend": "triton", "flops": 1e9, "bandwidth": 1e9}


@pytest.mark.triton
def test_do_bench(monkeypatch):
    testing = pytest.importorskip("triton.testing", reason="Triton is not installed")
    calls = []

    def do_bench(work, return_mode):
        work()
        return {"all": [4.0, 2.0, 9.0]}[return_mode]

    monkeypatch.setattr(testing, "do_bench", do_bench)
    assert device_time.seconds(lambda: calls.append(1)) == (4e-3, 2e-3, 9e-3)
    assert calls == [1]


def test_events_without_triton(monkeypatch):
    """A clock that goes on by a millisecond for each run, by another for the tenth."""
    clock = SimpleNamespace(now=0.0, runs=0, waited=False)

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            self.time = clock.now

        def elapsed_time(self, end):
            assert clock.waited
            return end.time - self.time

    def work():
        clock.runs += 1
        clock.now += 2.0 if clock.runs == 10 else 1.0

    monkeypatch.setattr(device_time, "has_triton", lambda: False)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: setattr(clock, "waited", True))
    assert device_time.seconds(work) == (1e-3, 1e-3, 2e-3)
    assert clock.runs == 23


@pytest.mark.parametrize("name", ["tiny", "rvm-stream"])
def test_ratio_and_floor_are_of_the_gpus_clock(name, monkeypatch):
    """Whose forward takes 1 ms of fastrcn, 2 ms of the others in their order, and whose step three times that."""
    (case,) = cases.find(name)
    names, seen = ["fastrcn", "a", "b", "nn", "d"], []

    def seconds(work):
        outputs, backwards = [], []

        def look(module, given, output):
            outputs.append(output.requires_grad)
            if output.requires_grad:
                output.register_hook(backwards.append)

        (module,) = work.__defaults__[:1]
        with module.register_forward_hook(look):
            work()
        assert outputs == [case.train]
        seen.append(len(backwards))
        turn = len(seen) - 1
        time = (1 + turn % 3) * (3e-3 if turn >= 3 else 1e-3)
        return time, time / 2, 2 * time

    monkeypatch.setattr(device_time, "has_clock", lambda device: True)
    monkeypatch.setattr(device_time, "seconds", seconds)
    result = runner.run_case(case, names, torch.float32, "cpu", (1e9, 1e9), 1, memory=False)
    found = result["contestants"]
    assert [found[n]["device_forward_s"] for n in names[:3]] == [1e-3, 2e-3, 3e-3]
    assert [found[n]["ratio"] for n in names[:3]] == pytest.approx([1, 2, 3])
    assert [found[n]["floor_share"] for n in names[:3]] == pytest.approx(
        [result["floor_s"] / s for s in (3e-3, 6e-3, 9e-3)]
    )
    assert found["b"]["device_spread_s"] == pytest.approx([4.5e-3, 18e-3])
    assert "device_s" not in found["nn"]
    assert seen == [0] * 3 + [int(case.train)] * 3
    text = report.table([result], FACTS)
    heads, rule, *rows = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in (heads, rule, *rows)} == {12}
    assert heads.count("GPU") == 2
    assert " 3.00 | 9.00 (4.50-18.00) | 3.00 | " in rows[2]


def test_no_such_columns_on_a_cpu():
    (case,) = cases.find("rvm-stream")
    result = runner.run_case(case, ["fastrcn"], torch.float32, "cpu", (1e9, 1e9), 1, memory=False)
    text = report.table([result], FACTS)
    assert "GPU" not in text
    assert "median of the rounds' ratios" in text


def test_ceilings_of_the_gpus_clock(monkeypatch):
    """The fastest run counts; a product of float32 in TF32 only where convolutions are."""
    precisions = []
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")

    def seconds(work):
        precisions.append(torch.get_float32_matmul_precision())
        return 2.0, 1.0, 3.0

    monkeypatch.setattr(device_time, "has_clock", lambda device: True)
    monkeypatch.setattr(device_time, "seconds", seconds)
    monkeypatch.setattr(torch, "randn", lambda *size, **_: torch.empty(size, device="meta"))
    monkeypatch.setattr(torch, "empty_like", lambda source: source)
    for allowed in (True, False):
        monkeypatch.setattr(runner, "allows_tf32", lambda allowed=allowed: allowed)
        assert runner.measure_ceilings(torch.float32, "cpu") == (2 * 8192**3, 8 * 2**28)
    assert torch.get_float32_matmul_precision() == "highest"
    torch.set_float32_matmul_precision(before)
    assert precisions == ["high", "highest", "highest", "highest"]
