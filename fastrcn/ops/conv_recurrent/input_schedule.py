"""Where a sequence's inputs are convolved: by each step of the time loop ("in_loop", so that the projection is never
written, or written once), or for many steps before it ("hoisted", one large convolution). Backends choose by shape."""

from fastrcn.ops.choice import Choice

NAMES = ("hoisted", "in_loop")

_schedule = Choice("schedule", NAMES)


def use_schedule(name):
    """Within this context every sequence runs by the schedule "hoisted" or "in_loop", whatever its shape."""
    return _schedule.use(name)


def asked_schedule() -> str | None:
    """The schedule asked for, or None."""
    return _schedule.asked


def in_loop(program, geometry, dtype, device) -> bool:
    """The schedule asked for, else what the backend's program prefers."""
    asked = _schedule.asked
    return asked == "in_loop" if asked else program.convolves_inputs(geometry, dtype, device)
