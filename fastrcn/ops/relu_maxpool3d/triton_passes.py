"""The passes with Triton kernels: the functions of ``cpu.py``. Importing this does not need Triton."""

from math import prod

import torch

from fastrcn.ops.relu_maxpool3d.geometry import Pool, gate_kind
from fastrcn.ops.relu_maxpool3d.layout import dense, format_of, is_last
from fastrcn.ops.triton_support import Launch, check_pixels, interpreting, manner, problem_of

_CHUNKS = 2048
"""Rows of partial sums, over all tiles of channels: enough programs for any GPU, and few rows to add up."""

_AXES = [name + axis for name in "KSPD" for axis in "DHW"]


def can_run(pool: Pool, dtype, device):
    """(whether these passes run a pooling, why not or how)."""
    problem = problem_of(dtype, device)
    if problem:
        return False, problem
    problem = pool.problem()
    return problem is None, problem or manner("scale, ReLU and pooling in one kernel")


def window_constants(pool: Pool):
    """A window's numbers as the kernels name them."""
    return dict(zip(_AXES, pool.numbers(), strict=True))


def _power(n):
    return 1 << (max(1, n) - 1).bit_length()


def tile_of(pixels, channels, last, interpreted):
    """(pixels, channels, warps) of a program: for each thread eight values, 16 bytes of a 16-bit type, that lie side by
    side where the layout lets them."""
    # Programs of the interpreter run one after another, each operation at a fixed cost: few, large tiles.
    values = 1 << 16 if interpreted else 1024
    if last:
        block_c = min(_power(channels), 128)
        block_m = min(values // block_c, _power(pixels))
    else:
        block_m = min(values, _power(pixels))
        block_c = min(values // block_m, _power(channels))
    return block_m, block_c, 4 if block_m * block_c >= 1024 else 1


def _launch(kernel, tensors, numbers, pixels, channels, last, chunks=0, **constants):
    """Start ``kernel`` on tiles of the pixels, or on ``chunks`` of such tiles in turn."""
    block_m, block_c, warps = tile_of(pixels, channels, last, interpreting())
    rows = chunks or -(-pixels // block_m)
    constants |= {"C": channels, "LAST": last, "BLOCK_M": block_m, "BLOCK_C": block_c}
    Launch(kernel, rows * -(-channels // block_c), tuple(tensors), numbers, constants, warps).run()


def _chunks(pixels, channels, last):
    """(programs for each tile of channels, tiles that each of them takes at most)."""
    block_m, block_c, _ = tile_of(pixels, channels, last, interpreting())
    tiles = -(-pixels // block_m)
    chunks = min(tiles, max(1, _CHUNKS // -(-channels // block_c)))
    return chunks, -(-tiles // chunks)


def forward(x, scale, shift, relu, pool: Pool, keep, out=None, index=None):
    """(max_pool3d(relu(x * scale + shift)), the cell of each window as uint8, ``CLOSED`` where the ReLU is, or None).

    ``x`` (N,C,D,H,W) contiguous or channels-last; scale and shift (C,) of float32, or None. ``out`` and ``index``:
    tensors to write to."""
    from fastrcn.ops.relu_maxpool3d.triton_kernels import relu_maxpool3d_fwd_kernel

    last, (n, c, *size) = is_last(x), x.shape
    pooled = pool.output_size(size)
    if out is None:
        out = torch.empty((n, c, *pooled), dtype=x.dtype, device=x.device, memory_format=format_of(last))
    if keep and index is None:
        index = torch.empty(out.shape, dtype=torch.uint8, device=x.device, memory_format=format_of(last))
    check_pixels(n * prod(size), "the maps before pooling")
    pixels = n * prod(pooled)
    check_pixels(pixels, "the pooled maps")
    if out.numel():
        _launch(
            relu_maxpool3d_fwd_kernel, [x, scale, shift, out, index],
            (pixels, prod(pooled), prod(size), *size, *pooled), pixels, c, last,
            **window_constants(pool), RELU=relu, KEEP=index is not None, SCALE=scale is not None,
            SHIFT=shift is not None, INTERPRET=interpreting(),
        )  # fmt: skip
    return out, index


def backward(grad, gate, size, pool: Pool, last, scale=None, x=None, center=None, slope=None, offset=None, into=None):
    """scale * (``grad`` led to the cells of its windows), plus slope * (x - center) + offset where x is given.

    ``gate``: the index of forward; for a window of one cell its result, or None where all pass. ``into``: a tensor to
    write to."""
    from fastrcn.ops.relu_maxpool3d.triton_kernels import relu_maxpool3d_bwd_kernel

    grad, gate = dense(grad, last), dense(gate, last)
    n, c, *pooled = grad.shape
    dx = into
    if dx is None:
        dx = torch.empty((n, c, *size), dtype=grad.dtype, device=grad.device, memory_format=format_of(last))
    pixels = n * prod(size)
    check_pixels(pixels, "the maps before pooling")
    if dx.numel():
        _launch(
            relu_maxpool3d_bwd_kernel, [grad, gate, dx, scale, x, center, slope, offset],
            (pixels, prod(pooled), prod(size), *size, *pooled), pixels, c, last,
            **window_constants(pool), GATE=gate_kind(gate, pool), SCALE=scale is not None, LINEAR=x is not None,
            INTERPRET=interpreting(),
        )  # fmt: skip
    return dx


def sums(grad, gate, size, pool: Pool, last, x=None, center=None):
    """Per channel: the sum of ``grad`` where its window is open and, only where ``x`` is given, of grad * (x - center)
    at the cell it leads to. ``size``: (D,H,W) before pooling."""
    from fastrcn.ops.relu_maxpool3d.triton_kernels import relu_maxpool3d_sums_kernel

    grad, gate = dense(grad, last), dense(gate, last)
    n, c, *pooled = grad.shape
    pixels = n * prod(pooled)
    check_pixels(pixels, "the pooled maps")
    if not grad.numel():
        return torch.zeros(2, c, dtype=torch.float32, device=grad.device).unbind()
    chunks, turns = _chunks(pixels, c, last)
    partial = torch.empty(chunks, 2, c, dtype=torch.float32, device=grad.device)
    _launch(
        relu_maxpool3d_sums_kernel, [grad, gate, x, center, partial],
        (pixels, prod(pooled), prod(size), turns, chunks, *size, *pooled), pixels, c, last, chunks,
        **window_constants(pool), GATE=gate_kind(gate, pool), WEIGHTED=x is not None,
    )  # fmt: skip
    return partial.sum(0, dtype=torch.float64).to(torch.float32).unbind()


def statistics(x):
    """Mean and biased variance of each channel."""
    from fastrcn.ops.relu_maxpool3d.triton_kernels import relu_maxpool3d_statistics_kernel

    last, (n, c, *size) = is_last(x), x.shape
    pixels = n * prod(size)
    check_pixels(pixels, "the maps before pooling")
    chunks, turns = _chunks(pixels, c, last)
    partial = torch.empty(chunks, 3, c, dtype=torch.float32, device=x.device)
    _launch(
        relu_maxpool3d_statistics_kernel, [x, partial], (pixels, prod(size), turns, chunks), pixels, c, last, chunks
    )
    count, mean, square = partial.double().unbind(1)
    average = (count * mean).sum(0) / pixels
    var = (square + count * (mean - average).square()).sum(0) / pixels
    return average.to(torch.float32), var.to(torch.float32)
