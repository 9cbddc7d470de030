"""A call on maps of zeros, for a class of programs that looks at the steps of the time loop instead of taking them."""

import torch

from fastrcn.compiler.schedule import schedule_of
from fastrcn.ops.conv_recurrent import fused
from fastrcn.ops.conv_recurrent.fused import Save
from fastrcn.ops.conv_recurrent.geometry import Geometry

_STEPS, _SIZE = 2, 4


def dry_run(
    forward, backward, key, dtype=torch.float32, channels=1, kernel=(1, 1), full=False, lengths=False, save=Save.ALL
):
    """Run the forward of the cell ``key`` by ``forward``, a class like ``program.Program``, and where ``save`` keeps
    anything for it the backward by ``backward``, of which no weight's and no input's gradient is asked for. ``full``:
    peepholes have a weight for each pixel."""
    schedule, size, one = schedule_of(key), (_SIZE,) * len(kernel), (1,) * len(kernel)
    blocks = schedule.blocks
    factors = blocks["peephole"] + blocks["scale"]

    def zeros(*shape):
        return torch.zeros(shape, dtype=dtype, device="cpu")

    inputs = [zeros(_STEPS, 1, channels, *size) for _ in schedule.inputs]
    weight_ih = [zeros(blocks[name] * channels, channels, *kernel) for name in schedule.inputs]
    weight_hh = zeros(blocks["h"] * channels, channels, *kernel)
    bias = zeros(blocks["bias"] * channels)
    weight_ch = zeros(factors * channels, *(size if full else ())) if factors else None
    hx = [zeros(1, channels, *size) for _ in schedule.states]
    masks = [zeros(_STEPS, 1, channels, *size) for _ in schedule.masks]
    ends = torch.full((1,), _STEPS, device="cpu") if lengths else None
    geometry = Geometry.of(schedule, inputs, weight_ih, weight_hh, one, one, None, False)
    arguments = (inputs, weight_ih, weight_hh, bias, weight_ch, hx, masks, ends)
    output, finals, saved = fused.in_turn(fused.forward(forward, geometry, *arguments, save))
    if save == Save.NOTHING:
        return
    needs = dict.fromkeys(("weight_hh", "bias", "weight_ch", "hx"), False)
    needs |= dict.fromkeys(("inputs", "weight_ih"), [False] * len(inputs))
    grads = [None] * (1 + len(finals))
    fused.in_turn(fused.backward(backward, geometry, grads, *arguments, output, saved, needs))
