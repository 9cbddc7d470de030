"""The window of a 3-D max-pooling and the sizes that follow from it."""

from typing import Any, NamedTuple

import torch

from fastrcn.checks import triple

CLOSED = 255
"""Index of a window whose ReLU let nothing through. So a window has at most as many cells."""

OPEN, INDEX, VALUE = range(3)
"""What tells which cell a window's gradient goes to: nothing is needed, the cell's number, or the window's value."""

Triple = tuple[int, int, int]


class Pool(NamedTuple):
    """A max-pooling as ``torch.nn.MaxPool3d`` takes it. A window of one cell at stride 1: none."""

    kernel: Triple = (1, 1, 1)
    stride: Triple = (1, 1, 1)
    padding: Triple = (0, 0, 0)
    dilation: Triple = (1, 1, 1)
    ceil_mode: bool = False

    @classmethod
    def of(cls, kernel_size: Any = 1, stride: Any = None, padding: Any = 0, dilation: Any = 1, ceil_mode=False):
        """From the arguments of ``torch.nn.MaxPool3d``; errors name them with ``pool_`` before."""
        kernel = triple(kernel_size, "pool_kernel_size", 1)
        stride = kernel if stride is None else triple(stride, "pool_stride", 1)
        padding, dilation = triple(padding, "pool_padding", 0), triple(dilation, "pool_dilation", 1)
        if any(2 * p > k for p, k in zip(padding, kernel, strict=True)):
            raise ValueError(f"pool_padding: expected at most half of the window {kernel}, got {padding}")
        return cls(kernel, stride, padding, dilation, bool(ceil_mode))

    @classmethod
    def of_options(
        cls, pool_kernel_size: Any = 1, pool_stride: Any = None, pool_padding: Any = 0, pool_dilation: Any = 1,
        ceil_mode=False,
    ):  # fmt: skip
        """From the options of an operation's function."""
        return cls.of(pool_kernel_size, pool_stride, pool_padding, pool_dilation, ceil_mode)

    def numbers(self):
        """All but ``ceil_mode`` as one list, for an operator's schema."""
        return [*self.kernel, *self.stride, *self.padding, *self.dilation]

    @classmethod
    def from_numbers(cls, numbers, ceil_mode):
        """What ``numbers`` gave."""
        kernel, stride, padding, dilation = (tuple(numbers[k : k + 3]) for k in (0, 3, 6, 9))
        return cls(kernel, stride, padding, dilation, ceil_mode)

    @property
    def cells(self):
        """Number of cells of a window."""
        return self.kernel[0] * self.kernel[1] * self.kernel[2]

    @property
    def identity(self):
        """Whether it changes nothing."""
        return self.cells == 1 and self.stride == (1, 1, 1)

    def overlaps(self):
        """Whether a cell may belong to several windows."""
        pairs = zip(self.kernel, self.stride, self.dilation, strict=True)
        return any(k > 1 and (s < d * (k - 1) + 1) for k, s, d in pairs)

    def output_size(self, size):
        """(D,H,W) after pooling. With ``ceil_mode`` the last window may reach over the end, but must begin before."""
        found = []
        for n, k, s, p, d in zip(size, *self[:4], strict=True):
            reach = n + 2 * p - d * (k - 1) - 1
            count = (reach + (s - 1 if self.ceil_mode else 0)) // s + 1
            if self.ceil_mode and (count - 1) * s >= n + p:
                count -= 1
            found.append(count)
        return tuple(found)

    def problem(self):
        """Why its windows cannot be kept in one byte each, or None."""
        if self.cells > CLOSED:
            return f"a window's cell is one byte: {CLOSED} cells at most, this one has {self.cells}"
        return None

    def plain(self, x):
        """PyTorch's own pooling."""
        if self.identity:
            return x
        return torch.nn.functional.max_pool3d(x, *self)


def keeps_index(pool: Pool, keep):
    """Whether a call returns which cell each window chose. A window of one cell is told by its value alone."""
    return keep and pool.cells > 1


def gate_kind(gate, pool: Pool):
    """``OPEN``, ``INDEX`` or ``VALUE``, for what a backward operator gets."""
    if gate is None:
        return OPEN
    return INDEX if pool.cells > 1 else VALUE


def check_pooled(pool: Pool, size, what):
    """The window must fit: PyTorch's rule, with the sizes named. And each must hold a cell of the maps: for one whose
    dilation steps over them PyTorch gives -inf, and a gradient nowhere."""
    if any(n < 1 for n in pool.output_size(size)):
        raise ValueError(
            f"pool_kernel_size: expected a window that fits {what} (D,H,W) = {tuple(size)} with padding "
            f"{pool.padding}, got {pool.kernel} with dilation {pool.dilation}"
        )
    for n, s, p, d in zip(size, pool.stride, pool.padding, pool.dilation, strict=True):
        if d > 1 and any((start - p) % d >= n for start in range(0, p, s)):
            raise ValueError(
                f"pool_dilation: expected windows with a cell of {what} (D,H,W) = {tuple(size)}, got {pool.dilation} "
                f"with padding {pool.padding}"
            )
