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
    "one_pixel": StageCase(40, images=7, pixels=1, ended=True, addend="added"),
    "many_columns": StageCase(17 * 16, images=2, pixels=3, addend="written"),
}


class Maps:
    """Rows of channels in the middle of wider ones, so that what lies beside is seen to stay."""

    def __init__(self, rows, channels, dtype, device, skip=0, row=False):
        flat = torch.randn(rows * 3 * channels + skip, dtype=torch.float64).to(device, dtype)
        self.whole = flat[skip:].view(rows, 3 * channels)
        self.slot = slice(channels, 2 * channels)
        self.before = self.whole.clone()
        self.row = row
        self.pitch = 0 if row else 3 * channels

    def set(self, values):
        """Have these in the place of the random ones."""
        self.whole.copy_(values)
        self.before = self.whole.clone()

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


class Trial:
    """One stage on random values: what a launch is given, and whether it left what it should.

    ``images`` of ``pixels`` each; ``ended``: sequences have different lengths; ``parts``: rows of sums, whose maps have
    the images ``apart`` or together; ``skip``: elements by which rows are off their alignment.
    """

    def __init__(self, name, channels, images, pixels, dtype, device="cpu", ended=False, parts=2, skip=0, apart=False):
        self.schedule, self.sig = STAGES[name]
        self.channels, self.images, self.pixels, self.rows = channels, images, pixels, images * pixels
        self.dtype, self.wide, self.device, self.ended = dtype, accumulate_type(dtype), device, ended
        self.apart = apart
        self.maps, self.sums, self.by_map, self.values = {}, {}, {}, {}
        self.written: set[str] = set()
        for arg in self.sig.args:
            if arg.role == "d_param":
                self.by_map[arg.name] = len(self.by_map) % 2 == 1
                count = (self.rows if apart else pixels) if self.by_map[arg.name] else parts
                self.sums[arg.name] = torch.randn(count, channels, dtype=torch.float64).to(device)
                continue
            kind = self.wide if arg.wide else dtype
            self.maps[arg.name] = Maps(self.rows, channels, kind, device, skip, arg.role in ("param", "d_output"))
            self.values[arg.name] = self.maps[arg.name].values.to(self.wide).double()
        self.before = {n: s.clone() for n, s in self.sums.items()}
        self.lengths = torch.tensor([(3, 2, 0, 3, 1)[n % 5] for n in range(images)]).to(device)

    @property
    def number(self):
        """Of the kernel: what it is found by."""
        return self.schedule.fingerprint, self.sig.stage, self.sig.backward

    def completed(self):
        """[(k, argument)] of those that convolutions complete."""
        return [(k, arg) for k, arg in enumerate(self.sig.args) if self.sig.is_completed(arg)]

    def complete(self, arg, addend, alone, written):
        """Note that ``addend`` (rows,C) is added to an argument, or takes its place, and that the sum is kept."""
        begun = torch.zeros_like(addend) if alone else self.maps[arg.name].values.to(addend.dtype)
        self.values[arg.name] = (begun + addend).to(self.dtype).double()
        if written and arg.role == "slot":
            self.written.add(arg.name)

    def buffers(self):
        """(addresses, pitches) of all arguments."""
        names = [arg.name for arg in self.sig.args]
        data = [self.maps[n].address if n in self.maps else self.sums[n].data_ptr() for n in names]
        return data, [self.maps[n].pitch if n in self.maps else self.channels for n in names]

    def sizes(self):
        """(channels, pixels, pixels of an image, address of the lengths or 0, the time)."""
        return self.channels, self.rows, self.pixels, self.lengths.data_ptr() if self.ended else 0, 2

    def change(self, name):
        """What was added to each row of a sum."""
        return self.sums[name] - self.before[name]

    def check(self):
        """Compare all that the stage writes with the emitted PyTorch code in float64."""
        sig, rows, c, values = self.sig, self.rows, self.channels, self.values
        # Stages before the last take all pixels: the gradients of those that have ended are zero there.
        frozen = self.ended and bool(sig.carries)
        ended = (self.lengths <= 2).repeat_interleave(self.pixels).view(-1, 1) & frozen
        carried = {to: sum(values[n] for n in (source, *more)) for source, to, *more in sig.carries}
        carried |= {n: torch.zeros_like(next(iter(values.values()))) for n in sig.zeroes}
        inner = dict(values)
        for source, _, *more in sig.carries:
            for other in more:
                inner[source] = values[source] + values[other]
        outputs = [s.name for s, _ in sig.code.outputs]
        results = dict(zip(outputs, torch_function(sig.code)(*(inner[s.name] for s in sig.code.reads)), strict=True))
        sums = []
        for arg in sig.args:
            truth = results.get(arg.name, 0.0)
            truth = torch.as_tensor(truth, dtype=torch.float64, device=self.device).expand(rows, c)
            if arg.role == "d_param":
                truth = truth.masked_fill(ended, 0.0).view(self.images, self.pixels, c)
                change = self.change(arg.name)
                if self.by_map[arg.name]:
                    sums.append((change, truth if self.apart else truth.sum(0)))
                else:
                    sums.append((change.sum(0), truth.sum((0, 1))))
            elif arg.name in self.written:
                kind = self.dtype
                assert_close(self.maps[arg.name].found(), values[arg.name], arg.name, kind, values[arg.name].to(kind))
            elif arg.mode == "load":
                maps = self.maps[arg.name]
                assert torch.equal(maps.found(), maps.before[:, maps.slot]), arg.name
            else:
                truth = values[arg.name] + truth if arg.mode == "accumulate" else truth
                truth = torch.where(ended, carried[arg.name], truth) if arg.name in carried else truth
                kind = self.wide if arg.wide else self.dtype
                assert_close(self.maps[arg.name].found(), truth, arg.name, kind, truth.to(kind))
        if sums:
            # Together: one channel's sum may be near zero by chance.
            found, truth = (torch.cat([s.flatten() for s in part]) for part in zip(*sums, strict=True))
            assert_close(found, truth, "sums", self.wide)


def check_stage(kernels, name, case: StageCase, dtype, device="cpu", stream=0):
    """Run a stage's kernel on random values and compare all that it writes."""
    trial = Trial(name, case.channels, case.images, case.pixels, dtype, device, case.ended, case.parts, case.skip)
    alone, written, addends = case.addend == "alone", case.addend == "written", {}
    for k, arg in trial.completed() if case.addend != "none" else ():
        addends[k] = Maps(trial.rows, case.channels, dtype, device, case.skip)
        trial.complete(arg, addends[k].values.to(trial.wide), alone, written)
    wrong = kernels.launch_cuda_stage(
        kernels.cuda_stage(*trial.number), CUDA_TYPE_NUMBERS[dtype], *trial.buffers(),
        [(k, m.address, m.pitch, alone, written) for k, m in addends.items()],
        *trial.sizes(), [*trial.by_map.values()], case.parts, stream,
    )  # fmt: skip
    assert not wrong, wrong
    trial.check()
