"""What the cpu backend leaves to the library, for shapes whose sides were measured."""

import pytest
import torch

from fastrcn import native
from fastrcn.ops.conv3d_relu_maxpool3d.cpu_choice import (
    by_pointwise,
    by_winograd,
    converts,
    converts_chain,
    converts_unpooled,
    gains,
    gradient_by_winograd,
    owns_weight_gradient,
)
from fastrcn.ops.conv3d_relu_maxpool3d.geometry import Conv
from fastrcn.ops.convolution import pointwise, winograd

pytestmark = pytest.mark.skipif(native.module() is None, reason="needs the native extension")


def call(sizes, kernel=(3, 3, 3), dilation=(1, 1, 1), dtype=torch.float32):
    """x, weight, convolution and its (D,H,W) for (N,Ci,Co,D,H,W) at stride 1 and "same" padding."""
    n, inputs, outputs, *size = sizes
    padding = tuple(d * (k // 2) for k, d in zip(kernel, dilation, strict=True))
    x = torch.empty(n, inputs, *size, dtype=dtype, device="meta")
    weight = torch.empty(outputs, inputs, *kernel, dtype=dtype, device="meta")
    conv = Conv((1, 1, 1), padding, dilation, 1)
    return x, weight, conv, conv.output_size(size, kernel)


@pytest.fixture
def direct(monkeypatch):
    """What is chosen among convolutions with all multiplications."""
    monkeypatch.setattr(winograd, "pays", lambda *_: False)


C3D_3A, C3D_4A, C3D_5A = (1, 128, 256, 8, 28, 28), (2, 256, 512, 4, 14, 14), (4, 512, 512, 2, 7, 7)
I3D_2C, I3D_4B, I3D_5B = (1, 64, 192, 4, 56, 56), (2, 96, 208, 4, 14, 14), (4, 160, 320, 4, 7, 7)


@pytest.mark.parametrize("sizes", [C3D_3A, C3D_4A, C3D_5A, I3D_2C, I3D_4B, I3D_5B, (2, 32, 32, 2, 7, 7)])
@pytest.mark.parametrize("isa", ["avx2", "avx512"])
def test_fewer_multiplications(sizes, isa, monkeypatch):
    monkeypatch.setattr(native, "isa", lambda: isa)
    given = call(sizes)
    assert by_winograd(*given)
    assert gradient_by_winograd(*given[:3])
    assert owns_weight_gradient(*given)
    assert converts(*given)
    assert converts_unpooled(*given)
    assert gains(*given[:3], trains=False)


@pytest.mark.parametrize(
    "options",
    [
        {"sizes": (4, 8, 64, 4, 28, 28)},
        {"sizes": (4, 64, 8, 4, 28, 28)},
        {"sizes": (1, 64, 64, 1, 7, 7)},  # few tiles
        {"sizes": (16, 64, 64, 4, 1, 1)},
        {"sizes": (16, 64, 64, 4, 1, 9)},
        {"sizes": C3D_3A, "kernel": (3, 7, 7)},
        {"sizes": (2, 16, 64, 8, 28, 28), "kernel": (3, 5, 5)},
        {"sizes": C3D_3A, "kernel": (3, 1, 3)},
        {"sizes": C3D_3A, "dilation": (1, 2, 2)},
        {"sizes": C3D_3A, "dilation": (2, 1, 1)},
        {"sizes": C3D_3A, "dtype": torch.float64},
        {"sizes": C3D_3A, "dtype": torch.bfloat16},
    ],
)
def test_all_multiplications(options):
    x, weight, conv, size = call(**options)
    assert not by_winograd(x, weight, conv, size)
    assert not gradient_by_winograd(x, weight, conv)
    assert not gains(x, weight, conv, trains=False)


def test_fewer_multiplications_are_not_for_every_gradient():
    x, weight, conv, size = call(C3D_3A, kernel=(1, 5, 5))
    assert by_winograd(x, weight, conv, size)
    assert gradient_by_winograd(x, weight, conv)
    assert not winograd.gradient_pays(x.dtype, weight.shape, 1, size, conv.stride, conv.dilation)
    x, weight, conv, size = call((2, 16, 64, 8, 28, 28))
    assert by_winograd(x, weight, conv, size)
    assert not winograd.gradient_pays(x.dtype, weight.shape, 2, size, conv.stride, conv.dilation)
    wide = conv._replace(padding=(1, 3, 1))
    assert by_winograd(x, weight, wide, wide.output_size(x.shape[2:], weight.shape[2:]))
    assert not gradient_by_winograd(x, weight, wide)
    for other in (conv._replace(stride=(1, 2, 2)), conv._replace(stride=(2, 1, 1))):
        assert not by_winograd(x, weight, other, other.output_size(x.shape[2:], weight.shape[2:]))
    assert not by_winograd(x, weight[:, :8], conv._replace(groups=2), size)


@pytest.mark.parametrize("sizes", [C3D_3A, C3D_4A, I3D_4B, I3D_5B, (2, 16, 64, 8, 28, 28)])
@pytest.mark.usefixtures("direct")
def test_weight_gradients_of_the_librarys_direct_kernel(sizes, monkeypatch):
    x, weight, conv, size = call(sizes)
    for isa, own in (("avx512", False), ("avx2", True)):
        monkeypatch.setattr(native, "isa", lambda isa=isa: isa)
        assert owns_weight_gradient(x, weight, conv, size) is own


@pytest.mark.parametrize(
    "options",
    [
        {"sizes": C3D_5A},  # fewer frames than the kernel has
        {"sizes": I3D_2C},  # one small clip: PyTorch's own loops
        {"sizes": (2, 8, 32, 4, 28, 28)},
        {"sizes": C3D_4A, "dilation": (1, 2, 2)},
        {"sizes": C3D_4A, "dtype": torch.float64},
    ],
)
@pytest.mark.usefixtures("direct")
def test_weight_gradients_without_a_direct_kernel(options, monkeypatch):
    monkeypatch.setattr(native, "isa", lambda: "avx512")
    assert owns_weight_gradient(*call(**options))


@pytest.mark.usefixtures("direct")
def test_weight_gradients_that_are_never_compiled(monkeypatch):
    monkeypatch.setattr(native, "isa", lambda: "avx2")
    x, weight, conv, size = call(C3D_5A)
    assert not owns_weight_gradient(x[:1], weight, conv, size)  # few pixels
    assert not owns_weight_gradient(x, weight[:, :256], conv._replace(groups=2), size)
    assert not owns_weight_gradient(*call(C3D_4A, dtype=torch.bfloat16))


@pytest.mark.parametrize(("outputs", "expected"), [(16, False), (192, False), (400, False), (100, True), (208, True)])
@pytest.mark.usefixtures("direct")
def test_outputs_that_do_not_fill_registers(outputs, expected, monkeypatch):
    given = call((2, 96, outputs, 4, 14, 14))
    monkeypatch.setattr(native, "isa", lambda: "avx512")
    assert converts_unpooled(*given) is expected
    assert not converts_unpooled(*call((2, 96, outputs, 4, 14, 14), kernel=(1, 1, 1)))
    monkeypatch.setattr(native, "isa", lambda: "avx2")
    assert not converts_unpooled(*given)


@pytest.mark.usefixtures("direct")
def test_maps_and_weights_of_most_values():
    assert converts(*call(C3D_3A))
    assert not converts(*call(C3D_5A))
    assert not converts(*call(C3D_3A, kernel=(1, 1, 1)))


def test_products_of_contiguous_maps():
    x, weight, conv, _ = call(I3D_4B, kernel=(1, 1, 1))
    assert by_pointwise(x, weight, conv, last=False)
    assert gains(x, weight, conv, trains=False)
    assert not by_pointwise(x, weight, conv, last=True)
    assert not by_pointwise(x, weight, conv._replace(stride=(1, 2, 2)), last=False)
    assert not by_pointwise(x, weight, conv._replace(padding=(0, 0, 1)), last=False)
    for options in (
        {"sizes": (2, 8, 208, 4, 14, 14)},
        {"sizes": (2, 96, 8, 4, 14, 14)},
        {"sizes": (64, 96, 208, 1, 7, 7)},  # few pixels of an image
        {"sizes": I3D_4B, "dtype": torch.float64},
    ):
        x, weight, conv, _ = call(**options, kernel=(1, 1, 1))
        assert not by_pointwise(x, weight, conv, last=False)
        assert not gains(x, weight, conv, trains=False)
    assert pointwise.gradient_pays(torch.float32, torch.Size((128, 256, 1, 1, 1)), 784)
    assert not pointwise.gradient_pays(torch.float32, torch.Size((160, 256, 1, 1, 1)), 784)


@pytest.mark.parametrize("isa", ["avx2", "avx512"])
def test_chains_that_are_channels_last_inside(isa, monkeypatch):
    monkeypatch.setattr(native, "isa", lambda: isa)
    stem = (1, 3, 64, 8, 24, 24)
    assert converts_chain(*call(I3D_4B)[:3])
    assert converts_chain(*call(stem, kernel=(7, 7, 7))[:3]) is (isa == "avx512")
    assert not converts_chain(*call(stem, kernel=(7, 7, 7), dtype=torch.float64)[:3])
    assert not converts_chain(*call(I3D_4B, kernel=(1, 1, 1))[:3])
    x, weight, conv, _ = call(I3D_4B)
    assert not converts_chain(x.contiguous(memory_format=torch.channels_last_3d), weight, conv)
