"""How the ``cuda`` backend runs a convolution, or the sum of two, whose result one stage takes: "fused", one kernel on
tensor cores in whose memory the result stays, "persistent", the same for many steps of time, or "library", the
library's convolutions and the stage's kernel. Chosen by shape.

The library's product is the faster one. The fused kernel saves a launch, and a write and a read of the result. In units
of the time that the library takes for one operation a value of the result costs 2 K / ``_EFFICIENCY`` fused, with K the
length of its sum, and 2 K + 2 bytes ``OPERATIONS_PER_BYTE`` by the library, which takes ``OPERATIONS_PER_LAUNCH`` more
for all of them. Where a value is the sum of two convolutions' the library writes one more, and adds the two: a write,
two reads and a write more, and two launches; but a product of matrices, a convolution of 1x1, adds to what there is: a
read, a write and a launch. Against fusing speak gradients of parameters that are maps, as full peepholes': the stage's
own kernel reads and writes each once, the fused one once for every image.

The persistent kernel can be where a step is one or two fused kernels whose blocks all run at once. In the place of each
launch a step has a barrier of all blocks, which takes ``BARRIER`` launches; ``BEGINNING`` launches go into the zeroed
counter, a start of all blocks at once and the weights' way into their memory. A step whose kernels take more than
``_LONGEST`` launches each saves little, and the kernel holds its processors for as long as it runs: other streams wait.

An LSTM of 256 channels on 32 maps of one pixel, in bfloat16 on 9, is nearly launches alone: in units of one its product
is estimated to take 0.06 fused and 0.04 by the library. A step of it takes 2.04 by the library, 1.06 fused, and 0.56 in
the persistent kernel, which is chosen from 6 steps on. That so few tiles leave most processors idle is not in this.
"""

from math import ceil, prod

import torch

from fastrcn.compiler.signature import MOST_SOURCES, can_be_fused
from fastrcn.ops.choice import Choice
from fastrcn.ops.conv_recurrent.program import Buffer, Convolution, StageCall, overlap
from fastrcn.ops.estimates import OPERATIONS_PER_BYTE, OPERATIONS_PER_LAUNCH
from fastrcn.ops.tf32 import is_exact

NAMES = ("fused", "persistent", "library")

_EFFICIENCY = {8: 0.7, 9: 0.5, 10: 0.3}
"""By compute capability: estimated speed of the fused kernel's product, as a part of the library's. On 9 both have the
same instructions, but a tile of 128 x 128 needs 64 bytes a cycle from the L2 cache to keep them busy, about twice what
a processor is estimated to get. On 10 the library has faster instructions than the kernel. Not measured yet."""

BARRIER, BEGINNING, _LONGEST = 0.5, 3, 8
"""Estimates, in the time that a launch takes. Not measured yet."""

MOST_KERNELS = 2
"""In a step of the persistent kernel."""

ALIGNMENT = 16
"""Bytes that one access takes."""

FEWEST_PIXELS = 64
"""Of a fused kernel's tile: each has a row of its own of every sum over pixels."""

_MOST_SLOTS, _MOST_PIXELS, _MOST_WEIGHTS = 8, 1 << 30, 1 << 28
"""Of a kernel, of a step, of an output channel."""

_method = Choice("method", NAMES)


def use_method(name):
    """Within this context every convolution that can be runs by the method "fused", "persistent" or "library", whatever
    its shape; "fused" where "persistent" cannot be."""
    return _method.use(name)


def fused_stages(steps, addends, geometry, images, dtype) -> dict[int, StageCall]:
    """{id of an addend: the stage that is one kernel with what makes it}; ``addends``: of convolutions, by the step's
    id. The stage is the first that takes the result; what others take it leaves in the convolution's target."""
    convolutions, firsts = {}, {}
    for step in steps:
        if id(step) in addends:
            convolutions.setdefault(id(addends[id(step)]), []).append(step)
    for addend in {id(a): a for a in addends.values() if a.takers}.values():
        firsts.setdefault(id(addend.takers[0].stage), []).append(addend)
    fused = {}
    for own in firsts.values():
        stage, parts = own[0].takers[0].stage, [convolutions[id(a)] for a in own]
        can = _can_fuse(steps, parts, stage, own, geometry, images, dtype)
        if can and _is_chosen(parts, geometry, images, dtype, _more_bytes(stage, images)):
            fused |= {id(a): stage for a in own}
    # A kernel adds no result that is in memory; whose convolution it then has not is in memory too.
    while True:
        others = {id(t.stage) for a in addends.values() if id(a) not in fused for t in a.takers}
        kept = {key: stage for key, stage in fused.items() if id(stage) not in others}
        if len(kept) == len(fused):
            return fused
        fused = kept


def _can_fuse(steps, parts, stage: StageCall, addends, geometry, images, dtype):
    """Whether a kernel does what convolutions, those of each addend, and a stage do."""
    convolutions = [c for part in parts for c in part]
    one, sources, lanes = convolutions[0], [c.source for c in parts[0]], ALIGNMENT // dtype.itemsize
    if dtype not in (torch.float32, torch.bfloat16, torch.float16) or is_exact(dtype, one.is_product):
        return False
    if not can_be_fused(geometry.schedule, stage.signature):
        return False
    kernel, inputs = one.weight.shape[2:], [c.weight.shape[1] for c in parts[0]]
    if len(sources) > MOST_SOURCES or any(_window(c) != _window(one) for c in convolutions):
        return False
    if any([id(c.source) for c in part] != [id(s) for s in sources] for part in parts):
        return False
    keeps = all(2 * p == d * (k - 1) for p, d, k in zip(one.padding, one.dilation, kernel, strict=True))
    if not keeps or any(s != 1 for s in one.stride):
        return False
    slots = sum(len(a.takers) for a in addends)
    if slots > _MOST_SLOTS or images * geometry.map_pixels > _MOST_PIXELS or sum(inputs) * prod(kernel) > _MOST_WEIGHTS:
        return False
    buffers = [*stage.buffers, *sources, *(c.target for c in convolutions)]
    if any(n % lanes for n in (geometry.channels, *inputs)) or not all(_is_aligned(b, lanes) for b in buffers):
        return False
    later = [(c, _between(steps, c, stage)) for c in convolutions]
    # All of them at the stage's time, or all before.
    if len({steps_between[-1][1] for _, steps_between in later}) > 1:
        return False
    return not any(_may_write(s, c, lag) for c, steps_between in later for s, lag in steps_between)


def _window(step: Convolution):
    """What convolutions of one kernel have in common."""
    return tuple(step.weight.shape[2:]), tuple(step.stride), tuple(step.padding), tuple(step.dilation), step.skip_first


def _more_bytes(stage: StageCall, images):
    """That the fused kernel of a stage reads and writes, but the stage's own kernel does not."""
    pairs = zip(stage.signature.args, stage.buffers, strict=True)
    maps = [b.data for a, b in pairs if a.role == "d_param" and b.data.dim() > 2]
    return 2 * (images - 1) * sum(m.numel() * m.itemsize for m in maps)


def _is_chosen(parts, geometry, images, dtype, more):
    """What was asked for, else whether it is estimated to be faster."""
    asked = _method.asked
    return asked != "library" if asked else _is_faster(parts, geometry, images, dtype, more)


def fewest_persistent(steps, addends, fused, geometry, images, dtype):
    """So many steps of time are taken by one kernel; 0: none are. ``fused``: as ``fused_stages`` gives it."""
    stages = [step for step in steps if isinstance(step, StageCall)]
    convolutions = [step for step in steps if id(step) in addends and id(addends[id(step)]) in fused]
    kernels = len({id(fused[id(addends[id(c)])]) for c in convolutions})
    if len(stages) != kernels or len(stages) + len(convolutions) != len(steps) or not 0 < kernels <= MOST_KERNELS:
        return 0
    if _method.asked:
        return 2 if _method.asked == "persistent" else 0
    operations = sum(_operations(c) * _values([c], geometry, images) / _efficiency(c) for c in convolutions)
    if operations > _LONGEST * kernels * OPERATIONS_PER_LAUNCH[dtype.itemsize]:
        return 0
    return ceil(BEGINNING / (kernels * (1 - BARRIER)))


def _is_faster(parts, geometry, images, dtype, more=0):
    """By the estimates above. ``more``: bytes that only the fused kernel reads and writes."""
    size, summed = dtype.itemsize, parts[0]
    sums = len(summed) - 1
    values = max(1, _values([part[0] for part in parts], geometry, images))
    added = sums if summed[0].is_product else 2 * sums
    launches = len(parts) * (1 + added) * OPERATIONS_PER_LAUNCH[size] / values
    saved = ((2 + 2 * added) * size - more / values) * OPERATIONS_PER_BYTE[size] + launches
    return sum(map(_operations, summed)) * (1 / _efficiency(summed[0]) - 1) < saved


def _values(convolutions, geometry, images):
    """Of the results of one step."""
    return images * geometry.map_pixels * sum(c.weight.shape[0] for c in convolutions)


def _operations(convolution):
    """For one value."""
    return 2 * prod(convolution.weight.shape[1:])


def _efficiency(convolution):
    """The estimate for the GPU that it runs on."""
    return efficiency(_capability(convolution.source.data.device))


def efficiency(capability):
    """Estimated speed of the fused kernel's product, as a part of the library's."""
    return _EFFICIENCY[min(max(capability, min(_EFFICIENCY)), max(_EFFICIENCY))]


def _capability(device):
    """A GPU's compute capability, without its fraction."""
    return torch.cuda.get_device_capability(device)[0]


def _is_aligned(buffer: Buffer, lanes):
    """Whether every row of channels begins at an aligned place."""
    base, between, first = buffer.address()
    return not (base % ALIGNMENT or between % ALIGNMENT or first % ALIGNMENT or buffer.pitch % lanes)


def _between(steps, step, stage):
    """[(step, times by which it is later)] from after a convolution to the stage that takes its result."""
    n, m = (next(k for k, s in enumerate(steps) if s is wanted) for wanted in (step, stage))
    if m > n:
        return [(s, 0) for s in steps[n + 1 : m + 1]]
    return [*((s, 0) for s in steps[n + 1 :]), *((s, 1) for s in steps[: m + 1])]


def _may_write(step, convolution: Convolution, lag):
    """Whether a step, so many times later or earlier, may write to the maps that a convolution reads, or the kernel
    that it would be part of to other places of these."""
    source = convolution.source
    if isinstance(step, StageCall):
        pairs = zip(step.signature.args, step.buffers, strict=True)
        written = [b for a, b in pairs if a.mode != "load" or step.signature.is_completed(a)]
        written.append(convolution.target)
    else:
        written = [step.target]
    if any(b.first is not None for b in written):
        return True
    read = [source] if source.first is None else [source, Buffer(source.first)]
    return any(overlap(b, maps, at) for b in written for maps in read for at in (lag, -lag))
