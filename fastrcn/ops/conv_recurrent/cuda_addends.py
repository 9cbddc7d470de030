"""Which convolutions of a time loop need not add to their target themselves: the stages that load it add their results,
or a normalisation takes them, so that no pass over memory only adds."""

from collections.abc import Set
from dataclasses import dataclass, field

import torch

from fastrcn.ops.conv_recurrent.program import Buffer, Convolution, Fill, Normalize, StageCall, buffers_of, maps_key


@dataclass(frozen=True)
class Taker:
    """An argument of a stage that takes a convolution's result from ``channel`` on; ``written``: the sum is needed."""

    stage: StageCall
    argument: int
    channel: int
    written: bool


@dataclass
class Addend:
    """The sum of what convolutions add to one target, which stages add to it as they load it. ``alone``: the target
    begins at zero and gets nothing else, so that it need not be filled; ``norm``: what takes the sum in the place of
    stages, then alone; ``result``: what is there by now."""

    target: Buffer
    takers: list[Taker]
    alone: bool
    norm: Normalize | None = None
    result: torch.Tensor | None = field(default=None, repr=False)


def find_addends(steps, channels, keep, adding: Set[int] = frozenset()):
    """(the addend of each convolution that has one, by the step's id; the steps without fills that are not needed).
    ``channels``: of a slot; ``keep``: whether somebody reads the targets after the loop; ``adding``: ids of the
    convolutions that add to their target themselves."""
    addends, needless = {}, []
    for n, step in enumerate(steps):
        if not isinstance(step, Convolution) or id(step) in adding:
            continue
        norm = _norm(steps, n)
        if norm is not None:
            addends[id(step)] = Addend(step.target, [], True, norm)
            needless.append(n - 1)
            continue
        takers = _takers(steps, n, channels, keep)
        if not takers:
            continue
        same = [a for a in addends.values() if _same_buffer(a.target, step.target) and _same_takers(a.takers, takers)]
        if not same:
            alone = _begins_at_zero(steps, n, adding)
            same = [Addend(step.target, takers, alone)]
            if alone:
                needless.append(n - 1)
        addends[id(step)] = same[0]
    return addends, [step for n, step in enumerate(steps) if n not in needless]


def _same_buffer(one: Buffer, other: Buffer):
    """Whether two buffers are the same channels of the same maps at every time."""
    return maps_key(one) == maps_key(other) and (one.channel, one.width) == (other.channel, other.width)


def _same_takers(ones: list[Taker], others: list[Taker]):
    """Whether the same stages take two results, by the same arguments."""
    return [(id(t.stage), t.argument) for t in ones] == [(id(t.stage), t.argument) for t in others]


def _touching(step, maps: Buffer):
    """The buffers of a step that lie in the maps' memory."""
    here = maps.data.untyped_storage().data_ptr()
    return [b for b in buffers_of(step) if b.data.untyped_storage().data_ptr() == here]


def _adds_alike(step, target: Buffer):
    """Whether a step is a convolution that adds to the target, and does nothing else with its memory."""
    if not isinstance(step, Convolution) or not _same_buffer(step.target, target):
        return False
    return len(_touching(step, target)) == 1


def _norm(steps, n) -> Normalize | None:
    """The normalisation that takes the result of convolution ``n``: of a target that is zero before and gets nothing
    else."""
    target, before = steps[n].target, steps[n - 1]
    if n == 0 or not isinstance(before, Fill) or before.row is not None or not _same_buffer(before.target, target):
        return None
    after = next((step for step in steps[n + 1 :] if _touching(step, target)), None)
    return after if isinstance(after, Normalize) and _same_buffer(after.target, target) else None


def _takers(steps, n, channels, keep) -> list[Taker]:
    """The stages that complete the target of convolution ``n``, one for each slot; none where other steps but
    convolutions come before them, or no stage loads a slot. After the last step comes the next time's first, where the
    target is the same."""
    target, found = steps[n].target, []
    missing = set(range(target.channel, target.channel + target.width, channels))
    later = steps[n + 1 :] + ([] if target.timed else steps[:n])
    for place, step in enumerate(later):
        touching = _touching(step, target)
        if not touching or _adds_alike(step, target):
            continue
        if not isinstance(step, StageCall) or not all(maps_key(b) == maps_key(target) for b in touching):
            return []
        for k, (arg, buffer) in enumerate(zip(step.signature.args, step.buffers, strict=True)):
            if not (
                maps_key(buffer) == maps_key(target) and buffer.channel in missing and step.signature.is_completed(arg)
            ):
                continue
            missing.discard(buffer.channel)
            again = any(_loads(s, target, buffer.channel) for s in later[place + 1 :])
            written = arg.role == "slot" and (keep or again)
            found.append(Taker(step, k, buffer.channel - target.channel, written))
        if not missing:
            return found
        if any(b.channel in missing for b in touching):
            return []
    return []


def _loads(step, target: Buffer, channel):
    """Whether a stage loads a slot."""
    if not isinstance(step, StageCall):
        return False
    pairs = zip(step.signature.args, step.buffers, strict=True)
    return any(a.mode == "load" and b.channel == channel and maps_key(b) == maps_key(target) for a, b in pairs)


def _begins_at_zero(steps, n, adding):
    """Whether the step before sets the target of convolution ``n`` to zero, for convolutions alone whose results are
    added later."""
    before, step = steps[n - 1], steps[n]
    if n == 0 or not isinstance(before, Fill) or before.row is not None or step.skip_first:
        return False
    if any(_adds_alike(s, step.target) and id(s) in adding for s in steps):
        return False
    return maps_key(before.target) == maps_key(step.target) and before.target.width == step.target.width
