"""Layer normalisation of whole images in place, as Triton kernels. Importing this needs Triton.

An image is ``n_values`` values side by side. A program has one of its ``n_slices`` slices, of ``n_slice`` values but
for the last. Where there is one, its program finds the image's sums itself. Else a first launch writes the two sums of
every slice, and each program of the second puts those of its image together, all in the same order: no atomics, and
the same result at every run.
"""

# A call of one kernel function by another seems never to return: outside a kernel it raises.
# pyright: reportGeneralTypeIssues=false

import triton
import triton.language as tl

from fastrcn.compiler.triton_functions import store

# Numbers that change with the call must not start another compilation.
_CHANGING = ("i_t_target", "i_t_normalized", "i_t_scale", "n_images", "n_slices")


@triton.jit
def first_value(i_t, n_images, n_values, n_slices, n_slice):
    """Where this program's slice begins in maps of every time, of which ``i_t`` is meant."""
    i_image, i_slice = tl.program_id(0) // n_slices, tl.program_id(0) % n_slices
    return (i_t.to(tl.int64) * n_images + i_image) * n_values + i_slice.to(tl.int64) * n_slice


@triton.jit
def slice_size(n_values, n_slices, n_slice):
    """How many values this program's slice has."""
    before = (tl.program_id(0) % n_slices).to(tl.int64) * n_slice
    return tl.minimum(n_values - before, n_slice).to(tl.int32)


@triton.jit
def moments(p_x, n, BLOCK: tl.constexpr):
    """(mean, sum of squares of the deviations from it) of ``n`` values: by Welford's recurrence in every lane, then
    over the lanes."""
    lane = tl.arange(0, BLOCK)
    mean = tl.zeros((BLOCK,), dtype=tl.float32)
    squares = tl.zeros((BLOCK,), dtype=tl.float32)
    for i_first in range(0, n, BLOCK):
        inside = i_first + lane < n
        x = tl.load(p_x + i_first + lane, mask=inside, other=0.0).to(tl.float32)
        away = tl.where(inside, x - mean, 0.0)
        mean += away * (1.0 / (i_first // BLOCK + 1))
        squares += away * (x - mean)
    return together(mean, squares, (n - lane + BLOCK - 1) // BLOCK, n)


@triton.jit
def together(means, squares, counts, n):
    """(mean, sum of squared deviations) of ``n`` values from those of disjoint parts that have ``counts`` values."""
    mean = tl.sum(counts * means, axis=0) / n
    away = means - mean
    return mean, tl.sum(squares + counts * away * away, axis=0)


@triton.jit
def products(p_d, p_y, n, BLOCK: tl.constexpr):
    """(sum of d, sum of d * y) over ``n`` values."""
    lane = tl.arange(0, BLOCK)
    of_d = tl.zeros((BLOCK,), dtype=tl.float32)
    of_both = tl.zeros((BLOCK,), dtype=tl.float32)
    for i_first in range(0, n, BLOCK):
        inside = i_first + lane < n
        d = tl.load(p_d + i_first + lane, mask=inside, other=0.0).to(tl.float32)
        of_d += d
        of_both += d * tl.load(p_y + i_first + lane, mask=inside, other=0.0).to(tl.float32)
    return tl.sum(of_d, axis=0), tl.sum(of_both, axis=0)


@triton.jit
def sums_of_slices(p_sums, n_slices, SLICES: tl.constexpr):
    """The two sums of every slice of this program's image, zero for those beyond; and their numbers."""
    i = tl.arange(0, SLICES)
    at = p_sums + (tl.program_id(0) // n_slices * n_slices + i) * 2
    return tl.load(at, mask=i < n_slices, other=0.0), tl.load(at + 1, mask=i < n_slices, other=0.0), i


@triton.jit(do_not_specialize=_CHANGING)
def moments_kernel(p_target, p_sums, i_t_target, n_images, n_values, n_slices, n_slice, BLOCK: tl.constexpr):
    """The mean and the squared deviations of every slice."""
    p_x = p_target + first_value(i_t_target, n_images, n_values, n_slices, n_slice)
    mean, squares = moments(p_x, slice_size(n_values, n_slices, n_slice), BLOCK)
    tl.store(p_sums + tl.program_id(0) * 2, mean)
    tl.store(p_sums + tl.program_id(0) * 2 + 1, squares)


@triton.jit(do_not_specialize=_CHANGING)
def normalize_kernel(
    p_target, p_scale, p_sums, i_t_target, i_t_scale, n_images, n_values, n_slices, n_slice, eps,
    SLICES: tl.constexpr, BLOCK: tl.constexpr, INTERPRET: tl.constexpr,
):  # fmt: skip
    """target = (target - mean) * scale with scale = 1 / sqrt(variance + eps), which is kept. ``SLICES``: a power of two
    that holds them all; 1 where nobody wrote their sums."""
    p_x = p_target + first_value(i_t_target, n_images, n_values, n_slices, n_slice)
    n = slice_size(n_values, n_slices, n_slice)
    if SLICES == 1:
        mean, squares = moments(p_x, n, BLOCK)
    else:
        means, parts, i = sums_of_slices(p_sums, n_slices, SLICES)
        counts = tl.minimum(tl.maximum(n_values - i.to(tl.int64) * n_slice, 0), n_slice)
        mean, squares = together(means, parts, counts, n_values)
    scale = 1.0 / tl.sqrt(squares / n_values + eps)
    if tl.program_id(0) % n_slices == 0:
        tl.store(p_scale + i_t_scale.to(tl.int64) * n_images + tl.program_id(0) // n_slices, scale)
    lane = tl.arange(0, BLOCK)
    for i_first in range(0, n, BLOCK):
        inside = i_first + lane < n
        x = tl.load(p_x + i_first + lane, mask=inside, other=0.0).to(tl.float32)
        store(p_x + i_first + lane, (x - mean) * scale, inside, INTERPRET)


@triton.jit(do_not_specialize=_CHANGING)
def products_kernel(
    p_target, p_normalized, p_sums, i_t_target, i_t_normalized, n_images, n_values, n_slices, n_slice,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """The sums of every slice of the gradients, and of their products with what was made."""
    p_d = p_target + first_value(i_t_target, n_images, n_values, n_slices, n_slice)
    p_y = p_normalized + first_value(i_t_normalized, n_images, n_values, n_slices, n_slice)
    of_d, of_both = products(p_d, p_y, slice_size(n_values, n_slices, n_slice), BLOCK)
    tl.store(p_sums + tl.program_id(0) * 2, of_d)
    tl.store(p_sums + tl.program_id(0) * 2 + 1, of_both)


@triton.jit(do_not_specialize=_CHANGING)
def normalize_backward_kernel(
    p_target, p_normalized, p_scale, p_sums, i_t_target, i_t_normalized, i_t_scale, n_images, n_values, n_slices,
    n_slice, SLICES: tl.constexpr, BLOCK: tl.constexpr, INTERPRET: tl.constexpr,
):  # fmt: skip
    """target = scale * (target - mean(target) - mean(target * normalized) * normalized). ``SLICES``: as above."""
    p_d = p_target + first_value(i_t_target, n_images, n_values, n_slices, n_slice)
    p_y = p_normalized + first_value(i_t_normalized, n_images, n_values, n_slices, n_slice)
    n = slice_size(n_values, n_slices, n_slice)
    if SLICES == 1:
        of_d, of_both = products(p_d, p_y, n, BLOCK)
    else:
        of_slices, both_of_slices, _ = sums_of_slices(p_sums, n_slices, SLICES)
        of_d, of_both = tl.sum(of_slices, axis=0), tl.sum(both_of_slices, axis=0)
    mean, along = of_d / n_values, of_both / n_values
    scale = tl.load(p_scale + i_t_scale.to(tl.int64) * n_images + tl.program_id(0) // n_slices)
    lane = tl.arange(0, BLOCK)
    for i_first in range(0, n, BLOCK):
        inside = i_first + lane < n
        d = tl.load(p_d + i_first + lane, mask=inside, other=0.0).to(tl.float32)
        y = tl.load(p_y + i_first + lane, mask=inside, other=0.0).to(tl.float32)
        store(p_d + i_first + lane, scale * (d - mean - along * y), inside, INTERPRET)
