"""python -m benchmarks vectors: every shape runs both ways, agrees and is written down; no time is judged."""

import json

import torch

from benchmarks import vectors


def test_command(monkeypatch, tmp_path, capsys):
    for name, values in {"_STEPS": (1, 32), "_BATCHES": (2,), "_HIDDEN_SIZES": (4,)}.items():
        monkeypatch.setattr(vectors, name, values)
    monkeypatch.setattr(vectors, "measure_ceilings", lambda dtype, device: (1e9, 1e9))
    before = torch.get_num_threads()
    facts = {"fastrcn": "0", "commit": "abc", "torch": "2", "device": "cpu", "threads": 1}
    try:
        assert vectors.main(["--rounds", "1", "--out", str(tmp_path)], lambda *_: facts) == 0
    finally:
        torch.set_num_threads(before)
    rows = json.loads((tmp_path / "vectors-1-threads.json").read_text())["rows"]
    assert len(rows) == 3 * 2 * 2  # kinds, stacks, steps
    assert {(r["kind"], r["steps"]) for r in rows if r["training"]["runs"] == "fused"} == {("GRU", 32)}
    assert not any(r["inference"]["runs"] == "fused" for r in rows)
    text = (tmp_path / "vectors-1-threads.md").read_text()
    assert text.count("\n| ") == 1 + len(rows)
    assert text.count("**") == 2 * 2
    assert text in capsys.readouterr().out
