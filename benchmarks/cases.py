"""The cases of all operations, for the command line and for pytest-benchmark."""

from fnmatch import fnmatch

from benchmarks import conv3d, own_cells, recurrent

CASES = [*recurrent.CASES, *own_cells.CASES, *conv3d.CASES]


def find(pattern="*", quick=False, device="cpu"):
    """Cases whose name matches a shell pattern, or one of several with commas between, in the size for a device."""
    patterns = pattern.split(",")
    return [c.on(device) for c in CASES if any(fnmatch(c.name, p) for p in patterns) and (c.quick or not quick)]
