"""How the two directions of a bidirectional layer run: "together", each launch doing both, or "in_turn". The backend
chooses by shape."""

from fastrcn.ops.choice import Choice

NAMES = ("together", "in_turn")

_directions = Choice("directions", NAMES)


def use_directions(name):
    """Within this context the two directions of a layer run "together" or "in_turn", whatever its shape. The backends
    without launches for both (all but ``triton``) run them in turn."""
    return _directions.use(name)


def together(program, geometry, device) -> bool:
    """What was asked for, else what the backend's program prefers."""
    asked = _directions.asked
    return asked == "together" if asked else program.joins_directions(geometry, device)
