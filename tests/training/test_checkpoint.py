"""Random numbers that go on, and files that are no checkpoints."""

import random

import numpy as np
import pytest
import torch

from fastrcn.training import checkpoint


def test_random_numbers_go_on_after_a_file(tmp_path):
    def draw():
        return random.random(), random.gauss(0, 1), np.random.rand(), np.random.randn(), torch.rand(3).tolist()  # noqa: NPY002

    random.gauss(0, 1)  # leaves a second number behind
    checkpoint.save(tmp_path / "c.pt", {"format": checkpoint.FORMAT, "random": checkpoint.random_state()})
    expected = [draw() for _ in range(3)]
    draw()
    checkpoint.set_random_state(checkpoint.load(tmp_path / "c.pt")["random"])
    assert [draw() for _ in range(3)] == expected


def test_what_is_no_checkpoint_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no file"):
        checkpoint.load(tmp_path / "none.pt")
    (tmp_path / "cut.pt").write_bytes(b"PK\x03\x04 not all of it")
    torch.save({"weight": torch.ones(2)}, tmp_path / "other.pt")
    for name, words in (("cut.pt", "cannot be read"), ("other.pt", "expected one of fastrcn's")):
        with pytest.raises(ValueError, match=words) as caught:
            checkpoint.load(tmp_path / name)
        assert name in str(caught.value)
