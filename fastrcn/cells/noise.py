"""Noise on the states of any cell: zoneout and recurrent dropout, as cells around a cell, with the masks handed in.

Zoneout: Krueger et al. 2017, https://arxiv.org/abs/1606.01305. Dropout of the state with one mask for all steps: Gal
and Ghahramani 2016, https://arxiv.org/abs/1512.05287.
"""

from fastrcn.cells.around import Around
from fastrcn.cells.cell import mask
from fastrcn.compiler.trace import record


class Zoneout(Around):
    """Units keep their previous state where a mask is 1: s' = d s + (1 - d) step(s), with a mask d for each state.

    ``zoned``: names of the states that have it, all by default. The masks (T,B,C,H,W) are drawn with the probability of
    keeping a state in training; in evaluation they are that probability itself, (1,1,C,1,1).
    """

    zoned: tuple[str, ...]

    def __init__(self, cell, zoned=None):
        zoned = cell.states if zoned is None else tuple(zoned)
        if not zoned or not set(zoned) <= set(cell.states):
            raise ValueError(f"zoned: expected some of the states {cell.states}, got {zoned}")
        super().__init__(cell=cell, zoned=zoned)

    def step(self, *operands):
        new = self.cell.step(*operands)
        old = operands[len(self.inputs) :]
        pairs = zip(self.states, old, new if isinstance(new, tuple) else (new,), strict=True)
        return tuple(_keep(before, after) if name in self.zoned else after for name, before, after in pairs)


def _keep(before, after):
    d = mask()
    return d * before + (1 - d) * after


class RecurrentDropout(Around):
    """What the recurrent convolutions read is multiplied by a mask, the same for all gates; nothing else sees it.

    The mask is one for all steps (1,B,C,H,W): zero with the probability p, else 1 / (1 - p).
    """

    def __init__(self, cell):
        super().__init__(cell=cell)

    def step(self, *operands):
        with record().convolving_times(mask()):
            return self.cell.step(*operands)
