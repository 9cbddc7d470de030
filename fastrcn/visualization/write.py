"""Pictures as PNG, clips as GIF. Needs Pillow and matplotlib."""

import io

import matplotlib
import torch
from PIL import Image

matplotlib.use("Agg")
from matplotlib import pyplot as plt

DPI = 80


def _pixels(frame):
    """(3,H,W) or (1,H,W), 0 to 1 -> (H,W,3) of bytes; values beyond are clipped."""
    return (255 * frame.expand(3, -1, -1)).round().clamp(0, 255).byte().permute(1, 2, 0).contiguous().numpy()


def _image(frame, scale):
    image = Image.fromarray(_pixels(frame))
    return image.resize((scale * image.width, scale * image.height), Image.Resampling.NEAREST)


def mosaic(clips, columns, gap=1):
    """Clips side by side, row by row, on white: (K,C,T,h,w) -> (C,T,rows*(h+gap)-gap,columns*(w+gap)-gap).

    Raises: ValueError naming the argument.
    """
    if clips.dim() != 5 or not len(clips):
        raise ValueError(f"clips: expected (K,C,T,h,w), at least one of them, got shape {tuple(clips.shape)}")
    if columns < 1:
        raise ValueError(f"columns: expected a positive int, got {columns}")
    count, channels, time, height, width = clips.shape
    rows = -(-count // columns)
    sheet = clips.new_ones(channels, time, rows * (height + gap) - gap, columns * (width + gap) - gap)
    for k, clip in enumerate(clips):
        top, left = (k // columns) * (height + gap), (k % columns) * (width + gap)
        sheet[:, :, top : top + height, left : left + width] = clip
    return sheet


def write_png(path, frame, scale=1):
    """Write one frame (3,H,W) or (1,H,W), 0 to 1; each of its pixels becomes ``scale`` by ``scale``."""
    _image(frame, scale).save(path)


def write_gif(path, clip, fps=8.0, scale=1, colors=256):
    """Write a clip (3,T,H,W) or (1,T,H,W), 0 to 1, that is repeated for ever, in at most 256 colours for all frames.

    Frames equal to the one before are not stored again: that one stays longer.
    """
    frames = [_image(frame, scale) for frame in clip.unbind(1)]
    together = Image.new("RGB", (frames[0].width, frames[0].height * len(frames)))
    for k, frame in enumerate(frames):
        together.paste(frame, (0, k * frame.height))
    palette = together.quantize(colors, dither=Image.Dither.NONE)
    first, *rest = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    first.save(path, save_all=True, append_images=rest, duration=round(1000 / fps), loop=0)


def write_sheet(path, images, row_names, column_names, scale=2.0):
    """Write a table of images with words, all as high as the first, at most 256 colours.

    Args:
        images: rows of frames (3,H,W) or (1,H,W), 0 to 1; those of a column have the same proportions.
        row_names: one before each row. column_names: one over each column.
        scale: side of the first image's pixels.
    """
    widths = [image.shape[2] / image.shape[1] for image in images[0]]
    height, gap, left = scale * images[0][0].shape[1], 6, 130
    top = 8 + 14 * (1 + max(name.count("\n") for name in column_names))
    total = left + sum(height * w + gap for w in widths), top + len(images) * (height + gap)
    figure = plt.figure(figsize=(total[0] / DPI, total[1] / DPI), dpi=DPI)
    for r, row in enumerate(images):
        bottom = total[1] - top - (r + 1) * height - r * gap
        figure.text((left - 8) / total[0], (bottom + height / 2) / total[1], row_names[r], ha="right", va="center",
                    fontsize=9)  # fmt: skip
        for c, image in enumerate(row):
            before = left + sum(height * w + gap for w in widths[:c])
            box = (before / total[0], bottom / total[1], height * widths[c] / total[0], height / total[1])
            axis = figure.add_axes(box)
            axis.imshow(_pixels(image), interpolation="nearest", aspect="auto")
            axis.set_axis_off()
            if r == 0:
                axis.set_title(column_names[c], fontsize=9, pad=4)
    with io.BytesIO() as file:
        figure.savefig(file, dpi=DPI, format="png")
        image = Image.open(file).convert("RGB")
    image.quantize(palette=image.quantize(256)).save(path)  # only with a palette are colours mixed of dots
    plt.close(figure)


def heat(maps):
    """Values from 0 to 1 in colours from black over red to yellow: (...,H,W) -> (3,...,H,W)."""
    colors = torch.from_numpy(plt.get_cmap("inferno")(maps.numpy())[..., :3]).float()
    return colors.movedim(-1, 0)
