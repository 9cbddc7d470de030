"""Implicit matrix products around the tensor between convolution and pooling, which they neither write nor read.
Importing this needs Triton.

Maps are channels-last, weights have the summed channels side by side, and convolutions one group. A convolution's
constants are TD..TW (kernel), CSD..CSW (stride), CPD..CPW (padding) and CDD..CDW (dilation); a window's as in the
passes. The sum runs over taps, and for each over blocks of BLOCK_K channels.
"""

# A call of one kernel function by another seems never to return: outside a kernel it raises.
# pyright: reportGeneralTypeIssues=false

import triton
import triton.language as tl

from fastrcn.compiler.triton_functions import store
from fastrcn.ops.relu_maxpool3d.triton_kernels import covering, gated, larger, position, put, tile

_SIZES = ["depth", "height", "width", "n_frames", "n_rows", "n_columns", "frames", "rows", "columns"]


@triton.jit
def weight_block(p_weight, i_n, i_k, i_tap, i_first, TAPS: tl.constexpr, N: tl.constexpr, K: tl.constexpr,
                 BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr):  # fmt: skip
    """(BLOCK_K, BLOCK_N) of one tap of weights (N,taps,K)."""
    p = p_weight + (i_n * (TAPS * K))[None, :] + i_k[:, None] + (i_tap * K + i_first)
    if N % BLOCK_N == 0 and K % BLOCK_K == 0:
        return tl.load(p)
    elif N % BLOCK_N == 0:
        return tl.load(p, mask=(i_k + i_first < K)[:, None], other=0.0)
    else:
        return tl.load(p, mask=(i_k + i_first < K)[:, None] & (i_n < N)[None, :], other=0.0)


@triton.jit
def product(a, b, acc, PRECISION: tl.constexpr, INTERPRET: tl.constexpr):
    """acc + a b. The interpreter multiplies the bits of bfloat16, so there both are widened before."""
    if INTERPRET:
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a, b, acc, input_precision=PRECISION)


@triton.jit(do_not_specialize=["n_windows", *_SIZES])
def conv3d_relu_maxpool3d_fwd_kernel(
    p_x, p_weight, p_bias, p_out, p_index, n_windows,
    depth, height, width, n_frames, n_rows, n_columns, frames, rows, columns,
    TD: tl.constexpr, TH: tl.constexpr, TW: tl.constexpr, CSD: tl.constexpr, CSH: tl.constexpr, CSW: tl.constexpr,
    CPD: tl.constexpr, CPH: tl.constexpr, CPW: tl.constexpr, CDD: tl.constexpr, CDH: tl.constexpr, CDW: tl.constexpr,
    KD: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr, SD: tl.constexpr, SH: tl.constexpr, SW: tl.constexpr,
    PD: tl.constexpr, PH: tl.constexpr, PW: tl.constexpr, DD: tl.constexpr, DH: tl.constexpr, DW: tl.constexpr,
    CI: tl.constexpr, CO: tl.constexpr, BIAS: tl.constexpr, RELU: tl.constexpr, KEEP: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, PRECISION: tl.constexpr,
    INTERPRET: tl.constexpr,
):  # fmt: skip
    """BLOCK_M windows by BLOCK_N channels. Maps: x (depth, height, width), convolution (n_frames, n_rows, n_columns),
    pooled (frames, rows, columns).

    The cells of the windows come one after another, each a product of its own whose rows are the windows: the maximum
    is then taken value by value in registers, where a product over windows and cells would have to exchange rows
    between threads, and one accumulator per cell would not leave registers for large tiles.
    """
    n_blocks: tl.constexpr = (CI + BLOCK_K - 1) // BLOCK_K
    i_m, i_n = tile(n_windows, CO, BLOCK_M, BLOCK_N)
    i_k = tl.arange(0, BLOCK_K)
    inside = i_m < n_windows
    n_pooled = frames * rows * columns
    image = (i_m // n_pooled).to(tl.int64)
    frame, row, column = position(i_m % n_pooled, rows, columns)
    bias = 0.0
    if BIAS:
        bias = tl.load(p_bias + i_n, mask=i_n < CO, other=0.0)[None, :]
    best = tl.full((BLOCK_M, BLOCK_N), float("-inf"), dtype=tl.float32)
    chosen = tl.full((BLOCK_M, BLOCK_N), -1, dtype=tl.int32)
    for i_cell in range(KD * KH * KW):
        c_d = frame * SD - PD + i_cell // (KH * KW) * DD
        c_h = row * SH - PH + i_cell // KW % KH * DH
        c_w = column * SW - PW + i_cell % KW * DW
        exists = inside & (c_d >= 0) & (c_d < n_frames) & (c_h >= 0) & (c_h < n_rows) & (c_w >= 0) & (c_w < n_columns)
        d, h, w = c_d * CSD - CPD, c_h * CSH - CPH, c_w * CSW - CPW
        p_a = p_x + (((image * depth + d) * height + h) * width + w)[:, None] * CI + i_k[None, :]
        acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
        for i_step in range(TD * TH * TW * n_blocks):
            i_tap = i_step // n_blocks
            i_first = i_step % n_blocks * BLOCK_K
            t_d, t_h, t_w = i_tap // (TH * TW) * CDD, i_tap // TW % TH * CDH, i_tap % TW * CDW
            valid = exists & (d + t_d >= 0) & (d + t_d < depth) & (h + t_h >= 0) & (h + t_h < height)
            valid = valid & (w + t_w >= 0) & (w + t_w < width)
            valid_a = valid[:, None]
            if CI % BLOCK_K != 0:
                valid_a = valid_a & (i_k + i_first < CI)[None, :]
            # A tap is the same step from every pixel. In 64 bits: frames may lie far apart.
            step = ((t_d * height + t_h).to(tl.int64) * width + t_w) * CI + i_first
            a = tl.load(p_a + step, mask=valid_a, other=0.0)
            b = weight_block(p_weight, i_n, i_k, i_tap, i_first, TD * TH * TW, CO, CI, BLOCK_N, BLOCK_K)
            acc = product(a, b, acc, PRECISION, INTERPRET)
        best, chosen = larger(acc + bias, i_cell, exists[:, None], best, chosen, KEEP)
    offset = i_m.to(tl.int64)[:, None] * CO + i_n[None, :]
    mask = inside[:, None] & (i_n < CO)[None, :]
    put(p_out, p_index, offset, best, chosen, mask, RELU, KEEP, INTERPRET)


@triton.jit(do_not_specialize=["n_pixels", *_SIZES])
def conv3d_relu_maxpool3d_bwd_kernel(
    p_grad, p_gate, p_weight, p_dx, n_pixels,
    depth, height, width, n_frames, n_rows, n_columns, frames, rows, columns,
    TD: tl.constexpr, TH: tl.constexpr, TW: tl.constexpr,
    CPD: tl.constexpr, CPH: tl.constexpr, CPW: tl.constexpr, CDD: tl.constexpr, CDH: tl.constexpr, CDW: tl.constexpr,
    KD: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr, SD: tl.constexpr, SH: tl.constexpr, SW: tl.constexpr,
    PD: tl.constexpr, PH: tl.constexpr, PW: tl.constexpr,
    CI: tl.constexpr, CO: tl.constexpr, GATE: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, PRECISION: tl.constexpr,
    INTERPRET: tl.constexpr,
):  # fmt: skip
    """The gradient of x: BLOCK_M of its pixels by BLOCK_N of its channels, for a convolution of stride 1 and windows
    that share no cell and have no dilation. Weights are (CI,taps,CO).

    A pixel of the convolution lies in at most one window, so its gradient is that of the window, or zero."""
    n_blocks: tl.constexpr = (CO + BLOCK_K - 1) // BLOCK_K
    i_m, i_n = tile(n_pixels, CI, BLOCK_M, BLOCK_N)
    i_k = tl.arange(0, BLOCK_K)
    inside = i_m < n_pixels
    n_map = depth * height * width
    image = (i_m // n_map).to(tl.int64)
    d, h, w = position(i_m % n_map, height, width)
    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for i_step in range(TD * TH * TW * n_blocks):
        i_tap = i_step // n_blocks
        i_first = i_step % n_blocks * BLOCK_K
        c_d = d + CPD - i_tap // (TH * TW) * CDD
        c_h = h + CPH - i_tap // TW % TH * CDH
        c_w = w + CPW - i_tap % TW * CDW
        exists = inside & (c_d >= 0) & (c_d < n_frames) & (c_h >= 0) & (c_h < n_rows) & (c_w >= 0) & (c_w < n_columns)
        frame, cell_d, covers_d = covering(c_d, frames, 0, KD, SD, PD, 1)
        row, cell_h, covers_h = covering(c_h, rows, 0, KH, SH, PH, 1)
        column, cell_w, covers_w = covering(c_w, columns, 0, KW, SW, PW, 1)
        valid = (exists & covers_d & covers_h & covers_w)[:, None]
        if CO % BLOCK_K != 0:
            valid = valid & (i_k + i_first < CO)[None, :]
        cell = (cell_d * KH + cell_h) * KW + cell_w
        window = ((image * frames + frame) * rows + row) * columns + column
        offset = window[:, None] * CO + (i_k + i_first)[None, :]
        a = gated(p_grad, p_gate, offset, cell[:, None], valid, GATE)
        b = weight_block(p_weight, i_n, i_k, i_tap, i_first, TD * TH * TW, CI, CO, BLOCK_N, BLOCK_K)
        acc = product(a, b, acc, PRECISION, INTERPRET)
    offset = i_m.to(tl.int64)[:, None] * CI + i_n[None, :]
    store(p_dx + offset, acc, inside[:, None] & (i_n < CI)[None, :], INTERPRET)
