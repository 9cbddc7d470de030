"""fastrcn.interop.keras.from_layer: configurations of Keras' layers against the loop of their conventions."""

import numpy as np
import pytest
import torch

import fastrcn
from fastrcn import cells
from fastrcn.interop import keras
from tests.helpers.tolerances import assert_close
from tests.interop.test_channels_last import HIDDEN, KERNELS, KINDS, example, first, loop, same, valid

pytestmark = pytest.mark.usefixtures("one_thread")


def config(rank, **options):
    """What get_config of Keras 3.15 gives, without the initializers' contents."""
    n = len(KERNELS[rank])
    return {
        "name": f"conv_lstm{rank}", "trainable": True,
        "dtype": {"class_name": "DTypePolicy", "config": {"name": "float64"}},
        "return_sequences": False, "return_state": False, "go_backwards": False, "stateful": False, "unroll": False,
        "zero_output_for_mask": False, "filters": HIDDEN, "kernel_size": list(KERNELS[rank]), "strides": [1] * n,
        "padding": "valid", "data_format": "channels_last", "dilation_rate": [1] * n, "activation": "tanh",
        "recurrent_activation": "sigmoid", "use_bias": True, "kernel_initializer": {}, "recurrent_initializer": {},
        "bias_initializer": {}, "unit_forget_bias": True, "kernel_regularizer": None, "recurrent_regularizer": None,
        "bias_regularizer": None, "activity_regularizer": None, "kernel_constraint": None, "recurrent_constraint": None,
        "bias_constraint": None, "dropout": 0.0, "recurrent_dropout": 0.0, "seed": None,
    } | options  # fmt: skip


OPTIONS = {
    "as it is": ({}, valid),
    "same": ({"padding": "same"}, same),
    "strides": ({"strides": 2}, lambda x, kernel: valid(x, kernel, stride=2)),
    "dilation": ({"dilation_rate": 2}, lambda x, kernel: valid(x, kernel, dilation=2)),
    "without bias": ({"use_bias": False}, valid),
}


@pytest.mark.parametrize("rank", KERNELS)
@pytest.mark.parametrize("name", OPTIONS)
def test_options(name, rank):
    options, convolve = OPTIONS[name]
    n = len(KERNELS[rank])
    lists = {key: [v] * n if type(v) is int else v for key, v in options.items()}
    kernels, biases, *_ = example(rank)
    bias = biases[0] if "use_bias" not in options else np.zeros_like(biases[0])
    x = np.random.default_rng(0).standard_normal((3, 2, *((9, 8, 11)[-n:]), 3))
    state = np.zeros_like(convolve(x[0], kernels[0])[..., :HIDDEN])
    truth, h, c = loop("ifgo", 0.0, kernels, bias, x, state, state, convolve)
    weights = kernels if "use_bias" in options else [*kernels, bias]
    layer = keras.from_layer(config(rank, **lists), weights)
    assert type(layer) is KINDS[rank]
    output, (h_n, c_n) = layer(first(np.moveaxis(x, 1, 0), 2))
    assert_close(output, first(np.moveaxis(truth, 1, 0), 2))
    assert_close(h_n[0], first(h, 1))
    assert_close(c_n[0], first(c, 1))


def test_defaults_and_training():
    kernels, biases, *_ = example("2d")
    sizes = {"filters": HIDDEN, "kernel_size": (3, 5), "recurrent_activation": "sigmoid"}
    layer = keras.from_layer(sizes | {"return_sequences": True, "data_format": "channels_first"}, [*kernels, biases[0]])
    assert layer.batch_first
    assert layer(torch.zeros(1, 2, 3, 5, 6, dtype=torch.float64))[0].shape == (1, 2, HIDDEN, 3, 2)
    assert all(p.requires_grad for p in layer.parameters())
    frozen = keras.from_layer(sizes | {"trainable": False}, [*kernels, biases[0]])
    assert not any(p.requires_grad for p in frozen.parameters())


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("activation", "relu", r"activation: expected 'tanh', got 'relu'; a fastrcn.cells.Cell of your own"),
        ("recurrent_activation", "relu", r"recurrent_activation: expected 'sigmoid' or 'hard_sigmoid', got 'relu'; a"),
        ("recurrent_activation", "hard_sigmoid", r"keras_version: expected 2 or 3 for .*'hard_sigmoid'.*got None"),
        ("go_backwards", True, r"go_backwards: expected False, got True; flip the input"),
        ("stateful", True, r"stateful: expected False, got True; hand the last states"),
        ("zero_output_for_mask", True, r"zero_output_for_mask: expected False, got True; call the layer with lengths"),
        ("dropout", 0.5, r"dropout: expected 0, got 0.5; drop units of the input"),
        ("recurrent_dropout", 0.5, r"recurrent_dropout: expected 0, got 0.5; Keras has a mask per gate"),
        ("bias_constraint", {"class_name": "NonNeg"}, r"bias_constraint: expected None, got \{'class_name'"),
        ("activity_regularizer", "l2", r"activity_regularizer: expected None, got 'l2'"),
        ("groups", 2, r"config: expected the options of ConvLSTM1D, 2D or 3D, got groups too"),
        (
            "filters",
            3,
            r"weights: expected filters, kernel_size, use_bias \(3, \(3, 5\), True\).*got \(2, \(3, 5\), True\)",
        ),
        ("kernel_size", (5, 3), r"weights: expected filters, kernel_size, use_bias \(2, \(5, 3\), True\)"),
        ("use_bias", False, r"weights: expected filters, kernel_size, use_bias \(2, \(3, 5\), False\)"),
        ("padding", "causal", r'padding: expected "same", "valid"'),
    ],
)
def test_what_would_compute_something_else(option, value, message):
    kernels, biases, *_ = example("2d")
    with pytest.raises(ValueError, match=message):
        keras.from_layer(config("2d", **{option: value}), [*kernels, biases[0]])


def test_errors():
    kernels = example("2d")[0]
    with pytest.raises(ValueError, match=r'padding: expected "valid" with strides \(1, 2\), got "same".*unevenly'):
        keras.from_layer(config("2d", strides=[1, 2], padding="same"), kernels)
    with pytest.raises(TypeError, match=r"config: expected a dict.*got list"):
        keras.from_layer([], kernels)
    with pytest.raises(ValueError, match=r"config: expected kernel_size and recurrent_activation, got \['filters'\]"):
        keras.from_layer({"filters": 2}, kernels)
    with pytest.raises(ValueError, match=r"state: expected a list of kernel, recurrent_kernel"):
        keras.from_layer(config("2d"), kernels[:1])


@pytest.mark.parametrize("rank", KERNELS)
@pytest.mark.parametrize(("version", "slope"), [(2, 0.2), (3, 1 / 6)])
def test_hard_sigmoid(rank, version, slope, monkeypatch):
    kernels, biases, x, h, c = example(rank)
    weights = [*(2 * k for k in kernels), biases[0]]  # so that both ends are reached
    monkeypatch.setitem(loop.__globals__, "sigmoid", lambda a: np.clip(slope * a + 0.5, 0, 1))
    truth, _, _ = loop("ifgo", 0.0, weights[:2], biases[0], x, h, c)
    options = config(rank, padding="same", recurrent_activation="hard_sigmoid")
    layer = keras.from_layer(options, weights, keras_version=version)
    hx = (first(h, 1)[None], first(c, 1)[None])
    for backend in ("cpu", "reference"):
        with fastrcn.use_backend(backend):
            output, _ = layer(first(np.moveaxis(x, 1, 0), 2), hx)
        assert_close(output, first(np.moveaxis(truth, 1, 0), 2))
    assert all(np.array_equal(a, b) for a, b in zip(keras.to_state_dict(layer), weights, strict=True))


def test_hard_sigmoid_goes_back():
    kernels = example("2d")[0]
    options = {"strides": 2, "dilation_rate": [1, 2], "use_bias": False, "recurrent_activation": "hard_sigmoid"}
    layer = keras.from_layer(config("2d", **options), kernels, keras_version=2)
    assert repr(layer).startswith(
        "ConvRecurrent(fastrcn.cells.conv_lstm.HardSigmoidConvLSTM(slope=0.2), 3, 2, kernel_size=(3, 5), bias=False, "
    )
    assert all(np.array_equal(a, b) for a, b in zip(keras.to_state_dict(layer), kernels, strict=True))
    hard = cells.HardSigmoidConvLSTM(0.2)
    for options, message in [
        ({"num_layers": 2}, r"layer: expected num_layers=1.*got 2"),
        ({"bidirectional": True}, r"layer: expected bidirectional=False"),
        ({"padding": 1}, r'layer: expected padding "same" or "valid".*got \(1, 1\)'),
        ({"stride": 2}, r'layer: expected padding "valid" with stride \(2, 2\)'),
        ({"recurrent_kernel_size": 5}, r"layer: expected recurrent_kernel_size=\(3, 3\)"),
    ]:
        with pytest.raises(ValueError, match=message):
            keras.to_state_dict(fastrcn.ConvRecurrent(hard, 2, 3, **options))
    for other in (fastrcn.ConvRecurrent(cells.ConvLSTM(), 2, 3), fastrcn.ConvRecurrentCell(hard, 2, 3)):
        with pytest.raises(TypeError, match=r"layer: expected .* ConvLSTM3d, got ConvRecurrent"):
            keras.to_state_dict(other)


@pytest.mark.parametrize("rank", ["1d", "2d"])
def test_ints_in_place_of_lists(rank):
    n = len(KERNELS[rank])
    weights = [np.random.default_rng(0).standard_normal((*[3] * n, c, 8)) for c in (3, HIDDEN)]
    names = ("kernel_size", "strides", "dilation_rate")
    for ints in ({"kernel_size": 3, "strides": 2}, {"kernel_size": 3, "dilation_rate": 2}):
        ints = config(rank, use_bias=False) | dict.fromkeys(names[1:], 1) | ints
        short, long = (keras.from_layer(c, weights) for c in (ints, ints | {name: [ints[name]] * n for name in names}))
        assert repr(short) == repr(long)
        options = {name: getattr(short, name) for name in ("kernel_size", "stride", "dilation")}
        assert {name: value[-n:] for name, value in options.items()} == dict(
            zip(options, [(ints[name],) * n for name in names], strict=True)
        )
    for name in names:
        for value in (0, "3", [1] * (n + 1), None):
            with pytest.raises(ValueError, match=rf"^{name}: expected a positive int or a .* of them, got"):
                keras.from_layer(config(rank, use_bias=False, **{name: value}), weights)
