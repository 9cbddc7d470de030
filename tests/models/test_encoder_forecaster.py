"""Published parameter counts, shapes, the unrolled equations, and that it learns."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import fastrcn
from fastrcn.models import EncoderForecaster
from tests.helpers import loops
from tests.helpers.tolerances import assert_close


@pytest.mark.parametrize(
    ("hidden", "kernel", "recurrent", "count"),
    [
        ((256,), 5, None, 13_524_496),
        ((128, 128), 5, None, 10_042_896),
        ((128, 64, 64), 5, None, 7_585_296),
        ((128, 128), 9, 1, 11_550_224),
        ((128, 64, 64), 9, 1, 8_830_480),
    ],
)
@pytest.mark.parametrize("order", ["reversed", "same"])
def test_published_parameter_counts(hidden, kernel, recurrent, count, order):
    with torch.device("meta"):
        net = EncoderForecaster(1, hidden, kernel, recurrent_kernel_size=recurrent, order=order)
    assert sum(p.numel() for p in net.parameters()) == count


@pytest.mark.parametrize("layer", [fastrcn.ConvLSTM, fastrcn.ConvGRU, fastrcn.ConvRNN])
@pytest.mark.parametrize("output", ["sigmoid", "linear", "residual"])
def test_shapes_and_gradients(layer, output):
    net = EncoderForecaster(2, (4, 3), 3, patch=2, layer=layer, output=output)
    frames = torch.rand(2, 3, 2, 8, 6)
    future = net(frames, 5)
    assert future.shape == (2, 5, 2, 8, 6)
    future.square().mean().backward()
    assert all(p.grad is not None for p in net.parameters())


@pytest.mark.parametrize("order", ["reversed", "same"])
def test_equals_manual_unroll(order):
    net = EncoderForecaster(1, (3, 3), 3, patch=2, order=order).double()
    for p in net.parameters():
        nn.init.uniform_(p, -0.4, 0.4)
    frames = torch.rand(2, 3, 1, 6, 4, dtype=torch.float64)
    x, states = F.pixel_unshuffle(frames, 2).transpose(0, 1), []
    zero = torch.zeros(2, 3, 3, 2, dtype=torch.float64)

    def parameters(layer):
        return {n.removesuffix("_l0"): p for n, p in layer.named_parameters()}

    for layer in net.encoder:
        x, last = loops.run(loops.lstm_step, parameters(layer), x, (zero, zero))
        states.append(last)
    if order == "reversed":
        states.reverse()
    hidden = []
    for k, (layer, state) in enumerate(zip(net.forecaster, states, strict=True)):
        p = parameters(layer)
        if k == 0:
            x = torch.zeros(4, 2, 1, 3, 2, dtype=torch.float64)
            p["weight_ih"] = torch.zeros(12, 1, 3, 3, dtype=torch.float64)
        x, _ = loops.run(loops.lstm_step, p, x, state)
        hidden.append(x)
    maps = F.conv2d(torch.cat(hidden, 2).flatten(0, 1), net.head.weight, net.head.bias)
    truth = torch.sigmoid(F.pixel_shuffle(maps, 2).view(4, 2, 1, 6, 4)).transpose(0, 1)
    assert_close(net(frames, 4), truth)


def test_zero_weights_give_constant_output():
    net = EncoderForecaster(1, (3,), 3, patch=2)
    for p in net.parameters():
        nn.init.zeros_(p)
    assert (net(torch.rand(1, 2, 1, 4, 4), 6) == 0.5).all()


def test_fused_equals_reference():
    net = EncoderForecaster(1, (5, 4), 3, patch=2).double()
    frames = torch.rand(2, 4, 1, 8, 8, dtype=torch.float64)
    found = {}
    for name in ("reference", "cpu"):
        with fastrcn.use_backend(name):
            future = net(frames, 3)
        found[name] = [future, *torch.autograd.grad(future.square().sum(), list(net.parameters()))]
    for a, b in zip(found["cpu"], found["reference"], strict=True):
        assert_close(a, b)


@pytest.mark.slow
def test_overfits_one_sequence():
    y, x = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
    clip = torch.stack([torch.exp(-((x - 3 - t) ** 2 + (y - 4 - t) ** 2) / 4) for t in range(8)])[None, :, None]
    net = EncoderForecaster(1, (16,), 3, patch=2, output="residual")
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(150):
        optimizer.zero_grad()
        loss = F.mse_loss(net(clip[:, :4], 4), clip[:, 4:])
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1 * float(F.mse_loss(clip[:, 3:4].expand_as(clip[:, 4:]), clip[:, 4:]))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: EncoderForecaster(order="up"), "order"),
        (lambda: EncoderForecaster(output="tanh"), "output"),
        (lambda: EncoderForecaster(hidden_sizes=()), "hidden_sizes"),
        (lambda: EncoderForecaster(1, (2,), 3)(torch.rand(1, 2, 1, 6, 8), 2), "multiples of 4"),
        (lambda: EncoderForecaster(1, (2,), 3)(torch.rand(2, 1, 8, 8), 2), r"\(B,T,C,H,W\)"),
        (lambda: EncoderForecaster(1, (2,), 3)(torch.rand(1, 2, 1, 8, 8), 0), "horizon"),
    ],
)
def test_errors(make, words):
    with pytest.raises(ValueError, match=words):
        make()
