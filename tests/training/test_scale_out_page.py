"""The commands on the page about many processes: their flags are those of the command, their words those of a shell."""

import argparse
import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import torch.distributed.run as torchrun

from fastrcn.training import config as configs
from fastrcn.training.batches import EpochBatches
from fastrcn.training.commands import evaluate, predict, train

FOLDER = Path(__file__).parents[2] / "docs" / "scale-out"
PAGE = (FOLDER / "README.md").read_text()
SCRIPT = (FOLDER / "train.sbatch").read_text()
MODULES = {"train": train, "evaluate": evaluate, "predict": predict}


def commands_of(text):
    """The words of each command; lines that end with a backslash go on."""
    lines = text.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


COMMANDS = [
    words for block in re.findall(r"```sh\n(.*?)```", PAGE, flags=re.DOTALL) for words in commands_of(block)
    if words[0] != "pip"
]  # fmt: skip


def parse(command, flags):
    parser = argparse.ArgumentParser(prog=command, exit_on_error=False)
    MODULES[command].add_arguments(parser)
    return parser.parse_args(flags)


def check(words):
    """Parse what the words start; returns the name of the command."""
    if words[0] == "torchrun":
        args = torchrun.parse_args(words[1:])
        assert args.module
        words = ["python", "-m", args.training_script, *args.training_script_args]
    if words[1] == "docs/scale-out/ray_train.py":
        split = words.index("--")
        own = re.findall(r'add_argument\("(--[a-z-]+)"', (FOLDER / "ray_train.py").read_text())
        assert {word for word in words[:split] if word.startswith("--")} <= {*own}
        words = ["python", "-m", "fastrcn", "train", *words[split + 1 :]]
    assert words[:3] == ["python", "-m", "fastrcn"], words
    args = parse(words[3], words[4:])
    if words[3] == "train" and not args.resume:
        configs.from_dict(configs.given(args)).check()
    return words[3]


def test_commands_of_the_page():
    checked = [check(words) for words in COMMANDS if words[0] != "sbatch"]
    assert {*checked} == {"train", "evaluate", "predict"}
    assert sum(words[0] == "torchrun" for words in COMMANDS) >= 3
    for place in re.findall(r"\]\(([^)]*)\)", PAGE):
        assert (FOLDER / place).exists(), place
    named = re.findall(r"`(--[a-z-]+)", PAGE)
    parser = argparse.ArgumentParser()
    train.add_arguments(parser)
    flags = {option for action in parser._actions for option in action.option_strings}
    assert len(named) > 10
    assert {*named} <= flags | {"--flow-cache", "--", "--max-restarts"}


def test_a_flag_that_is_none_is_found():
    with pytest.raises((SystemExit, argparse.ArgumentError)):
        check(shlex.split("torchrun --standalone --nproc-per-node 2 -m fastrcn train --modle c3d --data a --out b"))
    with pytest.raises((SystemExit, argparse.ArgumentError)):
        check(shlex.split("torchrun --nprocs 2 -m fastrcn train --model c3d --data a --out b"))


def test_batch_sizes_of_elastic_runs_fit_all_numbers_of_processes():
    (words,) = (words for words in COMMANDS if "--max-restarts" in words)
    args = torchrun.parse_args(words[1:])
    least, most = map(int, args.nnodes.split(":"))
    batch_size = parse("train", args.training_script_args[1:]).batch_size
    for nodes in range(least, most + 1):
        EpochBatches(1000, batch_size, 0, 0, nodes * int(args.nproc_per_node))


def test_the_slurm_script(tmp_path):
    """Run by a shell, with Slurm's programs stood in for: what it starts."""
    for name, text in (("scontrol", "echo node1; echo node2"), ("srun", 'printf "%s\\n" "$@"')):
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    env = {
        **os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_NODELIST": "node[1-2]",
        "SLURM_NNODES": "2", "SLURM_GPUS_ON_NODE": "8", "SLURM_JOB_ID": "17",
    }  # fmt: skip
    flags = ["--model", "c3d", "--data", "my videos", "--out", "run"]
    found = subprocess.run(
        ["bash", FOLDER / "train.sbatch", *flags], env=env, capture_output=True, text=True, check=True
    )
    words = found.stdout.splitlines()
    assert check(words) == "train"
    args = torchrun.parse_args(words[1:])
    assert (args.nnodes, args.nproc_per_node, args.rdzv_endpoint, args.rdzv_id) == ("2", "8", "node1:29500", "17")
    assert args.training_script_args == ["train", "--resume", *flags]
