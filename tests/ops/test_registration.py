"""Operators of Python functions: what they see of their caller."""

import torch
from torch.nn.functional import conv2d

import fastrcn
from fastrcn.ops.registration import register


def test_no_autocast_inside():
    """Casts are done before an operator; inside, PyTorch's functions compute in the type of their tensors."""
    found = []

    def body(x):
        found.append(conv2d(x, x).dtype)
        return [x.clone()]

    operator = register("autocast_probe", "Tensor x", body, lambda x: [torch.empty_like(x)])
    x = torch.randn(1, 1, 2, 2)
    with torch.autocast("cpu", torch.bfloat16):
        assert conv2d(x, x).dtype == torch.bfloat16
        operator(x)
        assert torch.is_autocast_enabled("cpu")
    operator(x)
    assert found == [torch.float32, torch.float32]


def test_no_autocast_under_autograd():
    found = []

    def body(x):
        found.append(conv2d(x, x).dtype)
        return [x.clone()]

    operator = register("autocast_probe_of_autograd", "Tensor x", body, lambda x: [torch.empty_like(x)], body)
    with torch.autocast("cpu", torch.bfloat16):
        operator(torch.randn(1, 1, 2, 2, requires_grad=True))
    assert found == [torch.float32]


def test_no_autocast_in_second_derivatives():
    layer, results = fastrcn.ConvLSTM(2, 3, backend="cpu"), []
    x = torch.randn(3, 2, 2, 4, 5)
    for enabled in (False, True):
        (grad,) = torch.autograd.grad(layer(x)[0].square().sum(), layer.weight_hh_l0, create_graph=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            results.append(torch.autograd.grad(grad.square().sum(), list(layer.parameters())))
    for plain, found in zip(*results, strict=True):
        assert torch.equal(found, plain)
