"""Cases and comparisons shared by the tests of what ends in ReLU and max-pooling."""

import torch
import torch.nn.functional as F

from fastrcn import native
from tests.helpers.tolerances import assert_close

ISAS = native.module().usable_isas() if native.module() else []
BACKENDS = ("reference", "cpu")
DTYPES = (torch.float32, torch.float64, torch.bfloat16)

# kernel, stride, padding, dilation, ceil_mode, as torch.nn.functional.max_pool3d takes them
WINDOWS = {
    "none": (1, 1, 0, 1, False),
    "1x2x2": ((1, 2, 2), None, 0, 1, False),
    "2x2x2": (2, None, 0, 1, False),
    "2x2x2_padded": (2, 2, (0, 1, 1), 1, False),
    "overlapping": (3, 2, 1, 1, False),
    "1x3x3": ((1, 3, 3), (1, 2, 2), (0, 1, 1), 1, False),
    "stride_1": (3, 1, 1, 1, False),
    "dilated": ((2, 3, 2), (1, 2, 1), (0, 1, 1), (2, 1, 3), False),
    "ceil": ((2, 2, 3), 2, 0, 1, True),
    "sparse": (2, 3, 0, 1, False),
    "one_cell_strided": (1, (1, 2, 2), 0, 1, False),
}


def options(window):
    """A window as options of the package's functions."""
    names = ("pool_kernel_size", "pool_stride", "pool_padding", "pool_dilation", "ceil_mode")
    return dict(zip(names, WINDOWS[window] if isinstance(window, str) else window, strict=True))


def plain_tail(y, window, relu=True):
    """ReLU and max-pooling by PyTorch."""
    y = F.relu(y) if relu else y
    if window == "none":
        return y
    kernel, stride, padding, dilation, ceil_mode = WINDOWS[window] if isinstance(window, str) else window
    return F.max_pool3d(y, kernel, stride, padding, dilation, ceil_mode)


def laid_out(x, layout):
    """The same values contiguous ("first"), channels-last ("last"), or as neither ("strided")."""
    if layout == "strided":
        return x.transpose(2, 4).contiguous().transpose(2, 4)
    return x.contiguous(memory_format=torch.channels_last_3d if layout == "last" else torch.contiguous_format)


def leaves(tensors, dtype, layout="first"):
    """The tensors (None stays) as leaves of a type; 5-D ones in a layout."""
    cast = [None if t is None else t.to(dtype) for t in tensors]
    return [t if t is None else (laid_out(t, layout) if t.dim() == 5 else t).requires_grad_() for t in cast]


def gradients(output, tensors, whole=False):
    """Of a sum weighted by fixed numbers, with respect to the tensors that are there."""
    generator = torch.Generator().manual_seed(7)
    weight = torch.randn(output.shape, generator=generator, dtype=torch.float64)
    weight = (2 * weight).round() if whole else weight
    return torch.autograd.grad(output, [t for t in tensors if t is not None], weight.to(output.dtype))


def compare(fused, plain, tensors, dtype, layout="first"):
    """Output and all gradients of ``fused`` in a type against ``plain`` in float64, and ``plain`` in that type.

    In bfloat16 a rounding may decide which cell gets a gradient, and be as good as another: there the gradients are
    compared on small whole numbers, of which sums are exact.
    """

    def run(function, given, kind, where):
        # All start from the numbers that the type can hold.
        values = leaves([None if t is None else t.to(dtype).to(kind) for t in given], kind, where)
        output = function(*values)
        return [output, *gradients(output, values)]

    def check(given, what):
        found, truth = run(fused, given, dtype, layout), run(plain, given, torch.float64, "first")
        low = run(plain, given, dtype, layout)
        for k, (a, b, c) in enumerate(zip(found[what], truth[what], low[what], strict=True)):
            assert a.dtype == dtype
            assert_close(a, b, f"result {k} of {what}", plain=c)

    if dtype == torch.bfloat16:
        check(tensors, slice(1))
        check([None if t is None else (t / t.abs().mean()).round().clamp(-2, 2) for t in tensors], slice(None))
    else:
        check(tensors, slice(None))


def assert_same(found, truth):
    """Equal in every bit that counts: NaN where NaN is."""
    for a, b in zip(found, truth, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)


def saved_bytes(function):
    """Bytes of the distinct storages that autograd keeps for a result."""
    kept = {}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        output = function()
    return output, sum(kept.values())
