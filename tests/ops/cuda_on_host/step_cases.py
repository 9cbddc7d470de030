"""One kernel of a convolution with its stage against PyTorch in float64, wherever the kernel runs."""

from dataclasses import dataclass, replace
from math import ceil, prod

import torch
from torch.nn import functional

from fastrcn.compiler.signature import can_be_fused
from fastrcn.native import CUDA_TYPE_NUMBERS
from fastrcn.ops.conv_recurrent.cuda_method import FEWEST_PIXELS
from tests.ops.cuda_on_host.stage_cases import STAGES, Maps, Trial

STEPS = {name: stage for name, stage in STAGES.items() if can_be_fused(*stage)}
"""Stages that have such a kernel."""


@dataclass(frozen=True)
class StepCase:
    """``addend``: "added" to what was there, "alone" in its place, or added and "written"; ``leave``: arguments, from
    the last on, that no convolution completes; ``others``: slots that the stage takes nothing of; ``ended``: sequences
    have different lengths; ``second``: channels of a second source, 0: there is none."""

    channels: int = 16
    inputs: int = 16
    images: int = 2
    size: tuple[int, int, int] = (1, 5, 7)
    kernel: tuple[int, int, int] = (1, 3, 3)
    dilation: tuple[int, int, int] = (1, 1, 1)
    addend: str = "added"
    leave: int = 0
    others: int = 0
    ended: bool = False
    second: int = 0

    @property
    def padding(self):
        return tuple(d * (k - 1) // 2 for k, d in zip(self.kernel, self.dilation, strict=True))


CASES = {
    "small": StepCase(),
    "one_pixel_of_1x1": StepCase(channels=8, inputs=8, images=3, size=(1, 1, 1), kernel=(1, 1, 1), ended=True),
    "pixels_of_1x1": StepCase(24, 40, kernel=(1, 1, 1), addend="written"),
    "5x5": StepCase(kernel=(1, 5, 5), addend="written"),
    "7x7": StepCase(inputs=24, kernel=(1, 7, 7), addend="alone"),
    "1x5": StepCase(channels=24, inputs=72, kernel=(1, 1, 5), ended=True),
    "edges": StepCase(24, 40, 1, size=(1, 6, 11), kernel=(1, 5, 3), addend="written", ended=True),
    "wide": StepCase(channels=136, inputs=24, images=1, size=(1, 3, 5), addend="alone"),
    "volume": StepCase(channels=24, inputs=40, size=(3, 4, 5), kernel=(3, 1, 3), leave=1),
    "others": StepCase(32, 16, leave=2, others=2),
    "other_alone": StepCase(16, 32, leave=1, others=1, addend="alone"),
    "dilated": StepCase(channels=8, inputs=32, size=(1, 9, 8), dilation=(1, 2, 3), addend="written"),
    "two": StepCase(second=16),
    "two_of_1x1": StepCase(8, 8, 3, size=(1, 1, 1), kernel=(1, 1, 1), ended=True, second=24),
    "short_and_long": StepCase(24, 8, 1, size=(1, 6, 11), kernel=(1, 5, 3), addend="written", ended=True, second=72),
    "long_and_short": StepCase(32, 72, size=(1, 9, 8), dilation=(1, 2, 3), leave=2, others=2, second=8),
    "two_volumes": StepCase(136, 24, 1, size=(3, 4, 5), kernel=(3, 1, 3), addend="alone", second=16),
}
LARGE = replace(CASES["small"], channels=64, inputs=96, images=1, size=(1, 12, 13))


def check_step(kernels, name, case: StepCase, dtype, device="cpu", stream=0):
    """Run a step's kernel on random values and compare all that it writes."""
    c, taps, pixels = case.channels, case.kernel, prod(case.size)
    parts = ceil(case.images * pixels / FEWEST_PIXELS)
    trial = Trial(name, c, case.images, pixels, dtype, device, case.ended, parts, apart=True)
    # In all these numbers sums are exact, so that nothing depends on the order of adding, nor on TF32's rounding.
    inputs = [case.inputs, case.second] if case.second else [case.inputs]
    sources = [Maps(trial.rows, n, dtype, device) for n in inputs]
    for source in sources:
        source.set(torch.randint(-4, 5, source.whole.shape) / 4)
    completed = trial.completed()
    completed = completed[: max(1, len(completed) - case.leave)]
    for _, arg in completed:
        maps = trial.maps[arg.name]
        maps.set((maps.whole * 16).round() / 16)
    # A group of slots more, so that the rows of these do not begin at the first; and in another order.
    count = len(completed) + case.others + 1
    weight = (torch.randint(-2, 3, (count * c, sum(inputs), *taps)) / 16).to(device, dtype)
    maps = torch.cat([source.values for source in sources], 1).view(case.images, *case.size, -1).movedim(-1, 1)
    found = functional.conv3d(maps.double(), weight.double(), None, 1, case.padding, case.dilation)
    found = found.movedim(1, -1).reshape(trial.rows, -1)
    alone, written = case.addend == "alone", case.addend == "written"
    packed = torch.cat([part.movedim(1, -1).flatten(1) for part in weight.split(inputs, 1)], 1)
    slots, targets = [], []
    for n, (k, arg) in enumerate([*completed, *[(-1, None)] * case.others]):
        row = (count - 1 - n) * c
        target = Maps(trial.rows, c, dtype, device)
        target.set((target.whole * 16).round() / 16)
        slots.append((packed[row].data_ptr(), k, alone, written, 0 if arg else target.address, target.pitch))
        if arg:
            trial.complete(arg, found[:, row : row + c], alone, written)
        else:
            begun = torch.zeros_like(found[:, :c]) if alone else target.values.double()
            targets.append((target, (begun + found[:, row : row + c]).to(dtype)))
    wrong = kernels.launch_cuda_step(
        kernels.cuda_stage(*trial.number), CUDA_TYPE_NUMBERS[dtype], *trial.buffers(), slots,
        ([(s.address, s.pitch, n) for s, n in zip(sources, inputs, strict=True)],
         case.size, taps, case.padding, case.dilation),
        *trial.sizes(), [*trial.by_map.values()], parts, stream,
    )  # fmt: skip
    assert not wrong, wrong
    trial.check()
    for target, expected in targets:
        assert torch.equal(target.found(), expected)
    return trial
