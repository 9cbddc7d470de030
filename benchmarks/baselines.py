"""What people have: (a) the popular loop, (b) the best that plain PyTorch does by hand, (c) both compiled."""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F


def _padding(kernel):
    return tuple(k // 2 for k in kernel)


def _of_axes(weight):
    """(the convolution's function, its module, the channels-last layout) for maps (H,W) or (D,H,W)."""
    if weight.dim() == 5:
        return F.conv3d, nn.Conv3d, torch.channels_last_3d
    return F.conv2d, nn.Conv2d, torch.channels_last


class PopularLoop(nn.Module):
    """(a): per step a cat of [x, h], one convolution (GRU: two), and the gates one by one; channels first."""

    def __init__(self, kind, weight_ih, weight_hh, bias):
        super().__init__()
        self.kind, self.channels = kind, weight_hh.shape[1]
        weight = torch.cat([weight_ih, weight_hh], 1).detach()
        first = 2 * self.channels if kind == "gru" else len(weight)
        self.gates = self._convolution(weight[:first], bias[:first])
        if kind == "gru":
            self.candidate = self._convolution(weight[first:], bias[first:])

    @staticmethod
    def _convolution(weight, bias):
        kernel = tuple(weight.shape[2:])
        conv: Any = _of_axes(weight)[1](weight.shape[1], weight.shape[0], kernel, padding=_padding(kernel))
        conv.weight.data, conv.bias.data = weight.clone(), bias.detach().clone()
        return conv

    def forward(self, x):
        h = x.new_zeros(x.shape[1], self.channels, *x.shape[3:])
        c, outputs = h, []
        for t in range(x.shape[0]):
            a = self.gates(torch.cat([x[t], h], 1))
            if self.kind == "lstm":
                i, f, g, o = a.chunk(4, 1)
                c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
                h = torch.sigmoid(o) * torch.tanh(c)
            elif self.kind == "gru":
                r, z = torch.sigmoid(a).chunk(2, 1)
                n = torch.tanh(self.candidate(torch.cat([x[t], r * h], 1)))
                h = (1 - z) * h + z * n
            else:
                h = torch.tanh(a)
            outputs.append(h)
        return torch.stack(outputs)


class HoistedLoop(nn.Module):
    """(b): the input convolution of all steps at once, channels-last maps, packed gates."""

    def __init__(self, kind, weight_ih, weight_hh, bias):
        super().__init__()
        self.kind, self.channels = kind, weight_hh.shape[1]
        self.convolution, _, self.last = _of_axes(weight_hh)
        last = self.last
        self.weight_ih = nn.Parameter(weight_ih.detach().clone(memory_format=last))
        self.weight_hh = nn.Parameter(weight_hh.detach().clone(memory_format=last))
        self.bias = nn.Parameter(bias.detach().clone())

    def forward(self, x):
        padding = _padding(self.weight_ih.shape[2:])
        flat = x.flatten(0, 1).contiguous(memory_format=self.last)
        projected = self.convolution(flat, self.weight_ih, self.bias, padding=padding).unflatten(0, x.shape[:2])
        h = x.new_zeros(x.shape[1], self.channels, *x.shape[3:]).contiguous(memory_format=self.last)
        c, outputs = h, []
        padding = _padding(self.weight_hh.shape[2:])
        split = 2 * self.channels
        for a in projected:
            if self.kind == "lstm":
                i, f, g, o = (a + self.convolution(h, self.weight_hh, padding=padding)).chunk(4, 1)
                c = torch.addcmul(torch.sigmoid(f) * c, torch.sigmoid(i), torch.tanh(g))
                h = torch.sigmoid(o) * torch.tanh(c)
            elif self.kind == "gru":
                rz = torch.sigmoid(a[:, :split] + self.convolution(h, self.weight_hh[:split], padding=padding))
                r, z = rz.chunk(2, 1)
                n = torch.tanh(a[:, split:] + self.convolution(r * h, self.weight_hh[split:], padding=padding))
                h = torch.lerp(h, n, z)
            else:
                h = torch.tanh(a + self.convolution(h, self.weight_hh, padding=padding))
            outputs.append(h)
        return torch.stack(outputs)


class GraphedForward:
    """(d): a CUDA graph of (b), forward and backward. CUDA only."""

    def __init__(self, module, x):
        self.call = torch.cuda.make_graphed_callables(module, (x.detach().clone().requires_grad_(x.requires_grad),))

    def __call__(self, x):
        return self.call(x)
