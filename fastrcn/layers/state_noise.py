"""Zoneout and recurrent dropout in the layers: which cell runs, and the masks that it is given."""

from fastrcn.cells import RecurrentDropout, Zoneout
from fastrcn.ops.conv_recurrent.geometry import accumulate_type


def _probability(value, name):
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1:
        raise ValueError(f"{name}: expected a probability of at least 0 and below 1, got {value!r}")
    return float(value)


class StateNoise:
    """Noise on the states of ``cell``. In evaluation zoneout is its expectation, and there is no recurrent dropout.

    Masks are drawn by PyTorch's generator of the device, so ``torch.manual_seed`` repeats them on every backend.
    """

    def __init__(self, cell, zoneout, zoneout_cell, recurrent_dropout):
        first, *others = cell.states
        if zoneout_cell and not others:
            raise ValueError(f"zoneout_cell: expected 0 for a cell with the state {first} alone, got {zoneout_cell!r}")
        self.zoneout, self.zoneout_cell = _probability(zoneout, "zoneout"), _probability(zoneout_cell, "zoneout_cell")
        self.recurrent_dropout = _probability(recurrent_dropout, "recurrent_dropout")
        of_states = {first: self.zoneout} | dict.fromkeys(others, self.zoneout_cell)
        self.zoned = {name: p for name, p in of_states.items() if p}
        self.in_training = self._zoned(RecurrentDropout(cell) if self.recurrent_dropout else cell)
        self.in_evaluation = self._zoned(cell)
        for made in (self.in_training, self.in_evaluation):
            made.key  # noqa: B018  a compiler that traces a layer cannot make it

    def _zoned(self, cell):
        return Zoneout(cell, tuple(self.zoned)) if self.zoned else cell

    def cell(self, training):
        """The cell to run."""
        return self.in_training if training else self.in_evaluation

    def masks(self, training, lead, size, like):
        """Its masks, for ``lead`` (T,B) states of ``size`` (C, then the map's); ``like``: a tensor of the weights' type
        and device."""
        dtype, (steps, batch), (channels, *maps) = accumulate_type(like.dtype), lead, size

        def drawn(steps, p):
            last = like.new_empty(steps, batch, *maps, channels, dtype=dtype)
            return last.bernoulli_(p).movedim(-1, 2)

        if not training:
            shape = (1, 1, channels, *(1 for _ in maps))
            return tuple(like.new_full(shape, p, dtype=dtype) for p in self.zoned.values())
        kept = 1 - self.recurrent_dropout
        dropout = (drawn(1, kept) / kept,) if self.recurrent_dropout else ()
        return (*dropout, *(drawn(steps, p) for p in self.zoned.values()))
