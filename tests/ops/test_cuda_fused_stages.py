"""What one kernel of the ``cuda`` backend may do: a stage and the convolutions whose results it takes.

On made-up steps, of which few occur in a cell: what is wrongly one kernel may read what its other blocks write."""

from types import SimpleNamespace

import pytest
import torch

from fastrcn.cells import ConvLSTM
from fastrcn.compiler.schedule import schedule_of
from fastrcn.compiler.signature import forward_signatures
from fastrcn.ops.conv_recurrent import cuda_method
from fastrcn.ops.conv_recurrent.cuda_addends import find_addends
from fastrcn.ops.conv_recurrent.program import Buffer, Convolution, Fill, StageCall
from fastrcn.ops.convolution.weight import Weight

SCHEDULE = schedule_of(ConvLSTM().key)
(STAGE,) = forward_signatures(SCHEDULE)
CHANNELS, SLOTS = 8, 4
BF16 = torch.bfloat16


def maps(channels=CHANNELS, skip=0, wide=0, steps=3, dtype=BF16):
    """Maps (steps,1,2,3,channels), ``skip`` values off their alignment, with ``wide`` more channels in memory."""
    pitch = channels + wide
    return torch.zeros(skip + steps * 6 * pitch, dtype=dtype)[skip:].view(steps, 1, 2, 3, pitch)


class Step:
    """A ConvLSTM's stage, ``groups`` as it takes them, and its states ``h``, ``c``; all maps are timed."""

    def __init__(self, channels=CHANNELS, dtype=BF16):
        self.channels, self.dtype, self.images, self.map_pixels = channels, dtype, 1, 6
        self.groups = Buffer(maps(SLOTS * channels, dtype=dtype), True, width=SLOTS * channels)
        h, c = (Buffer(maps(channels, dtype=kind), True, width=channels) for kind in (dtype, torch.float32))
        self.before = self.timed(h, -1)
        roles = {"slot": [self.slot(k) for k in range(SLOTS)], "state": [self.before, self.timed(c, -1)]}
        roles["new_state"] = [h, c]
        self.stage = StageCall(STAGE, [roles[arg.role][arg.index] for arg in STAGE.args])

    @staticmethod
    def timed(like, shift, first=None):
        """The same maps of another time."""
        return Buffer(like.data, True, width=like.width, shift=shift, first=first)

    def slot(self, n):
        return Buffer(self.groups.data, self.groups.timed, n * self.channels, self.channels)

    def place(self, role, index=0):
        """Of a buffer of the stage."""
        return next(k for k, arg in enumerate(STAGE.args) if (arg.role, arg.index) == (role, index))

    def replace(self, role, buffer, index=0):
        """Another buffer of the stage."""
        self.stage.buffers[self.place(role, index)] = buffer

    def untimed(self):
        """The groups as one time's, which the next takes: a convolution may come after the stage."""
        self.groups = Buffer(self.groups.data[0], width=self.groups.width)
        for k in range(SLOTS):
            self.replace("slot", self.slot(k), k)

    def convolution(self, source=None, target=None, kernel=(3, 3), inputs=None, **options):
        source, target = source or self.before, target or self.groups
        weight = torch.zeros(target.width, inputs or source.width, *kernel, dtype=self.dtype, device="meta")
        return Convolution(source, target, Weight(weight), **options)

    def is_fused(self, *steps):
        """Whether the stage is one kernel with all convolutions of these steps; the stage comes last by default."""
        steps = list(steps) if any(s is self.stage for s in steps) else [*steps, self.stage]
        addends, kept = find_addends(steps, self.channels, keep=True)
        assert all(id(s) in addends for s in steps if isinstance(s, Convolution))
        geometry = SimpleNamespace(schedule=SCHEDULE, channels=self.channels, map_pixels=self.map_pixels)
        with cuda_method.use_method("fused"):
            fused = cuda_method.fused_stages(kept, addends, geometry, self.images, self.dtype)
        assert fused in ({}, {id(a): self.stage for a in addends.values()})
        return bool(fused)


def other_maps(**options):
    return Buffer(maps(**options), True, width=CHANNELS)


def test_a_convolution_and_its_stage():
    step = Step()
    assert step.is_fused(step.convolution())
    assert step.is_fused(step.convolution(other_maps()))
    assert step.is_fused(step.convolution(), step.convolution(other_maps()))


@pytest.mark.parametrize(
    ("options", "fused"),
    [
        ({"kernel": (1, 5), "dilation": (1, 2)}, True),
        ({"kernel": (1, 5), "dilation": (1, 2), "padding": (0, 2)}, False),
        ({"padding": (0, 0)}, False),
        ({"padding": (1, 2)}, False),
        ({"kernel": (2, 2), "padding": (1, 1)}, False),
        ({"stride": (1, 2)}, False),
    ],
    ids=str,
)
def test_only_what_keeps_the_map(options, fused):
    step = Step()
    assert step.is_fused(step.convolution(**options)) is fused


@pytest.mark.parametrize(
    ("dtype", "channels", "fused"),
    [
        (BF16, 8, True),
        (torch.float16, 8, True),
        (BF16, 4, False),
        (torch.float32, 4, True),
        (torch.float32, 2, False),
        (torch.float64, 8, False),
    ],
    ids=str,
)
def test_types_and_packs(dtype, channels, fused, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    step = Step(channels, dtype)
    assert step.is_fused(step.convolution()) is fused
    assert not step.is_fused(step.convolution(inputs=channels + 1))
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    assert step.is_fused(step.convolution()) is (fused and dtype != torch.float32)


def test_sizes(monkeypatch):
    """Up to the greatest that the kernel can count."""
    step = Step()
    for images, map_pixels, fused in ((1 << 10, 1 << 20, True), (1, (1 << 30) + 1, False), (2, 1 << 30, False)):
        step.images, step.map_pixels = images, map_pixels
        assert step.is_fused(step.convolution()) is fused
    step = Step()
    most = 1 << 22
    assert step.is_fused(step.convolution(kernel=(1, 63), inputs=most))
    assert not step.is_fused(step.convolution(kernel=(1, 65), inputs=most))
    two = [step.convolution(source, kernel=(1, 33), inputs=most) for source in (step.before, other_maps())]
    assert not step.is_fused(*two)
    for slots, fused in ((SLOTS, True), (SLOTS - 1, False)):
        monkeypatch.setattr(cuda_method, "_MOST_SLOTS", slots)
        assert step.is_fused(step.convolution()) is fused


@pytest.mark.parametrize("change", [{"skip": 1}, {"skip": 4}, {"wide": 4}], ids=str)
def test_rows_that_are_not_aligned(change):
    step = Step()
    assert step.is_fused(step.convolution(other_maps(skip=8, wide=8)))
    assert not step.is_fused(step.convolution(other_maps(**change)))
    step.replace("new_state", other_maps(**change))
    assert not step.is_fused(step.convolution())
    step = Step()
    step.replace("state", Step.timed(step.before, -1, maps(**change, steps=1)[0]))
    assert step.is_fused(step.convolution(other_maps())) is ("wide" in change)


def test_times_that_are_not_aligned():
    step, odd = Step(), torch.zeros(3, 49, dtype=BF16)[:, :48].view(3, 1, 2, 3, CHANNELS)
    assert not step.is_fused(step.convolution(Buffer(odd, True, width=CHANNELS)))


@pytest.mark.parametrize(
    "change", [{"kernel": (3, 1)}, {"dilation": (1, 2)}, {"padding": (0, 1)}, {"skip_first": True}], ids=str
)
def test_windows_that_differ(change):
    step, source = Step(), other_maps()
    assert not step.is_fused(step.convolution(), step.convolution(source, **change))


def test_sums_of_other_maps():
    """Of three, or of some for two slots and others for the rest."""
    step, x = Step(), other_maps()
    assert not step.is_fused(*(step.convolution(source) for source in (step.before, x, other_maps())))
    halves = [Buffer(maps(2 * CHANNELS), True, width=2 * CHANNELS) for _ in range(2)]
    for k in range(SLOTS):
        step.replace("slot", Buffer(halves[k // 2].data, True, k % 2 * CHANNELS, CHANNELS), k)
    assert step.is_fused(*(step.convolution(x, target) for target in halves))
    assert not step.is_fused(*(step.convolution(*pair) for pair in zip((step.before, x), halves, strict=True)))


def test_convolutions_at_two_times():
    """One before the stage and one that the stage takes at the next time: at the first there is only one of them."""
    step, x = Step(), other_maps()
    step.untimed()
    assert step.is_fused(step.convolution(), step.convolution(x), step.stage)
    assert step.is_fused(step.stage, step.convolution(Step.timed(step.before, 0)), step.convolution(x))
    assert not step.is_fused(step.convolution(x), step.stage, step.convolution(Step.timed(step.before, 0)))


def test_steps_between_that_write_the_source():
    step, x = Step(), other_maps()
    assert step.is_fused(step.convolution(x), Fill(other_maps()))
    assert not step.is_fused(step.convolution(x), Fill(x))
    assert step.is_fused(step.convolution(x), Fill(Step.timed(x, 1)))
    assert step.is_fused(Fill(x), step.convolution(x))


def test_stages_that_write_the_source():
    """The kernel's other blocks would read what it has written: the state in place, or as that of the same time."""
    step = Step()
    new = step.stage.buffers[step.place("new_state")]
    assert not step.is_fused(step.convolution(new))
    assert step.is_fused(step.convolution(Step.timed(new, 1)))
    kept = Buffer(new.data[0], width=CHANNELS)
    step.replace("state", kept)
    step.replace("new_state", kept)
    assert not step.is_fused(step.convolution(kept))
    assert step.is_fused(step.convolution(other_maps()))


@pytest.mark.parametrize("shift", [-1, 0, 1])
def test_stages_of_the_next_time_that_write_the_source(shift):
    """Whichever direction time has: what is read after a stage may be what it writes one time later, or earlier."""
    step = Step()
    step.untimed()
    source = Step.timed(step.before, shift)
    assert step.is_fused(step.stage, step.convolution(source)) is (shift == 0)
    # Between them, at the time before.
    assert step.is_fused(step.stage, step.convolution(source), Fill(Step.timed(step.before, 2))) is (shift == 0)
    assert not step.is_fused(step.stage, step.convolution(source), Fill(source))


def test_first_maps_that_are_written():
    """At the sequence's first time a buffer may have other maps: of these is asked apart."""
    step, new = Step(), other_maps()
    step.replace("new_state", new)
    apart, own = maps(steps=1)[0], new.data[0]
    for first, fused in ((apart, True), (own, False)):
        step.replace("state", Step.timed(step.before, -1, first))
        assert step.is_fused(step.convolution(Step.timed(step.before, -1, first))) is fused
    step = Step()
    step.replace("new_state", Step.timed(step.stage.buffers[step.place("new_state")], 0, apart))
    assert not step.is_fused(step.convolution())


def test_results_that_lie_beside_the_source():
    """The kernel writes them where others read them too; when in doubt these are the maps that it reads."""
    step = Step()
    step.groups = Buffer(maps(SLOTS * CHANNELS, wide=CHANNELS), True, width=SLOTS * CHANNELS)
    for k in range(SLOTS):
        step.replace("slot", step.slot(k), k)
    assert step.is_fused(step.convolution())
    elsewhere = StageCall(STAGE, [other_maps() for _ in STAGE.args])
    for shift in (0, 1):
        source = Step.timed(step.slot(SLOTS), shift)
        assert cuda_method._may_write(step.stage, step.convolution(source, other_maps()), 0) is (shift == 0)
        assert cuda_method._may_write(elsewhere, step.convolution(source), 0) is (shift == 0)
