"""Which computes a call of torch.nn's layers under their names: the fused operation or torch.nn's own code.

The rule is from measurements in float32 on one thread of a CPU with AVX2: benchmarks/results/vectors-1-threads.md (1 to
128 steps, batches of 1 to 64, 32 to 512 units, one layer, or two with both directions). Where it says that the fused
operation is faster, it has this multiple of torch.nn's speed, by the median of the rounds: GRU 1.2 to 6 in training and
1.05 to 3 without gradients, RNN 1.2 to 4 and 1.1 to 3, single steps of a large LSTM 1.4 to 2 and 1.1 to 2.6. Elsewhere
it has 0.04 to 1.4 of it, the least where there is least to compute: some hundred small steps in Python take half a
millisecond before it computes anything, with gradients one and a half, torch.nn's code a tenth of that. For sequences
of an LSTM oneDNN is level or faster at any length.
"""

import torch
from torch import nn

from fastrcn import backends, native
from fastrcn.functional import is_autocast

_FEWEST_STEPS = {nn.GRU: (64, 32), nn.RNN: (128, 64)}
"""From so many steps on the fused operation is the faster one: (without gradients, with)."""
_LARGE_LSTM = 512
"""From so many units on oneDNN's LSTM takes longer to rearrange its weights than to make a single step."""


def why_never(kind, hidden_size, like):
    """Why torch.nn's own code computes every call of a layer; "" where the fused operation is faster for some.

    Args:
        kind: ``torch.nn.LSTM``, GRU or RNN.
        like: a tensor of the weights' type and device.
    """
    if (like.device.type, like.dtype) != ("cpu", torch.float32):
        came = f"{str(like.dtype).removeprefix('torch.')} on {like.device.type}"
        return f"torch.nn's own code would run: which is faster is measured for float32 on cpu, this is {came}"
    if native.module() is None:
        return f"torch.nn's own code would run: {native.missing_reason()}"
    if kind is nn.LSTM and hidden_size < _LARGE_LSTM:
        return f"with {hidden_size} units torch.nn's own code would run, which is the faster one below {_LARGE_LSTM}"
    return ""


def is_faster(kind, hidden_size, steps, like, tracked):
    """Whether the fused operation is the faster one for so many steps; ``tracked``: gradients may be asked for."""
    if why_never(kind, hidden_size, like):
        return False
    return steps == 1 if kind is nn.LSTM else steps >= _FEWEST_STEPS[kind][tracked]


def is_asked_for():
    """Whether a backend was asked for by name."""
    return backends.requested()[0] is not None


def is_needed(device):
    """Whether the fused operation runs whatever the sizes: asked for by name, compiled, exported, under a transform of
    ``torch.func``, of which torch.nn's own code has not all, or under autocast."""
    if torch.compiler.is_compiling() or is_asked_for() or torch.onnx.is_in_onnx_export():
        return True
    return torch._C._are_functorch_transforms_active() or is_autocast(device)
