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


def randomize(net, deviation):
    """All parameters and statistics drawn anew; scales and variances around 1. Returns the net."""
    with torch.no_grad():
        for name, value in net.state_dict().items():
            if name.endswith(("running_var", "bn.weight")):
                value.uniform_(0.5, 1.5)
            elif value.is_floating_point():
                value.normal_(0, deviation)
    return net


def randomize_normalisations(net):
    """Normalisations that are not those of the start, and biases; other weights stay. Returns the net."""
    with torch.no_grad():
        for name, value in net.state_dict().items():
            if name.endswith("running_var") or (name.endswith("weight") and value.dim() == 1):
                value.uniform_(0.5, 1.5)
            elif value.is_floating_point() and value.dim() == 1:
                value.normal_(0, 0.2)
            elif name.endswith("conv_theta.weight"):  # else a softmax has one large weight, and magnifies rounding
                value.mul_(0.1)
    return net
