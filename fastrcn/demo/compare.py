"""The same net with plain loops and fused: differences, time per training step, peak memory."""

import statistics
import time

import torch
from torch.nn import functional as F

from fastrcn.demo.plain import gradients_by_name, plain_copy
from fastrcn.demo.train import batches, build, split, steps_of, window
from fastrcn.measure import can_measure_memory, peak_memory_in_new_process

LOSS_STEPS = 10


def _step(model, past, future, horizon):
    model.zero_grad()
    output = model(past, horizon)
    F.mse_loss(output, future).backward()
    return output.detach()


def _largest(tensor):
    return float(tensor.abs().max()) if tensor.numel() else 0.0


def _training_step(options, shape, fused):
    """A training step on random frames, to be measured in another process."""
    torch.set_num_threads(options.threads)
    model = build(options)
    model = model if fused else plain_copy(model)
    frames = torch.rand(options.batch, options.frames_in + options.frames_out, *shape)
    past, future = frames[:, : options.frames_in], frames[:, options.frames_in :]
    return lambda: _step(model, past, future, options.frames_out)


def compare(fused, clip, options, repeats=7) -> dict:
    """Compare a fused model with plain loops of the same weights.

    Returns differences, medians of seconds per step measured in turns, peak bytes (None where they cannot be measured),
    and the losses of the same first training steps."""
    plain = plain_copy(fused)
    starts, _ = split(clip, options)
    past, future = window(clip, [starts[k] for k in batches(starts, options, 1)[0]], options)
    print("comparing with plain PyTorch loops: differences and time ...")
    outputs = [_step(model, past, future, options.frames_out) for model in (fused, plain)]
    grads = [gradients_by_name(model) for model in (fused, plain)]
    scale = max(_largest(g) for g in grads[1].values())
    seconds: dict[str, list[float]] = {"fused": [], "plain": []}
    for _ in range(repeats):
        for name, model in (("fused", fused), ("plain", plain)):
            begin = time.perf_counter()
            _step(model, past, future, options.frames_out)
            seconds[name].append(time.perf_counter() - begin)
    memory = None
    if can_measure_memory():
        print("comparing: memory ...")
        memory = {
            name: peak_memory_in_new_process(_training_step, options, tuple(clip.shape[1:]), name == "fused")
            for name in ("fused", "plain")
        }
    print("comparing: the same first training steps ...")
    order = batches(starts, options, 1)
    order = (order * LOSS_STEPS)[:LOSS_STEPS]
    models = (build(options), plain_copy(build(options)))
    curves = [list(steps_of(model, clip, starts, options, order)) for model in models]
    return {
        "output_difference": float((outputs[0] - outputs[1]).abs().max()),
        "gradient_difference": max(_largest(grads[0][n] - g) for n, g in grads[1].items()) / scale,
        "seconds": {name: statistics.median(values) for name, values in seconds.items()},
        "memory": memory,
        "loss_curves": {"fused": curves[0], "plain": curves[1]},
        "loss_difference": max(abs(a - b) / b for a, b in zip(*curves, strict=True)),
    }
