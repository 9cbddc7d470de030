"""The phases of a list of steps: which fills, convolutions and stage one kernel takes together. A normalisation is by
itself: it needs whole images, and a program of a phase has a tile."""

from dataclasses import dataclass, field

from fastrcn.ops.conv_recurrent.program import (
    Buffer,
    Convolution,
    Fill,
    Normalize,
    NormalizeBackward,
    StageCall,
    buffers_of,
    maps_key,
    overlap,
)
from fastrcn.ops.conv_recurrent.triton_config import has_many_maps

Norm = Normalize | NormalizeBackward


def is_slot(target: Buffer, slot, buffer: Buffer, channels):
    """Whether a buffer is slot ``slot`` of a target."""
    return (
        buffer.per_row and maps_key(buffer) == maps_key(target) and buffer.channel == target.channel + slot * channels
    )


@dataclass
class Work:
    """The steps of one phase, as they are found in a list of steps; ``number``: which phase it is."""

    fills: list[Fill] = field(default_factory=list)
    convolutions: list[Convolution] = field(default_factory=list)
    stage: StageCall | None = None
    number: int = -1

    @property
    def tensor(self):
        """A tensor on the device on which the phase runs."""
        if self.stage:
            return self.stage.buffers[0].data
        return (self.convolutions or self.fills)[0].target.data

    def buffers(self):
        """All maps of the steps, the stage's first, and the rows that fills begin with."""
        found = list(self.stage.buffers) if self.stage else []
        for step in (*self.fills, *self.convolutions):
            found += buffers_of(step)
        return found + [Buffer(f.row, per_row=False) for f in self.fills if f.row is not None]

    def targets(self):
        """Buffers that the phase completes, each once."""
        found = {}
        for step in (*self.fills, *self.convolutions):
            found.setdefault(maps_key(step.target), step.target)
        return list(found.values())

    def slots(self, channels):
        """What the phase has an accumulator for, as (target, which of its ``channels``)."""
        return [(target, slot) for target in self.targets() for slot in range(target.width // channels)]

    def takes_stage(self, stage: StageCall, lag=0):
        """Whether a stage may be the epilogue: it must neither write what other tiles' convolutions still read nor have
        very many maps."""
        if has_many_maps(len(stage.buffers)):
            return False
        pairs = zip(stage.signature.args, stage.buffers, strict=True)
        stores = [b for a, b in pairs if a.mode != "load" and a.role != "d_param"]
        return not any(overlap(w, c.source, lag) for w in stores for c in self.convolutions)

    def takes(self, step):
        """Whether a step that follows belongs to this phase."""
        if self.stage is not None:
            return False
        if isinstance(step, Fill):
            touched = [*self.targets(), *(c.source for c in self.convolutions)]
            return not any(overlap(step.target, buffer) for buffer in touched)
        if isinstance(step, Convolution):
            return not any(overlap(target, step.source) for target in self.targets())
        return self.takes_stage(step)

    def waits(self, norm: Norm):
        """Whether it may come after a normalisation that follows it: fills of other maps, which then become one phase
        with the convolutions that add to them."""
        touched = buffers_of(norm)
        return (
            not self.convolutions
            and self.stage is None
            and not any(overlap(fill.target, buffer) for fill in self.fills for buffer in touched)
        )

    def add(self, step):
        if isinstance(step, Fill):
            self.fills.append(step)
        elif isinstance(step, Convolution):
            self.convolutions.append(step)
        else:
            self.stage = step


def split(steps) -> list[Work | Norm]:
    """The phases and normalisations of a list of steps, in order."""
    works: list[Work | Norm] = []
    for step in steps:
        last = works[-1] if works else None
        if isinstance(step, Norm):
            works.insert(len(works) - (isinstance(last, Work) and last.waits(step)), step)
            continue
        if not isinstance(last, Work) or not last.takes(step):
            last = Work()
            works.append(last)
        last.add(step)
    return works


def share_source(convolutions, targets):
    """Convolutions of the same maps with the same geometry, together, in the order of their ``targets``: their products
    share each loaded tile."""
    place = {maps_key(target): n for n, target in enumerate(targets)}
    shared: dict = {}
    for c in convolutions:
        options = (tuple(c.stride), tuple(c.dilation), tuple(c.padding), c.skip_first)
        shared.setdefault((maps_key(c.source), tuple(c.weight.shape[1:]), options), []).append(c)
    groups = []
    for members in shared.values():
        # Two convolutions into the same target stay apart: they add.
        while members:
            once = list({maps_key(c.target): c for c in reversed(members)}.values())[::-1]
            groups.append(sorted(once, key=lambda c: place[maps_key(c.target)]))
            members = [c for c in members if not any(c is o for o in once)]
    return groups
