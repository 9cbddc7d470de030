"""Options of a run: flags, YAML, checks."""

import argparse
import dataclasses

import pytest

from fastrcn.training import config as configs
from fastrcn.training.config import Config


def parse(*argv):
    parser = argparse.ArgumentParser()
    configs.add_arguments(parser)
    return configs.given(parser.parse_args(argv))


def test_flags_give_what_was_said_and_nothing_else():
    assert parse() == {}
    assert parse(
        "--model", "c3d", "--small", "--no-tensorboard", "--learning-rate", "1e-2", "--frame-size", "24", "32",
        "--model-option", "width=8", "--model-option", "cnn=null", "--shard", "Linear", "--mean", "0", "0", "0.5",
    ) == {
        "model": "c3d", "small": True, "tensorboard": False, "learning_rate": 0.01, "frame_size": [24, 32],
        "model_options": {"width": 8, "cnn": None}, "shard": ["Linear"], "mean": [0.0, 0.0, 0.5],
    }  # fmt: skip


def test_every_field_has_a_flag_and_survives_yaml(tmp_path):
    parser = argparse.ArgumentParser()
    configs.add_arguments(parser)
    text = parser.format_help()
    for name in configs.FIELDS:
        assert "--" + name.replace("_", "-").removesuffix("s" if name == "model_options" else "") in text
    config = Config(model="c3d", data="d", out="o", clip_norm=1.5, model_options={"a": [1, "b"]}, frame_size=[8, 9])
    path = tmp_path / "c.yaml"
    path.write_text(configs.to_yaml(config))
    assert configs.from_dict(configs.read(path)) == config


def test_yaml_scientific_numbers_are_numbers(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("learning_rate: 1e-3\nclip_norm: 1\n")  # the first is text to YAML
    config = configs.from_dict(configs.read(path))
    assert (config.learning_rate, config.clip_norm) == (1e-3, 1.0)
    assert isinstance(config.clip_norm, float)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"modle": "c3d"}, "modle: expected one of model, "),
        ({"epochs": 1.5}, "epochs: expected int, got 1.5"),
        ({"epochs": True}, "epochs: expected int, got True"),
        ({"small": "yes"}, "small: expected bool, got 'yes'"),
        ({"learning_rate": "fast"}, "learning_rate: expected float, got 'fast'"),
        ({"mean": [0.0]}, "mean: expected 3 values"),
        ({"shard": "Linear"}, "shard: expected a list"),
        ({"model_options": "a=1"}, "model_options: expected names with values"),
        ({"model": None}, "model: expected str, got None"),
        ({"frame_size": None}, "frame_size: expected a list, got None"),
    ],
)
def test_values_of_other_types_are_named(values, words):
    with pytest.raises(ValueError, match="^" + words.replace("(", r"\(")):
        configs.from_dict(values)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": ""}, "model: expected one, got none"),
        ({"epochs": 0}, "epochs: expected a positive int, got 0"),
        ({"warmup": -1}, "warmup: expected a number that is not negative"),
        ({"size": 0}, "size: expected a positive number"),
        ({"hold_out": 1.0}, "hold_out: expected a share"),
        ({"hold_out": 0.5, "validation": "v"}, "hold_out: expected 0 with validation=v"),
        ({"learning_rate": 0.0}, "learning_rate: expected a positive number"),
        ({"optimizer": "lion"}, "optimizer: expected one of adamw, adam, sgd, got 'lion'"),
        ({"transfer": "fixed"}, "transfer: expected full_ft without weights"),
        ({"momentum": 0.5}, "momentum: expected 0.9 without optimizer=sgd, got 0.5"),
        ({"shard": ["Linear"]}, "shard: expected .. without parallel=fsdp"),
        ({"std": [0.0, 1.0, 1.0]}, "std: expected positive numbers"),
    ],
)
def test_check_names_the_field(changes, words):
    good = Config(model="c3d", data="d", out="o")
    assert good.check() is good
    with pytest.raises(ValueError, match="^" + words):
        dataclasses.replace(good, **changes).check()


def test_files_that_are_not_yaml(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no file"):
        configs.read(tmp_path / "none.yaml")
    for text, words in (("a: [", "is not YAML"), ("- 1\n", "expected names with values")):
        (tmp_path / "bad.yaml").write_text(text)
        with pytest.raises(ValueError, match=words) as caught:
            configs.read(tmp_path / "bad.yaml")
        assert "bad.yaml" in str(caught.value)


def test_options_of_a_model_are_joined_one_by_one():
    file = {"model": "c3d", "model_options": {"frames": 9, "dropout": 0.25}}
    assert configs.joined(file, parse("--model-option", "dropout=5e-1")) == {
        "model": "c3d", "model_options": {"frames": 9, "dropout": 0.5}
    }  # fmt: skip
    with pytest.raises(SystemExit):
        parse("--model-option", "dropout=[1")


def test_a_flag_that_is_no_pair(capsys):
    with pytest.raises(SystemExit):
        parse("--model-option", "width")
    assert "expected NAME=VALUE, got 'width'" in capsys.readouterr().err
