"""Bad input raises an error that names the argument, what was expected and what came."""

import pytest
import torch

import fastrcn
from fastrcn import cells
from fastrcn.functional import conv_gru, conv_lstm, conv_recurrent

X = torch.randn(3, 2, 2, 4, 5)


def lstm_weights():
    return torch.randn(12, 2, 3, 3), torch.randn(12, 3, 3, 3), torch.randn(12)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"kernel_size": 4}, ["kernel_size", "odd", "4"]),
        ({"recurrent_kernel_size": (3, 2)}, ["recurrent_kernel_size", "odd", "2"]),
        ({"kernel_size": 0}, ["kernel_size", "positive", "0"]),
        ({"kernel_size": (1, 2, 3)}, ["kernel_size", "pair"]),
        ({"hidden_size": 0}, ["hidden_size", "positive", "0"]),
        ({"hidden_size": 2.5}, ["hidden_size", "positive", "2.5"]),
        ({"input_size": -1}, ["input_size", "-1"]),
        ({"num_layers": 0}, ["num_layers", "positive", "0"]),
        ({"stride": 0}, ["stride", "positive", "0"]),
        ({"dilation": -1}, ["dilation", "positive", "-1"]),
        ({"dropout": 1.5}, ["dropout", "0 to 1", "1.5"]),
        ({"dropout": True}, ["dropout", "True"]),
        ({"peephole": "diagonal"}, ["peephole", "channel", "full", "diagonal"]),
        ({"peephole": "full"}, ["map_size", "None"]),
        ({"backend": "cudnn"}, ["backend", "reference", "cpu", "cudnn"]),
    ],
)
def test_constructor(options, words):
    arguments = {"input_size": 2, "hidden_size": 3} | options
    with pytest.raises(ValueError) as error:
        fastrcn.ConvLSTM(**arguments)
    assert all(word in str(error.value) for word in words), error.value


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: fastrcn.ConvGRU(2, 3, reset="later"), ["reset", "before", "after", "later"]),
        (lambda: fastrcn.ConvRNN(2, 3, nonlinearity="gelu"), ["nonlinearity", "tanh", "relu", "gelu"]),
        (lambda: fastrcn.ConvRecurrent(cells.ConvGRU(), 2, 3, peephole="channel"), ["peephole", "0", "channel"]),
        (lambda: fastrcn.StackedConvGRU(2, 3), ["input_size", "below"]),
        (lambda: fastrcn.StackedConvGRU((2, 4), 3, num_layers=2), ["num_layers", "below", "2"]),
        (lambda: fastrcn.LSTM(2, 3, peephole="conv"), ["peephole", "channel", "full", "conv"]),
        (lambda: conv_gru(X, *lstm_weights(), reset="never"), ["reset", "never"]),
    ],
)
def test_other_constructors(make, words):
    with pytest.raises(ValueError) as error:
        make()
    assert all(word in str(error.value) for word in words), error.value


def test_maps_options_of_vector_layers():
    with pytest.raises(TypeError, match="stride"):
        fastrcn.LSTM(2, 3, stride=2)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((torch.randn(2, 4, 5),), ["input", "T,B,C,H,W", "(2, 4, 5)"]),
        ((torch.randn(3, 2, 5, 4, 5),), ["input", "2 channels", "5"]),
        ((torch.randn(0, 2, 2, 4, 5),), ["input", "at least one step", "(0, 2, 2, 4, 5)"]),
        ((X, torch.randn(1, 2, 3, 4, 5)), ["hx", "2 states", "1"]),
        ((X, (torch.randn(1, 2, 3, 4, 5), torch.randn(2, 3, 4, 5))), ["hx (c)", "(1, 2, 3, 4, 5)", "(2, 3, 4, 5)"]),
        ((X, (torch.randn(1, 2, 3, 4, 4), torch.randn(1, 2, 3, 4, 5))), ["hx (h)", "(1, 2, 3, 4, 4)"]),
        (("video",), ["input", "str"]),
    ],
)
def test_forward(arguments, words):
    with pytest.raises((ValueError, TypeError)) as error:
        fastrcn.ConvLSTM(2, 3)(*arguments)
    assert all(word in str(error.value) for word in words), error.value


@pytest.mark.parametrize(
    ("lengths", "kind", "words"),
    [
        ([4, 1], ValueError, ["lengths", "0 to 3", "4"]),
        ([-1, 1], ValueError, ["lengths", "-1"]),
        ([1], ValueError, ["lengths", "(2,)", "(1,)"]),
        (torch.tensor([1.0, 2.0]), TypeError, ["lengths", "whole", "float32"]),
        (torch.tensor([True, False]), TypeError, ["lengths", "whole", "bool"]),
    ],
)
def test_lengths(lengths, kind, words):
    with pytest.raises(kind) as error:
        fastrcn.ConvLSTM(2, 3)(X, lengths=lengths)
    assert all(word in str(error.value) for word in words), error.value


def test_lengths_of_unbatched_input():
    with pytest.raises(ValueError, match=r"lengths.*unbatched"):
        fastrcn.ConvLSTM(2, 3)(X[:, 0], lengths=[3])


def test_data_types():
    layer = fastrcn.ConvLSTM(2, 3)
    with pytest.raises(TypeError, match=r"weight_hh.*float64.*float32"):
        layer(X.double())
    with pytest.raises(TypeError, match=r"input.*floating.*int64"):
        layer(torch.ones(3, 2, 2, 4, 5, dtype=torch.int64))
    state = torch.zeros(1, 2, 3, 4, 5, dtype=torch.float64)
    with pytest.raises(TypeError, match=r"hx \(h\).*float32.*float64"):
        layer(X, (state, state))


def test_devices():
    layer = fastrcn.ConvLSTM(2, 3)
    with pytest.raises(RuntimeError, match=r"weight_hh.*meta.*cpu"):
        layer(X.to("meta"))


@pytest.mark.parametrize("option", ["peephole", "layer_norm"])
@pytest.mark.parametrize(
    ("make", "shape", "map_size", "came"),
    [
        (fastrcn.ConvLSTM, (3, 1, 2, 4, 5), (6, 6), "(4, 5), which gives (2, 3)"),
        (fastrcn.ConvLSTMCell, (2, 4, 5), (6, 6), "(4, 5), which gives (2, 3)"),
        (fastrcn.ConvLSTM1d, (3, 1, 2, 5), 4, "(5,), which gives (3,)"),
        (fastrcn.ConvLSTM3dCell, (1, 2, 2, 4, 5), (1, 2, 2), "(2, 4, 5), which gives (1, 2, 3)"),
    ],
)
def test_full_weights_on_another_map(make, shape, map_size, came, option):
    layer = make(2, 3, stride=2, map_size=map_size, **{option: "full"})
    expected = map_size if isinstance(map_size, tuple) else (map_size,)
    with pytest.raises(ValueError) as error:
        layer(torch.randn(shape))
    assert str(error.value) == (
        f'input: expected a map that gives the hidden map map_size={expected}, which {option}="full" is for, got {came}'
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"weight_ih": torch.randn(9, 2, 3, 3)}, ["weight_ih", "4*3", "(9, 2, 3, 3)"]),
        ({"weight_hh": torch.randn(12, 4, 3, 3)}, ["weight_hh", "4*4", "(12, 4, 3, 3)"]),
        ({"weight_hh": torch.randn(12, 3, 3)}, ["weight_hh", "4 dimensions", "(12, 3, 3)"]),
        ({"weight_hh": torch.randn(12, 3, 3, 2)}, ["weight_hh", "odd", "(3, 2)"]),
        ({"bias": torch.randn(9)}, ["bias", "4*3", "(9,)"]),
        ({"weight_ch": torch.randn(6)}, ["weight_ch", "(9,)", "(6,)"]),
        ({"stride": 0}, ["stride", "0"]),
        ({"dilation": (1, 2, 3)}, ["dilation", "(1, 2, 3)"]),
        ({"backend": "gpu"}, ["backend", "gpu"]),
    ],
)
def test_functional(change, words):
    weight_ih, weight_hh, bias = lstm_weights()
    arguments = {"weight_ih": weight_ih, "weight_hh": weight_hh, "bias": bias} | change
    with pytest.raises(ValueError) as error:
        conv_lstm(X, **arguments)
    assert all(word in str(error.value) for word in words), error.value


def test_missing_peepholes_and_inputs():
    weight_ih, weight_hh, bias = lstm_weights()
    with pytest.raises(ValueError, match=r"weight_ch.*none"):
        conv_recurrent(cells.ConvLSTM(True), X, weight_ih, weight_hh, bias)
    with pytest.raises(ValueError, match="expected 2 each"):
        conv_recurrent(cells.StackedConvGRU(), X, weight_ih, weight_hh, bias)
    layer = fastrcn.StackedConvGRU((2, 4), 3)
    with pytest.raises(ValueError, match=r"input below.*\(3, 2, 4, 4, 4\)"):
        layer((X, torch.randn(3, 2, 4, 4, 4)))


@pytest.mark.parametrize("cell", [fastrcn.cells.ConvLSTM, "lstm", None])
def test_what_is_no_cell(cell):
    """Such as the class of one."""
    message = r"cell: expected a fastrcn.cells.Cell, such as ConvLSTM\(\), got "
    tensors = torch.randn(2, 1, 2, 4, 4), torch.randn(12, 2, 3, 3), torch.randn(12, 3, 3, 3)
    with pytest.raises(TypeError, match=message):
        fastrcn.ConvRecurrent(cell, 2, 3)
    with pytest.raises(TypeError, match=message):
        conv_recurrent(cell, *tensors)
    with pytest.raises(TypeError, match=message):
        fastrcn.backends.explain("conv_recurrent", cell, *tensors)
