"""ConvLSTM against flax.linen.ConvLSTMCell: outputs and all gradients, frozen in flax_conv_lstm.npz."""

from pathlib import Path

import numpy as np
import pytest
import torch

import fastrcn
from tests.helpers.tolerances import assert_close

VECTORS = np.load(Path(__file__).with_name("flax_conv_lstm.npz"))
ORDER = (0, 2, 1, 3)  # flax packs i, g, f, o


def maps_first(x):
    return torch.from_numpy(x).movedim(-1, -3)


def kernel(x):
    """(kh, kw, in, 4C) as (4C, in, kh, kw), gates i, f, g, o."""
    return gates(torch.from_numpy(x).permute(3, 2, 0, 1))


def gates(x):
    blocks = x.chunk(4, 0)
    return torch.cat([blocks[k] for k in ORDER])


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("label", ["k3", "k1x5"])
@pytest.mark.parametrize("forget_bias", [0.0, 1.0])
def test_conv_lstm_equals_flax(label, backend, recompute, forget_bias):
    v = {name.removeprefix(f"{label}/"): VECTORS[name] for name in VECTORS.files if name.startswith(f"{label}/")}
    weight_ih, weight_hh = kernel(v["ih.kernel"]), kernel(v["hh.kernel"])
    channels = weight_hh.shape[1]
    layer = fastrcn.ConvLSTM(
        weight_ih.shape[1], channels, tuple(weight_ih.shape[2:]), backend=backend, recompute=recompute,
        forget_bias=forget_bias,
    ).double()  # fmt: skip
    bias = gates(torch.from_numpy(v["ih.bias"] + v["hh.bias"]))
    bias[channels : 2 * channels] += 1 - forget_bias  # flax adds 1 when it runs
    layer.load_state_dict({"weight_ih_l0": weight_ih, "weight_hh_l0": weight_hh, "bias_l0": bias})
    x, h, c = (maps_first(v[name]).clone().requires_grad_() for name in ("x", "h0", "c0"))
    output, (_, c_n) = layer(x, (h[None], c[None]))
    assert_close(output, maps_first(v["output"]))
    assert_close(c_n[0], maps_first(v["c"]))
    loss = (output * maps_first(v["to_output"])).sum() + (c_n[0] * maps_first(v["to_c"])).sum()
    loss.backward()
    truth = {
        "x": (x, maps_first(v["d_x"])),
        "h0": (h, maps_first(v["d_h0"])),
        "c0": (c, maps_first(v["d_c0"])),
        "weight_ih": (layer.weight_ih_l0, kernel(v["d_ih.kernel"])),
        "weight_hh": (layer.weight_hh_l0, kernel(v["d_hh.kernel"])),
        "bias": (layer.bias_l0, gates(torch.from_numpy(v["d_ih.bias"]))),
    }
    for name, (leaf, gradient) in truth.items():
        assert_close(leaf.grad, gradient, name)
