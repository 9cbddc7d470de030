"""Training runs: what they write, and that an interrupted one ends as if it had not been."""

import csv
import dataclasses
import json
import math
import shutil
from types import SimpleNamespace

import pytest
import torch

from fastrcn import models
from fastrcn.data.entries import Entry
from fastrcn.demo.video import packaged_clip
from fastrcn.training import checkpoint, loop
from fastrcn.training.build import hold_out_videos
from fastrcn.training.config import Config
from fastrcn.training.loop import train
from tests.helpers.killed import run_and_kill, run_to_end

pytestmark = pytest.mark.usefixtures("one_thread")


def config_of(videos, out, **options):
    plain = {"model": "slow_fusion_toy", "small": True, "epochs": 3, "batch_size": 2, "learning_rate": 0.01}
    return Config(data=str(videos), out=str(out), workers=0, **{**plain, **options})


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def losses(out):
    return [(row["step"], row["loss"], row["gradient_norm"]) for row in rows(out / "steps.csv")]


def same(a, b):
    """Whether two checkpoints hold the same, bit for bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def test_a_run_writes_what_it_did_and_how_to_do_it_again(videos, tmp_path):
    config = config_of(videos, tmp_path / "a", hold_out=1 / 3, optimizer="sgd", warmup=2, clip_norm=0.1, amp="bfloat16")
    result = train(config)
    out = tmp_path / "a"
    names = {p.name for p in out.iterdir()}
    assert names == {
        "best.pt", "config.yaml", "data.csv", "environment.json", "epochs.csv", "last.pt", "loss.png", "steps.csv"
    }  # fmt: skip
    listed = rows(out / "data.csv")
    assert [row["part"] for row in listed] == ["training"] * 4 + ["validation"] * 2
    assert {row["class"] for row in listed if row["part"] == "validation"} == {"down", "right"}
    assert len({row["path"] for row in listed}) == 6
    steps, epochs = rows(out / "steps.csv"), rows(out / "epochs.csv")
    assert [float(row["learning_rate"]) for row in steps[:2]] == [0.005, 0.01]  # the rise
    assert float(steps[-1]["learning_rate"]) < 0.003
    assert float(epochs[0]["training_loss"]) == pytest.approx(sum(float(r["loss"]) for r in steps[:2]) / 2)
    assert float(epochs[-1]["validation_loss"]) == result["validation_loss"]
    (begun,) = json.loads((out / "environment.json").read_text())
    assert (begun["step"], begun["torch"]) == (0, torch.__version__)
    again = loop.configs.from_dict(loop.configs.read(out / "config.yaml"))
    assert again == config
    train(dataclasses.replace(again, out=str(tmp_path / "b")))
    assert losses(tmp_path / "b") == losses(out)
    net = models.create("slow_fusion_toy", small=True, num_classes=2)
    net.load_state_dict(checkpoint.load(out / "last.pt")["model"])


def test_the_best_model_is_that_of_the_best_epoch(videos, tmp_path):
    out = tmp_path / "run"
    train(config_of(videos, out, hold_out=1 / 3, epochs=4))
    accuracies = [float(row["accuracy"]) for row in rows(out / "epochs.csv")]
    best = checkpoint.load(out / "best.pt")["progress"]
    assert best["epoch"] == accuracies.index(max(accuracies)) + 1
    assert best["best"] == max(accuracies)
    train(config_of(videos, tmp_path / "alone"))  # without validation the epochs' own loss decides
    own = [float(row["training_loss"]) for row in rows(tmp_path / "alone" / "epochs.csv")]
    assert checkpoint.load(tmp_path / "alone" / "best.pt")["progress"]["epoch"] == own.index(min(own)) + 1


@pytest.mark.parametrize("after", [1, 3, 4])
def test_a_run_goes_on_from_within_and_between_epochs(videos, tmp_path, monkeypatch, after):
    # A model with dropout and clips drawn at random; three steps an epoch.
    options = {"model": "slow_fusion", "epochs": 2, "save_every": 1, "model_options": {"dropout": 0.5}}
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(config_of(videos, whole, **options))
    run = config_of(videos, parts, **options)

    class Stop(Exception):
        pass

    step = loop.Run._step

    def stopping(self, batch):
        if self.progress["step"] == after:
            raise Stop
        step(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(loop.Run, "_step", stopping)
        with pytest.raises(Stop):
            train(run)
    checkpoint.seed_random_state(123)  # another process would stand elsewhere
    train(run, resume=True)
    assert losses(parts) == losses(whole)
    assert rows(parts / "epochs.csv") == rows(whole / "epochs.csv")
    assert [start["step"] for start in json.loads((parts / "environment.json").read_text())] == [0, after]
    for name in ("last.pt", "best.pt"):
        assert same(checkpoint.load(parts / name), checkpoint.load(whole / name))


@pytest.mark.slow
def test_a_forecaster_on_a_real_clip_survives_a_kill(tmp_path):
    options = [
        "--model", "encoder_forecaster", "--small", "--model-option", "output=residual", "--data", str(packaged_clip()),
        "--hold-out", "0.2", "--past", "4", "--future", "3", "--frame-size", "32", "48", "--step", "4", "--epochs", "2",
        "--batch-size", "8", "--save-every", "3", "--workers", "1", "--threads", "1", "--clip-norm", "1",
    ]  # fmt: skip
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run_to_end("train", *options, "--out", whole)
    steps = len(rows(whole / "steps.csv"))
    assert steps >= 10
    done = run_and_kill(killed / "steps.csv", steps // 2, "train", *options, "--out", killed)
    assert done < steps
    run_to_end("train", "--resume", "--out", killed)
    assert losses(killed) == losses(whole)
    assert rows(killed / "epochs.csv") == rows(whole / "epochs.csv")
    assert same(checkpoint.load(killed / "last.pt"), checkpoint.load(whole / "last.pt"))
    trained = [float(row["training_loss"]) for row in rows(whole / "epochs.csv")]
    assert trained[-1] < trained[0]


def test_other_classes_take_over_weights(videos, tmp_path):
    torch.manual_seed(5)
    old = models.create("c3d", small=True, num_classes=7)
    torch.save(old.state_dict(), tmp_path / "old.pt")
    options = {"model": "c3d", "weights": str(tmp_path / "old.pt"), "epochs": 1}
    train(config_of(videos, tmp_path / "fixed", transfer="fixed", **options))
    train(config_of(videos, tmp_path / "all", **options))
    before = old.state_dict()
    for name, moved in (("fixed", False), ("all", True)):
        after = checkpoint.load(tmp_path / name / "last.pt")["model"]
        assert after["fc8.weight"].shape[0] == 2
        assert torch.equal(after["conv1.weight"], before["conv1.weight"]) is not moved
    with pytest.raises(ValueError, match=r"weights: .*old.pt does not fit slow_fusion_toy"):
        train(config_of(videos, tmp_path / "no", weights=options["weights"]))
    train(config_of(videos, tmp_path / "fixed", transfer="fixed", **{**options, "epochs": 2}), resume=True)
    after = checkpoint.load(tmp_path / "fixed" / "last.pt")["model"]
    assert torch.equal(after["conv1.weight"], before["conv1.weight"])


def test_a_model_of_ones_own(videos, tmp_path):
    own = config_of(
        videos, tmp_path / "own", model="tests.helpers.own_model:make", like="c3d", frames=8, size=24, epochs=1,
        model_options={"width": 3},
    )  # fmt: skip
    train(own)
    assert checkpoint.load(tmp_path / "own" / "last.pt")["model"]["conv.weight"].shape[0] == 3
    with pytest.raises(ValueError, match=r"like: expected the name of a model that .*own_model:make is fed"):
        train(dataclasses.replace(own, like=None, out=str(tmp_path / "x")))
    with pytest.raises(ValueError, match=r"model: there is no nothing in tests\.helpers\.own_model"):
        train(dataclasses.replace(own, model="tests.helpers.own_model:nothing", out=str(tmp_path / "x")))


def test_damaged_videos_are_named_and_left_out_only_when_asked(videos, tmp_path, capsys):
    bad = tmp_path / "videos"
    shutil.copytree(videos, bad)
    (bad / "down" / "cut.mp4").write_bytes((videos / "down" / "0.mp4").read_bytes()[:500])
    (bad / "right" / "empty.mp4").touch()
    with pytest.raises(ValueError, match=r"(cut|empty)\.mp4 cannot be decoded"):
        train(config_of(bad, tmp_path / "no"))
    train(config_of(bad, tmp_path / "yes", skip_unreadable=True, epochs=1))
    text = capsys.readouterr().err
    assert "cut.mp4 cannot be decoded" in text
    assert "empty.mp4 cannot be decoded: the file is empty" in text
    assert text.count("left out of the data: 2 of 8") == 1
    assert len(rows(tmp_path / "yes" / "data.csv")) == 6


def test_runs_are_not_written_over_and_data_must_stay(videos, tmp_path):
    mine = tmp_path / "videos"
    shutil.copytree(videos, mine)
    config = config_of(mine, tmp_path / "run", epochs=1)
    train(config)
    with pytest.raises(FileExistsError, match=r"out: there is a run in .*run: resume it, or name another folder"):
        train(config)
    before = (tmp_path / "run" / "steps.csv").read_bytes()
    train(config, resume=True)  # is at its end
    assert (tmp_path / "run" / "steps.csv").read_bytes() == before
    (mine / "down" / "0.mp4").unlink()
    with pytest.raises(ValueError, match=r"data: expected what .*data.csv lists, got other files"):
        train(config, resume=True)


def test_a_loss_that_is_no_number_stops_the_run(videos, tmp_path):
    with pytest.raises(FloatingPointError, match=r"loss: step \d+ came to (nan|inf)"):
        train(config_of(videos, tmp_path / "run", optimizer="sgd", learning_rate=1e30, schedule="constant", epochs=20))


def test_gradients_that_are_no_numbers_are_not_stepped(videos, tmp_path, monkeypatch):
    plain = torch.nn.utils.clip_grad_norm_
    steps = []

    def last_one_overflows(parameters, limit):
        steps.append(plain(parameters, limit))
        return steps[-1] if len(steps) < 3 else torch.tensor(float("inf"))

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", last_one_overflows)
    with pytest.raises(FloatingPointError, match="gradient_norm: step 3 came to inf"):
        train(config_of(videos, tmp_path / "run", epochs=1, save_every=1))
    saved = checkpoint.load(tmp_path / "run" / "last.pt")
    assert saved["progress"]["step"] == 2
    assert all(bool(value.isfinite().all()) for value in saved["model"].values())


def test_a_validation_that_fails_does_not_cost_the_epoch(videos, tmp_path):
    mine = tmp_path / "videos"
    shutil.copytree(videos, mine)
    good = (mine / "down" / "0.mp4").read_bytes()
    (mine / "down" / "0.mp4").write_bytes(good[: len(good) // 2])
    run = config_of(videos, tmp_path / "run", validation=str(mine), epochs=1)
    with pytest.raises(ValueError, match=r"down.0\.mp4"):
        train(run)
    saved = checkpoint.load(tmp_path / "run" / "last.pt")["progress"]
    assert (saved["epoch"], saved["step"]) == (0, 3)


def test_fewer_epochs_than_are_done_and_more(videos, tmp_path):
    run = config_of(videos, tmp_path / "run", epochs=2)
    train(run)
    with pytest.raises(ValueError, match="epochs: expected at least the 2 that are done, got 1"):
        train(dataclasses.replace(run, epochs=1), resume=True)
    train(dataclasses.replace(run, epochs=3), resume=True)
    rates = [float(row["learning_rate"]) for row in rows(tmp_path / "run" / "steps.csv")]
    assert rates[6] == pytest.approx(0.01 * 0.5 * (1 + math.cos(math.pi * 6 / 9)))  # of the longer schedule


def test_files_are_held_out_whole(tmp_path):
    entries = [Entry(tmp_path / f"{file}.mp4", 0, start) for file in range(5) for start in (0, 10, 20)]
    dataset = SimpleNamespace(entries=entries)
    train_numbers, kept = hold_out_videos(dataset, 0.4, seed=0)
    assert sorted(train_numbers + kept) == list(range(15))
    assert len(kept) == 6
    assert not {entries[k].path for k in kept} & {entries[k].path for k in train_numbers}


def test_options_that_have_no_effect_are_refused(videos, tmp_path):
    for model, name, value in (
        ("c3d", "past", 3), ("c3d", "variable", "t"), ("encoder_forecaster", "size", 32),
        ("encoder_forecaster", "protocol", "c3d"), ("encoder_forecaster", "join", True),
        ("encoder_forecaster", "normalize", True),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=f"^{name}: expected .*, it has no effect on "):
            train(config_of(videos, tmp_path / "run", model=model, **{name: value}))


def test_two_optimizers_and_schedules():
    weight = torch.nn.Parameter(torch.ones(2))
    config = Config(optimizer="adam", learning_rate=0.5, weight_decay=0.1, schedule="constant", warmup=4)
    optimizer = loop.optimizer_of(config, [weight])
    assert type(optimizer) is torch.optim.Adam
    assert optimizer.param_groups[0]["weight_decay"] == 0.1
    schedule, rates = loop.schedule_of(config, optimizer, 10), []
    for _ in range(6):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert rates == [0.125, 0.25, 0.375, 0.5, 0.5, 0.5]
