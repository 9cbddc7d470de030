"""The cases of all operations, for the command line and for pytest-benchmark."""

from fnmatch import fnmatch

from benchmarks import conv3d, own_cells, recurrent

CASES = [*recurrent.CASES, *own_cells.CASES, *conv3d.CASES]


def find(pattern="*", quick=False, device="cpu"):
    """Cases whose name matches a shell pattern, or one of several with commas between, in the size for a device."""
    return [c.on(device) for c in matching(CASES, pattern) if c.quick or not quick]


def matching(cases, pattern):
    """Those of ``cases`` whose name matches."""
    return [c for c in cases if any(fnmatch(c.name, p) for p in pattern.split(","))]
