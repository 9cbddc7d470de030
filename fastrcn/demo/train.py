"""Windows of a clip, the training loop and the scores of a forecaster."""

import torch
from torch.nn import functional as F
from tqdm import tqdm

from fastrcn.models import EncoderForecaster


def build(options):
    """The forecaster that the options describe, with weights that depend on the seed only."""
    torch.manual_seed(options.seed)
    sizes = (options.hidden,) * options.layers
    return EncoderForecaster(
        1, sizes, 3, patch=options.patch, output="residual", peephole=None, backend=options.backend
    )


def split(clip, options):
    """First frames of the windows to train on, and of those held out: the clip's last fifth. No frame is shared."""
    length = options.frames_in + options.frames_out
    cut = int(0.8 * len(clip))
    cut = min(cut, len(clip) - length)
    train = range(cut - length + 1)
    held_out = range(cut, len(clip) - length + 1, max(1, options.frames_out // 2))
    return train, held_out


def window(clip, starts, options):
    """(past, future) frames (B,T,1,H,W) of the windows that begin at ``starts``."""
    length = options.frames_in + options.frames_out
    frames = torch.stack([clip[s : s + length] for s in starts])
    return frames[:, : options.frames_in], frames[:, options.frames_in :]


@torch.no_grad()
def score(model, clip, starts, options):
    """Mean squared error over windows: of the model, and of repeating the last frame."""
    model.eval()
    errors, copies = [], []
    for s in starts:
        past, future = window(clip, [s], options)
        errors.append(F.mse_loss(model(past, options.frames_out), future))
        copies.append(F.mse_loss(past[:, -1:].expand_as(future), future))
    model.train()
    return float(torch.stack(errors).mean()), float(torch.stack(copies).mean())


def steps_of(model, clip, starts, options, order):
    """Train one batch after the other, with a learning rate that falls to zero; yields each step's loss."""
    optimizer = torch.optim.Adam(model.parameters(), options.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, len(order))
    for batch in order:
        past, future = window(clip, [starts[k] for k in batch], options)
        optimizer.zero_grad()
        loss = F.mse_loss(model(past, options.frames_out), future)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        yield loss.item()


def batches(starts, options, epochs):
    """Indices into ``starts`` in random order, as batches, epoch by epoch."""
    generator = torch.Generator().manual_seed(options.seed)
    return [
        batch.tolist()
        for _ in range(epochs)
        for batch in torch.randperm(len(starts), generator=generator).split(options.batch)
    ]


def train(model, clip, options):
    """Train with a progress bar. Returns the step losses and, per epoch, the held-out error (which decides nothing)."""
    starts, held_out = split(clip, options)
    order = batches(starts, options, options.epochs)
    per_epoch = len(order) // options.epochs
    losses, curve = [], []
    with tqdm(total=len(order), desc="training", unit="step") as bar:
        for loss in steps_of(model, clip, starts, options, order):
            losses.append(loss)
            bar.update()
            bar.set_postfix(loss=f"{loss:.5f}", held_out=f"{curve[-1]:.5f}" if curve else "-")
            if len(losses) % per_epoch == 0:
                curve.append(score(model, clip, held_out, options)[0])
    return losses, curve
