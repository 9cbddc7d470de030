"""Every cell as a loop written by hand from its paper, with ``F.conv2d`` (volumes: ``F.conv3d``) and autograd only.

These share nothing with the package: they are what it is judged by. Parameters are packed as the package packs them.
"""

import torch
import torch.nn.functional as F


def same(x, weight, bias=None, stride=1, dilation=1, padding="same"):
    """Convolution whose padding, unless another is given, keeps the map's size at stride 1."""
    conv = F.conv3d if weight.dim() == 5 else F.conv2d
    if padding != "same":
        return conv(x, weight, bias, stride, padding, dilation)
    kernel = weight.shape[2:]
    reach = (dilation,) * len(kernel) if isinstance(dilation, int) else dilation
    return conv(x, weight, bias, stride, [d * (k - 1) // 2 for k, d in zip(kernel, reach, strict=True)], reach)


def spread(vector, maps):
    """A per-channel vector, or a map (C,H,W), so that it multiplies (B,C,H,W)."""
    return vector if vector.dim() > 1 else vector.view(-1, *(1,) * (maps.dim() - 2))


def rnn_step(p, x, state, nonlinearity="tanh", **options):
    (h,) = state
    a = same(x, p["weight_ih"], p["bias"], **options) + same(h, p["weight_hh"])
    return (torch.tanh(a) if nonlinearity == "tanh" else torch.relu(a),)


def lstm_step(p, x, state, **options):
    h, c = state
    a = same(x, p["weight_ih"], p["bias"], **options) + same(h, p["weight_hh"])
    i, f, g, o = a.chunk(4, 1)
    if p.get("weight_ch") is None:
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(c), c
    wi, wf, wo = (spread(w, c) for w in p["weight_ch"].chunk(3, 0))
    i, f = torch.sigmoid(i + wi * c), torch.sigmoid(f + wf * c)
    c = f * c + i * torch.tanh(g)
    o = torch.sigmoid(o + wo * c)
    return o * torch.tanh(c), c


def gru_step(p, x, state, reset="before", **options):
    (h,) = state
    n_channels = h.shape[1]
    w_rz, w_n = p["weight_hh"][: 2 * n_channels], p["weight_hh"][2 * n_channels :]
    bias = p["bias"]
    if reset == "before":
        xr, xz, xn = same(x, p["weight_ih"], bias, **options).chunk(3, 1)
        hr, hz = same(h, w_rz).chunk(2, 1)
        r, z = torch.sigmoid(xr + hr), torch.sigmoid(xz + hz)
        n = torch.tanh(xn + same(r * h, w_n))
        return ((1 - z) * h + z * n,)
    b_x, b_h = (None, None) if bias is None else (bias[: 3 * n_channels], bias[3 * n_channels :])
    xr, xz, xn = same(x, p["weight_ih"], b_x, **options).chunk(3, 1)
    hr, hz = same(h, w_rz).chunk(2, 1)
    r, z = torch.sigmoid(xr + hr), torch.sigmoid(xz + hz)
    n = torch.tanh(xn + r * same(h, w_n, b_h))
    return ((1 - z) * n + z * h,)


def stacked_gru_step(p, x, state, candidate=False, **options):
    x, below = x
    (h,) = state
    n_channels = h.shape[1]
    xr, xz, xn = same(x, p["weight_ih"], p["bias"], **options).chunk(3, 1)
    up = same(below, p["weight_bh"], **options)
    hr, hz = same(h, p["weight_hh"][: 2 * n_channels]).chunk(2, 1)
    r = torch.sigmoid(xr + up[:, :n_channels] + hr)
    z = torch.sigmoid(xz + up[:, n_channels : 2 * n_channels] + hz)
    n = xn + same(r * h, p["weight_hh"][2 * n_channels :])
    if candidate:
        n = n + up[:, 2 * n_channels :]
    n = torch.tanh(n)
    return ((1 - z) * h + z * n,)


def mgu_step(p, x, state, **options):
    (h,) = state
    n_channels = h.shape[1]
    xf, xn = same(x, p["weight_ih"], p["bias"], **options).chunk(2, 1)
    f = torch.sigmoid(xf + same(h, p["weight_hh"][:n_channels]))
    n = torch.tanh(xn + same(f * h, p["weight_hh"][n_channels:]))
    return ((1 - f) * h + f * n,)


def run(step, p, x, states, lengths=None, reverse=False, **options):
    """Loop over time. Returns the outputs (T,B,C,H,W) and the last states; ended sequences are frozen and output 0."""
    first = x[0] if isinstance(x, tuple) else x
    steps = range(first.shape[0])
    outputs = {}
    for t in reversed(steps) if reverse else steps:
        x_t = tuple(v[t] for v in x) if isinstance(x, tuple) else x[t]
        new = step(p, x_t, states, **options)
        if lengths is not None:
            running = (t < lengths).view(-1, *(1,) * (first.dim() - 2))
            new = tuple(torch.where(running, n, old) for n, old in zip(new, states, strict=True))
            outputs[t] = torch.where(running, new[0], torch.zeros_like(new[0]))
        else:
            outputs[t] = new[0]
        states = new
    return torch.stack([outputs[t] for t in steps]), states
