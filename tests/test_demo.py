"""The demo: its errors, and a short run on a clip made here."""

import json

import pytest
import torch

from fastrcn.__main__ import main
from fastrcn.data import read_clip
from fastrcn.demo.video import packaged_clip
from tests.helpers.clips import write_clip


@pytest.fixture
def clip(tmp_path):
    """A short clip of a bright square that moves right, one pixel per frame."""
    frames = torch.full((40, 3, 32, 48), 30, dtype=torch.uint8)
    for t, frame in enumerate(frames):
        frame[:, 10:20, t : t + 10] = 220
    return write_clip(tmp_path / "clip.mp4", frames)


def test_reads_gray_frames(clip):
    frames = read_clip(clip, 16, 4, 10)
    assert frames.shape == (40, 1, 16, 24)
    assert frames.dtype == torch.float32
    assert 0 <= frames.min() < 0.3 < 0.7 < frames.max() <= 1


def test_packaged_clip_is_found():
    assert packaged_clip().name == "bikes.mp4"


def test_missing_and_unreadable_clips(clip, tmp_path, capsys):
    broken, empty = tmp_path / "broken.mp4", tmp_path / "empty.mp4"
    broken.write_bytes(clip.read_bytes()[:100])
    empty.write_bytes(b"")
    for path, words in (
        (tmp_path / "none.mp4", "there is no file"),
        (broken, "cannot be decoded"),
        (empty, "cannot be decoded"),
    ):
        assert main(["demo", "--video", str(path), "--out", str(tmp_path / "out")]) == 2
        text = capsys.readouterr().err
        assert words in text
        assert str(path) in text
    assert main(["demo", "--video", str(clip), "--frames-in", "20"]) == 2
    assert "has 40 frames, at least 72 are needed" in capsys.readouterr().err


def test_bad_options(capsys):
    with pytest.raises(SystemExit):
        main(["demo", "--epochs", "0"])
    assert "--epochs" in capsys.readouterr().err


@pytest.mark.slow
def test_short_run_writes_everything(clip, tmp_path, capsys):
    out = tmp_path / "out"
    options = ["--size", "16", "--hidden", "4", "--layers", "1", "--epochs", "2", "--batch", "4", "--patch", "2"]
    status = main(["demo", "--video", str(clip), "--out", str(out), *options])
    text = capsys.readouterr().out
    assert "times as fast" in text
    facts = json.loads((out / "numbers.json").read_text())
    assert status == int(facts["held_out"] >= facts["held_out_copy_last"])
    assert facts["output_difference"] < 1e-5
    assert facts["gradient_difference"] < 1e-4
    assert facts["loss_difference"] < 1e-4
    for name in ("frames.png", "losses.png"):
        assert (out / name).stat().st_size > 5000
    assert torch.load(out / "model.pt")
