"""Operators of Python functions: what they see of their caller."""

import torch
from torch.nn.functional import conv2d

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
