"""Run by test_triton_interpreter.py with TRITON_INTERPRET=1: layer normalisation in the Triton program, against
hand-written float64 loops with ``F.layer_norm``."""

import pytest
import torch
import torch.nn.functional as F

import fastrcn
from fastrcn import backends
from fastrcn.compiler.schedule import schedule_of
from fastrcn.functional import conv_recurrent
from fastrcn.ops.conv_recurrent import triton_normalize
from fastrcn.ops.conv_recurrent import triton_normalize_kernels as kernels
from fastrcn.ops.conv_recurrent.geometry import Geometry
from fastrcn.ops.conv_recurrent.program import Buffer, Convolution, Fill, Normalize, NormalizeBackward
from fastrcn.ops.conv_recurrent.triton_program import TritonProgram
from fastrcn.ops.conv_recurrent.triton_work import Work, split
from fastrcn.ops.convolution.weight import Weight
from tests.helpers.layers import compare_layer
from tests.helpers.loops import run
from tests.helpers.normed import CELLS, compare, tensors_of
from tests.helpers.relaunched import relaunched
from tests.helpers.tolerances import assert_close
from tests.helpers.triton_programs import note_programs

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def small_slices(monkeypatch):
    """Images of more than 16 values in slices of 16, on a device of three processors."""
    for name, value in (("_BLOCK", 16), ("_ONE_SLICE", 16), ("_SMALLEST_SLICE", 16)):
        monkeypatch.setattr(triton_normalize, name, value)
    monkeypatch.setattr(triton_normalize, "processors", lambda device: 3)


@pytest.mark.parametrize("name", ["peephole_lstm", "gru", "one_norm"])
def test_equals_the_loop_with_all_gradients(name, poisoned_memory):
    with fastrcn.use_schedule("in_loop"):
        compare(name, "triton", torch.float32, steps=3, lengths=(3, 1, 0), maps=True, reverse=True)


def test_normalised_before_the_loop_and_recomputed_in_slices(small_slices, poisoned_memory):
    with fastrcn.use_schedule("hoisted"):
        compare("gru", "triton", torch.float32, steps=2, batch=2, lengths=(2, 1), recompute=True)


def test_one_pixel_and_many_chunks(monkeypatch, poisoned_memory):
    monkeypatch.setattr(TritonProgram, "chunk_pixels", (1, 1 << 62))
    compare("peephole_lstm", "triton", torch.float32, steps=3, batch=1, size=(1, 1))


def test_bfloat16(poisoned_memory):
    """As near to float64 as a plain loop in bfloat16."""
    cell, step = CELLS["lstm"]
    exact = tensors_of(cell, steps=3)
    low = {n: t.detach().bfloat16() for n, t in exact.items()}
    truth, _ = run(step, exact, exact["x"], (exact["h"], exact["c"]))
    plain, _ = run(step, low, low["x"], (low["h"], low["c"]))
    given = [low[n] for n in ("x", "weight_ih", "weight_hh", "bias", "weight_ch")]
    found, _ = conv_recurrent(cell, *given, (low["h"], low["c"]), backend="triton")
    assert_close(found, truth, plain=plain)


@pytest.mark.parametrize(
    ("layer", "size"),
    [(fastrcn.ConvRNN(2, 3, layer_norm="channel", bidirectional=True), (4, 3)),
     (fastrcn.ConvRNN3d(2, 3, (3, 1, 3), layer_norm="channel"), (2, 3, 4))],
    ids=["both_directions", "volumes"],
)  # fmt: skip
def test_layers(layer, size, poisoned_memory):
    compare_layer(layer, torch.randn(3, 2, 2, *size), [3, 2], "triton")


def test_inference_equals_training():
    cell = CELLS["gru"][0]
    t = {n: v.detach().float() for n, v in tensors_of(cell, steps=3).items()}
    given, hx = [t[n] for n in ("x", "weight_ih", "weight_hh", "bias", "weight_ch")], (t["h"],)
    with torch.no_grad():
        lean, _ = conv_recurrent(cell, *given, hx, backend="triton")
    t["x"].requires_grad_()
    assert torch.equal(conv_recurrent(cell, *given, hx, backend="triton")[0], lean)


@pytest.mark.parametrize(
    ("name", "phases"),
    [
        (
            "gru",
            [
                ["Work", "Normalize"] * 2 + ["Work"] * 2 + ["Normalize", "Work"],
                ["Work", "NormalizeBackward"] * 2 + ["Work"],
            ],
        ),
        ("lstm", [["Work", "Normalize"] * 2 + ["Work"], ["Work", "NormalizeBackward", "Work"]]),
    ],
)
def test_phases_of_a_step(name, phases, monkeypatch):
    """A gradient's fill with zeros waits for its convolution, behind the normalisation. The many maps of an LSTM's
    backward stage are a phase of their own, which the convolutions of the step before do not join."""
    programs = note_programs(monkeypatch)
    with fastrcn.use_schedule("in_loop"):
        compare(name, "triton", torch.float32, steps=1, batch=1, size=(2, 2))
    assert [[type(w).__name__ for w in p.works] for p in programs[:2]] == phases
    assert (programs[1].joined() is None) == (name == "lstm")


def geometry_of(steps, images, size, channels):
    one = (1,) * len(size)
    return Geometry(schedule_of(CELLS["lstm"][0].key), steps, images, channels, size, one, one, None, False)


SIZES = {"one_block": (5, 7, 3), "several": (17, 61, 3), "even": (32, 32, 2), "volume": (3, 5, 7, 4), "one": (1, 1, 1)}


@pytest.mark.parametrize("sliced", [False, True], ids=["whole", "sliced"])
@pytest.mark.parametrize("size", SIZES)
def test_against_layer_norm(size, sliced, monkeypatch):
    """Forward far from zero, where a difference of mean squares would be all rounding. The mean, some 1000, is a
    float32: its last place is 2^-14."""
    if sliced:
        for name in ("_BLOCK", "_ONE_SLICE", "_SMALLEST_SLICE"):
            monkeypatch.setattr(triton_normalize, name, 64)
        monkeypatch.setattr(triton_normalize, "processors", lambda device: 5)
    *space, c = SIZES[size]
    geometry = geometry_of(3, 2, tuple(space), c)
    x, scales = 1000 + torch.randn(3, 2, *space, c), torch.full((3, 2, 1, 1), 7.0)
    made, scale = Buffer(x, True, width=c, origin=4), Buffer(scales, True, width=1, origin=4)
    exact, others = x[1].double(), x[[0, 2]]
    TritonProgram(geometry, [Normalize(made, scale, 1e-3)], torch.float32, 2, None, {}).run(5, 1, False)
    assert (x[1] - F.layer_norm(exact, exact.shape[1:], eps=1e-3)).abs().max() <= 2**-14
    assert_close(scales[1].flatten(), (exact.flatten(1).var(1, correction=0) + 1e-3).rsqrt())
    assert torch.equal(x[[0, 2]], others)
    assert (scales[[0, 2]] == 7).all()

    exact, d = torch.randn(2, *space, c, dtype=torch.float64, requires_grad=True), torch.randn(2, 2, *space, c)
    y = F.layer_norm(exact, exact.shape[1:], eps=1e-3)
    (truth,) = torch.autograd.grad(y, exact, d[1].double())
    x[1] = y.detach()
    scales[1] = (exact.detach().flatten(1).var(1, correction=0) + 1e-3).rsqrt().view(2, 1, 1)
    grads = Buffer(d, True, width=c, origin=4)
    step = NormalizeBackward(grads, made, scale)
    TritonProgram(geometry, [step], torch.float32, 2, None, {}).run_backward(5, 1, False)
    assert_close(d[1], truth)


def test_later_launches_reuse_the_compiled_kernels(monkeypatch, small_slices):
    """The order of the arguments on that path, which the interpreter itself never takes."""
    grids = []
    for name in ("moments_kernel", "normalize_kernel", "products_kernel", "normalize_backward_kernel"):
        kernel, calls, _ = relaunched(lambda kernel: kernel)
        monkeypatch.setattr(kernels, name, kernel(getattr(kernels, name)))
        grids.append(calls)
    compare("one_norm", "triton", torch.float32, steps=3, batch=2)
    assert [len(calls) for calls in grids] == [2, 2, 2, 2]


def test_maps_of_more_than_2_to_the_31_values():
    """The last of many steps; the memory of the others is never touched."""
    steps, size = (1 << 21) + 1, (4, 4)
    data = torch.empty(steps, 1, *size, 64, dtype=torch.float16)
    data[-1] = 3 + torch.randn(1, *size, 64)
    truth = F.layer_norm(data[-1].double(), (*size, 64))
    buffers = Buffer(data, True, width=64), Buffer(torch.zeros(steps, 1, 1, 1), True, width=1)
    program = TritonProgram(geometry_of(steps, 1, size, 64), [Normalize(*buffers, 1e-5)], torch.float16, 1, None, {})
    program.run(steps - 1, 1, False)
    assert_close(data[-1], truth, plain=truth.half())
    assert buffers[1].data[-1] > 0


def test_slices(monkeypatch):
    monkeypatch.setattr(triton_normalize, "processors", lambda device: 132)
    expected = {
        (1, 1): (1, 4096),
        (1 << 15, 1): (1, 1 << 15),
        ((1 << 15) + 1, 1): (3, 3 * 4096),  # four of at least 8192 values would do, were they whole blocks
        (128 * 128 * 256, 1): (512, 8192),
        (128 * 128 * 256, 16): (32, 32 * 4096),  # 33 for each of 16 images would do
        (128 * 128 * 256, 528): (1, 1 << 22),
        (1 << 33, 528): (8, 1 << 30),
    }
    found = {key: triton_normalize.slices_of(*key, torch.device("cpu")) for key in expected}
    assert found == expected


def test_can_run_and_errors():
    ok, how = backends.can_run("conv_recurrent", "triton", (CELLS["lstm"][0].key, 2), torch.float32, "cuda")
    assert ok
    assert "one or two per normalisation" in how
    maps, scale = torch.zeros(2, 3, 3, 8), Buffer(torch.zeros(2, 1, 1, 1), width=1)
    for wrong in (Buffer(maps, width=4), Buffer(maps[:, :2], width=8), Buffer(maps, width=8, first=maps[:1])):
        with pytest.raises(ValueError, match="expected dense maps of all channels"):
            triton_normalize.NormLaunch(2, Normalize(wrong, scale, 1e-5))


def test_fills_before_a_normalisation():
    """Of the same maps, as where an input has no channels, they come first; of others they wait."""
    maps, others, scale = (Buffer(torch.zeros(2, 3, 3, 8), width=8) for _ in range(3))
    norm, step = Normalize(maps, scale, 1e-5), Convolution(maps, others, Weight(torch.zeros(8, 8, 1, 1)))
    (fill, found) = split([Fill(maps), norm])
    assert isinstance(fill, Work)
    assert found is norm
    (found, work) = split([Fill(others), norm, step])
    assert found is norm
    assert isinstance(work, Work)
    assert [len(work.fills), work.convolutions] == [1, [step]]
    (first, found, second) = split([Fill(others), step, norm, Fill(others)])
    assert found is norm
    assert first.convolutions == [step]
    assert second.fills == [Fill(others)]


def test_no_sequences():
    cell = CELLS["lstm"][0]
    t = {n: v.detach().float().requires_grad_() for n, v in tensors_of(cell, batch=0).items()}
    given = [t[n] for n in ("x", "weight_ih", "weight_hh", "bias", "weight_ch")]
    output, _ = conv_recurrent(cell, *given, (t["h"], t["c"]), backend="triton")
    assert output.shape == (4, 0, 3, 4, 3)
    assert not any(g.any() for g in torch.autograd.grad(output.sum(), given))
