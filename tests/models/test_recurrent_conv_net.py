"""The recurrent convolutional network: against torch.nn.RNN, framewise convolutions, finite differences, a loop."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fastrcn.models import RecurrentConvNet
from tests.helpers.tolerances import assert_close


def test_maps_of_one_pixel_equal_torch_nn():
    net = RecurrentConvNet(4, 3, (5, 5), 1).double()
    theirs = nn.RNN(3, 5, 2, batch_first=True).double()
    for k, layer in enumerate(net.layers):
        p = {n: getattr(theirs, f"{n}_l{k}") for n in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}
        layer.load_state_dict(
            {
                "weight_ih_l0": p["weight_ih"][..., None, None],
                "weight_hh_l0": p["weight_hh"][..., None, None],
                "bias_l0": p["bias_ih"] + p["bias_hh"],
            }
        )
    x = torch.randn(2, 6, 3, dtype=torch.float64)
    truth, _ = theirs(x)
    frames = x[..., None, None]
    assert_close(net.maps(frames)[-1][..., 0, 0], truth)
    assert_close(net(frames), F.linear(truth[:, -1], net.classifier.weight, net.classifier.bias))


def test_without_recurrence_each_frame_is_convolved_alone():
    net = RecurrentConvNet(4, 2, (5, 3)).double()
    for layer in net.layers:
        nn.init.zeros_(layer.weight_hh_l0)
    frames = torch.randn(2, 3, 2, 5, 6, dtype=torch.float64)
    x = frames.flatten(0, 1)
    for layer, found in zip(net.layers, net.maps(frames), strict=True):
        x = torch.tanh(F.conv2d(x, layer.weight_ih_l0, layer.bias_l0, padding=1))
        assert_close(found.flatten(0, 1), x)


@pytest.mark.parametrize("bias", [True, False])
def test_equals_a_loop_over_layers_and_steps(bias):
    net = RecurrentConvNet(4, 2, (5, 3), bias=bias).double()
    frames = torch.randn(2, 4, 2, 5, 6, dtype=torch.float64)
    below = [frames[:, t] for t in range(4)]
    for layer, found in zip(net.layers, net.maps(frames), strict=True):
        b = layer.bias_l0 if bias else None
        h = torch.zeros(2, layer.hidden_size, 5, 6, dtype=torch.float64)
        states = []
        for x in below:
            h = torch.tanh(F.conv2d(h, layer.weight_hh_l0, padding=1) + F.conv2d(x, layer.weight_ih_l0, b, padding=1))
            states.append(h)
        assert_close(found, torch.stack(states, 1))
        below = states
    truth = below[-1].mean((2, 3)) @ net.classifier.weight.T + net.classifier.bias
    assert_close(net(frames), truth)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_gradients_against_finite_differences(backend):
    net = RecurrentConvNet(2, 1, (2, 1), backend=backend).double()
    frames = torch.randn(1, 2, 1, 3, 3, dtype=torch.float64, requires_grad=True)
    names, values = zip(*net.named_parameters(), strict=True)

    def run(frames, *values):
        return torch.func.functional_call(net, dict(zip(names, values, strict=True)), (frames,))

    assert torch.autograd.gradcheck(run, (frames, *values))


@pytest.mark.parametrize("bias", [True, False])
def test_counts(bias):
    net = RecurrentConvNet(7, 3, (8, 6, 4), 5, bias=bias)
    cells = sum(25 * c * (i + c) + bias * c for i, c in ((3, 8), (8, 6), (6, 4)))
    assert sum(p.numel() for p in net.parameters()) == cells + 4 * 7 + 7


def test_shapes():
    net = RecurrentConvNet()
    frames = torch.randn(2, 3, 3, 8, 9)
    assert [tuple(m.shape) for m in net.maps(frames)] == [(2, 3, 64, 8, 9)] * 2
    assert net(frames).shape == (2, 101)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: RecurrentConvNet(hidden_sizes=()), "hidden_sizes: expected at least one layer"),
        (lambda: RecurrentConvNet(kernel_size=2), "kernel_size"),
        (lambda: RecurrentConvNet(4, 2, (3,))(torch.zeros(2, 2, 4, 4)), r"frames: expected \(N,T,C,H,W\)"),
        (lambda: RecurrentConvNet(4, 2, (3,))(torch.zeros(1, 2, 3, 4, 4)), "input: expected 2 channels, got 3"),
    ],
)
def test_errors(make, words):
    with pytest.raises(ValueError, match=words):
        make()
