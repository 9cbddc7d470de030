"""``python -m benchmarks host``: what a call takes the processor that starts a GPU's work, which is all of the time
where maps are small. Needs no GPU.

Kernels of the ``triton`` backend are compiled for a Hopper GPU and started on a CUDA driver that does nothing. What
fastrcn leaves to PyTorch, the popular loop and plain PyTorch run on the CPU, on tiny maps.
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
from fastrcn.layers.conv3d import BatchNormReLUPool3d
from fastrcn.ops.conv_recurrent.triton_program import TritonProgram

_CHANNELS, _SIZE = 16, 2
_LAYERS = {"lstm": fastrcn.ConvLSTM, "gru": fastrcn.ConvGRU, "rnn": fastrcn.ConvRNN}
_CLIPS = {
    "conv, ReLU, pool": lambda: fastrcn.ConvReLUPool3d(_CHANNELS, _CHANNELS, 3, padding=1, pool_kernel_size=2),
    "batch norm, ReLU, pool": lambda: BatchNormReLUPool3d(_CHANNELS, pool_kernel_size=2),
}
_FORMS = {
    "one by one": ("launched", 1 << 62),
    "one kernel for many steps": ("persistent", 1 << 62),
    "the same, sequence in four spans": ("persistent", 1),
}
"""Of starting a time loop: its name, and the fewest pixels of a span of time."""
_WITHOUT_LOOP = {"plain": "reference", "one by one": "triton"}


def _call(module, x, trains):
    with torch.set_grad_enabled(trains):
        found = module(x)
        if trains:
            (found[0] if isinstance(found, tuple) else found).sum().backward()


def _seconds(contestants, rounds):
    """Medians of the rounds, in each of which every contestant is called once."""
    times = {name: [] for name in contestants}
    for n in range(rounds + 3):  # the first compile
        for name, step in contestants.items():
            begin = time.perf_counter()
            step()
            if n >= 3:
                times[name].append(time.perf_counter() - begin)
    return {name: median(own) for name, own in times.items()}


def _by(backend, module, x, trains):
    def call():
        with fastrcn.use_backend(backend):
            _call(module, x, trains)

    return call


def _row(kind, steps, trains, rounds):
    """Of a recurrent layer."""
    torch.manual_seed(0)
    layer = _LAYERS[kind](_CHANNELS, _CHANNELS, 3)
    weights = [layer.weight_ih_l0, layer.weight_hh_l0, layer.bias_l0]
    popular = PopularLoop(kind, *(w.detach() for w in weights))
    x = torch.randn(steps, 1, _CHANNELS, _SIZE, _SIZE, requires_grad=True)

    def form(loop, pixels):
        def step():
            spans = pixels, TritonProgram.chunk_pixels[1]
            with mock.patch.object(TritonProgram, "chunk_pixels", spans), fastrcn.use_time_loop(loop):
                call()

        call = _by("triton", layer, x, trains)
        return step

    contestants = {"popular loop": lambda: _call(popular, x, trains), "plain": _by("reference", layer, x, trains)}
    contestants |= {name: form(*how) for name, how in _FORMS.items()}
    return {"kind": kind, "steps": steps, "trains": trains, "seconds": _seconds(contestants, rounds)}


def _clip_row(kind, trains, rounds):
    """Of a layer of clips, which is no loop."""
    layer = _CLIPS[kind]().train(trains)
    x = torch.randn(1, _CHANNELS, _SIZE, _SIZE, _SIZE, requires_grad=True)
    contestants = {name: _by(backend, layer, x, trains) for name, backend in _WITHOUT_LOOP.items()}
    return {"kind": kind, "steps": None, "trains": trains, "seconds": _seconds(contestants, rounds)}


def table(rows, facts) -> str:
    """Markdown: a row for each layer and length, in training and in inference."""
    names = list(rows[0]["seconds"])
    lines = [
        f"fastrcn {facts['fastrcn']} at {facts['commit']}, PyTorch {facts['torch']}, {facts['device']}, one thread. "
        "Milliseconds of a call, in training with its backward, on a CUDA driver that does nothing: the popular loop, "
        "fastrcn's own plain PyTorch, and `triton`, its time loop started in three ways.",
        "",
        f"| layer | T | call | {' | '.join(names)} |",
        f"|---|---|---|{'---|' * len(names)}",
    ]
    for row in rows:
        times = (f"{1e3 * row['seconds'][name]:.2f}" if name in row["seconds"] else "" for name in names)
        call = "training" if row["trains"] else "inference"
        lines.append(f"| {row['kind']} | {row['steps'] or ''} | {call} | {' | '.join(times)} |")
    return "\n".join(lines) + "\n"


def main(argv, facts_of):
    """Run; ``facts_of``: what the command says of the machine."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks host", description=__doc__)
    parser.add_argument("--rounds", type=int, default=51)
    parser.add_argument("--steps", default="1,10,20", metavar="LIST", help="lengths of sequences")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"), metavar="DIR")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    facts = facts_of("float32", "cpu", (None, None))
    both = (True, False)
    shapes = [(kind, int(n), trains) for kind in _LAYERS for n in args.steps.split(",") for trains in both]
    clips = [(kind, trains) for kind in _CLIPS for trains in both]
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        cuda_driver.install(folder, patch, record=False)
        rows = [_row(*shape, args.rounds) for shape in tqdm(shapes)]
        rows += [_clip_row(*clip, args.rounds) for clip in clips]
    print(table(rows, facts))
    args.out.mkdir(parents=True, exist_ok=True)
    stem = args.out / "host"
    stem.with_suffix(".json").write_text(json.dumps({"facts": facts, "rows": rows}, indent=1) + "\n")
    stem.with_suffix(".md").write_text(table(rows, facts))
    print(f"files: {stem}.json, {stem}.md")
    return 0
