"""The compiled weight gradients alone, against PyTorch's in float64: both kernels, every instruction set, all edges."""

import pytest
import torch

from fastrcn import native
from fastrcn.ops.convolution import weight_gradient
from fastrcn.ops.convolution.weight_gradient import as_weight, conv_weight_gradient, empty_total, to_weight
from tests.helpers.tolerances import assert_close, relative_error

# images, (D,H,W), inputs, outputs, kernel, stride, padding, dilation
SHAPES = {
    "cube": (2, (4, 6, 7), 13, 35, (3, 3, 3), (1, 1, 1), (1, 1, 1), (1, 1, 1)),
    "one_frame": (3, (1, 9, 11), 7, 16, (1, 3, 5), (1, 1, 1), (0, 1, 2), (1, 1, 1)),
    "strided": (2, (5, 9, 12), 5, 20, (3, 3, 2), (2, 1, 3), (1, 0, 1), (1, 1, 1)),
    "dilated": (1, (6, 10, 9), 6, 33, (2, 3, 3), (1, 2, 1), (2, 1, 3), (3, 2, 2)),
    "wide_rows": (1, (2, 3, 300), 3, 19, (1, 3, 3), (1, 1, 1), (0, 1, 1), (1, 1, 1)),
    "smaller_than_kernel": (2, (1, 2, 3), 8, 16, (3, 5, 7), (1, 1, 1), (1, 2, 3), (1, 1, 1)),
    "many_channels": (1, (2, 5, 5), 70, 48, (3, 3, 3), (1, 1, 1), (1, 1, 1), (1, 1, 1)),
    "pointwise": (2, (3, 4, 5), 9, 17, (1, 1, 1), (1, 1, 1), (0, 0, 0), (1, 1, 1)),
    "pointwise_strided": (2, (3, 5, 6), 9, 17, (1, 1, 1), (2, 2, 1), (0, 0, 0), (1, 1, 1)),
    "pointwise_padded": (1, (3, 4, 5), 9, 17, (1, 1, 1), (1, 1, 1), (0, 1, 1), (1, 1, 1)),
}
ISAS = native.module().usable_isas() if native.module() else []
BFLOAT16_ISAS = [isa for isa in ISAS if native.module().convolves_bfloat16(isa)]


def run(name, dtype):
    images, size, inputs, outputs, kernel, stride, padding, dilation = SHAPES[name]
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(images, inputs, *size, generator=generator, dtype=torch.float64)
    weight = torch.zeros(outputs, inputs, *kernel, dtype=torch.float64, requires_grad=True)
    y = torch.nn.functional.conv3d(x, weight, None, stride, padding, dilation)
    grad = torch.randn(y.shape, generator=generator, dtype=torch.float64)
    (truth,) = torch.autograd.grad(y, weight, grad)
    maps = [t.movedim(1, -1).to(dtype).contiguous() for t in (x, grad)]
    total = empty_total(weight.shape, maps[0])
    for _ in range(2):  # it adds
        conv_weight_gradient(*maps, weight.shape, stride, padding, dilation, total)
    assert_close(as_weight(total) / 2, truth)
    for last in (False, True):
        found = to_weight(total, last)
        assert found.is_contiguous(memory_format=torch.channels_last_3d if last else torch.contiguous_format)
        assert torch.equal(found, as_weight(total))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("most_inputs_of_rows", [0, 1000], ids=["packed", "rows"])
@pytest.mark.parametrize("name", SHAPES)
def test_against_library(name, most_inputs_of_rows, isa, monkeypatch):
    monkeypatch.setattr(native, "isa", lambda: isa)
    monkeypatch.setattr(weight_gradient, "_MOST_INPUTS_OF_ROWS", most_inputs_of_rows)
    run(name, torch.float32)
    run(name, torch.float64)


@pytest.mark.skipif(not BFLOAT16_ISAS, reason="no usable instruction set has products of bfloat16")
@pytest.mark.parametrize("isa", BFLOAT16_ISAS)
@pytest.mark.parametrize("most_inputs_of_rows", [0, 1000], ids=["packed", "rows"])
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("fewest_paired_pixels", [1, 1000])
@pytest.mark.parametrize("name", SHAPES)
def test_bfloat16_of_whole_numbers_is_exact(name, fewest_paired_pixels, threads, most_inputs_of_rows, isa, monkeypatch):
    """A pixel of NaN at the end of a row reaches only the taps that it is multiplied with."""
    monkeypatch.setattr(native, "isa", lambda: isa)
    monkeypatch.setattr(native, "convolves_bfloat16", lambda: True)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.setattr(weight_gradient, "_MOST_INPUTS_OF_ROWS", most_inputs_of_rows)
    monkeypatch.setattr(weight_gradient, "_FEWEST_PAIRED_PIXELS", fewest_paired_pixels)
    calls, library = [], weight_gradient._library
    monkeypatch.setattr(weight_gradient, "_library", lambda *given: calls.append(given) or library(*given))
    images, size, inputs, outputs, kernel, stride, padding, dilation = SHAPES[name]
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(-9, 10, (images, inputs, *size), generator=generator).double()
    x[0, :, 0, 0, -1] = torch.nan
    weight = torch.zeros(outputs, inputs, *kernel, dtype=torch.float64, requires_grad=True)
    y = torch.nn.functional.conv3d(x, weight, None, stride, padding, dilation)
    grad = torch.randint(-9, 10, y.shape, generator=generator).double()
    (truth,) = torch.autograd.grad(y, weight, grad)
    maps = [t.movedim(1, -1).bfloat16().contiguous() for t in (x, grad)]
    total = empty_total(weight.shape, maps[0]) + 1  # it adds
    conv_weight_gradient(*maps, weight.shape, stride, padding, dilation, total)
    # No pairs of neighbours in the one; the other's total has the weight's layout.
    assert bool(calls) is (name in ("strided", "pointwise_padded"))
    if not calls:
        torch.testing.assert_close(as_weight(total), (truth + 1).float(), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
def test_any_number_of_threads(threads, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    for most_inputs_of_rows in (0, 1000):
        monkeypatch.setattr(weight_gradient, "_MOST_INPUTS_OF_ROWS", most_inputs_of_rows)
        run("cube", torch.float32)
        run("many_channels", torch.float32)


def test_without_the_extension(monkeypatch):
    monkeypatch.setattr(native, "module", lambda: None)
    for name in SHAPES:
        run(name, torch.float32)


def test_bfloat16_without_the_extension(monkeypatch):
    """The kernel of one of these has more frames than the clip."""
    monkeypatch.setattr(native, "module", lambda: None)
    short = 2, (2, 14, 14), 32, 64, (3, 3, 3), (1, 1, 1), (1, 1, 1), (1, 1, 1)
    for images, size, inputs, outputs, kernel, stride, padding, dilation in (short, SHAPES["cube"]):
        x, weight = torch.randn(images, inputs, *size).bfloat16(), torch.zeros(outputs, inputs, *kernel)
        y = torch.nn.functional.conv3d(x.float(), weight.requires_grad_(), None, stride, padding, dilation)
        grad = torch.randn(y.shape).bfloat16()
        (truth,) = torch.autograd.grad(y, weight, grad.float())
        maps = [t.movedim(1, -1).contiguous() for t in (x, grad)]
        total = empty_total(weight.shape, maps[0])
        conv_weight_gradient(*maps, weight.shape, stride, padding, dilation, total)
        assert relative_error(as_weight(total), truth) < torch.finfo(torch.bfloat16).eps
