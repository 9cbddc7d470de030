"""``python -m benchmarks vectors``: LSTM, GRU and RNN of vectors by the fused operation, against torch.nn's own code.

A pass without gradients and a training step, with equal weights, in float32 on the CPU. The rule by which
``fastrcn.interop.torch_nn`` sends a call to one or the other comes from this table.
"""

import argparse
import itertools
import json
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from benchmarks.case import Case, Unavailable
from benchmarks.recurrent import First
from benchmarks.runner import measure_ceilings, run_case
from fastrcn.interop import torch_choice, torch_nn

_KINDS = {kind.__name__: kind for kind in (nn.LSTM, nn.GRU, nn.RNN)}
_STEPS, _BATCHES, _HIDDEN_SIZES, _STACKS = (1, 16, 32, 64, 128), (1, 16, 64), (32, 128, 512), ((1, False), (2, True))
_MOST_PRODUCTS = 1 << 30
"""Larger cases take long and say nothing new."""


@dataclass(frozen=True)
class VectorCase(Case):
    """A layer of ``torch.nn`` and the ``fastrcn`` layer with its weights, whose input is as wide as its state."""

    kind: str = "LSTM"
    steps: int = 1
    batch: int = 1
    hidden_size: int = 32
    layers: int = 1
    bidirectional: bool = False

    def flops(self):
        """Roughly: as if all gates were of the first layer's size."""
        gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[self.kind]
        directions = 2 if self.bidirectional else 1
        return 4 * self.steps * self.batch * gates * self.hidden_size**2 * self.layers * directions

    def bytes(self, size):
        return 2 * size * self.steps * self.batch * self.hidden_size

    def passes(self):
        return 3

    def make_input(self, dtype, device):
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(self.steps, self.batch, self.hidden_size, generator=generator).to(device, dtype)
        return x.requires_grad_(self.train)

    def make(self, name, dtype, device):
        if name not in ("fastrcn", "nn"):
            raise Unavailable("layers of vectors are compared with torch.nn's")
        torch.manual_seed(0)
        theirs = _KINDS[self.kind](
            self.hidden_size,
            self.hidden_size,
            self.layers,
            bidirectional=self.bidirectional,
            device=device,
            dtype=dtype,
        )
        return First(theirs if name == "nn" else torch_nn.from_module(theirs))


def _cases():
    for kind, hidden_size, (layers, both), steps, batch in itertools.product(
        _KINDS, _HIDDEN_SIZES, _STACKS, _STEPS, _BATCHES
    ):
        name = f"{kind} T {steps}, B {batch}, {hidden_size}"
        case = VectorCase(name, "", True, True, False, kind, steps, batch, hidden_size, layers, both)
        if case.flops() <= _MOST_PRODUCTS:
            yield case


def _row(case, rounds, ceilings):
    """One shape without gradients and in training, as plain data."""
    row = {name: getattr(case, name) for name in ("kind", "steps", "batch", "hidden_size", "layers", "bidirectional")}
    for mode, train in (("inference", False), ("training", True)):
        found = run_case(
            replace(case, train=train), ("fastrcn", "nn"), torch.float32, "cpu", ceilings, rounds, memory=False
        )["contestants"]
        if "error" in found["nn"]:
            raise RuntimeError(f"{case.name}: torch.nn's layer {found['nn']['error']}")
        fused = torch_choice.is_faster(_KINDS[case.kind], case.hidden_size, case.steps, torch.empty(0), train)
        ours, theirs = found["fastrcn"], found["nn"]
        row[mode] = {
            "fused_s": ours["spread_s"][0], "nn_s": theirs["spread_s"][0],
            "ratio": theirs["spread_s"][0] / ours["spread_s"][0], "median_ratio": theirs["ratio"],
            "runs": "fused" if fused else "torch.nn",
        }  # fmt: skip
    return row


def table(rows, facts) -> str:
    """Markdown: a row for each shape."""
    lines = [
        f"fastrcn {facts['fastrcn']} at {facts['commit']}, PyTorch {facts['torch']}, float32, {facts['device']}, "
        f"{facts['threads']} threads.",
        "",
        "Times are those of the fastest rounds. `ratio`: torch.nn's over the fused operation's; above 1 the fused "
        "operation is faster; behind it the median of the rounds' ratios. In bold: the calls that "
        "`fastrcn.interop.torch_nn` sends to the fused operation.",
        "",
        "| layer | T | B | units | layers | inference ms, fused / torch.nn | ratio | training ms, fused / torch.nn "
        "| ratio |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        stack = f"{row['layers']}{', both directions' if row['bidirectional'] else ''}"
        cells = [row["kind"], row["steps"], row["batch"], row["hidden_size"], stack]
        for mode in (row["inference"], row["training"]):
            cells.append(f"{1e3 * mode['fused_s']:.2f} / {1e3 * mode['nn_s']:.2f}")
            ratio, median = f"{mode['ratio']:.2f}", f"{mode['median_ratio']:.2f}"
            cells.append(f"**{ratio}** ({median})" if mode["runs"] == "fused" else f"{ratio} ({median})")
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n"


def main(argv, facts_of):
    """Run; ``facts_of``: what the command says of the machine."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks vectors", description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--kinds", default=",".join(_KINDS), metavar="LIST", help="of %(default)s")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"), metavar="DIR")
    args = parser.parse_args(argv)
    unknown = [kind for kind in args.kinds.split(",") if kind not in _KINDS]
    if unknown:
        parser.error(f"--kinds: expected some of {','.join(_KINDS)}, got {unknown[0]!r}")
    torch.set_num_threads(args.threads)
    ceilings = measure_ceilings(torch.float32, "cpu")
    facts = facts_of("float32", "cpu", ceilings)
    rows = [_row(case, args.rounds, ceilings) for case in _cases() if case.kind in args.kinds.split(",")]
    print(table(rows, facts))
    args.out.mkdir(parents=True, exist_ok=True)
    stem = args.out / f"vectors-{args.threads}-threads"
    stem.with_suffix(".json").write_text(json.dumps({"facts": facts, "rows": rows}, indent=1) + "\n")
    stem.with_suffix(".md").write_text(table(rows, facts))
    print(f"files: {stem}.json, {stem}.md")
    return 0
