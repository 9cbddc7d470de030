"""The loop that people write: one convolution of [x, h] per step, then the gates. What the fused layer replaces."""

import copy
from typing import Any

import torch
from torch import nn

from fastrcn.layers import ConvLSTM


class PlainConvLSTM(nn.Module):
    """A ConvLSTM layer as a Python loop, with the weights of a fused layer of one layer and one direction."""

    def __init__(self, layer):
        super().__init__()
        weight = torch.cat([layer.weight_ih_l0, layer.weight_hh_l0], dim=1).detach()
        kh, kw = layer.kernel_size
        self.conv: Any = nn.Conv2d(weight.shape[1], weight.shape[0], (kh, kw), padding=(kh // 2, kw // 2))
        self.conv.weight.data.copy_(weight)
        self.conv.bias.data.copy_(layer.bias_l0.detach())
        self.hidden_size = layer.hidden_size

    def forward(self, x, state=None):
        if state is None:
            h = c = x.new_zeros(x.shape[1], self.hidden_size, *x.shape[3:])
        else:
            h, c = (s[0] for s in state)
        outputs = []
        for x_t in x:
            i, f, g, o = self.conv(torch.cat([x_t, h], dim=1)).chunk(4, dim=1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
            outputs.append(h)
        return torch.stack(outputs), (h[None], c[None])

    def gradients(self):
        """Its gradients under the fused layer's names."""
        inputs = self.conv.in_channels - self.hidden_size
        grad = self.conv.weight.grad
        return {
            "weight_ih_l0": grad[:, :inputs],
            "weight_hh_l0": grad[:, inputs:],
            "bias_l0": self.conv.bias.grad,
        }


def plain_copy(model):
    """A copy of a model with every ConvLSTM replaced by the plain loop with the same weights."""
    model = copy.deepcopy(model)
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, ConvLSTM):
                setattr(module, name, PlainConvLSTM(child))
    return model


def gradients_by_name(model):
    """Gradients of a model by parameter name; those of plain loops under the fused layers' names."""
    found = {}
    for prefix, module in model.named_modules():
        if isinstance(module, PlainConvLSTM):
            found |= {f"{prefix}.{name}": grad for name, grad in module.gradients().items()}
    for name, p in model.named_parameters():
        if ".conv." not in name:
            found[name] = p.grad
    return found
