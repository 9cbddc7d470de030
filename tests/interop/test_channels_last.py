"""fastrcn.interop's keras, flax and haiku against one loop in NumPy, channels-last, written from their conventions."""

import functools

import numpy as np
import pytest
import torch

import fastrcn
from fastrcn.interop import flax, haiku, keras
from tests.helpers.tolerances import assert_close
from tests.oracles.test_flax import VECTORS, maps_first

pytestmark = pytest.mark.usefixtures("one_thread")

STEPS, BATCH, SIZE, INPUTS, HIDDEN = 4, 2, (4, 5, 6), 3, 2
KERNELS = {"2d": (3, 5), "1d": (3,), "3d": (3, 1, 5)}
KINDS = {"2d": fastrcn.ConvLSTM, "1d": fastrcn.ConvLSTM1d, "3d": fastrcn.ConvLSTM3d}


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def valid(x, kernel, stride=1, dilation=1):
    """Sum over the kernel's cells, x (B,*map,Cin), kernel (*size,Cin,Cout)."""
    size, total = kernel.shape[:-2], 0
    for cell in np.ndindex(*size):
        window = tuple(
            slice(dilation * at, dilation * at + n - dilation * (k - 1), stride)
            for at, n, k in zip(cell, x.shape[1:-1], size, strict=True)
        )
        total = total + x[(slice(None), *window)] @ kernel[cell]
    return total


def same(x, kernel):
    """The same of x with zeros around it."""
    return valid(np.pad(x, [(0, 0), *((k // 2, k // 2) for k in kernel.shape[:-2]), (0, 0)]), kernel)


def loop(order, forget, kernels, bias, x, h, c, convolve=same):
    outputs = []
    for frame in x:
        a = convolve(frame, kernels[0]) + same(h, kernels[1]) + bias
        gate = dict(zip(order, np.split(a, 4, -1), strict=True))
        c = sigmoid(gate["f"] + forget) * c + sigmoid(gate["i"]) * np.tanh(gate["g"])
        h = sigmoid(gate["o"]) * np.tanh(c)
        outputs.append(h)
    return np.stack(outputs), h, c


CONVENTIONS = {
    "keras": (keras, "ifgo", 0.0, lambda kernels, biases: [*kernels, biases[0] + biases[1]]),
    "flax": (
        flax, "igfo", 1.0,
        lambda kernels, biases: {
            part: {"kernel": k, "bias": b} for part, k, b in zip(("ih", "hh"), kernels, biases, strict=True)
        },
    ),
    "haiku": (
        haiku, "igfo", 1.0,
        lambda kernels, biases: {
            f"net/conv/{part}": {"w": k, "b": b}
            for part, k, b in zip(("input_to_hidden", "hidden_to_hidden"), kernels, biases, strict=True)
        },
    ),
}  # fmt: skip


@functools.cache
def example(rank):
    rng = np.random.default_rng(len(KERNELS[rank]))
    size = KERNELS[rank]
    kernels = [0.5 * rng.standard_normal((*size, n, 4 * HIDDEN)) for n in (INPUTS, HIDDEN)]
    biases = [rng.standard_normal(4 * HIDDEN) for _ in range(2)]
    space = SIZE[-len(size) :]
    x = rng.standard_normal((STEPS, BATCH, *space, INPUTS))
    return kernels, biases, x, *rng.standard_normal((2, BATCH, *space, HIDDEN))


def first(array, lead):
    """(lead, *map, C) as (lead, C, *map)."""
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(array, -1, lead)))


@pytest.mark.parametrize("rank", KERNELS)
@pytest.mark.parametrize("name", CONVENTIONS)
def test_there_and_back(name, rank):
    convention, order, forget, make = CONVENTIONS[name]
    kernels, biases, x, h, c = example(rank)
    state = make(kernels, biases)
    layer = convention.from_state_dict(state)
    assert type(layer) is KINDS[rank]
    output, (h_n, c_n) = layer(first(x, 2), (first(h, 1)[None], first(c, 1)[None]))
    truth, *last = loop(order, forget, kernels, biases[0] + biases[1], x, h, c)
    assert_close(output, first(truth, 2))
    for found, value in zip((h_n, c_n), last, strict=True):
        assert_close(found[0], first(value, 1))

    options = {"name": "net/conv"} if name == "haiku" else {}
    back = convention.to_state_dict(layer, **options)
    expected = make(kernels, [biases[0] + biases[1], np.zeros_like(biases[1])])
    if name == "keras":
        assert all(np.array_equal(a, b) for a, b in zip(back, expected, strict=True))
        return
    assert back.keys() == expected.keys()
    for part, values in expected.items():
        for key, value in values.items():
            assert back[part][key].shape == value.shape
            np.testing.assert_allclose(back[part][key], value, rtol=1e-15, atol=1e-15)


@pytest.mark.parametrize("name", CONVENTIONS)
def test_without_bias(name):
    convention, order, forget, _ = CONVENTIONS[name]
    kernels, biases, x, h, c = example("2d")
    zeros = np.zeros_like(biases[0])
    if name == "haiku":  # always has biases
        layer = haiku.from_state_dict(haiku.to_state_dict(fastrcn.ConvLSTM(3, 2, bias=False).double()))
        assert not layer.bias_l0.any()
        return
    state = kernels if name == "keras" else {part: {"kernel": k} for part, k in zip(("ih", "hh"), kernels, strict=True)}
    layer = convention.from_state_dict(state)
    assert layer.has_bias is (name == "flax")
    output, _ = layer(first(x, 2), (first(h, 1)[None], first(c, 1)[None]))
    assert_close(output, first(loop(order, forget, kernels, zeros, x, h, c)[0], 2))


@pytest.mark.parametrize("label", ["k3", "k1x5"])
def test_flax_itself(label):
    """What flax computed, frozen for the layers' tests."""
    v = {name.removeprefix(f"{label}/"): VECTORS[name] for name in VECTORS.files if name.startswith(f"{label}/")}
    state = {part: {name: v[f"{part}.{name}"] for name in ("kernel", "bias")} for part in ("ih", "hh")}
    x, h, c = (maps_first(v[name]).clone() for name in ("x", "h0", "c0"))
    output, (_, c_n) = flax.from_state_dict(state)(x, (h[None], c[None]))
    assert_close(output, maps_first(v["output"]))
    assert_close(c_n[0], maps_first(v["c"]))


def test_types_and_errors():
    kernels, biases, *_ = example("2d")
    single = [v.astype(np.float32) for v in (*kernels, biases[0])]
    assert keras.from_state_dict(single, batch_first=True).weight_ih_l0.dtype == torch.float32
    with pytest.raises(TypeError, match=r"recurrent_kernel: expected float16, float32 or float64, got int64"):
        keras.from_state_dict([kernels[0], kernels[1].astype(np.int64)])
    with pytest.raises(ValueError, match=r"state: expected a list of kernel, recurrent_kernel.*got 1"):
        keras.from_state_dict(kernels[:1])
    with pytest.raises(ValueError, match=r"state: expected a list.*got dict"):
        keras.from_state_dict({})
    with pytest.raises(ValueError, match=r"kernel: expected \(k,Cin,Cout\), \(kh,kw,Cin,Cout\) or .*\(3, 8\)"):
        keras.from_state_dict([np.zeros((3, 8)), kernels[1]])
    with pytest.raises(ValueError, match=r"expected odd kernel sizes.*\(2, 3\)"):
        keras.from_state_dict([np.zeros((2, 3, 3, 8)), np.zeros((2, 3, 2, 8))])
    with pytest.raises(ValueError, match=r"state: expected hh, got \['ih'\]"):
        flax.from_state_dict({"ih": {"kernel": kernels[0]}})
    with pytest.raises(ValueError, match=r"state: expected hh / kernel, got \[\]"):
        flax.from_state_dict({"ih": {"kernel": kernels[0]}, "hh": {}})
    with pytest.raises(ValueError, match=r"bias beside hh / kernel: expected \(8,\), got shape \(1,\)"):
        flax.from_state_dict({"ih": {"kernel": kernels[0]}, "hh": {"kernel": kernels[1], "bias": np.zeros(1)}})
    with pytest.raises(ValueError, match=r"one key that ends with 'input_to_hidden', got \['a'\]"):
        haiku.from_state_dict({"a": 1})
    with pytest.raises(ValueError, match=r"state: expected kernels over equally many dimensions, got 2 and 1"):
        keras.from_state_dict([kernels[0], kernels[1][0]])
    with pytest.raises(ValueError, match=r"layer: expected num_layers=1.*got 2"):
        flax.to_state_dict(fastrcn.ConvLSTM(3, 2, num_layers=2))
    with pytest.raises(TypeError, match=r"layer: expected a fastrcn.ConvLSTM, ConvLSTM1d or ConvLSTM3d, got ConvGRU"):
        keras.to_state_dict(fastrcn.ConvGRU(3, 2))


@pytest.mark.parametrize("rank", KERNELS)
def test_keras_without_padding(rank):
    kernels, biases, x, h, c = example(rank)
    cut = tuple(slice(k - 1, None) for k in KERNELS[rank])
    h, c = (state[(slice(None), *cut)] for state in (h, c))
    expected, _, _ = loop("ifgo", 0.0, kernels, biases[0] + biases[1], x, h, c, valid)
    layer = keras.from_state_dict([*kernels, biases[0] + biases[1]], padding="valid")
    found, _ = layer(first(x, 2), (first(h, 1)[None], first(c, 1)[None]))
    assert_close(found, first(expected, 2), "output", torch.float64)
