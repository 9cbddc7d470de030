"""The rule that chooses how the ``cuda`` backend runs a convolution with its stage."""

from types import SimpleNamespace

import pytest
import torch

from fastrcn.cells import ConvLSTM
from fastrcn.compiler.schedule import schedule_of
from fastrcn.compiler.signature import backward_signatures
from fastrcn.ops.conv_recurrent import cuda_method
from fastrcn.ops.conv_recurrent.program import Buffer, Fill, StageCall


def is_faster(
    monkeypatch,
    capability,
    inputs,
    outputs,
    pixels,
    dtype=torch.bfloat16,
    kernel=(3, 3),
    convolutions=1,
    sources=1,
    more=0,
):
    monkeypatch.setattr(cuda_method, "_capability", lambda device: capability)
    source = SimpleNamespace(data=torch.empty(0))
    weight = SimpleNamespace(shape=(outputs, inputs, *kernel))
    one = SimpleNamespace(source=source, weight=weight, is_product=set(kernel) == {1})
    return cuda_method._is_faster([[one] * sources] * convolutions, SimpleNamespace(map_pixels=pixels), 1, dtype, more)


@pytest.mark.parametrize("capability", [7, 8, 9, 10, 12])
def test_small_steps_are_fused_and_large_ones_are_not(capability, monkeypatch):
    """What a launch takes decides first, then the length of the sums."""
    assert is_faster(monkeypatch, capability, 64, 256, 256)
    assert is_faster(monkeypatch, capability, 8, 32, 1 << 20, kernel=(1, 3))
    assert not is_faster(monkeypatch, capability, 256, 1024, 1 << 16, kernel=(5, 5))


def test_a_launch_more_speaks_for_fusing(monkeypatch):
    sizes = [n for n in range(1 << 10, 1 << 16, 1 << 9) if is_faster(monkeypatch, 9, 64, 192, n)]
    more = [n for n in range(1 << 10, 1 << 16, 1 << 9) if is_faster(monkeypatch, 9, 64, 96, n, convolutions=2)]
    assert len(more) > len(sizes) > 0


def test_a_sum_of_two_speaks_for_fusing(monkeypatch):
    """Against one convolution of as many channels."""
    for kernel, sizes in (((3, 3), range(1 << 10, 1 << 16, 1 << 9)), ((1, 3), [1 << 20])):
        one, two = (
            [n for n in sizes if is_faster(monkeypatch, 9, 64 // s, 64, n, kernel=kernel, sources=s)] for s in (1, 2)
        )
        assert len(two) > len(one)


def test_sums_of_maps_speak_against_fusing(monkeypatch):
    """More so of more images; of one image the kernels read and write as much."""
    (sig,) = backward_signatures(schedule_of(ConvLSTM(peephole="full").key))
    maps, rows = torch.zeros(4, 8, 64, dtype=torch.float64), torch.zeros(2, 64, dtype=torch.float64)
    of_maps, of_rows = (StageCall(sig, [Buffer(data) for _ in sig.args]) for data in (maps, rows))
    for images in (1, 3):
        assert cuda_method._more_bytes(of_maps, images) == 3 * 2 * 8 * (images - 1) * 4 * 8 * 64
        assert cuda_method._more_bytes(of_rows, images) == 0
    more = 3 * 2 * 8 * 64
    rows, maps = (
        [n for n in range(1 << 8, 1 << 16, 1 << 8) if is_faster(monkeypatch, 9, 64, 64, n, more=m * n)]
        for m in (0, more)
    )
    assert len(rows) > len(maps) > 0


@pytest.mark.parametrize("capability", [8, 9, 10])
def test_products_of_few_pixels_are_fused(capability, monkeypatch):
    """A library's second product adds to the first's result: less speaks for fusing than with two convolutions."""
    assert is_faster(monkeypatch, capability, 256, 1024, 32, kernel=(1, 1))
    assert not is_faster(monkeypatch, capability, 1024, 4096, 512, kernel=(1, 1))
    products, convolutions = (
        [n for n in range(32, 1 << 16, 32) if is_faster(monkeypatch, capability, inputs, 1024, n, kernel=k, sources=2)]
        for inputs, k in ((768, (1, 1)), (256, (1, 3)))
    )
    assert 0 < len(products) < len(convolutions)


def fewest(size, steps=("convolution", "stage"), fused=None):
    """The fewest times that one kernel takes, of a list of steps of ``size`` pixels; 0: none. ``fused``: how many
    convolutions, from the first on, are each one kernel with the stage of the same number; by default all."""
    source = SimpleNamespace(data=torch.empty(0))
    new = {
        "convolution": lambda: SimpleNamespace(source=source, weight=SimpleNamespace(shape=(256, 64, 3, 3))),
        "stage": lambda: StageCall(None, []),  # type: ignore[arg-type]
        "fill": lambda: Fill(None),  # type: ignore[arg-type]
    }
    body = [new[name]() for name in steps]
    convolutions, stages = ([step for step, name in zip(body, steps, strict=True) if name == n] for n in list(new)[:2])
    targets = [object() for _ in convolutions]
    addends = {id(c): target for c, target in zip(convolutions, targets, strict=True)}
    own = {id(target): stage for target, stage in list(zip(targets, stages, strict=False))[:fused]}
    return cuda_method.fewest_persistent(body, addends, own, SimpleNamespace(map_pixels=size), 1, torch.bfloat16)


OF_TWO = ("convolution", "stage", "convolution", "stage")


def test_short_steps_are_taken_together(monkeypatch):
    monkeypatch.setattr(cuda_method, "_capability", lambda device: 9)
    assert fewest(256) == fewest(4096) > 2
    assert fewest(1 << 16) == 0
    for steps in (("stage",), ("convolution", "stage", "stage"), ("fill", "convolution", "stage")):
        assert fewest(256, steps) == 0
    assert fewest(256, fused=0) == 0


@pytest.mark.parametrize("steps", [OF_TWO, ("stage", "convolution", "stage", "convolution")])
def test_short_steps_of_two_kernels_are_taken_together(steps, monkeypatch):
    """Each saves a launch, so that fewer times pay; and their sizes count together."""
    monkeypatch.setattr(cuda_method, "_capability", lambda device: 9)
    assert 2 <= fewest(256, steps) < fewest(256)
    assert fewest(4096, steps) == fewest(256, steps)
    assert fewest(1 << 16, steps) == 0
    assert fewest(256, steps, fused=1) == 0
    assert fewest(256, (*steps, "convolution", "stage")) == 0


def test_what_is_asked_for_is_taken_together(monkeypatch):
    monkeypatch.setattr(cuda_method, "_capability", lambda device: 9)
    for name, expected in (("persistent", 2), ("fused", 0)):
        with cuda_method.use_method(name):
            assert fewest(1 << 16) == fewest(256) == expected
            assert fewest(256, OF_TWO) == expected
            assert fewest(256, ("convolution", "stage", "stage")) == 0


def test_method_is_checked():
    with pytest.raises(ValueError, match="method: expected one of fused, persistent, library, got 'both'"):
        cuda_method.use_method("both").__enter__()


def test_what_takes_a_result_from_memory_is_not_fused(monkeypatch):
    """Nor what takes the result of a convolution that is not fused for that reason."""
    stages = [SimpleNamespace(signature=SimpleNamespace(args=()), buffers=()) for _ in range(3)]
    takes = [(0, 1), (1, 2), (2,)]
    addends = [SimpleNamespace(takers=[SimpleNamespace(stage=stages[k]) for k in taken]) for taken in takes]
    steps = [SimpleNamespace() for _ in addends]
    of_steps = {id(step): addend for step, addend in zip(steps, addends, strict=True)}
    monkeypatch.setattr(cuda_method, "_is_faster", lambda *a: True)
    for first in (True, False):
        monkeypatch.setattr(cuda_method, "_can_fuse", lambda s, p, stage, *a, ok=first: ok or stage is not stages[0])
        found = cuda_method.fused_stages(steps, of_steps, None, 1, torch.bfloat16)
        assert found == ({id(a): s for a, s in zip(addends, stages, strict=True)} if first else {})
