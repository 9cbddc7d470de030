"""Where a sequence's inputs are convolved: by each step of the time loop ("in_loop", so that the projection is never
written, or written once), or for many steps before it ("hoisted", one large convolution). Backends choose by shape."""

from contextlib import contextmanager

NAMES = ("hoisted", "in_loop")

_asked: list[str] = []


@contextmanager
def use_schedule(name):
    """Within this context every sequence runs by the schedule "hoisted" or "in_loop", whatever its shape."""
    if name not in NAMES:
        raise ValueError(f"schedule: expected one of {', '.join(NAMES)}, got {name!r}")
    _asked.append(name)
    try:
        yield
    finally:
        _asked.pop()


def in_loop(program, geometry, dtype) -> bool:
    """The schedule asked for, else what the backend's program prefers."""
    return _asked[-1] == "in_loop" if _asked else program.convolves_inputs(geometry, dtype)
