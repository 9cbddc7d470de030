"""One step of the recurrent cells on vectors, by hand, with the parameters of a layer or cell of the package."""

import torch


def _parameters(layer):
    return {name.removesuffix("_l0"): p for name, p in layer.named_parameters()}


def lstm(layer, x, state):
    """(N,D), (h, c) -> (h, c); gates i, f, g, o."""
    p, (h, c) = _parameters(layer), state
    i, f, g, o = (x @ p["weight_ih"].T + h @ p["weight_hh"].T + p["bias"]).chunk(4, -1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


def gru(layer, x, state):
    """(N,D), (h,) -> (h,); gates r, z, n, the reset before the product."""
    p, (h,) = _parameters(layer), state
    n = h.shape[-1]
    xr, xz, xn = (x @ p["weight_ih"].T + p["bias"]).chunk(3, -1)
    hr, hz = (h @ p["weight_hh"][: 2 * n].T).chunk(2, -1)
    r, z = torch.sigmoid(xr + hr), torch.sigmoid(xz + hz)
    return ((1 - z) * h + z * torch.tanh(xn + (r * h) @ p["weight_hh"][2 * n :].T),)
