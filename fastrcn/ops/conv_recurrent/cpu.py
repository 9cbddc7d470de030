"""The ``cpu`` backend: compiled convolutions and stages, the time loop in C++."""

import torch

from fastrcn import native
from fastrcn.compiler.schedule import schedule_of
from fastrcn.ops.conv_recurrent import fused
from fastrcn.ops.conv_recurrent.geometry import Geometry, accumulate_type

_TYPES = (torch.float32, torch.float64, torch.bfloat16)


def can_run(cell, dtype, device):
    """(whether this backend runs the cell, why not or how)."""
    if device != "cpu":
        return False, f"it runs on cpu tensors, these are on {device}"
    if dtype not in _TYPES:
        return False, f"it has float32, float64 and bfloat16, these are {str(dtype).removeprefix('torch.')}"
    if native.module() is None:
        return False, native.missing_reason()
    notes = []
    if not native.has_cell(schedule_of(cell), 0):
        notes.append("stages as generated PyTorch code: this cell was not compiled into the extension")
    else:
        notes.append(f"compiled stages ({native.isa()})")
        if compute_type(dtype) == torch.bfloat16:
            notes.append("oneDNN's convolution, time loop in Python")
        else:
            notes.append("compiled convolution, time loop in C++")
    if dtype == torch.bfloat16 and compute_type(dtype) != dtype:
        notes.append("computed in float32: this processor has no bfloat16 convolution")
    return True, "; ".join(notes)


def compute_type(dtype):
    """Type in which a call of ``dtype`` is computed and its intermediates are kept."""
    return torch.float32 if dtype == torch.bfloat16 and not native.has_bfloat16_convolution() else dtype


def _cast(tensors, dtype):
    return [None if t is None else t.to(dtype) for t in tensors]


def forward(cell, inputs, weight_ih, weight_hh, bias, weight_ch, hx, lengths, stride, dilation, reverse, save):
    """The operator's body: [output (T,B,C,H,W), last states (B,C,H,W) ..., saved ...]."""
    schedule, dtype, compute = schedule_of(cell), weight_hh.dtype, compute_type(weight_hh.dtype)
    geometry = Geometry.of(schedule, inputs, weight_ih, weight_hh, stride, dilation, reverse)
    weight_hh, bias, weight_ch = _cast((weight_hh, bias, weight_ch), compute)
    output, finals, saved = fused.forward(
        geometry, _cast(inputs, compute), _cast(weight_ih, compute), weight_hh, bias, weight_ch, _cast(hx, compute),
        lengths, save,
    )  # fmt: skip
    public = [fused.maps_first(t).to(dtype) for t in (output, *finals)]
    return public + saved


def forward_fake(cell, inputs, weight_ih, weight_hh, bias, weight_ch, hx, lengths, stride, dilation, reverse, save):
    """Shapes, strides and types of what ``forward`` returns."""
    schedule = schedule_of(cell)
    geometry = Geometry.of(schedule, inputs, weight_ih, weight_hh, stride, dilation, reverse)
    b, h, w, c = geometry.map
    compute = compute_type(weight_hh.dtype)
    results = [weight_hh.new_empty(geometry.steps, b, h, w, c).movedim(-1, -3)]
    results += [weight_hh.new_empty(b, h, w, c).movedim(-1, -3) for _ in schedule.states]
    if save:
        for conv in schedule.convolved_states[1:]:
            dtype = compute if conv else accumulate_type(compute)
            results.append(weight_hh.new_empty(geometry.steps, b, h, w, c, dtype=dtype))
    if save == fused.Save.ALL:
        for group in schedule.groups:
            results.append(weight_hh.new_empty(geometry.steps, b, h, w, len(group.slots) * c, dtype=compute))
    return results


def backward(
    cell, grads, inputs, weight_ih, weight_hh, bias, weight_ch, hx, lengths, output, saved, stride, dilation, reverse,
    needs,
):  # fmt: skip
    """The operator's body: the gradients that ``needs`` asks for, in the order of the tensors, the others left out."""
    schedule, dtype, compute = schedule_of(cell), weight_hh.dtype, compute_type(weight_hh.dtype)
    geometry = Geometry.of(schedule, inputs, weight_ih, weight_hh, stride, dilation, reverse)
    n = len(inputs)
    weight_hh, bias, weight_ch = _cast((weight_hh, bias, weight_ch), compute)
    found = fused.backward(
        geometry, _cast(grads, compute), _cast(inputs, compute), _cast(weight_ih, compute), weight_hh, bias, weight_ch,
        _cast(hx, compute), lengths, fused.maps_last(output).to(compute), [s.contiguous() for s in saved],
        {
            "inputs": needs[:n], "weight_ih": needs[n : 2 * n], "weight_hh": needs[2 * n],
            "bias": needs[2 * n + 1], "weight_ch": needs[2 * n + 2], "hx": any(needs[2 * n + 3 :]),
        },
    )  # fmt: skip
    flat = [*found["inputs"], *found["weight_ih"], found["weight_hh"], found["bias"], found["weight_ch"], *found["hx"]]
    return [grad.to(dtype) for grad, need in zip(flat, needs, strict=True) if need]


def backward_fake(
    cell, grads, inputs, weight_ih, weight_hh, bias, weight_ch, hx, lengths, output, saved, stride, dilation, reverse,
    needs,
):  # fmt: skip
    """Shapes, strides and types of what ``backward`` returns."""
    n = len(inputs)
    results = []
    for k, (tensor, need) in enumerate(zip([*inputs, *weight_ih, weight_hh, bias, weight_ch, *hx], needs, strict=True)):
        if not need:
            continue
        if k < n or k >= 2 * n + 3:
            *lead, c, h, w = tensor.shape
            results.append(tensor.new_empty(*lead, h, w, c).movedim(-1, -3))
        else:
            results.append(tensor.new_empty(tensor.shape))
    return results
