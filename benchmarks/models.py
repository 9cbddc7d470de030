"""``python -m benchmarks models``: every model that runs on this package's kernels, fused against plain PyTorch.

One training step (forward and backward) and one pass in evaluation, with equal weights, in the paper's size, of a batch
of one; of eight where vectors are normalised over the batch, which with fewer magnifies every rounding.
"""

import argparse
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import report
from benchmarks.case import Case, Unavailable, backend_on, training_step
from benchmarks.runner import measure_ceilings, run_case
from fastrcn import models

_CONTESTANTS = ("fastrcn", "plain")


def _floats(value):
    if isinstance(value, torch.Tensor):
        return [value] if value.is_floating_point() else []
    value = list(value.values()) if isinstance(value, dict) else value
    return [t for v in value for t in _floats(v)] if isinstance(value, (tuple, list)) else []


def _batch(model):
    return 8 if isinstance(model, models.C3DBatchNorm) else 1


class Bound(nn.Module):
    """A model with its inputs: whatever it is called with, it gives all its outputs as one vector."""

    def __init__(self, model, inputs):
        super().__init__()
        self.model, self.inputs = model, inputs

    def forward(self, _):
        return torch.cat([t.flatten() for t in _floats(self.model(*self.inputs))])


@dataclass(frozen=True)
class ModelCase(Case):
    """A model by name. ``small``: in the size that tests run."""

    small: bool = False
    counted: dict[str, float] = field(default_factory=dict)

    def make(self, name, dtype, device):
        if name not in _CONTESTANTS:
            raise Unavailable("models are compared with plain PyTorch")
        torch.manual_seed(0)
        model: Any = models.create(
            self.name, small=self.small, backend="reference" if name == "plain" else backend_on(device)
        )
        # Dropout would decide by chance what the two have in common; normalisations keep a batch's statistics.
        for module in model.modules():
            if isinstance(module, (nn.Dropout, nn.Dropout2d, nn.Dropout3d)):
                module.p = 0.0
        torch.manual_seed(1)
        inputs = tuple(
            t.to(device, dtype if t.is_floating_point() else None) if isinstance(t, torch.Tensor) else t
            for t in model.example_inputs(_batch(model))
        )
        return Bound(model.to(device, dtype).train(self.train), inputs)

    def make_input(self, dtype, device):
        return torch.zeros((), dtype=dtype, device=device)

    def count(self, plain):
        """Count the products of a training step of the plain model, for the floor."""
        with FlopCounterMode(display=False) as counter:
            training_step(plain, torch.zeros(()))
        self.counted["flops"] = counter.get_total_flops()

    def flops(self):
        return self.counted["flops"]

    def bytes(self, size):
        return 0.0

    def passes(self):
        """All are counted."""
        return 1


def gradient_difference(fused, plain):
    """The relative difference of the gradients of all parameters together; raises where one of the two has none."""
    difference = whole = 0.0
    for module in (fused, plain):
        module.zero_grad()
        training_step(module, torch.zeros(()))
    for (name, a), b in zip(fused.named_parameters(), plain.parameters(), strict=True):
        if (a.grad is None) != (b.grad is None) or (a.requires_grad and a.grad is None):
            raise RuntimeError(f"{name}: only one of fused and plain has a gradient, or neither")
        if a.grad is not None and b.grad is not None:
            difference += float((a.grad - b.grad).double().square().sum())
            whole += float(b.grad.double().square().sum())
        a.grad = b.grad = None
    return (difference / whole) ** 0.5


def run(case, dtype, device, ceilings, rounds, memory):
    """Measure one model: the runner's results, and what the table of models says of it."""
    fused, plain = (case.make(name, dtype, device) for name in _CONTESTANTS)
    case.count(plain)
    facts = {
        "parameters": sum(p.numel() for p in plain.parameters()),
        "gradients": gradient_difference(fused, plain),
    }
    del fused, plain
    inference = run_case(replace(case, train=False), _CONTESTANTS, dtype, device, ceilings, rounds, memory=False)
    facts["inference"] = inference["contestants"]
    return run_case(case, _CONTESTANTS, dtype, device, ceilings, rounds, memory) | facts


def _ratio(plain):
    """Of plain PyTorch's time over fastrcn's."""
    return plain["error"] if "error" in plain else f"{plain['ratio']:.2f}"


def table(results):
    """Markdown: a row for each model."""
    lines = [
        "| model | paper | parameters | runs on | gradient difference | training | inference | memory |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for result in results:
        entry, ours, plain = models.describe(result["case"]), *(result["contestants"][n] for n in _CONTESTANTS)
        share = f"{100 * ours['memory'] / plain['memory']:.0f} %" if ours.get("memory") and plain.get("memory") else ""
        speeds = f"{_ratio(plain)} | {_ratio(result['inference']['plain'])}"
        lines.append(
            f"| `{entry.name}` | {entry.paper} | {result['parameters']:,} | {', '.join(entry.kernels)} "
            f"| {result['gradients']:.0e} | {speeds} | {share} |"
        )
    return "\n".join(lines) + "\n"


def main(argv, facts_of):
    """Run; returns 1 where a model failed or disagreed. ``facts_of``: a function of (data type's name, device,
    ceilings) that gives the report's facts."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks models", description=__doc__)
    parser.add_argument("--models", default="*", metavar="PATTERN", help="names or shell patterns, with commas between")
    parser.add_argument("--small", action="store_true", help="in the size that tests run")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"), metavar="DIR")
    args = parser.parse_args(argv)
    found = {n for pattern in args.models.split(",") for n in models.list_models(pattern)}
    names = sorted(n for n in found if models.describe(n).kernels)
    if not names:
        parser.error(f"--models: no model on this package's kernels matches {args.models!r}")
    dtype = torch.float32
    ceilings = measure_ceilings(dtype, args.device)
    try:
        from tqdm import tqdm

        progress: Any = tqdm(names, unit="model")
    except ModuleNotFoundError:
        progress = names
    facts = facts_of("float32", args.device, ceilings)
    stem = f"models-{torch.device(args.device).type}"
    results, failed = [], False
    for name in progress:
        case = ModelCase(name, models.describe(name).paper, small=args.small)
        try:
            results.append(run(case, dtype, args.device, ceilings, args.rounds, not args.no_memory))
        except Exception as error:  # the others are measured all the same
            print(f"failed: {name}: {type(error).__name__}: {error}", file=sys.stderr)
            failed = True
        report.write_tables(results, facts, args.out, stem)
    paths = report.write(results, facts, args.out, stem)
    text = table(results)
    paths[1].write_text(text + "\n" + paths[1].read_text())
    print(text)
    print("files: " + ", ".join(map(str, paths)))
    measured = [r[kind] for r in results for kind in ("contestants", "inference")]
    return int(failed or any("error" in contestant for rows in measured for contestant in rows.values()))
