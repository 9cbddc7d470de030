"""Run by test_triton_interpreter.py with TRITON_INTERPRET=1: tensors of more than 2^31 values. Memory that no kernel
touches is never there, so few steps of time are taken, or of a grid only the last program."""

from dataclasses import replace

import pytest
import torch

from fastrcn import cells
from fastrcn.compiler.schedule import schedule_of
from fastrcn.compiler.signature import backward_signatures, forward_signatures
from fastrcn.ops.conv3d_relu_maxpool3d import triton_conv3d
from fastrcn.ops.conv3d_relu_maxpool3d.geometry import Conv
from fastrcn.ops.conv3d_relu_maxpool3d.method import use_method
from fastrcn.ops.conv_recurrent import triton_plan
from fastrcn.ops.conv_recurrent.geometry import Geometry
from fastrcn.ops.conv_recurrent.program import Buffer, Convolution, StageCall
from fastrcn.ops.conv_recurrent.triton_program import TritonProgram
from fastrcn.ops.convolution.weight import Weight
from fastrcn.ops.relu_maxpool3d import triton_passes as passes
from fastrcn.ops.relu_maxpool3d.geometry import Pool
from fastrcn.ops.triton_support import Launch

FAR = 1 << 31
HALF = torch.float16


@pytest.fixture(autouse=True)
def no_integer_overflows(monkeypatch):
    """The interpreter tells of those, too, that change no result."""
    from triton.runtime import interpreter

    monkeypatch.setattr(interpreter.interpreter_builder, "options", interpreter.InterpreterOptions(debug=True))


class LastProgram:
    """A kernel of whose programs only the last one runs."""

    def __init__(self, kernel):
        self.kernel = kernel

    def __getitem__(self, grid):
        from triton.runtime.interpreter import interpreter_builder as builder

        def run(*arguments, **options):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(builder, "set_grid_idx", lambda *_: setattr(builder, "grid_idx", (grid[0] - 1, 0, 0)))
                self.kernel[(1,)](*arguments, **options)

        return run


def random_half(*shape):
    return (0.4 * torch.randn(*shape)).to(HALF)


def bound(signatures, roles):
    return [StageCall(s, [roles[a.role][a.index] for a in s.args]) for s in signatures]


def test_steps_far_into_the_sequence():
    """Forward and backward of the two last steps, as of a short sequence. Of one channel: there are more than 2^31
    pixels."""
    schedule, size = schedule_of(cells.ConvRNN().key), (4, 4)
    given, weight = [random_half(3, 1, *size, 1) for _ in range(3)], Weight(random_half(1, 1, 3, 3))
    found = []
    for steps in (FAR // 16 + 3, 3):
        geometry = Geometry(schedule, steps, 1, 1, size, (1, 1), (1, 1), None, False)
        slots, h, d_output, d_slots = (torch.empty(steps, 1, *size, 1, dtype=HALF) for _ in range(4))
        for maps, values in zip((slots, h, d_output), given, strict=True):
            maps[-3:] = values
        before, slot, d_slot = (Buffer(m, True, width=1, shift=k) for m, k in ((h, -1), (slots, 0), (d_slots, 0)))
        d_state = Buffer(torch.zeros(1, *size, 1, dtype=HALF), width=1)
        roles = {"slot": [slot], "state": [before], "new_state": [Buffer(h, True, width=1)]}
        roles |= {"d_slot": [d_slot], "d_state": [d_state], "d_output": [Buffer(d_output, True, width=1)]}
        forward = [Convolution(before, slot, weight), *bound(forward_signatures(schedule), roles)]
        TritonProgram(geometry, forward, HALF, 1, None, {}).run(steps - 2, 2, False)
        turned = Convolution(d_slot, d_state, Weight(weight.data, True))
        backward = [*bound(backward_signatures(schedule), roles), turned]
        TritonProgram(geometry, backward, HALF, 1, None, {}).run_backward(steps - 1, 2, False)
        found.append([slots[-2:], h[-2:], d_slots[-2:], d_state.data])
    for far, near in zip(*found, strict=True):
        assert torch.equal(far, near)
        assert far.any()


def test_images_far_into_the_batch(monkeypatch):
    """The sixteen last, which are the tile of the last program, as of a small batch."""
    plain = triton_plan.kernel_of
    monkeypatch.setattr(triton_plan, "kernel_of", lambda *key: LastProgram(plain(*key)))
    monkeypatch.setattr(triton_plan, "_structures", {})
    schedule, size, c = schedule_of(cells.ConvRNN().key), (4, 4), 64
    given, weight = [random_half(16, *size, c) for _ in range(2)], Weight(random_half(c, c, 3, 3))
    found = []
    for batch in (FAR // (16 * c) + 16, 16):
        geometry = Geometry(schedule, 1, batch, c, size, (1, 1), (1, 1), None, False)
        slots, h, new = (torch.empty(batch, *size, c, dtype=HALF) for _ in range(3))
        for maps, values in zip((slots, h), given, strict=True):
            maps[-16:] = values
        slot, before = Buffer(slots, width=c), Buffer(h, width=c)
        roles = {"slot": [slot], "state": [before], "new_state": [Buffer(new, width=c)]}
        steps = [Convolution(before, slot, weight), *bound(forward_signatures(schedule), roles)]
        TritonProgram(geometry, steps, HALF, batch, None, {}).run(0, 1, False)
        found.append(new[-16:])
    assert torch.equal(*found)


@pytest.fixture
def launches(monkeypatch):
    """Those of passes and convolutions, of which only the last program runs: 256 pixels or windows, all channels."""
    made, plain = [], Launch.run

    def run(launch):
        made.append(launch)
        plain(replace(launch, kernel=LastProgram(launch.kernel)))

    monkeypatch.setattr(Launch, "run", run)
    monkeypatch.setattr(passes, "tile_of", lambda *_: (256, 64, 4))
    monkeypatch.setattr(passes, "_CHUNKS", 1 << 31)  # a tile for each program that sums
    return made


SIZE, IMAGES = (2, 4, 4), (1 << 20) + 32


def far_maps(last, channels=64, size=SIZE, values=None):
    """Maps of which only the last 32 images are written; ``last``: channels-last."""
    shape = (IMAGES, *size, channels) if last else (IMAGES, channels, *size)
    maps = torch.empty(shape, dtype=HALF)
    maps = maps.movedim(-1, 1) if last else maps
    maps[-32:] = random_half(32, channels, *size) if values is None else values
    return maps


def ends(tensor):
    """Its last 32 images, by themselves."""
    return tensor[-32:].clone()


def assert_last_equal(found, expected):
    """The eight images in which the last program of any kernel is."""
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a[-8:], b[-8:])


@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("pool", [Pool.of(), Pool.of((1, 2, 2))], ids=["no_window", "window"])
def test_passes(pool, last, launches):
    """As of the last images alone."""
    x, ones = far_maps(last), torch.ones(64)
    assert x.numel() > FAR
    keep = pool.cells > 1
    out, index = passes.forward(x, None, ones, True, pool, keep)
    near, near_index = passes.forward(ends(x), None, ones, True, pool, keep)
    gate, near_gate = (index, near_index) if keep else (out, near)
    assert_last_equal([out, gate], [near, near_gate])
    gate[-32:] = near_gate
    grad = far_maps(last, size=pool.output_size(SIZE))
    linear = {"center": ones, "slope": ones, "offset": ones}
    dx = passes.backward(grad, gate, SIZE, pool, last, ones, x, **linear)
    near_dx = passes.backward(ends(grad), near_gate, SIZE, pool, last, ones, ends(x), **linear)
    assert_last_equal([dx], [near_dx])
    for tensors in ((grad, gate, x), (ends(grad), near_gate, ends(x))):
        passes.sums(*tensors[:2], SIZE, pool, last, tensors[2], ones)
    for maps in (x, ends(x)):
        passes.statistics(maps)
    rows = [launch.tensors[-1][-1] for launch in launches[-4:]]
    assert torch.equal(rows[0], rows[1])
    assert torch.equal(rows[2], rows[3])
    assert rows[0].abs().min() > 0


@pytest.mark.parametrize("pool", [Pool.of(), Pool.of((1, 2, 2))], ids=["no_window", "window"])
def test_convolutions(pool, launches):
    """As of the last images alone. What is large is the gradient without a window, else the input."""
    inputs, outputs = (8, 64) if pool.identity else (64, 8)
    conv, weight = Conv((1, 1, 1), (0, 1, 1), (1, 1, 1), 1), random_half(outputs, inputs, 1, 3, 3)
    x = far_maps(True, inputs)
    with use_method("fused"):
        out, index = triton_conv3d.forward(x, weight, None, conv, True, pool, True)
        near, near_index = triton_conv3d.forward(ends(x), weight, None, conv, True, pool, True)
        assert max(x.numel(), out.numel()) > FAR
        assert_last_equal([out, index], [near, near_index])
        gate = far_maps(True, outputs, pool.output_size(SIZE), near) if pool.identity else index
        near_gate = near if pool.identity else near_index
        gate[-32:] = near_gate
        grad = far_maps(True, outputs, pool.output_size(SIZE))
        needs = [True, False, False]
        dx = triton_conv3d.backward(grad, x, weight, gate, conv, pool, needs)[0]
        near_dx = triton_conv3d.backward(ends(grad), ends(x), weight, near_gate, conv, pool, needs)[0]
        assert_last_equal([dx], [near_dx])
    assert len(launches) == 4
