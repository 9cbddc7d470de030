"""Labelled videos made here: a square that moves right, or down."""

import torch

from tests.helpers.clips import write_clip

WAYS = {"down": (1, 0), "right": (0, 1)}


def write_videos(root, each=3, frames=20, height=32, width=40):
    """A folder per way with so many videos; the squares begin at places drawn from a fixed seed. Returns the folder."""
    generator = torch.Generator().manual_seed(0)
    for name, (down, right) in WAYS.items():
        (root / name).mkdir(parents=True)
        for k in range(each):
            clip = torch.full((frames, 3, height, width), 40, dtype=torch.uint8)
            y, x = torch.randint(0, 8, (2,), generator=generator).tolist()
            for t, frame in enumerate(clip):
                frame[:, y + down * t : y + down * t + 8, x + right * t : x + right * t + 8] = 220
            write_clip(root / name / f"{k}.mp4", clip)
    return root
