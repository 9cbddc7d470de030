"""The compiled convolution alone, against PyTorch's in float64: every instruction set, ragged channels, all edges."""

import pytest
import torch
import torch.nn.functional as F

from fastrcn import cells, native
from fastrcn.compiler.schedule import schedule_of
from fastrcn.ops.conv_recurrent.geometry import Geometry, output_map
from fastrcn.ops.conv_recurrent.program import Buffer, Convolution, Fill, Program
from fastrcn.ops.convolution.weight import Weight
from tests.helpers.tolerances import assert_close

# images, height, width, inputs, outputs, kernel, stride, dilation
SHAPES = {
    "square": (2, 9, 11, 5, 32, (3, 3), (1, 1), (1, 1)),
    "ragged_outputs": (1, 6, 25, 3, 19, (3, 3), (1, 1), (1, 1)),
    "one_input": (3, 7, 14, 1, 8, (5, 5), (1, 1), (1, 1)),
    "one_output": (3, 7, 14, 4, 1, (3, 5), (1, 1), (1, 1)),
    "map_smaller_than_kernel": (2, 2, 3, 4, 33, (7, 7), (1, 1), (1, 1)),
    "one_row": (2, 1, 40, 4, 16, (5, 5), (1, 1), (1, 1)),
    "wide": (1, 3, 700, 6, 48, (3, 3), (1, 1), (1, 1)),
    "row_kernel": (2, 5, 13, 7, 24, (1, 5), (1, 1), (1, 1)),
    "column_kernel": (2, 5, 13, 7, 24, (5, 1), (1, 1), (1, 1)),
    "strided": (2, 9, 12, 5, 20, (3, 3), (2, 3), (1, 1)),
    "strided_1x1": (2, 9, 12, 5, 20, (1, 1), (2, 2), (1, 1)),
    "dilated": (2, 9, 12, 5, 20, (3, 5), (1, 1), (2, 3)),
    "strided_and_dilated": (2, 16, 15, 5, 20, (5, 3), (3, 2), (2, 4)),
    "pointwise": (2, 6, 7, 9, 37, (1, 1), (1, 1), (1, 1)),
    "few_pixels": (1, 3, 4, 40, 128, (3, 3), (1, 1), (1, 1)),
    "fewer_multiplications": (2, 9, 11, 16, 40, (3, 3), (1, 1), (1, 1)),
    "fewer_multiplications_by_rows": (3, 30, 90, 33, 17, (3, 3), (1, 1), (1, 1)),
    "fewer_multiplications_of_five_taps": (2, 9, 12, 32, 40, (5, 5), (1, 1), (1, 1)),
    "no_pixels_inside": (1, 4, 1, 3, 16, (3, 3), (1, 1), (1, 4)),
}
VOLUMES = {
    "cube": (2, (3, 4, 9), 3, 20, (3, 3, 3), (1, 1, 1), (1, 1, 1)),
    "strided_and_dilated_cube": (1, (5, 7, 9), 4, 32, (3, 2, 5), (2, 1, 2), (1, 3, 2)),
}
ISAS = native.module().usable_isas() if native.module() else []
BFLOAT16_ISAS = [isa for isa in ISAS if native.module().convolves_bfloat16(isa)]


SCHEDULE = schedule_of(cells.ConvLSTM().key)


def program(shape, dtype, steps, channels):
    images, height, width, _, _, kernel, stride, dilation = shape
    size = tuple(output_map((height, width), kernel, stride, dilation))
    geometry = Geometry(SCHEDULE, 1, images, channels, size, stride, dilation, None, False)
    return Program(geometry, steps, dtype, images, None, {})


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", SHAPES)
def test_against_library(name, dtype, isa, monkeypatch):
    monkeypatch.setattr(native, "isa", lambda: isa)
    images, height, width, inputs, outputs, kernel, stride, dilation = shape = SHAPES[name]
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(images, inputs, height, width, generator=generator, dtype=torch.float64)
    weight = torch.randn(outputs, inputs, *kernel, generator=generator, dtype=torch.float64)
    row = torch.randn(outputs, generator=generator, dtype=torch.float64)
    padding = [d * (k - 1) // 2 for k, d in zip(kernel, dilation, strict=True)]
    truth = F.conv2d(x, weight, row, stride, padding, dilation).permute(0, 2, 3, 1)

    source = x.permute(0, 2, 3, 1).to(dtype).contiguous()
    # What stands before and behind the target must stay as it is.
    room = torch.full((truth.numel() + 128,), torch.nan, dtype=dtype)
    target = Buffer(room[64:-64].view(truth.shape), width=outputs)
    convolution = Convolution(
        Buffer(source, width=inputs), target, Weight(weight.to(dtype)), stride=stride, dilation=dilation
    )
    # Channels that divide the outputs into four slots let threads share them out where pixels are few.
    program(shape, dtype, [Fill(target, row.to(dtype)), convolution], max(1, outputs // 4)).run(0, 1, False)
    assert_close(room[64:-64].view(truth.shape), truth)
    assert room[:64].isnan().all()
    assert room[-64:].isnan().all()


def split(shape):
    """(images, map, inputs, outputs, kernel, stride, dilation) of a shape of maps or of volumes."""
    return shape if isinstance(shape[1], tuple) else (shape[0], shape[1:3], *shape[3:])


@pytest.mark.skipif(not BFLOAT16_ISAS, reason="no usable instruction set has products of bfloat16")
@pytest.mark.parametrize("isa", BFLOAT16_ISAS)
@pytest.mark.parametrize("bad_pixel", [False, True])
@pytest.mark.parametrize("name", [*SHAPES, *VOLUMES])
def test_bfloat16_is_rounded_once(name, bad_pixel, isa, monkeypatch):
    """Of whole numbers, whose sums are exact: the same bits. A pixel of NaN reaches only what the kernel covers."""
    monkeypatch.setattr(native, "isa", lambda: isa)
    images, size, inputs, outputs, kernel, stride, dilation = split((SHAPES | VOLUMES)[name])
    generator = torch.Generator().manual_seed(0)
    x, weight, row = (
        torch.randint(-9, 10, s, generator=generator).double()
        for s in ((images, inputs, *size), (outputs, inputs, *kernel), (outputs,))
    )
    if bad_pixel:
        x[(0, slice(None), *(n // 2 for n in size))] = torch.nan
    padding = [d * (k - 1) // 2 for k, d in zip(kernel, dilation, strict=True)]
    convolve = F.conv2d if len(size) == 2 else F.conv3d
    truth = convolve(x, weight, row, stride, padding, dilation).movedim(1, -1)

    def surrounded(maps):
        """Maps in memory that is NaN before and behind, and that memory."""
        room = torch.full((maps.numel() + 128,), torch.nan, dtype=torch.bfloat16)
        room[64:-64] = maps.flatten()
        return room[64:-64].view(maps.shape), room

    source, _ = surrounded(x.movedim(1, -1))
    target, room = surrounded(torch.full_like(truth, torch.nan))
    target = Buffer(target, width=outputs)
    weight, row = Weight(weight.bfloat16()), row.bfloat16()
    convolution = Convolution(Buffer(source, width=inputs), target, weight, stride=stride, dilation=dilation)
    geometry = Geometry(SCHEDULE, 1, images, max(1, outputs // 4), truth.shape[1:-1], stride, dilation, None, False)
    Program(geometry, [Fill(target, row), convolution], torch.bfloat16, images, None, {}).run(0, 1, False)
    torch.testing.assert_close(target.data, truth.bfloat16(), rtol=0, atol=0, equal_nan=True)
    assert room[:64].isnan().all()
    assert room[-64:].isnan().all()


@pytest.mark.parametrize("name", ["square", "ragged_outputs", "row_kernel", "pointwise"])
def test_reflected_weight(name):
    """It takes the output's gradient to the input's."""
    images, height, width, inputs, outputs, kernel, _, _ = SHAPES[name]
    x = torch.randn(images, inputs, height, width, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(outputs, inputs, *kernel, dtype=torch.float64)
    y = F.conv2d(x, weight, padding=[(k - 1) // 2 for k in kernel])
    d_output = torch.randn_like(y)
    (truth,) = torch.autograd.grad(y, x, d_output)
    found = torch.empty(images, height, width, inputs, dtype=torch.float64)
    source = Buffer(d_output.permute(0, 2, 3, 1).contiguous(), width=outputs)
    target, turned = Buffer(found, width=inputs), Weight(weight, reflected=True)
    program(SHAPES[name], torch.float64, [Fill(target), Convolution(source, target, turned)], inputs).run(0, 1, False)
    assert_close(found, truth.permute(0, 2, 3, 1))
    assert_close(turned.dense(), weight.transpose(0, 1).flip(2, 3))


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_any_number_of_threads(threads, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    for name in ("square", "few_pixels", "pointwise"):
        test_against_library(name, torch.float32, native.isa(), monkeypatch)
