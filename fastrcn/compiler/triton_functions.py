"""The functions that emitted Triton kernels call. Importing this needs Triton."""

import triton
import triton.language as tl


@triton.jit
def sigmoid(x):
    return 1.0 / (1.0 + tl.exp(-x))


@triton.jit
def tanh(x):
    # The quotient cancels near zero, where the odd series is exact to float32.
    a = tl.abs(x)
    e = tl.exp(-2.0 * a)
    far = (1.0 - e) / (1.0 + e)
    q = x * x
    near = a * (1.0 + q * (-1.0 / 3 + q * (2.0 / 15 + q * (-17.0 / 315))))
    value = tl.where(a < 0.25, near, far)
    return tl.where(x < 0.0, -value, value)


@triton.jit
def relu(x):
    # Written so that NaN passes through.
    return tl.where(x < 0.0, 0.0, x)


@triton.jit
def exp(x):
    return tl.exp(x)


@triton.jit
def positive(x):
    return tl.where(x > 0.0, 1.0, 0.0)


@triton.jit
def store(pointer, value, mask, INTERPRET: tl.constexpr):
    """Store in the pointer's type, rounded to nearest. Triton's interpreter truncates to bfloat16, so there the
    rounding is done on the bits."""
    if INTERPRET:  # noqa: SIM102 - known when compiling, the type below is asked for only then
        if pointer.dtype.element_ty == tl.bfloat16:
            bits = value.to(tl.uint32, bitcast=True)
            bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
            value = bits.to(tl.float32, bitcast=True)
    tl.store(pointer, value.to(pointer.dtype.element_ty), mask=mask)


@triton.jit
def grid_barrier(p_counter, arrivals):
    """Wait until ``arrivals`` programs have come here since the counter was zeroed; all must be resident. What any of
    them wrote before, every load sees after: the acquire also drops what the processor's L1 cache holds."""
    tl.debug_barrier()
    tl.atomic_add(p_counter, 1, sem="release", scope="gpu")
    while tl.atomic_add(p_counter, 0, sem="acquire", scope="gpu") < arrivals:
        pass
    tl.debug_barrier()
