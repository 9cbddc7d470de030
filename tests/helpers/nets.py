"""What tests of models do with a net."""

import torch

from fastrcn import models


def count(module):
    """Its parameters."""
    return sum(p.numel() for p in module.parameters())


def made_large(name, **options):
    """A small net by name in float64 and evaluation, whose parameters are large enough to see each; and its input."""
    net = models.create(name, small=True, **options).double().eval()
    with torch.no_grad():
        for p in net.parameters():
            p.normal_(0, 0.3)
    return net, net.example_inputs(2)[0].double()
