"""TensorFlow's "SAME" padding: ceil(size / stride) outputs; where the padding is odd, its larger half comes after."""

from torch.nn import functional as F


def same_padding(size, kernel, stride):
    """Cells (before, after) along one axis. A 7-wide kernel at stride 2: 2 and 3 for even sizes, 3 and 3 for odd."""
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def pad_same(x, kernel, stride):
    """Maps (N,C,H,W) with zeros around them, for a square convolution without padding."""
    height, width = (same_padding(n, kernel, stride) for n in x.shape[2:])
    return F.pad(x, (*width, *height))


def same_max_pool2d(x, kernel, stride):
    """Max-pooling (N,C,H,W) -> (N,C,ceil(H/stride),ceil(W/stride)).

    With the cells before as padding, rounding up gives the last window its cells after; cells outside never win.
    """
    before = [same_padding(n, kernel, stride)[0] for n in x.shape[2:]]
    return F.max_pool2d(x, kernel, stride, before, ceil_mode=True)
