"""Convolutions of 1x1x1 by compiled products alone, against PyTorch's in float64: every instruction set, all edges."""

import pytest
import torch
import torch.nn.functional as F

from fastrcn import native
from fastrcn.functional import conv3d_relu_maxpool3d
from fastrcn.ops.convolution import pointwise
from tests.helpers.tolerances import assert_close

# images, (D,H,W), inputs, outputs
SHAPES = {
    "whole_blocks": (2, (4, 8, 9), 48, 64),
    "ragged": (3, (3, 5, 7), 13, 29),
    "one_channel": (2, (2, 9, 8), 1, 1),
    "one_pixel": (5, (1, 1, 1), 17, 24),
    "less_than_a_vector": (2, (1, 1, 3), 8, 8),
    "one_panel": (1, (1, 6, 8), 24, 16),
    "many_inputs": (1, (2, 7, 7), 1100, 9),
    "many_outputs": (1, (2, 7, 7), 9, 520),
    "ranges": (2, (16, 28, 28), 40, 24),
}
ISAS = native.module().usable_isas() if native.module() else []
pytestmark = pytest.mark.skipif(not ISAS, reason="needs the native extension")


@pytest.fixture(params=ISAS, autouse=True)
def isa(request, monkeypatch):
    """Each instruction set in turn."""
    monkeypatch.setattr(native, "isa", lambda: request.param)


@pytest.fixture(params=[1, 3])
def threads(request, monkeypatch):
    """How many share the work."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: request.param)


def maps_of(name):
    """x, weight, bias and the gradient of the result, of float64."""
    images, size, inputs, outputs = SHAPES[name]
    generator = torch.Generator().manual_seed(0)
    shapes = (images, inputs, *size), (outputs, inputs, 1, 1, 1), (outputs,), (images, outputs, *size)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


def filled_room(shape):
    """A tensor of the shape within a larger one, of which nothing else may change."""
    room = torch.full((torch.Size(shape).numel() + 128,), torch.nan)
    return room, room[64:-64].view(shape)


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.usefixtures("threads")
def test_convolution_and_the_gradient_of_its_input(name):
    x, weight, bias, grad = maps_of(name)
    for given, transposed, reflected in ((x, weight, False), (grad, weight.transpose(0, 1), True)):
        for shift in (None, bias) if not reflected else (None,):
            truth = F.conv3d(given, transposed, shift)
            room, out = filled_room(truth.shape)
            found = pointwise.convolve(
                given.float(), weight.float(), None if shift is None else shift.float(), reflected, out
            )
            assert found is out
            assert_close(found, truth)
            assert room[:64].isnan().all()
            assert room[-64:].isnan().all()


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.usefixtures("threads")
def test_weight_gradient(name):
    x, _, _, grad = maps_of(name)
    truth = torch.einsum("nodhw,nidhw->oi", grad, x)[..., None, None, None]
    assert_close(pointwise.weight_gradient(x.float(), grad.float()), truth)


def test_what_is_not_finite_stays_where_it_is():
    x, weight, _, _ = maps_of("ragged")
    x[1, 2, 0, 3, 4] = torch.inf
    found = pointwise.convolve(x.float(), weight.float())
    assert torch.equal(found.isfinite(), F.conv3d(x, weight).isfinite())


def test_empty():
    x, grad = torch.zeros(0, 8, 4, 5, 6), torch.zeros(0, 16, 4, 5, 6)
    assert pointwise.convolve(x, torch.zeros(16, 8, 1, 1, 1)).shape == grad.shape
    assert not pointwise.weight_gradient(x, grad).any()


@pytest.mark.parametrize("pool", [1, (1, 2, 2)])
@pytest.mark.parametrize(("inputs", "outputs"), [(24, 16), (192, 256)])
def test_in_the_operator(inputs, outputs, pool, monkeypatch):
    calls = []
    for name in ("convolve", "weight_gradient"):
        run = getattr(pointwise, name)
        monkeypatch.setattr(pointwise, name, lambda *a, n=name, r=run, **k: calls.append(n) or r(*a, **k))
    generator = torch.Generator().manual_seed(0)
    tensors = [(2, inputs, 4, 8, 6), (outputs, inputs, 1, 1, 1), (outputs,)]
    tensors = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in tensors]
    results = []
    for dtype in (torch.float32, torch.float64):
        leaves = [t.to(dtype).requires_grad_() for t in tensors]
        output = conv3d_relu_maxpool3d(*leaves, pool_kernel_size=pool, backend="cpu")
        results.append([output, *torch.autograd.grad(output.pow(2).sum(), leaves)])
    few = inputs * outputs <= 1 << 15
    assert calls == ["convolve", *(["weight_gradient"] if few else []), "convolve"]
    for found, truth in zip(*results, strict=True):
        assert_close(found, truth)
