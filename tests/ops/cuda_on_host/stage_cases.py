"""One stage's kernel against the emitted PyTorch code in float64, wherever the kernel runs."""

from dataclasses import dataclass

import torch

from fastrcn.cells import BUILT_IN
from fastrcn.compiler.emit_torch import torch_function
from fastrcn.compiler.schedule import schedule_of
from fastrcn.compiler.signature import backward_signatures, forward_signatures
from fastrcn.native import CUDA_TYPE_NUMBERS
from fastrcn.ops.conv_recurrent.geometry import accumulate_type
from tests.helpers.tolerances import assert_close

STAGES = {}
for _cell in BUILT_IN:
    _schedule = schedule_of(_cell.key)
    for _sig in (*forward_signatures(_schedule), *backward_signatures(_schedule)):
        STAGES[f"{_schedule.fingerprint}-{_sig.stage}-{'bwd' if _sig.backward else 'fwd'}"] = _schedule, _sig


@dataclass
class StageCase:
    """``ended``: sequences have different lengths; ``addend``: what completes arguments, "none", "added", "alone" or
    "written"; ``skip``: elements by which rows are off their alignment; ``parts``: rows of sums."""

    channels: int = 8
    images: int = 3
    pixels: int = 19
    ended: bool = False
    addend: str = "none"
    skip: int = 0
    parts: int = 2


CASES = {
    "one_channel": StageCase(1),
    "three_channels": StageCase(3, addend="added"),
    "packs": StageCase(8, addend="written"),
    "seventeen_channels": StageCase(17, ended=True, addend="written"),
    "many_packs": StageCase(48, ended=True, addend="alone", pixels=5),
    "not_aligned": StageCase(16, addend="alone", skip=1),
    "one_pixel": StageCase(40, images=5, pixels=1, ended=True, addend="added"),
    "many_columns": StageCase(17 * 16, images=2, pixels=3, addend="written"),
}


class _Maps:
    """Rows of channels in the middle of wider ones, so that what lies beside is seen to stay."""

    def __init__(self, rows, channels, dtype, device, skip=0, row=False):
        flat = torch.randn(rows * 3 * channels + skip, dtype=torch.float64).to(device, dtype)
        self.whole = flat[skip:].view(rows, 3 * channels)
        self.slot = slice(channels, 2 * channels)
        self.before = self.whole.clone()
        self.row = row
        self.pitch = 0 if row else 3 * channels

    @property
    def values(self):
        """As the stage finds them."""
        found = self.before[:, self.slot]
        return found[:1].expand_as(found) if self.row else found

    @property
    def address(self):
        return self.whole[:, self.slot].data_ptr()

    def found(self):
        """What the stage left there; it left everything else alone."""
        kept = self.before.clone()
        kept[:, self.slot] = self.whole[:, self.slot]
        assert torch.equal(kept, self.whole)
        return self.whole[:, self.slot]


def check_stage(kernels, name, case: StageCase, dtype, device="cpu", stream=0):
    """Run a stage's kernel on random values and compare all that it writes."""
    (schedule, sig), c, rows, wide = STAGES[name], case.channels, case.images * case.pixels, accumulate_type(dtype)
    maps, sums, addends, values, by_map = {}, {}, {}, {}, {}
    for k, arg in enumerate(sig.args):
        if arg.role == "d_param":
            by_map[arg.name] = len(by_map) % 2 == 1
            count = case.pixels if by_map[arg.name] else case.parts
            sums[arg.name] = torch.randn(count, c, dtype=torch.float64).to(device)
            continue
        kind = wide if arg.wide else dtype
        maps[arg.name] = _Maps(rows, c, kind, device, case.skip, arg.role in ("param", "d_output"))
        value = maps[arg.name].values.to(wide)
        if sig.is_completed(arg) and case.addend != "none":
            addends[k] = _Maps(rows, c, dtype, device, case.skip)
            begun = torch.zeros_like(value) if case.addend == "alone" else value
            value = (begun + addends[k].values.to(wide)).to(dtype)
        values[arg.name] = value.double()
    before = {n: s.clone() for n, s in sums.items()}
    lengths = torch.tensor([3, 2, 0, 3, 1][: case.images]).to(device)
    ended = (lengths <= 2).repeat_interleave(case.pixels).view(-1, 1) & case.ended
    flags = case.addend == "alone", case.addend == "written"
    wrong = kernels.launch_cuda_stage(
        kernels.cuda_stage(schedule.fingerprint, sig.stage, sig.backward),
        CUDA_TYPE_NUMBERS[dtype],
        [maps[a.name].address if a.name in maps else sums[a.name].data_ptr() for a in sig.args],
        [maps[a.name].pitch if a.name in maps else c for a in sig.args],
        [(k, m.address, m.pitch, *flags) for k, m in addends.items()],
        c, rows, case.pixels, lengths.data_ptr() if case.ended else 0, 2, [*by_map.values()], case.parts, stream,
    )  # fmt: skip
    assert not wrong, wrong
    carried = {to: sum(values[n] for n in (source, *more)) for source, to, *more in sig.carries}
    carried |= {n: torch.zeros_like(next(iter(values.values()))) for n in sig.zeroes}
    inner = dict(values)
    for source, _, *more in sig.carries:
        for other in more:
            inner[source] = values[source] + values[other]
    outputs = [s.name for s, _ in sig.code.outputs]
    results = dict(zip(outputs, torch_function(sig.code)(*(inner[s.name] for s in sig.code.reads)), strict=True))
    for k, arg in enumerate(sig.args):
        truth = results.get(arg.name, 0.0)
        truth = torch.as_tensor(truth, dtype=torch.float64, device=device).expand(rows, c)
        if arg.role == "d_param":
            truth = truth.masked_fill(ended, 0.0).view(case.images, case.pixels, c)
            change = sums[arg.name] - before[arg.name]
            change, truth = (change, truth.sum(0)) if by_map[arg.name] else (change.sum(0), truth.sum((0, 1)))
            assert_close(change, truth, arg.name, wide)
        elif arg.mode == "load":
            written = k in addends and case.addend == "written" and arg.role == "slot"
            expected = values[arg.name].to(dtype) if written else maps[arg.name].before[:, maps[arg.name].slot]
            assert torch.equal(maps[arg.name].found(), expected), arg.name
        else:
            truth = values[arg.name] + truth if arg.mode == "accumulate" else truth
            truth = torch.where(ended, carried[arg.name], truth) if arg.name in carried else truth
            kind = wide if arg.wide else dtype
            assert_close(maps[arg.name].found(), truth, arg.name, kind, truth.to(kind))
