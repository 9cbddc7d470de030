"""The compiled passes on CUDA tensors: each starts its kernels on the current stream and waits for nothing."""

import torch

from fastrcn import native
from fastrcn.ops.relu_maxpool3d.cpu import accumulate_type
from fastrcn.ops.relu_maxpool3d.geometry import Pool, gate_kind
from fastrcn.ops.relu_maxpool3d.layout import dense, format_of, is_last


def can_run(pool: Pool, dtype, device):
    """(whether these passes run a pooling, why not or how)."""
    problem = native.cuda_problem("cuda_pool_forward", dtype, device) or pool.problem()
    return problem is None, problem or "scale, ReLU and pooling in one CUDA kernel"


def _launch(name, device, *arguments):
    with torch.cuda.device(device):
        wrong = getattr(native.module(), name)(*arguments, torch.cuda.current_stream(device).cuda_stream)
    if wrong:
        raise RuntimeError(f"fastrcn: {name}: {wrong}")


def _shapes(x_shape, pool, last):
    return pool.numbers(), tuple(x_shape), pool.output_size(x_shape[2:]), last


def forward(x, scale, shift, relu, pool: Pool, keep, out=None, index=None):
    """(max_pool3d(relu(x * scale + shift)), the cell of each window as uint8, ``CLOSED`` where the ReLU is, or None).

    ``x`` (N,C,D,H,W) contiguous or channels-last; scale and shift (C,) of the accumulation type, or None. ``out`` and
    ``index``: tensors to write to."""
    last = is_last(x)
    numbers = _shapes(x.shape, pool, last)
    shape = (*x.shape[:2], *numbers[2])
    if out is None:
        out = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=format_of(last))
    if keep and index is None:
        index = torch.empty(shape, dtype=torch.uint8, device=x.device, memory_format=format_of(last))
    tensors = (x, out, index, scale, shift)
    _launch(
        "cuda_pool_forward", x.device, native.CUDA_TYPE_NUMBERS[x.dtype], *numbers, relu, *map(native.address, tensors)
    )
    return out, index


def backward(grad, gate, size, pool: Pool, last, scale=None, x=None, center=None, slope=None, offset=None, into=None):
    """scale * (``grad`` led to its windows' cells) + slope * (x - center) + offset, the last two where x is given.

    ``gate``: the index of forward; for a window of one cell its result, or None where all pass. ``into``: a tensor to
    write to."""
    kind, grad, gate = gate_kind(gate, pool), dense(grad, last), dense(gate, last)
    shape = (*grad.shape[:2], *size)
    dx = into
    if dx is None:
        dx = torch.empty(shape, dtype=grad.dtype, device=grad.device, memory_format=format_of(last))
    tensors = (grad, gate, dx, scale, x, center, slope, offset)
    numbers = native.CUDA_TYPE_NUMBERS[grad.dtype], *_shapes(shape, pool, last)
    _launch("cuda_pool_backward", grad.device, *numbers, kind, *map(native.address, tensors))
    return dx


def _sum_buffers(x):
    """(what blocks write and a second kernel sums, the totals (2,C))."""
    room = native.module().cuda_pool_partials(x.shape[1])
    return (torch.empty(n, dtype=torch.float64, device=x.device) for n in (room, (2, x.shape[1])))


def sums(grad, gate, size, pool: Pool, last, x=None, center=None):
    """Per channel: the sum of ``grad`` where its window is open and, where ``x`` is given, of grad * (x - center) at
    the cell it is led to. ``size``: (D,H,W) before pooling."""
    kind, grad, gate = gate_kind(gate, pool), dense(grad, last), dense(gate, last)
    partials, totals = _sum_buffers(grad)
    numbers = native.CUDA_TYPE_NUMBERS[grad.dtype], *_shapes((*grad.shape[:2], *size), pool, last)
    tensors = (grad, gate, x, center, partials, totals)
    _launch("cuda_pool_sums", grad.device, *numbers, kind, *map(native.address, tensors))
    return totals.to(accumulate_type(grad)).unbind()


def statistics(x):
    """Mean and biased variance of each channel, summed in float64."""
    center = x[0, :, 0, 0, 0].to(accumulate_type(x)).contiguous()
    partials, totals = _sum_buffers(x)
    numbers = native.CUDA_TYPE_NUMBERS[x.dtype], tuple(x.shape), is_last(x)
    _launch("cuda_pool_statistics", x.device, *numbers, *map(native.address, (x, center, partials, totals)))
    mean, square = totals / (x.numel() // x.shape[1])
    var = (square - mean * mean).clamp_(min=0)
    return (mean + center).to(center.dtype), var.to(center.dtype)
