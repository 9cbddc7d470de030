"""Convolutions with fewer multiplications alone, against PyTorch's in float64: every instruction set, all edges."""

import pytest
import torch
import torch.nn.functional as F

import fastrcn
from fastrcn import native
from fastrcn.functional import conv3d_relu_maxpool3d
from fastrcn.ops.convolution import winograd
from fastrcn.ops.convolution.weight import Weight
from tests.helpers.tolerances import assert_close

# images, (D,H,W), inputs, outputs, frames and rows of the kernel, padding
SHAPES = {
    "cube": (2, (5, 7, 9), 16, 32, (3, 3), (1, 1, 1)),
    "one_frame": (3, (1, 8, 12), 32, 64, (1, 3), (0, 1, 1)),
    "ragged_channels": (2, (3, 6, 5), 33, 17, (3, 3), (1, 1, 1)),
    "few_channels": (1, (3, 7, 6), 5, 3, (3, 3), (1, 1, 1)),
    "many_outputs": (1, (2, 5, 6), 20, 208, (3, 3), (1, 1, 1)),
    "no_padding": (2, (4, 9, 8), 18, 40, (3, 3), (0, 0, 0)),
    "more_padding": (1, (4, 6, 7), 18, 40, (3, 3), (2, 2, 2)),
    "padding_beyond_the_kernel": (1, (2, 5, 4), 17, 20, (3, 3), (3, 4, 3)),
    "frames_without_a_source": (1, (1, 6, 6), 16, 16, (2, 3), (2, 1, 1)),
    "two_frames": (1, (5, 6, 7), 16, 32, (2, 3), (1, 1, 0)),
    "one_row": (2, (3, 1, 11), 16, 32, (3, 3), (1, 1, 1)),
    "one_pixel": (2, (1, 1, 1), 16, 32, (3, 3), (1, 1, 1)),
    "five_taps": (2, (3, 7, 10), 16, 40, (3, 5), (1, 2, 2)),
    "five_taps_of_one_frame": (3, (1, 9, 8), 33, 17, (1, 5), (0, 2, 1)),
    "five_taps_smaller_map": (1, (2, 1, 4), 18, 32, (2, 5), (1, 2, 4)),
    "chunks_of_images": (5, (6, 33, 70), 16, 24, (3, 3), (1, 1, 1)),
    "chunks_of_rows": (2, (8, 64, 141), 16, 24, (3, 3), (1, 1, 1)),
}
ISAS = native.module().usable_isas() if native.module() else []
pytestmark = pytest.mark.skipif(not ISAS, reason="needs the native extension")


def maps_of(name):
    """x (N,C,D,H,W) and weight of float64, the padding, and the weight's gradient for a gradient of the result."""
    images, size, inputs, outputs, (frames, taps), padding = SHAPES[name]
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(images, inputs, *size, generator=generator, dtype=torch.float64)
    weight = torch.randn(outputs, inputs, frames, taps, taps, generator=generator, dtype=torch.float64)
    return x, weight, padding


def last(maps):
    """As the kernels take them: (N,D,H,W,C), float32."""
    return maps.movedim(1, -1).float().contiguous()


@pytest.fixture(params=ISAS)
def isa(request, monkeypatch):
    """Each instruction set in turn."""
    monkeypatch.setattr(native, "isa", lambda: request.param)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.usefixtures("isa")
def test_convolution(name, threads, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    x, weight, padding = maps_of(name)
    bias = torch.randn(len(weight), dtype=torch.float64)
    truth = F.conv3d(x, weight, bias, padding=padding).movedim(1, -1)
    packed = Weight(weight.float())
    found = winograd.convolve(last(x), packed, padding, bias.float())
    assert_close(found, truth)
    # What stands before and behind must stay as it is.
    room = torch.full((truth.numel() + 128,), torch.nan)
    out = room[64:-64].view(truth.shape)
    winograd.convolve(last(x), packed, padding, bias.float(), out=out)
    assert torch.equal(out, found)
    winograd.convolve(last(x), Weight(weight.float().contiguous(memory_format=torch.channels_last_3d)), padding,
                      out=out, add=True)  # fmt: skip
    assert_close(out, 2 * truth - bias)
    assert room[:64].isnan().all()
    assert room[-64:].isnan().all()


@pytest.mark.parametrize("name", [n for n in SHAPES if n != "padding_beyond_the_kernel"])
@pytest.mark.usefixtures("isa")
def test_reflected_weight(name):
    x, weight, padding = maps_of(name)
    x.requires_grad_()
    y = F.conv3d(x, weight, None, padding=padding)
    grad = torch.randn(y.shape, dtype=torch.float64)
    (truth,) = torch.autograd.grad(y, x, grad)
    rest = [k - 1 - p for k, p in zip(weight.shape[2:], padding, strict=True)]
    assert_close(winograd.convolve(last(grad), Weight(weight.float(), True), rest), truth.movedim(1, -1))


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("name", [n for n in SHAPES if not n.startswith("five")])
@pytest.mark.usefixtures("isa")
def test_weight_gradient(name, threads, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    x, weight, padding = maps_of(name)
    weight.requires_grad_()
    y = F.conv3d(x, weight, None, padding=padding)
    grad = torch.randn(y.shape, dtype=torch.float64)
    (truth,) = torch.autograd.grad(y, weight, grad)
    total = torch.zeros(*weight.shape[2:], *weight.shape[1::-1])
    for _ in range(2):  # it adds
        winograd.add_weight_gradient(last(x), last(grad), padding, total)
    assert_close(total.permute(4, 3, 0, 1, 2) / 2, truth)


def test_no_weight_gradient_of_five_taps():
    x, y, total = torch.zeros(1, 1, 8, 8, 16), torch.zeros(1, 1, 8, 8, 16), torch.zeros(1, 5, 5, 16, 16)
    with pytest.raises(ValueError, match="no weight gradient of such a kernel"):
        winograd.add_weight_gradient(x, y, (0, 2, 2), total)
    with pytest.raises(ValueError, match="no convolution of such a kernel"):
        winograd.convolve(x, Weight(torch.zeros(16, 16, 1, 3, 5)), (0, 1, 2))


def test_use_cpu_convolution():
    few, many = (torch.float32, (4, 4, 3, 3, 3), 1, (2, 3, 3)), (torch.float32, (32, 32, 3, 3, 3), 4, (4, 14, 14))
    for rule in (winograd.pays, winograd.gradient_pays):
        for call in (few, many):
            assert rule(*call, (1, 1, 1), (1, 1, 1)) is (call is many)
            for name in winograd.NAMES:
                with fastrcn.use_cpu_convolution(name):
                    assert rule(*call, (1, 1, 1), (1, 1, 1)) is (name == "winograd")
    with fastrcn.use_cpu_convolution("winograd"):
        assert not winograd.pays(*many, (1, 2, 1), (1, 1, 1))
        assert not winograd.pays(*many, (1, 1, 1), (1, 1, 1), groups=2)
        assert not winograd.pays(torch.float64, *many[1:], (1, 1, 1), (1, 1, 1))
    expected = r"convolution: expected one of direct, winograd, got 'fft'"
    with pytest.raises(ValueError, match=expected), fastrcn.use_cpu_convolution("fft"):
        pass


@pytest.mark.parametrize("shape", [(1, 3, 4, 5, 6), (0, 3, 2, 4, 4)])
def test_whatever_the_sizes(shape):
    """As asked for, by the operator and its gradients: few channels and pixels, and no clip at all."""
    x = torch.randn(shape, dtype=torch.float64)
    weight, bias = torch.randn(2, 3, 3, 3, 3, dtype=torch.float64), torch.randn(2, dtype=torch.float64)
    exact, rough = ([t.to(kind).requires_grad_() for t in (x, weight, bias)] for kind in (torch.float64, torch.float32))
    truth = F.max_pool3d(F.conv3d(*exact, padding=1).relu(), 2, 1)  # windows that overlap: not strip by strip
    with fastrcn.use_cpu_convolution("winograd"):
        found = conv3d_relu_maxpool3d(*rough, padding=1, pool_kernel_size=2, pool_stride=1, backend="cpu")
        gradients = torch.autograd.grad(found.sum(), rough)
    assert_close(found, truth)
    for one, other in zip(gradients, torch.autograd.grad(truth.sum(), exact), strict=True):
        assert_close(one, other)


def test_whole_numbers_are_exact():
    """Of the transforms' halves and sums nothing is rounded here."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(-8, 9, (2, 3, 9, 10, 24), generator=generator).float()
    weight = 2.0 * torch.randint(-8, 9, (40, 24, 3, 3, 3), generator=generator)
    truth = F.conv3d(x.movedim(-1, 1).double(), weight.double(), padding=1).movedim(1, -1)
    assert torch.equal(winograd.convolve(x, Weight(weight), (1, 1, 1)).double(), truth)


def test_same_result_with_any_number_of_threads(monkeypatch):
    x, weight, padding = maps_of("chunks_of_images")
    found = []
    for threads in (1, 2, 5):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        y = winograd.convolve(last(x), Weight(weight.float()), padding)
        total = torch.zeros(*weight.shape[2:], *weight.shape[1::-1])
        winograd.add_weight_gradient(last(x), y, padding, total)
        found.append((y, total))
    for y, total in found[1:]:
        assert torch.equal(y, found[0][0])
        assert torch.equal(total, found[0][1])
