"""``python -m benchmarks host``: what a training step takes the processor that starts a GPU's work, which is all of the
time where maps are small. Needs no GPU.

Kernels of the ``triton`` backend are compiled for a Hopper GPU and started on a CUDA driver that does nothing. What
fastrcn and the popular loop leave to PyTorch runs on the CPU, on tiny maps.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from statistics import median
from unittest import mock

import pytest
import torch
from tqdm import tqdm

import fastrcn
from benchmarks import cuda_driver
from benchmarks.baselines import PopularLoop
from fastrcn.ops.conv_recurrent.triton_program import TritonProgram

_CHANNELS, _SIZE = 16, 2
_LAYERS = {"lstm": fastrcn.ConvLSTM, "gru": fastrcn.ConvGRU, "rnn": fastrcn.ConvRNN}
_FORMS = {
    "one by one": ("launched", 1 << 62),
    "one kernel for many steps": ("persistent", 1 << 62),
    "the same, sequence in four spans": ("persistent", 1),
}
"""Of starting a time loop: its name, and the fewest pixels of a span of time."""


def _step(module, x):
    found = module(x)
    (found[0] if isinstance(found, tuple) else found).sum().backward()


def _seconds(contestants, rounds):
    """Medians of the rounds, in each of which every contestant takes one step."""
    times = {name: [] for name in contestants}
    for n in range(rounds + 3):  # the first compile
        for name, step in contestants.items():
            begin = time.perf_counter()
            step()
            if n >= 3:
                times[name].append(time.perf_counter() - begin)
    return {name: median(own) for name, own in times.items()}


def _row(kind, steps, rounds):
    torch.manual_seed(0)
    layer = _LAYERS[kind](_CHANNELS, _CHANNELS, 3)
    weights = [layer.weight_ih_l0, layer.weight_hh_l0, layer.bias_l0]
    popular = PopularLoop(kind, *(w.detach() for w in weights))
    x = torch.randn(steps, 1, _CHANNELS, _SIZE, _SIZE, requires_grad=True)

    def form(loop, pixels):
        def step():
            spans = pixels, TritonProgram.chunk_pixels[1]
            with mock.patch.object(TritonProgram, "chunk_pixels", spans), fastrcn.use_time_loop(loop):
                _step(layer, x)

        return step

    contestants = {"popular loop": lambda: _step(popular, x)}
    contestants |= {name: form(*how) for name, how in _FORMS.items()}
    with fastrcn.use_backend("triton"):
        return {"kind": kind, "steps": steps, "seconds": _seconds(contestants, rounds)}


def table(rows, facts) -> str:
    """Markdown: a row for each layer."""
    names = list(rows[0]["seconds"])
    lines = [
        f"fastrcn {facts['fastrcn']} at {facts['commit']}, PyTorch {facts['torch']}, {facts['device']}, one thread. "
        "Milliseconds of a training step on a CUDA driver that does nothing; the time loop started in three ways.",
        "",
        f"| layer | T | {' | '.join(names)} |",
        f"|---|---|{'---|' * len(names)}",
    ]
    for row in rows:
        times = (f"{1e3 * row['seconds'][name]:.2f}" for name in names)
        lines.append(f"| {row['kind']} | {row['steps']} | {' | '.join(times)} |")
    return "\n".join(lines) + "\n"


def main(argv, facts_of):
    """Run; ``facts_of``: what the command says of the machine."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks host", description=__doc__)
    parser.add_argument("--rounds", type=int, default=51)
    parser.add_argument("--steps", default="10,20", metavar="LIST", help="lengths of sequences")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"), metavar="DIR")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    facts = facts_of("float32", "cpu", (None, None))
    shapes = [(kind, int(steps)) for kind in _LAYERS for steps in args.steps.split(",")]
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        cuda_driver.install(folder, patch, record=False)
        rows = [_row(kind, steps, args.rounds) for kind, steps in tqdm(shapes)]
    print(table(rows, facts))
    args.out.mkdir(parents=True, exist_ok=True)
    stem = args.out / "host"
    stem.with_suffix(".json").write_text(json.dumps({"facts": facts, "rows": rows}, indent=1) + "\n")
    stem.with_suffix(".md").write_text(table(rows, facts))
    print(f"files: {stem}.json, {stem}.md")
    return 0
