"""What several functions of this package expect of their arguments."""

import torch


def check_counts(**counts):
    """Raises ValueError naming the argument that is not a positive int."""
    for name, value in counts.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name}: expected a positive int, got {value!r}")


def check_seed(seed):
    """Raises ValueError where it is not an int from 0 on."""
    if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        raise ValueError(f"seed: expected an int that is not negative, got {seed!r}")


def height_and_width(name, size):
    """Both of a size, a number standing for a square. Raises ValueError naming the argument."""
    pair = (size, size) if isinstance(size, int) else tuple(size)
    if len(pair) != 2 or not all(isinstance(s, int) and s > 0 for s in pair):
        raise ValueError(f"{name}: expected a positive int or two, height and width, got {size!r}")
    return pair


def numbers_within(name, indices, count):
    """Indices of any kind, tensor or range, as a list. Raises ValueError naming the argument.

    They are whole numbers from 0 to before ``count``, at least one, never a mask.
    """
    try:
        found = torch.as_tensor(indices)
    except (RuntimeError, TypeError, ValueError):
        found = torch.empty(0)
    whole = found.dim() == 1 and len(found) and found.dtype in (torch.int64, torch.int32, torch.int16, torch.uint8)
    if not whole or not 0 <= int(found.min()) <= int(found.max()) < count:
        expected = f"whole numbers, at least one, each from 0 to {count - 1}"
        raise ValueError(f"{name}: expected {expected}, got {indices!r}")
    return found.tolist()
