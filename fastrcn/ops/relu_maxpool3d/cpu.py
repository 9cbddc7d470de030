"""The compiled passes on CPU tensors."""

import torch

from fastrcn import native
from fastrcn.ops.relu_maxpool3d.geometry import Pool, gate_kind
from fastrcn.ops.relu_maxpool3d.layout import dense, format_of, is_last

TYPE_NUMBERS = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2}


def can_run(pool: Pool, dtype, device):
    """(whether these passes run a pooling, why not or how)."""
    if device != "cpu":
        return False, f"it runs on cpu tensors, these are on {device}"
    if dtype not in TYPE_NUMBERS:
        return False, f"it has float32, float64 and bfloat16, these are {str(dtype).removeprefix('torch.')}"
    if native.module() is None:
        return False, native.missing_reason()
    problem = pool.problem()
    return problem is None, problem or f"scale, ReLU and pooling in one compiled pass ({native.isa()})"


def accumulate_type(x):
    """Type of sums and coefficients."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _shapes(x_shape, pool, last):
    n, c, *size = x_shape
    if pool.identity and not last:  # one long row for each frame
        size = (1, size[0], size[1] * size[2])
    return pool.numbers(), (n, c, *size), pool.output_size(size), last


def forward(x, scale, shift, relu, pool: Pool, keep, out=None, index=None):
    """(max_pool3d(relu(x * scale + shift)), the cell of each window as uint8, ``CLOSED`` where the ReLU is, or None).

    ``x`` (N,C,D,H,W) contiguous or channels-last; scale and shift (C,) of the accumulation type, or None. ``out`` and
    ``index``: tensors to write to."""
    last = is_last(x)
    shape = (*x.shape[:2], *pool.output_size(x.shape[2:]))
    if out is None:
        out = torch.empty(shape, dtype=x.dtype, memory_format=format_of(last))
    if keep and index is None:
        index = torch.empty(shape, dtype=torch.uint8, memory_format=format_of(last))
    native.module().pool_forward(
        native.isa(), TYPE_NUMBERS[x.dtype], *_shapes(x.shape, pool, last), relu, x.data_ptr(), out.data_ptr(),
        native.address(index), native.address(scale), native.address(shift), torch.get_num_threads(),
    )  # fmt: skip
    return out, index


def backward(grad, gate, size, pool: Pool, last, scale=None, x=None, center=None, slope=None, offset=None, into=None):
    """scale * (``grad`` led to the cells of its windows) + slope * (x - center) + offset, these two where x is given.

    ``gate``: the index of forward; for a window of one cell its result, or None where all pass. ``into``: a tensor to
    write to."""
    kind, grad, gate = gate_kind(gate, pool), dense(grad, last), dense(gate, last)
    shape = (*grad.shape[:2], *size)
    dx = torch.empty(shape, dtype=grad.dtype, memory_format=format_of(last)) if into is None else into
    native.module().pool_backward(
        native.isa(), TYPE_NUMBERS[grad.dtype], *_shapes(shape, pool, last), kind, grad.data_ptr(),
        native.address(gate), dx.data_ptr(), *map(native.address, (scale, x, center, slope, offset)),
        torch.get_num_threads(),
    )  # fmt: skip
    return dx


def sums(grad, gate, size, pool: Pool, last, x=None, center=None):
    """Per channel: the sum of ``grad`` where its window is open and, where ``x`` is given, of grad * (x - center) at
    the cell it is led to. ``size``: (D,H,W) before pooling."""
    kind, grad, gate = gate_kind(gate, pool), dense(grad, last), dense(gate, last)
    shape = (*grad.shape[:2], *size)
    found = torch.empty(2, grad.shape[1], dtype=accumulate_type(grad))
    native.module().pool_sums(
        native.isa(), TYPE_NUMBERS[grad.dtype], *_shapes(shape, pool, last), kind, grad.data_ptr(),
        native.address(gate), native.address(x), native.address(center), found.data_ptr(), torch.get_num_threads(),
    )  # fmt: skip
    return found.unbind()


def statistics(x):
    """Mean and biased variance of each channel, summed in float64."""
    last, mean = is_last(x), torch.empty(x.shape[1], dtype=accumulate_type(x))
    var = torch.empty_like(mean)
    native.module().pool_statistics(
        native.isa(), TYPE_NUMBERS[x.dtype], _shapes(x.shape, Pool(), last)[1], last, x.data_ptr(), mean.data_ptr(),
        var.data_ptr(), torch.get_num_threads(),
    )  # fmt: skip
    return mean, var
