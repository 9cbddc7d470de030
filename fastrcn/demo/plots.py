"""Pictures of what was learned."""

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt


def draw_predictions(path, past, truth, prediction, copy):
    """Rows: truth, prediction, its error, the error of repeating the last frame; columns: time. All (T,H,W)."""
    past, truth, prediction, copy = (frames.numpy() for frames in (past, truth, prediction, copy))
    shown_past = past[-2:]
    columns = len(shown_past) + len(truth)
    h, w = truth.shape[1:]
    figure, axes = plt.subplots(4, columns, figsize=(2.2 * columns * max(1, w / h) ** 0.5, 7.2), squeeze=False)
    peak = max(float(abs(truth - copy).max()), 1e-6)
    rows = ("true", "predicted", "error", "error of\nrepeating")
    for axis in axes.flat:
        axis.set_axis_off()
    for row, name in enumerate(rows):
        axes[row, 0].text(-0.06, 0.5, name, transform=axes[row, 0].transAxes, ha="right", va="center", fontsize=11)
    for k, frame in enumerate(shown_past):
        axes[0, k].imshow(frame, cmap="gray", vmin=0, vmax=1)
        axes[0, k].set_title(f"t = {k + 1 - len(shown_past)}", fontsize=10)
    for k in range(len(truth)):
        column = k + len(shown_past)
        axes[0, column].set_title(f"t = +{k + 1}", fontsize=10)
        axes[0, column].imshow(truth[k], cmap="gray", vmin=0, vmax=1)
        axes[1, column].imshow(prediction[k], cmap="gray", vmin=0, vmax=1)
        axes[2, column].imshow(abs(prediction[k] - truth[k]), cmap="magma", vmin=0, vmax=peak)
        axes[3, column].imshow(abs(copy[k] - truth[k]), cmap="magma", vmin=0, vmax=peak)
    figure.suptitle("Held-out frames")
    figure.subplots_adjust(left=0.08, right=0.99, top=0.9, bottom=0.01, wspace=0.04, hspace=0.05)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def draw_losses(path, losses, held_out, copied, curves):
    """Left: training and held-out error; right: the first steps fused and with plain loops."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4))
    per_epoch = len(losses) / len(held_out)
    left.plot(losses, lw=0.7, alpha=0.6, label="training")
    left.plot([per_epoch * (k + 1) for k in range(len(held_out))], held_out, "o-", ms=4, label="held out")
    left.axhline(copied, color="k", ls="--", lw=1, label="repeating the last frame, held out")
    left.set(xlabel="step", ylabel="mean squared error", yscale="log", title="Training")
    right.plot(curves["plain"], "o-", label="plain loops")
    right.plot(curves["fused"], "x--", label="fused")
    right.set(xlabel="step", ylabel="mean squared error", title="The same first steps")
    for axis in (left, right):
        axis.legend()
        axis.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
