"""More encoder-forecasters: the named nets of the tables, the fully connected one, the one with several map sizes."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fastrcn import models
from fastrcn.data import moving_digits
from fastrcn.models import ConvGRUForecaster, EncoderForecaster, FCLSTMForecaster, frame_cross_entropy
from tests.helpers import loops
from tests.helpers.tolerances import assert_close


def spread_out(net):
    for p in net.parameters():
        nn.init.uniform_(p, -0.4, 0.4)
    return net.double()


def parameters(layer):
    return {n.removesuffix("_l0"): p for n, p in layer.named_parameters()}


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("fc_lstm_forecaster", 142_667_776),
        ("conv_lstm_moving_mnist_256", 13_524_496),
        ("conv_lstm_moving_mnist_128_128", 10_042_896),
        ("conv_lstm_moving_mnist_128_64_64", 7_585_296),
        ("conv_lstm_moving_mnist_128_128_state_1x1", 11_550_224),
        ("conv_lstm_moving_mnist_128_64_64_state_1x1", 8_830_480),
        ("encoder_forecaster", 7_585_296),
    ],
)
def test_published_parameter_counts(name, count):
    with torch.device("meta"):
        net = models.create(name)
        same = models.create(name, order="same")
        future = net(torch.empty(2, 3, 1, 64, 64), 4)
    assert sum(p.numel() for p in net.parameters()) == count
    assert sum(p.numel() for p in same.parameters()) == count
    assert future.shape == (2, 4, 1, 64, 64)


def test_radar_net():
    with torch.device("meta"):
        net = models.create("conv_lstm_radar")
        future = net(torch.empty(1, 5, 1, 100, 100), 15)
    assert isinstance(net, EncoderForecaster)
    assert [tuple(layer.weight_ih_l0.shape) for layer in net.encoder] == [(256, 4, 3, 3), (256, 64, 3, 3)]
    assert future.shape == (1, 15, 1, 100, 100)


def test_cross_entropy_is_summed_over_pixels_and_frames():
    predicted, frames = torch.full((2, 3, 1, 2, 2), 0.25), torch.zeros(2, 3, 1, 2, 2)
    frames[0] = 1  # of 12 pixels each: log 4 where the frame is 1, log 4/3 where it is 0
    truth = 12 * (torch.tensor(4.0).log() + torch.tensor(4 / 3).log()) / 2
    assert_close(frame_cross_entropy(predicted, frames), truth)
    with pytest.raises(ValueError, match="predicted, frames: expected one shape"):
        frame_cross_entropy(predicted, frames[:, 1:])


@pytest.mark.parametrize("order", ["reversed", "same"])
@pytest.mark.parametrize("peephole", ["channel", None])
def test_fc_lstm_equals_manual_unroll(order, peephole):
    net = spread_out(FCLSTMForecaster((2, 2, 3), (4, 4), order=order, peephole=peephole))
    frames = torch.rand(3, 5, 2, 2, 3, dtype=torch.float64)

    def run(layer, x, state):
        p = {n: v[..., None, None] if v.dim() == 2 else v for n, v in parameters(layer).items()}
        if p["weight_ih"].shape[1] == 0:
            p["weight_ih"], x = torch.zeros(16, 1, 1, 1, dtype=x.dtype), torch.zeros(len(x), 3, 1, 1, 1, dtype=x.dtype)
        return loops.run(loops.lstm_step, p, x, state)

    x, states = frames.flatten(2).transpose(0, 1)[..., None, None], []
    zero = torch.zeros(3, 4, 1, 1, dtype=torch.float64)
    for layer in net.encoder:
        x, last = run(layer, x, (zero, zero))
        states.append(last)
    x = x.new_zeros(6, 3, 0, 1, 1)
    for layer, state in zip(net.forecaster, states[::-1] if order == "reversed" else states, strict=True):
        x, _ = run(layer, x, state)
    truth = torch.sigmoid(F.linear(x[..., 0, 0], net.head.weight, net.head.bias)).view(6, 3, 2, 2, 3).transpose(0, 1)
    assert_close(net(frames, 6), truth)


def test_order_matters_for_fc_lstm_of_equal_widths():
    nets = [FCLSTMForecaster((1, 2, 2), (3, 3), order=order) for order in ("reversed", "same")]
    nets[1].load_state_dict(nets[0].state_dict())
    frames = torch.rand(1, 4, 1, 2, 2)
    assert (nets[0](frames, 2) - nets[1](frames, 2)).abs().max() > 1e-4


def test_conv_gru_equals_manual_unroll():
    net = spread_out(ConvGRUForecaster(1, (3, 2, 4), recurrent_kernel_size=5, stem=2, slope=0.2))
    frames = torch.rand(2, 4, 1, 8, 12, dtype=torch.float64)

    def leaky(x):
        return torch.where(x > 0, x, 0.2 * x)

    def gru(layer, x, h):
        (h,) = loops.gru_step(parameters(layer), x, (h,), reset="after")
        return h

    sizes = [(3, 8, 12), (2, 4, 6), (4, 2, 3)]
    states = [torch.zeros(2, *size, dtype=torch.float64) for size in sizes]
    for t in range(4):  # all levels inside each step
        x = frames[:, t]
        for k, layer in enumerate(net.encoder):
            conv = net.down[k][0]
            states[k] = x = gru(layer, leaky(F.conv2d(x, conv.weight, conv.bias, 2 if k else 1, 1)), states[k])
    future = []
    for _ in range(3):
        x = None
        for k, layer in zip((2, 1, 0), net.forecaster, strict=True):
            if x is None:  # nothing comes in at the top: an input of zeros
                p = {**parameters(layer), "weight_ih": torch.zeros(12, 1, 3, 3, dtype=torch.float64)}
                empty = torch.zeros(2, 1, 2, 3, dtype=torch.float64)
                (states[k],) = loops.gru_step(p, empty, (states[k],), reset="after")
            else:
                states[k] = gru(layer, x, states[k])
            x = leaky(F.conv_transpose2d(states[k], net.up[2 - k][0].weight, stride=2 if k else 1, padding=1))
        x = leaky(F.conv2d(x, net.head[0].weight, net.head[0].bias, padding=1))
        future.append(F.conv2d(x, net.head[2].weight, net.head[2].bias))
    assert_close(net(frames, 3), torch.stack(future, 1))


def test_conv_gru_parameters_and_shapes_of_the_papers_code():
    with torch.device("meta"):
        net = ConvGRUForecaster()
        future = net(torch.empty(2, 3, 1, 64, 64), 5)
    assert future.shape == (2, 5, 1, 64, 64)

    def gru(inputs, size):
        return 3 * size * (9 * inputs + 25 * size) + 4 * size

    encoder = gru(16, 64) + 2 * gru(96, 96) + (9 * 1 + 1) * 16 + (9 * 64 + 1) * 96 + (9 * 96 + 1) * 96
    forecaster = gru(0, 96) + gru(96, 96) + gru(96, 64) + 2 * 16 * 96 * 96 + 9 * 64 * 16
    assert sum(p.numel() for p in net.parameters()) == encoder + forecaster + (9 * 16 + 1) * 16 + 16 + 1


@pytest.mark.parametrize("make", [lambda: FCLSTMForecaster((1, 4, 4), (3,)), lambda: ConvGRUForecaster(1, (3, 2))])
def test_zero_weights_give_constant_output(make):
    net = make()
    for p in net.parameters():
        nn.init.zeros_(p)
    future = net(torch.rand(1, 2, 1, 4, 4), 6)
    assert future.shape == (1, 6, 1, 4, 4)
    assert (future == (0.5 if isinstance(net, FCLSTMForecaster) else 0.0)).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "loss_of", "rate", "steps"),
    [
        (lambda: EncoderForecaster(1, (64,), 3, patch=4), frame_cross_entropy, 2e-2, 300),
        (lambda: FCLSTMForecaster((1, 32, 32), (64, 64)), frame_cross_entropy, 1e-2, 100),
        (lambda: ConvGRUForecaster(1, (8, 12), recurrent_kernel_size=3, stem=8), F.mse_loss, 1e-2, 120),
    ],
    ids=["conv_lstm", "fc_lstm", "conv_gru"],
)
def test_overfits_one_sequence_of_moving_digits(make, loss_of, rate, steps, one_thread):
    clip = moving_digits(1, 6, 32)
    past, future = clip[:, :3], clip[:, 3:]
    net = make()
    optimizer = torch.optim.Adam(net.parameters(), rate)
    for _ in range(steps):
        optimizer.zero_grad()
        loss_of(net(past, 3), future).backward()
        optimizer.step()
    with torch.no_grad():
        error = F.mse_loss(net(past, 3), future)
    assert error < 0.1 * F.mse_loss(past[:, -1:].expand_as(future), future)  # against repeating the last frame


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: FCLSTMForecaster(order="up"), "order"),
        (lambda: FCLSTMForecaster((1, 4)), "frame: expected channels, height and width"),
        (lambda: FCLSTMForecaster(hidden_sizes=()), "hidden_sizes"),
        (lambda: FCLSTMForecaster((1, 4, 4), (3,), peephole="map"), "peephole"),
        (lambda: FCLSTMForecaster((1, 4, 4), (3,))(torch.rand(1, 2, 1, 4, 5), 1), r"frames: expected \(B,T,"),
        (lambda: FCLSTMForecaster((1, 4, 4), (3,))(torch.rand(1, 0, 1, 4, 4), 1), "T at least 1"),
        (lambda: FCLSTMForecaster((1, 4, 4), (3,))(torch.rand(1, 2, 1, 4, 4), 0), "horizon"),
        (lambda: ConvGRUForecaster(hidden_sizes=()), "hidden_sizes"),
        (lambda: ConvGRUForecaster(1, (2, 2))(torch.rand(1, 2, 1, 4, 5), 1), "multiples of 2"),
        (lambda: ConvGRUForecaster(1, (2, 2))(torch.rand(1, 2, 3, 4, 4), 1), r"frames: expected \(B,T,1,H,W\)"),
        (lambda: ConvGRUForecaster(1, (2, 2))(torch.rand(1, 2, 1, 4, 4), 0), "horizon"),
    ],
)
def test_errors(make, words):
    with pytest.raises(ValueError, match=words):
        make()
