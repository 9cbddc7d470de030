"""Lightning's Trainer makes the steps of the package's own loop: the same clips, losses, weights, validation."""

import csv
import dataclasses
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fastrcn.training import checkpoint
from fastrcn.training.config import Config
from fastrcn.training.loop import train

if importlib.util.find_spec("lightning") is None:
    pytest.skip("Lightning is not installed", allow_module_level=True)
from tests.helpers.lightning_module import ModelCheckpoint, Trainer, TrainingModule, losses_of, quiet

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    # A run that goes on writes where it wrote before.
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty:UserWarning"),
]
ROOT = Path(__file__).parents[2]


def config_of(data, out, **options):
    few = {"epochs": 2, "batch_size": 2, "learning_rate": 0.01, "workers": 0}
    return Config(data=str(data), out=str(out), **{**few, **options})


def column(path, name):
    with path.open(newline="") as file:
        return [float(row[name]) for row in csv.DictReader(file)]


def one(config, **options):
    return Trainer(**quiet(config), devices=1, **options)


def test_the_same_steps_also_of_a_run_that_goes_on(videos, tmp_path):
    # Clips, crops and dropout are drawn at random; two steps an epoch.
    options = {
        "model": "slow_fusion", "small": True, "model_options": {"dropout": 0.5}, "hold_out": 1 / 3, "warmup": 2,
        "clip_norm": 0.1, "optimizer": "sgd", "epochs": 3,
    }  # fmt: skip
    result = train(config_of(videos, tmp_path / "own", **options))
    own = column(tmp_path / "own" / "steps.csv", "loss")
    assert len(own) == 6
    config = config_of(videos, tmp_path / "lightning", **options)
    module = TrainingModule(config)
    saving = ModelCheckpoint(config.out, "{step}", every_n_train_steps=1, save_top_k=-1)
    trainer = one(config, callbacks=[saving, ModelCheckpoint(config.out, "epoch{epoch}", save_top_k=-1)])
    assert losses_of(trainer, module) == own
    assert module.summary == {name: value for name, value in result.items() if name != "training_loss"}
    assert float(trainer.callback_metrics["training_loss"]) == pytest.approx(result["training_loss"], rel=1e-6)
    assert float(trainer.callback_metrics["accuracy"]) == pytest.approx(result["accuracy"])
    weights = checkpoint.load(tmp_path / "own" / "last.pt")["model"]

    def trained(module):
        found = module.objective.model.state_dict()
        return found.keys() == weights.keys() and all(
            torch.equal(found[name], value) for name, value in weights.items()
        )

    assert trained(module)
    for name, done in (("step=1", 1), ("step=2", 2), ("epochepoch=0", 2)):  # within an epoch, and at its end
        checkpoint.seed_random_state(123)  # another process would stand elsewhere
        again = TrainingModule(config)
        # Without the callback that saved, of which Lightning tells.
        with pytest.warns(UserWarning, match="callbacks used to create the checkpoint need to be provided"):
            found = losses_of(one(config, enable_checkpointing=False), again, f"{config.out}/{name}.ckpt")
        assert found == own[done:], name
        assert again.summary == module.summary
        assert trained(again)
    loaded = TrainingModule.load_from_checkpoint(f"{config.out}/step=6.ckpt")
    assert trained(loaded)
    assert loaded.task.classes == ["down", "right"]
    (numbers,) = one(config).validate(loaded, verbose=False)
    assert numbers["validation_loss"] == pytest.approx(result["validation_loss"], rel=1e-6)


@pytest.mark.slow
def test_two_processes_are_as_one(videos, tmp_path):
    options = {
        "model": "tests.helpers.own_model:make", "like": "c3d", "frames": 8, "size": 24, "hold_out": 1 / 3,
        "clip_norm": 0.5,
    }  # fmt: skip
    result = train(config_of(videos, tmp_path / "own", **options))
    config = config_of(videos, tmp_path / "lightning", **options)
    (tmp_path / "fields.json").write_text(json.dumps(dataclasses.asdict(config)))
    found = subprocess.run(
        [sys.executable, "-m", "tests.helpers.lightning_run", tmp_path / "fields.json", tmp_path / "result.json"],
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    told = json.loads((tmp_path / "result.json").read_text())
    assert told["processes"] == 2
    own = column(tmp_path / "own" / "steps.csv", "loss")
    assert len(own) == 4
    assert told["losses"] == pytest.approx(own, rel=1e-6)
    assert told["summary"] == pytest.approx({name: result[name] for name in told["summary"]}, rel=1e-5)
    assert "accuracy" in told["summary"]


def test_a_forecaster_with_and_without_validation(tmp_path):
    options = {
        "model": "encoder_forecaster", "small": True, "past": 2, "future": 2, "frame_size": [24, 24], "batch_size": 4,
        "model_options": {"output": "residual"},
    }  # fmt: skip
    for name, validation in (("with", "moving-digits:3"), ("without", None)):
        result = train(config_of("moving-digits:8", tmp_path / name, validation=validation, **options))
        config = config_of("moving-digits:8", tmp_path / "lightning", validation=validation, **options)
        module = TrainingModule(config)
        assert losses_of(one(config, enable_checkpointing=False), module) == column(
            tmp_path / name / "steps.csv", "loss"
        )
        assert module.summary == {key: value for key, value in result.items() if key != "training_loss"}
        assert ("mse_of_steps" in module.summary) is (validation is not None)


def test_what_cannot_be_is_named(videos, tmp_path):
    options = {"model": "slow_fusion_toy", "small": True}
    for name, value in (("parallel", "fsdp"), ("save_every", 3), ("device", "cuda")):
        with pytest.raises(ValueError, match=rf"^{name}: expected .* with Lightning, whose Trainer .*, got {value!r}"):
            TrainingModule(config_of(videos, tmp_path, **options, **{name: value}))
    with pytest.raises(ValueError, match="batch_size: expected a positive int, got 0"):
        TrainingModule(config_of(videos, tmp_path, **options, batch_size=0))
    module = TrainingModule(config_of(videos, tmp_path, **options))
    others = {"max_epochs": 3, "gradient_clip_val": 1.0, "precision": "bf16-mixed", "accumulate_grad_batches": 2}
    for name, value in others.items():
        with pytest.raises(ValueError, match=rf"^trainer: expected {name}=.*, got {value!r}"):
            Trainer(**{**quiet(module.config), name: value}, enable_checkpointing=False).fit(module)


# Of runs as short as this one.
@pytest.mark.filterwarnings("ignore:The number of training batches:UserWarning")
def test_the_example_of_the_page(videos, tmp_path, monkeypatch, capsys):
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/scale-out/README.md").read_text(), flags=re.DOTALL)
    (tmp_path / "videos").symlink_to(videos)
    monkeypatch.chdir(tmp_path)
    exec(block, {})
    assert "'accuracy': " in capsys.readouterr().out
    assert list(tmp_path.glob("run/**/*.ckpt"))


def test_without_lightning_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "lightning.pytorch", None)
    monkeypatch.delitem(sys.modules, "fastrcn.training.lightning")
    with pytest.raises(ImportError, match=r'Lightning is not installed: pip install "fastrcn\[lightning\]"'):
        importlib.import_module("fastrcn.training.lightning")
