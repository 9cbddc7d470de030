"""conv_recurrent as PyTorch operators, a whole sequence each, forward and backward. They know nothing of autograd."""

from fastrcn.compiler.schedule import schedule_of
from fastrcn.ops.conv_recurrent import cpu, cuda, fused, triton_program
from fastrcn.ops.conv_recurrent.geometry import Geometry, accumulate_type
from fastrcn.ops.conv_recurrent.layout import maps_first, maps_last
from fastrcn.ops.registration import register

_BACKENDS = {"cpu": cpu, "triton": triton_program, "cuda": cuda}

_FORWARD = (
    "str backend, str cell, Tensor[] inputs, Tensor[] weight_ih, Tensor weight_hh, Tensor? bias, "
    "Tensor? weight_ch, Tensor[] hx, Tensor[] masks, Tensor? lengths, int[] stride, int[] dilation, "
    "int[]? padding, bool reverse, int save"
)
_BACKWARD = (
    "str backend, str cell, Tensor?[] grads, Tensor[] inputs, Tensor[] weight_ih, Tensor weight_hh, "
    "Tensor? bias, Tensor? weight_ch, Tensor[] hx, Tensor[] masks, Tensor? lengths, Tensor output, Tensor[] saved, "
    "int[] stride, int[] dilation, int[]? padding, bool reverse, bool[] needs"
)


def program_of(backend):
    """The class of a backend's programs (see ``program.Program``)."""
    return _BACKENDS[backend].Program


def _compute_type(backend, weight_ih, weight_hh):
    """Type in which a backend computes a call with these weights."""
    return _BACKENDS[backend].compute_type(weight_hh.dtype, max(w.shape[1] for w in (*weight_ih, weight_hh)))


def _cast(tensors, dtype):
    return [None if t is None else t.to(dtype) for t in tensors]


def forward_requests(
    backend, cell, inputs, weight_ih, weight_hh, bias, weight_ch, hx, masks, lengths, stride, dilation, padding,
    reverse, save,
):  # fmt: skip
    """What ``forward`` returns, as a generator of requests (see ``fused.Request``)."""
    schedule, dtype, compute = schedule_of(cell), weight_hh.dtype, _compute_type(backend, weight_ih, weight_hh)
    geometry = Geometry.of(schedule, inputs, weight_ih, weight_hh, stride, dilation, padding, reverse)
    weight_hh, bias, weight_ch = _cast((weight_hh, bias, weight_ch), compute)
    output, finals, saved = yield from fused.forward(
        program_of(backend), geometry, _cast(inputs, compute), _cast(weight_ih, compute), weight_hh, bias,
        weight_ch, _cast(hx, compute), masks, lengths, save,
    )  # fmt: skip
    public = [maps_first(t, geometry.axes).to(dtype) for t in (output, *finals)]
    return public + saved


def forward(*arguments):
    """The operator's body: [output (T,B,C,H,W), last states (B,C,H,W) ..., saved ...]; maps may be (D,H,W)."""
    return fused.in_turn(forward_requests(*arguments))


def empty_results(geometry, like):
    """The output (T,B,C,H,W) and the last states (B,C,H,W), uninitialised, as they lie in memory; ``like``: a tensor of
    their type and device."""
    shapes = [(geometry.steps, *geometry.map), *(geometry.map for _ in geometry.schedule.states)]
    return [maps_first(like.new_empty(shape), geometry.axes) for shape in shapes]


def forward_fake(
    backend, cell, inputs, weight_ih, weight_hh, bias, weight_ch, hx, masks, lengths, stride, dilation, padding,
    reverse, save,
):  # fmt: skip
    """Shapes, strides and types of what ``forward`` returns."""
    schedule = schedule_of(cell)
    geometry = Geometry.of(schedule, inputs, weight_ih, weight_hh, stride, dilation, padding, reverse)
    steps, compute = geometry.steps, _compute_type(backend, weight_ih, weight_hh)
    results = empty_results(geometry, weight_hh)
    if save:
        for conv in schedule.convolved_states[1:]:
            dtype = compute if conv else accumulate_type(compute)
            results.append(weight_hh.new_empty(steps, *geometry.map, dtype=dtype))
    if save == fused.Save.ALL:
        for group in schedule.groups:
            shape = (steps, *geometry.map[:-1], len(group.slots) * geometry.channels)
            results.append(weight_hh.new_empty(shape, dtype=compute))
        for group in schedule.groups:
            if group.eps is not None:
                shape = (steps, geometry.batch, *(1 for _ in geometry.map[1:]))
                results.append(weight_hh.new_empty(shape, dtype=accumulate_type(compute)))
    return results


def backward_requests(
    backend, cell, grads, inputs, weight_ih, weight_hh, bias, weight_ch, hx, masks, lengths, output, saved, stride,
    dilation, padding, reverse, needs,
):  # fmt: skip
    """What ``backward`` returns, as a generator of requests."""
    schedule, dtype, compute = schedule_of(cell), weight_hh.dtype, _compute_type(backend, weight_ih, weight_hh)
    geometry = Geometry.of(schedule, inputs, weight_ih, weight_hh, stride, dilation, padding, reverse)
    n = len(inputs)
    weight_hh, bias, weight_ch = _cast((weight_hh, bias, weight_ch), compute)
    found = yield from fused.backward(
        program_of(backend), geometry, _cast(grads, compute), _cast(inputs, compute),
        _cast(weight_ih, compute), weight_hh, bias, weight_ch, _cast(hx, compute), masks, lengths,
        maps_last(output, geometry.axes).to(compute), [s.contiguous() for s in saved],
        {
            "inputs": needs[:n], "weight_ih": needs[n : 2 * n], "weight_hh": needs[2 * n],
            "bias": needs[2 * n + 1], "weight_ch": needs[2 * n + 2], "hx": any(needs[2 * n + 3 :]),
        },
    )  # fmt: skip
    flat = [*found["inputs"], *found["weight_ih"], found["weight_hh"], found["bias"], found["weight_ch"], *found["hx"]]
    flat += [None] * len(masks)
    return [grad.to(dtype) for grad, need in zip(flat, needs, strict=True) if need]


def backward(*arguments):
    """The operator's body: the gradients that ``needs`` asks for, in the order of the tensors, the others left out."""
    return fused.in_turn(backward_requests(*arguments))


def backward_fake(
    backend, cell, grads, inputs, weight_ih, weight_hh, bias, weight_ch, hx, masks, lengths, output, saved, stride,
    dilation, padding, reverse, needs,
):  # fmt: skip
    """Shapes, strides and types of what ``backward`` returns."""
    n, axes = len(inputs), weight_hh.dim() - 2
    results = []
    tensors = [*inputs, *weight_ih, weight_hh, bias, weight_ch, *hx, *masks]
    for k, (tensor, need) in enumerate(zip(tensors, needs, strict=True)):
        if not need:
            continue
        if k < n or k >= 2 * n + 3:
            shape = tensor.movedim(-1 - axes, -1).shape
            results.append(maps_first(tensor.new_empty(shape), axes))
        else:
            results.append(tensor.new_empty(tensor.shape))
    return results


conv_recurrent_fwd = register("conv_recurrent_fwd", _FORWARD, forward, forward_fake)
conv_recurrent_bwd = register("conv_recurrent_bwd", _BACKWARD, backward, backward_fake)
