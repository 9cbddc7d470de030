"""``train``, ``evaluate`` and ``predict`` as a user calls them."""

import csv
import json
import shutil

import h5py
import numpy as np
import pytest
import torch

from fastrcn.__main__ import main
from fastrcn.training.evaluation import evaluate, fuse, load_run, shares
from tests.helpers.moving_squares import write_videos

pytestmark = pytest.mark.usefixtures("one_thread")

NET = ["--model", "slow_fusion_toy", "--small", "--workers", "0", "--batch-size", "3", "--learning-rate", "0.01"]


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def runs(videos, tmp_path_factory):
    """Two runs on the same videos, of different seeds."""
    folder = tmp_path_factory.mktemp("runs")
    for name in ("a", "b"):
        seed = str(ord(name))
        argv = ["train", *NET, "--data", str(videos), "--epochs", "2", "--seed", seed, "--out", str(folder / name)]
        assert main(argv) == 0
    return folder


def probabilities(folder, path):
    """What a run says of a video's classes, by hand: the mean over its clips and crops of each one's softmax."""
    task, objective = load_run(folder)
    dataset = task.read_all([path._replace(label=0)])
    clips, _ = dataset[0]
    with torch.no_grad():
        return torch.stack([objective(clip[None]).softmax(1)[0] for clip in clips]).mean(0)


def test_evaluate_and_predict_agree_with_clips_one_by_one(runs, videos, tmp_path, capsys):
    out = tmp_path / "ev"
    assert main(["evaluate", str(runs / "a"), "--data", str(videos), "--out", str(out), "--workers", "0"]) == 0
    shown = dict(line.split(": ") for line in capsys.readouterr().out.splitlines())
    table, numbers = rows(out / "evaluation.csv"), json.loads((out / "evaluation.json").read_text())
    task, _ = load_run(runs / "a")
    entries = task.read_all(str(videos)).entries
    right = 0
    for row, entry in zip(table, entries, strict=True):
        expected = probabilities(runs / "a", entry)
        assert row["path"] == str(entry.path)
        assert row["class"] == task.classes[entry.label]
        assert float(row["probability_of_class"]) == pytest.approx(float(expected[entry.label]), abs=2e-6)
        right += task.classes[int(expected.argmax())] == row["class"] == row["predicted"]
    assert numbers["accuracy"] == right / len(entries)
    assert float(shown["accuracy"]) == pytest.approx(numbers["accuracy"], rel=1e-5)

    assert main(["predict", str(runs / "a"), "--data", str(videos / "down"), "--out", str(out), "--workers", "0"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3
    for row in rows(out / "predictions.csv"):
        entry = next(e for e in entries if str(e.path) == row["path"])
        expected = probabilities(runs / "a", entry)[task.classes.index(row["class"])]
        assert float(row["probability"]) == pytest.approx(float(expected), abs=2e-6)


def test_scores_of_two_runs_are_averaged(runs, videos, tmp_path):
    parts = [evaluate([runs / name], str(videos), out=tmp_path / name, workers=0) for name in ("a", "b")]
    together = evaluate(
        [runs / "a", runs / "b"], str(videos), fusion_weights=[1, 3], out=tmp_path / "ab", workers=0
    )  # fmt: skip
    tables = [rows(tmp_path / name / "evaluation.csv") for name in ("a", "b", "ab")]
    for a, b, ab in zip(*tables, strict=True):
        expected = 0.25 * float(a["probability_of_class"]) + 0.75 * float(b["probability_of_class"])
        assert float(ab["probability_of_class"]) == pytest.approx(expected, abs=2e-6)
    assert together["validation_loss"] <= 0.25 * parts[0]["validation_loss"] + 0.75 * parts[1]["validation_loss"]


def test_fusion_by_hand():
    a, b = torch.tensor([0.2, 0.8]), torch.tensor([0.6, 0.4])
    ((label, found),) = fuse([[(1, a)], [(1, b)]], shares([1, 3], ["x", "y"]))
    assert label == 1
    assert torch.allclose(found, torch.tensor([0.5, 0.5], dtype=torch.float64))
    assert shares(None, ["x", "y"]) == [0.5, 0.5]
    for weights in ([1], [0, 0], [-1, 2]):
        with pytest.raises(ValueError, match="fusion_weights: expected 2, not negative, not all 0"):
            shares(weights, ["x", "y"])
    with pytest.raises(ValueError, match="runs: expected the same videos and classes"):
        fuse([[(1, a)], [(0, b)]], [0.5, 0.5])


def test_frames_and_flow_together(tmp_path, capsys):
    videos = write_videos(tmp_path / "videos", each=1, frames=12, height=24, width=32)
    common = ["--small", "--data", str(videos), "--epochs", "1", "--workers", "0", "--batch-size", "2"]
    flow = ["--flow-cache", str(tmp_path / "flow"), "--model-option", "frames=9", "--protocol", "c3d"]
    rgb = ["--model", "i3d_rgb", "--model-option", "frames=9", "--protocol", "c3d"]
    for name, more in (("rgb", rgb), ("flow", ["--model", "i3d_flow", *flow])):
        assert main(["train", *common, *more, "--out", str(tmp_path / name)]) == 0
    assert len(list((tmp_path / "flow").glob("*/*.npy"))) > 0
    capsys.readouterr()
    argv = ["evaluate", str(tmp_path / "rgb"), str(tmp_path / "flow"), "--fusion-weights", "1", "2", "--workers", "0"]
    assert main([*argv, "--data", str(videos)]) == 0
    assert "accuracy: " in capsys.readouterr().out
    assert main(argv) == 2
    assert "data: expected a source, the run in" in capsys.readouterr().err


def test_a_forecaster_writes_what_follows(videos, tmp_path, capsys):
    run, out = tmp_path / "run", tmp_path / "out"
    argv = [
        "--model", "encoder_forecaster", "--small", "--model-option", "output=residual", "--data", str(videos),
        "--past", "4", "--future", "3", "--frame-size", "16", "24", "--epochs", "1", "--workers", "0",
        "--hold-out", "0.4", "--step", "4",
    ]  # fmt: skip
    assert main(["train", *argv, "--out", str(run)]) == 0
    assert main(["evaluate", str(run), "--workers", "0"]) == 0
    text = capsys.readouterr().out
    steps = [float(v) for v in text.split("mse_of_steps: ")[1].split()]
    numbers = json.loads((run / "evaluation.json").read_text())
    assert len(steps) == 3
    assert numbers["mse"] == pytest.approx(sum(steps) / 3, rel=1e-5)
    assert numbers["mse"] == pytest.approx(np.mean([float(r["mse"]) for r in rows(run / "evaluation.csv")]), rel=1e-6)
    video = videos / "down" / "0.mp4"
    assert main(["predict", str(run), "--data", str(video), "--out", str(out)]) == 0
    found = np.load(out / "0.npz")
    task, objective = load_run(run)
    past = torch.from_numpy(found["past"])
    assert past.shape == (4, 1, 16, 24)
    with torch.no_grad():
        assert np.allclose(objective(past[None])[0].numpy(), found["future"], atol=1e-6)
    windows = task.read_all(str(video))  # of 7 frames, one begins at every fourth: the last ends at frame 18 of 20
    assert torch.equal(past[:3], torch.cat(windows[len(windows) - 1][:2])[-3:])
    assert {p.name for p in out.iterdir()} == {"0.npz", "0.png", "0.gif"}
    assert main(["predict", str(run), "--data", str(video), "--out", str(out)]) == 2
    assert "out: there is" in capsys.readouterr().err


def test_maps_of_a_file_in_its_units(tmp_path, capsys):
    values = 270 + 20 * torch.rand(30, 8, 8, generator=torch.Generator().manual_seed(0)).numpy()
    values[:, 0, 0] = np.nan
    with h5py.File(tmp_path / "air.h5", "w") as file:
        file["t"] = values
    run, source = tmp_path / "run", str(tmp_path / "air.h5")
    argv = [
        "--model", "encoder_forecaster", "--small", "--model-option", "output=residual", "--data", source,
        "--variable", "t", "--normalize", "--past", "4", "--future", "2", "--epochs", "1", "--workers", "0",
        "--hold-out", "0.4",
    ]  # fmt: skip
    assert main(["train", *argv, "--out", str(run)]) == 0
    task, _ = load_run(run)
    known = values[:18].astype(np.float64)
    known = known[~np.isnan(known)]
    assert task.facts["offset"] == pytest.approx([known.mean()])
    assert task.facts["scale"] == pytest.approx([known.std()])
    assert main(["predict", str(run), "--data", source, "--out", str(tmp_path / "out")]) == 0
    found = np.load(tmp_path / "out" / "air.npz")
    seen = ~np.isnan(values[-4:])
    assert np.allclose(found["past"][:, 0][seen], values[-4:][seen], atol=1e-4)
    assert 250 < found["future"].mean() < 310
    # The error of repeating the last frame, by hand, over what is known.
    assert main(["evaluate", str(run), "--workers", "0"]) == 0
    windows = [values[s : s + 6].astype(np.float64) for s in range(18, 25)]
    errors = [(w[3] - w[4 + k]) ** 2 for w in windows for k in range(2)]
    numbers = json.loads((run / "evaluation.json").read_text())
    assert numbers["mse_of_last_frame"] == pytest.approx(np.nanmean(errors), rel=1e-4)


def test_a_forecast_begins_where_the_file_ends(tmp_path, capsys):
    def write(name, times):
        with h5py.File(tmp_path / name, "w") as file:
            file["t"] = np.arange(len(times))[:, None, None] + np.random.default_rng(0).random((len(times), 8, 8))
            file["time"] = np.array(times, dtype=np.float64)
            file["time"].make_scale("time")
            file["t"].dims[0].attach_scale(file["time"])
        return str(tmp_path / name)

    run = str(tmp_path / "run")
    argv = ["--variable", "t", "--past", "4", "--future", "2", "--epochs", "1", "--workers", "0", "--normalize"]
    net = ["train", "--model", "encoder_forecaster", "--small", "--model-option", "output=residual"]
    trained = write("air.h5", [*range(12), *range(20, 23)])
    assert main([*net, "--data", trained, *argv, "--out", run]) == 0
    assert "air.h5: between gaps from frame 12 on there are 3 frames" in capsys.readouterr().err
    assert (tmp_path / "run" / "data.csv").read_text().splitlines()[1].startswith(f"training,{trained},")
    out = str(tmp_path / "out")
    assert main(["predict", run, "--data", trained, "--out", out]) == 2
    assert "data: expected 4 frames after the last gap in" in capsys.readouterr().err
    later = write("later.h5", [*range(12), *range(20, 26)])
    assert main(["predict", run, "--data", later, "--out", out]) == 0
    assert "2 frames after frame 17 in" in capsys.readouterr().out
    with h5py.File(later) as file:
        assert np.allclose(np.load(tmp_path / "out" / "later.npz")["past"][:, 0], file["t"][-4:], atol=1e-4)


def test_what_was_held_out_must_be_the_same(videos, tmp_path, capsys):
    mine = tmp_path / "videos"
    shutil.copytree(videos, mine)
    assert (
        main(["train", *NET, "--data", str(mine), "--hold-out", "0.4", "--epochs", "1", "--out", str(tmp_path / "run")])
        == 0
    )
    assert main(["evaluate", str(tmp_path / "run"), "--workers", "0"]) == 0
    assert json.loads((tmp_path / "run" / "evaluation.json").read_text())["of"]["checkpoint"] == "best"
    shutil.copy(mine / "down" / "0.mp4", mine / "down" / "another.mp4")
    capsys.readouterr()
    assert main(["evaluate", str(tmp_path / "run"), "--workers", "0"]) == 2
    assert "data.csv lists, got other files: not those of the run" in capsys.readouterr().err
    (mine / "right" / "another.mp4").write_bytes(b"no video")
    argv = ["evaluate", str(tmp_path / "run"), "--workers", "0", "--data", str(mine), "--skip-unreadable"]
    assert main(argv) == 0
    text = capsys.readouterr().err
    assert "right/another.mp4 cannot be decoded" in text
    assert "left out of the data for tests: 1 of 8" in text


def test_a_damaged_video_in_a_process_that_reads(videos, tmp_path, capsys):
    bad = tmp_path / "videos"
    shutil.copytree(videos, bad)
    (bad / "down" / "cut.mp4").write_bytes(b"no video")
    argv = ["train", *NET, "--workers", "1", "--data", str(bad), "--epochs", "1", "--out", str(tmp_path / "run")]
    assert main(argv) == 2
    text = capsys.readouterr().err.splitlines()[-1]
    assert text.startswith(f"train: video: {bad / 'down' / 'cut.mp4'} cannot be decoded")


def test_moving_digits_and_their_validation_are_not_the_same(tmp_path):
    argv = [
        "--model", "conv_lstm_moving_mnist_256", "--small", "--data", "moving-digits:4",
        "--validation", "moving-digits:3", "--past", "3", "--future", "2", "--frame-size", "32", "32",
        "--epochs", "1", "--workers", "0", "--loss", "cross_entropy",
    ]  # fmt: skip
    assert main(["train", *argv, "--out", str(tmp_path / "run")]) == 0
    task, _ = load_run(tmp_path / "run")
    train, validation = task.read()
    assert (len(train), len(validation)) == (4, 3)
    assert not torch.equal(train[0][0], validation[0][0])
    assert float(rows(tmp_path / "run" / "epochs.csv")[0]["validation_loss"]) > 0


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["train", "--model", "c3d", "--out", "o"], "train: data: expected one, got none"),
        (["train", "--model", "c3d", "--data", "nowhere", "--out", "o"], "there is no nowhere"),
        (["train", "--model", "nothing", "--data", "d", "--out", "o"], "name: expected one of alexnet"),
        (["train", "--model", "alexnet", "--backend", "cpu", "--data", "d", "--out", "o"], "backend: alexnet has no"),
        (["train", "--model", "c3d", "--model-option", "depth=3", "--data", "d", "--out", "o"], "got ['depth']"),
        (["train", "--model", "encoder_forecaster", "--data", "x.nc", "--out", "o"], "variable: expected the name"),
        (["train", "--model", "encoder_forecaster", "--data", "moving-digits:x", "--out", "o"], "moving-digits:COUNT"),
        (["train", "--config", "none.yaml"], "config: there is no file none.yaml"),
        (["train", "--resume", "--out", "typo"], "out: there is no run in typo that could go on"),
        (
            ["train", "--model", "c3d", "--data", "d", "--out", "o", "--device", "gpu"],
            "device: expected a name such as",
        ),
        (
            ["train", "--model", "encoder_forecaster", "--data", "moving-digits:9", "--hold-out", "0.5", "--out", "o"],
            "hold_out: expected 0 with moving-digits:9",
        ),
        (["evaluate", "nowhere"], "config: there is no file nowhere"),
        (["predict", "nowhere", "--data", "none.mp4"], "data: there is no none.mp4"),
    ],
)
def test_what_cannot_be_used_is_named(argv, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(argv) == 2
    assert words in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_options_of_a_resumed_run(runs, capsys):
    before = (runs / "a" / "config.yaml").read_bytes()
    assert main(["train", "--resume", "--out", str(runs / "a"), "--batch-size", "5"]) == 2
    assert "batch_size: expected 3, as when the run began, got 5" in capsys.readouterr().err
    assert main(["train", "--resume", "--out", str(runs / "a"), "--workers", "0"]) == 0
    assert (runs / "a" / "config.yaml").read_bytes() == before


def test_a_run_that_was_killed_before_its_first_checkpoint(runs, videos, tmp_path):
    out = tmp_path / "run"
    argv = ["--seed", str(ord("a")), "--data", str(videos), "--epochs", "2", "--out", str(out)]
    assert main(["train", *NET, *argv]) == 0
    (out / "last.pt").unlink()
    (out / "best.pt").unlink()
    assert main(["train", "--resume", "--out", str(out)]) == 0
    columns = [[(r["step"], r["loss"]) for r in rows(place / "steps.csv")] for place in (out, runs / "a")]
    assert columns[0] == columns[1]


def test_a_yaml_file_and_flags_before_it(videos, tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text(f"model: slow_fusion_toy\nsmall: true\ndata: {videos}\nepochs: 5\nbatch_size: 3\nworkers: 0\n")
    assert main(["train", "--config", str(file), "--epochs", "1", "--out", str(tmp_path / "run")]) == 0
    assert len(rows(tmp_path / "run" / "epochs.csv")) == 1
