"""The passes as Triton kernels. Importing this needs Triton.

A program owns a tile of BLOCK_M pixels (through all images) by BLOCK_C channels. Pixels are counted in 32 bits,
elements in 64. ``LAST``: the channels of a pixel lie side by side; else the pixels of a channel do. A window's
constants are KD..KW (kernel), SD..SW (stride), PD..PW (padding) and DD..DW (dilation).
"""

# A call of one kernel function by another seems never to return: outside a kernel it raises.
# pyright: reportGeneralTypeIssues=false

import triton
import triton.language as tl

from fastrcn.compiler.triton_functions import store

# What tells a window's cell: nothing, there is one and it is open (0); its number (1); its value, closed from zero
# down (2).
_GATE_INDEX = tl.constexpr(1)
_GATE_VALUE = tl.constexpr(2)
# Cells whose loads are under way together.
_UNROLLED = tl.constexpr(8)


@triton.jit
def position(i, rows, columns):
    """(frame, row, column) of pixel ``i`` of a map."""
    return i // (rows * columns), i // columns % rows, i % columns


@triton.jit
def elements(i_n, i_p, i_c, plane, C: tl.constexpr, LAST: tl.constexpr):
    """Where pixels ``i_p`` of images ``i_n`` lie in channels ``i_c``; ``plane``: pixels of an image. Pixels are a
    column, or a block already; channels are a row."""
    if LAST:
        return (i_n.to(tl.int64) * plane + i_p) * C + i_c
    else:
        return (i_n.to(tl.int64) * C + i_c) * plane + i_p


@triton.jit
def tile(n_pixels, C: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr):
    """(pixels, channels) of this program; tiles of the same pixels follow each other."""
    n_tiles_c: tl.constexpr = (C + BLOCK_C - 1) // BLOCK_C
    i_m = tl.program_id(0) // n_tiles_c * BLOCK_M + tl.arange(0, BLOCK_M)
    i_c = tl.program_id(0) % n_tiles_c * BLOCK_C + tl.arange(0, BLOCK_C)
    return i_m, i_c


@triton.jit
def larger(value, cell, valid, best, chosen, KEEP: tl.constexpr):
    """The largest of the cells seen so far and, with KEEP, its number, -1 before the first: the first of equal ones,
    the last NaN."""
    better = valid & ((value > best) | (value != value))
    if KEEP:
        better = better | (valid & (chosen < 0))
        chosen = tl.where(better, cell, chosen)
    return tl.where(better, value, best), chosen


@triton.jit
def put(p_out, p_index, offset, best, chosen, mask, RELU: tl.constexpr, KEEP: tl.constexpr, INTERPRET: tl.constexpr):
    """Write windows' results and, with KEEP, their index."""
    if RELU:
        closed = best <= 0.0
        best = tl.where(closed, 0.0, best)
    store(p_out + offset, best, mask, INTERPRET)
    if KEEP:
        if RELU:
            chosen = tl.where(closed, 255, chosen)
        tl.store(p_index + offset, chosen.to(tl.uint8), mask=mask)


@triton.jit
def covering(
    at, n_windows, turn,
    K: tl.constexpr, S: tl.constexpr, P: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    """Along one axis the ``turn``-th window that may cover a cell ``at``: (window, number of the cell in it, whether it
    does). Without dilation windows are gone through, (K - 1) // S + 1 of them, else cells, K."""
    if D == 1:
        window = (at + P) // S - turn
        cell = at + P - window * S
        covers = (window >= 0) & (window < n_windows) & (cell < K)
        return window, cell, covers
    else:
        start = at + P - turn * D
        window = start // S
        covers = (start >= 0) & (start % S == 0) & (window < n_windows)
        return window, at * 0 + turn, covers


@triton.jit
def gated(p_grad, p_gate, offset, cell, mask, GATE: tl.constexpr):
    """The gradients of windows that lead to cell number ``cell``, else zero, in their own type."""
    grad = tl.load(p_grad + offset, mask=mask, other=0.0)
    if GATE == _GATE_INDEX:
        return tl.where(tl.load(p_gate + offset, mask=mask, other=255) == cell.to(tl.uint8), grad, 0.0)
    elif GATE == _GATE_VALUE:
        return tl.where(tl.load(p_gate + offset, mask=mask, other=0.0).to(tl.float32) <= 0.0, 0.0, grad)
    else:
        return grad


@triton.jit(do_not_specialize=["depth", "height", "width", "frames", "rows", "columns"])
def relu_maxpool3d_fwd_kernel(
    p_x, p_scale, p_shift, p_out, p_index, n_pixels, plane, plane_x, depth, height, width, frames, rows, columns,
    KD: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr, SD: tl.constexpr, SH: tl.constexpr, SW: tl.constexpr,
    PD: tl.constexpr, PH: tl.constexpr, PW: tl.constexpr, DD: tl.constexpr, DH: tl.constexpr, DW: tl.constexpr,
    C: tl.constexpr, LAST: tl.constexpr, RELU: tl.constexpr, KEEP: tl.constexpr, SCALE: tl.constexpr,
    SHIFT: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr, INTERPRET: tl.constexpr,
):  # fmt: skip
    """A tile of pooled pixels. ``plane``, ``plane_x``: pixels of a pooled image and of one before."""
    i_m, i_c = tile(n_pixels, C, BLOCK_M, BLOCK_C)
    i_n, i_p = i_m // plane, i_m % plane
    frame, row, column = position(i_p, rows, columns)
    in_channels = i_c < C
    mask = (i_m < n_pixels)[:, None] & in_channels[None, :]
    scale, shift = 1.0, 0.0
    if SCALE:
        scale = tl.load(p_scale + i_c, mask=in_channels, other=0.0)[None, :]
    if SHIFT:
        shift = tl.load(p_shift + i_c, mask=in_channels, other=0.0)[None, :]
    first, row, column = frame * SD - PD, row * SH - PH, column * SW - PW
    best = tl.full((BLOCK_M, BLOCK_C), float("-inf"), dtype=tl.float32)
    chosen = tl.full((BLOCK_M, BLOCK_C), -1, dtype=tl.int32)
    for i_cell in tl.range(0, KD * KH * KW, loop_unroll_factor=_UNROLLED):
        d = first + i_cell // (KH * KW) * DD
        h = row + i_cell // KW % KH * DH
        w = column + i_cell % KW * DW
        exists = (d >= 0) & (d < depth) & (h >= 0) & (h < height) & (w >= 0) & (w < width)
        valid = mask & exists[:, None]
        pixel = (d * height + h) * width + w
        offset = elements(i_n[:, None], pixel[:, None], i_c[None, :], plane_x, C, LAST)
        value = tl.load(p_x + offset, mask=valid, other=0.0).to(tl.float32) * scale + shift
        best, chosen = larger(value, i_cell, valid, best, chosen, KEEP)
    offset = elements(i_n[:, None], i_p[:, None], i_c[None, :], plane, C, LAST)
    put(p_out, p_index, offset, best, chosen, mask, RELU, KEEP, INTERPRET)


@triton.jit(do_not_specialize=["depth", "height", "width", "frames", "rows", "columns"])
def relu_maxpool3d_bwd_kernel(
    p_grad, p_gate, p_dx, p_scale, p_x, p_center, p_slope, p_offset, n_pixels, plane, plane_x,
    depth, height, width, frames, rows, columns,
    KD: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr, SD: tl.constexpr, SH: tl.constexpr, SW: tl.constexpr,
    PD: tl.constexpr, PH: tl.constexpr, PW: tl.constexpr, DD: tl.constexpr, DH: tl.constexpr, DW: tl.constexpr,
    C: tl.constexpr, LAST: tl.constexpr, GATE: tl.constexpr, SCALE: tl.constexpr, LINEAR: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr, INTERPRET: tl.constexpr,
):  # fmt: skip
    """A tile of pixels before pooling gathers from the windows that cover it: no two programs add to one value."""
    i_m, i_c = tile(n_pixels, C, BLOCK_M, BLOCK_C)
    i_n, i_p = i_m // plane_x, i_m % plane_x
    d, h, w = position(i_p, height, width)
    in_channels = i_c < C
    mask = (i_m < n_pixels)[:, None] & in_channels[None, :]
    turns_d: tl.constexpr = (KD - 1) // SD + 1 if DD == 1 else KD
    turns_h: tl.constexpr = (KH - 1) // SH + 1 if DH == 1 else KH
    turns_w: tl.constexpr = (KW - 1) // SW + 1 if DW == 1 else KW
    total = tl.zeros((BLOCK_M, BLOCK_C), dtype=tl.float32)
    for i_turn in tl.range(0, turns_d * turns_h * turns_w, loop_unroll_factor=_UNROLLED):
        frame, cell_d, covers_d = covering(d, frames, i_turn // (turns_h * turns_w), KD, SD, PD, DD)
        row, cell_h, covers_h = covering(h, rows, i_turn // turns_w % turns_h, KH, SH, PH, DH)
        column, cell_w, covers_w = covering(w, columns, i_turn % turns_w, KW, SW, PW, DW)
        window, cell = (frame * rows + row) * columns + column, (cell_d * KH + cell_h) * KW + cell_w
        offset = elements(i_n[:, None], window[:, None], i_c[None, :], plane, C, LAST)
        covers = mask & (covers_d & covers_h & covers_w)[:, None]
        total += gated(p_grad, p_gate, offset, cell[:, None], covers, GATE).to(tl.float32)
    if SCALE:
        total *= tl.load(p_scale + i_c, mask=in_channels, other=0.0)[None, :]
    offset = elements(i_n[:, None], i_p[:, None], i_c[None, :], plane_x, C, LAST)
    if LINEAR:
        center = tl.load(p_center + i_c, mask=in_channels, other=0.0)[None, :]
        slope = tl.load(p_slope + i_c, mask=in_channels, other=0.0)[None, :]
        constant = tl.load(p_offset + i_c, mask=in_channels, other=0.0)[None, :]
        total += slope * (tl.load(p_x + offset, mask=mask, other=0.0).to(tl.float32) - center) + constant
    store(p_dx + offset, total, mask, INTERPRET)


@triton.jit(do_not_specialize=["n_turns", "n_chunks", "depth", "height", "width", "frames", "rows", "columns"])
def relu_maxpool3d_sums_kernel(
    p_grad, p_gate, p_x, p_center, p_partial, n_pixels, plane, plane_x, n_turns, n_chunks,
    depth, height, width, frames, rows, columns,
    KD: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr, SD: tl.constexpr, SH: tl.constexpr, SW: tl.constexpr,
    PD: tl.constexpr, PH: tl.constexpr, PW: tl.constexpr, DD: tl.constexpr, DH: tl.constexpr, DW: tl.constexpr,
    C: tl.constexpr, LAST: tl.constexpr, GATE: tl.constexpr, WEIGHTED: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Every ``n_chunks``-th tile of pooled pixels: partial sums (chunk, 2, C) of the gradient and, with WEIGHTED, of
    the gradient times x - center at the cell it is led to."""
    i_first, i_c = tile(n_pixels, C, BLOCK_M, BLOCK_C)
    in_channels = i_c < C
    plain = tl.zeros((BLOCK_M, BLOCK_C), dtype=tl.float32)
    weighted = tl.zeros((BLOCK_M, BLOCK_C), dtype=tl.float32)
    if WEIGHTED:
        center = tl.load(p_center + i_c, mask=in_channels, other=0.0)[None, :]
    for i_turn in range(n_turns):
        i_m = i_first + i_turn * n_chunks * BLOCK_M
        mask = (i_m < n_pixels)[:, None] & in_channels[None, :]
        i_n, i_p = i_m // plane, i_m % plane
        offset = elements(i_n[:, None], i_p[:, None], i_c[None, :], plane, C, LAST)
        cell = tl.zeros((BLOCK_M, BLOCK_C), dtype=tl.int32)
        if GATE == _GATE_INDEX:
            cell = tl.load(p_gate + offset, mask=mask, other=255).to(tl.int32)
            grad = tl.load(p_grad + offset, mask=mask, other=0.0).to(tl.float32)
            grad = tl.where(cell < 255, grad, 0.0)
        else:
            grad = gated(p_grad, p_gate, offset, 0, mask, GATE).to(tl.float32)
        plain += grad
        if WEIGHTED:
            frame, row, column = position(i_p, rows, columns)
            d = (frame * SD - PD)[:, None] + cell // (KH * KW) * DD
            h = (row * SH - PH)[:, None] + cell // KW % KH * DH
            w = (column * SW - PW)[:, None] + cell % KW * DW
            offset = elements(i_n[:, None], (d * height + h) * width + w, i_c[None, :], plane_x, C, LAST)
            # Where nothing flows nothing is read, so that an infinite x does not make a NaN.
            flows = mask & (grad != 0.0)
            x = tl.load(p_x + offset, mask=flows, other=0.0).to(tl.float32)
            weighted += tl.where(flows, grad * (x - center), 0.0)
    n_tiles_c: tl.constexpr = (C + BLOCK_C - 1) // BLOCK_C
    p_row = p_partial + tl.program_id(0) // n_tiles_c * (2 * C) + i_c
    tl.store(p_row, tl.sum(plain, axis=0), mask=in_channels)
    if WEIGHTED:
        tl.store(p_row + C, tl.sum(weighted, axis=0), mask=in_channels)


@triton.jit(do_not_specialize=["n_turns", "n_chunks"])
def relu_maxpool3d_statistics_kernel(
    p_x, p_partial, n_pixels, plane_x, n_turns, n_chunks,
    C: tl.constexpr, LAST: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Every ``n_chunks``-th tile of pixels: (chunk, 3, C) of their number, mean and sum of squared distances from it.

    Welford's recurrence in each row of the tile, then the rows' means around theirs: no large numbers cancel."""
    i_first, i_c = tile(n_pixels, C, BLOCK_M, BLOCK_C)
    in_channels = i_c < C
    count = tl.zeros((BLOCK_M,), dtype=tl.float32)
    mean = tl.zeros((BLOCK_M, BLOCK_C), dtype=tl.float32)
    square = tl.zeros((BLOCK_M, BLOCK_C), dtype=tl.float32)
    for i_turn in range(n_turns):
        i_m = i_first + i_turn * n_chunks * BLOCK_M
        inside = i_m < n_pixels
        mask = inside[:, None] & in_channels[None, :]
        offset = elements((i_m // plane_x)[:, None], (i_m % plane_x)[:, None], i_c[None, :], plane_x, C, LAST)
        x = tl.load(p_x + offset, mask=mask, other=0.0).to(tl.float32)
        count += tl.where(inside, 1.0, 0.0)
        delta = tl.where(mask, x - mean, 0.0)
        mean += delta * (1.0 / tl.maximum(count, 1.0))[:, None]
        square += tl.where(mask, delta * (x - mean), 0.0)
    whole = tl.sum(count, axis=0)
    share = (count / whole)[:, None]
    average = tl.sum(mean * share, axis=0)
    # The average of large numbers is rounded as they are; that of their distances from it is not.
    distance = mean - average[None, :]
    rest = tl.sum(distance * share, axis=0)
    distance -= rest[None, :]
    square += distance * distance * count[:, None]
    n_tiles_c: tl.constexpr = (C + BLOCK_C - 1) // BLOCK_C
    p_row = p_partial + tl.program_id(0) // n_tiles_c * (3 * C) + i_c
    tl.store(p_row, i_c * 0.0 + whole, mask=in_channels)
    tl.store(p_row + C, average + rest, mask=in_channels)
    tl.store(p_row + 2 * C, tl.sum(square, axis=0), mask=in_channels)
