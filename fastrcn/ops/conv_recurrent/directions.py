"""How the two directions of a bidirectional layer run: "together", each launch doing both, or "in_turn". The backend
chooses by shape."""

from contextlib import contextmanager

NAMES = ("together", "in_turn")

_asked: list[str] = []


@contextmanager
def use_directions(name):
    """Within this context the two directions of a layer run "together" or "in_turn", whatever its shape. The backends
    without launches for both (all but ``triton``) run them in turn."""
    if name not in NAMES:
        raise ValueError(f"directions: expected one of {', '.join(NAMES)}, got {name!r}")
    _asked.append(name)
    try:
        yield
    finally:
        _asked.pop()


def together(program, geometry) -> bool:
    """What was asked for, else what the backend's program prefers."""
    return _asked[-1] == "together" if _asked else program.joins_directions(geometry)
