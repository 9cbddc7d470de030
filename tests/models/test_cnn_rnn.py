"""CNN and recurrent layer: the two outputs, frames and clips, lengths, a frozen CNN."""

import pytest
import torch
from torch import nn

import fastrcn
from fastrcn.models import CNNRNN


def small_cnn():
    return nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())


@pytest.mark.parametrize("rnn", ["lstm", "gru"])
@pytest.mark.parametrize("layers", [1, 2])
def test_many_to_one_is_the_last_step_of_many_to_many(rnn, layers):
    cnn = small_cnn()
    one = CNNRNN(4, cnn, 3, rnn=rnn, hidden_size=5, num_layers=layers).eval()
    many = CNNRNN(4, cnn, 3, rnn=rnn, hidden_size=5, num_layers=layers, output="many_to_many").eval()
    many.load_state_dict(one.state_dict())
    frames = torch.randn(2, 6, 2, 7, 7)
    steps = many(frames)
    assert steps.shape == (2, 6, 4)
    torch.testing.assert_close(one(frames), steps[:, -1])
    lengths = torch.tensor([4, 6])
    found = one(frames, lengths)
    torch.testing.assert_close(found[0], steps[0, 3])
    torch.testing.assert_close(found[1], steps[1, 5])
    torch.testing.assert_close(many(frames, lengths)[0, 4:], many.classifier.bias.expand(2, 4))


def test_steps_equal_the_cell_on_each_frames_features():
    net = CNNRNN(4, small_cnn(), 3, rnn="gru", hidden_size=5, output="many_to_many").eval()
    cell = fastrcn.GRUCell(3, 5)
    cell.load_state_dict({n.removesuffix("_l0"): v for n, v in net.rnn.state_dict().items()})
    frames, state = torch.randn(2, 3, 2, 7, 7), None
    for t in range(3):
        state = cell(net.cnn(frames[:, t]), state)
        torch.testing.assert_close(net(frames)[:, t], net.classifier(state))


def test_clips_of_a_3d_cnn():
    cnn = nn.Sequential(nn.Conv3d(2, 3, 3), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten())
    net = CNNRNN(4, cnn, 3, hidden_size=5, output="many_to_many")
    clips = torch.randn(2, 3, 2, 4, 6, 6)
    assert net(clips).shape == (2, 3, 4)
    torch.testing.assert_close(net(clips)[:1], net(clips[:1]))


@pytest.mark.parametrize("freeze", [False, True])
def test_frozen_cnn(freeze):
    net = CNNRNN(4, small_cnn(), 3, hidden_size=5, freeze_cnn=freeze).train()
    norm = net.cnn[1]
    assert net.training
    assert net.rnn.training
    assert norm.training is not freeze
    before = norm.running_mean.clone()
    for _ in range(2):
        net(torch.randn(2, 6, 2, 7, 7)).square().sum().backward()
    assert torch.equal(norm.running_mean, before) is freeze
    assert all((p.grad is None) is freeze for p in net.cnn.parameters())
    assert all(p.grad is not None for part in (net.rnn, net.classifier) for p in part.parameters())
    net.eval()
    assert not net.cnn.training
    net.train()
    assert net.cnn.training is not freeze


def test_frozen_cnn_still_lets_gradients_reach_the_frames():
    net = CNNRNN(4, small_cnn(), 3, hidden_size=5, freeze_cnn=True)
    frames = torch.randn(1, 2, 2, 7, 7, requires_grad=True)
    net(frames).sum().backward()
    assert frames.grad.abs().max() > 0


def test_default_cnn_at_its_size():
    with torch.device("meta"):
        net = CNNRNN()
        assert net(torch.empty(1, 3, 3, 224, 224)).shape == (1, 101)
        assert net.rnn.input_size == 4096


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: CNNRNN(rnn="rnn"), "rnn: expected one of lstm, gru, got 'rnn'"),
        (lambda: CNNRNN(output="one"), "output"),
        (lambda: CNNRNN(4, small_cnn()), "feature_size"),
        (lambda: CNNRNN(4, small_cnn(), 3, cnn_options={"width": 2}), "cnn_options"),
        (lambda: CNNRNN(4, None, 3), "feature_size"),
        (lambda: CNNRNN(4, small_cnn(), 3)(torch.zeros(2, 3, 4, 4)), r"frames: expected \(N,T,C,H,W\)"),
        (lambda: CNNRNN(4, nn.Flatten(), 3)(torch.zeros(1, 2, 2, 2, 2)), r"cnn: .*\(M,3\), got shape \(2, 8\)"),
        (lambda: CNNRNN(4, nn.Flatten(), 8).example_inputs(), "cnn"),
    ],
)
def test_errors(make, words):
    with pytest.raises(ValueError, match=words):
        make()
