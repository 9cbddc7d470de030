"""``python -m fastrcn visualize`` with tiny settings, and its errors."""

import json

import pytest
import torch
from PIL import Image

from fastrcn.__main__ import main
from fastrcn.data import read_clip
from fastrcn.demo.video import packaged_clip

TINY = ["--steps", "3", "--ascent-steps", "2", "--ascent-size", "16", "--width", "4", "--batch", "4", "--height", "52"]


def test_reads_frames_in_colour():
    color, gray = (read_clip(packaged_clip(), 32, 4, 10, color=c) for c in (True, False))
    assert color.shape == (250, 3, 32, 76)
    assert gray.shape == (250, 1, 32, 76)
    assert (color[:, 0] - color[:, 2]).abs().max() > 0.2, "not gray"
    luma = (color * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1)
    # gray is luma over the range of video signals or all of it: up to a line the same
    pair = torch.stack([luma.flatten(), gray.flatten()])
    assert torch.corrcoef(pair)[0, 1] > 0.99


@pytest.mark.slow
def test_short_run_writes_everything(tmp_path, capsys):
    out = tmp_path / "out"
    status = main(["visualize", "--out", str(out), *TINY])
    text = capsys.readouterr().out
    facts = json.loads((out / "numbers.json").read_text())
    assert f"accuracy on held-out frames: {100 * facts['accuracy']:.1f} %" in text
    assert status == int(facts["accuracy"] <= 2 / 9)
    assert [(f["class"], f["chi"]) for f in facts["maximized"]] == [
        ("right", 10.0), ("right", 0.0), ("down-left", 10.0), ("down-left", 0.0)
    ]  # fmt: skip
    assert facts["windows"]
    sizes = {"filters.png": (8 * 63, 8 * 15), "filters.gif": (310, 70), "maximized.gif": (70, 70)}
    frames = {"filters.gif": 4, "maximized.gif": 12, "saliency.gif": 8}
    for name in ("filters.png", "saliency.png", "maximized.png", "filters.gif", "saliency.gif", "maximized.gif"):
        with Image.open(out / name) as image:
            assert image.size == sizes.get(name, image.size)
            assert getattr(image, "n_frames", 1) == frames.get(name, 1)


def test_unusable_input(tmp_path, capsys):
    assert main(["visualize", "--video", str(tmp_path / "none.mp4"), "--out", str(tmp_path)]) == 2
    assert "there is no file" in capsys.readouterr().err
    assert main(["visualize", "--height", "40", "--out", str(tmp_path)]) == 2
    assert "--height: expected frames of at least 50 pixels a side, got 94x40" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["visualize", "--steps", "0"])
    assert "--steps" in capsys.readouterr().err
