"""LRCN: published sizes, what runs at each step, the average of predictions, markers, clips of a video."""

import pytest
import torch
from torch import nn

import fastrcn
from fastrcn import models
from fastrcn.models import LRCN
from fastrcn.models.lrcn import clip_starts

TINY = {"hidden_size": 6, "width": 6, "cnn_hidden": 16, "size": 67}


@pytest.mark.parametrize(("hidden", "expected"), [(256, 65_421_285), (1024, 82_016_997)])
def test_counts(hidden, expected):
    with torch.device("meta"):
        net = LRCN(hidden_size=hidden)
        assert sum(p.numel() for p in net.parameters()) == expected
        if hidden == 256:
            two_biases = nn.LSTM(4096, 256)
            ours = sum(p.numel() for p in net.lstm.parameters())
            assert expected - ours + sum(p.numel() for p in two_biases.parameters()) == 65_422_309


def test_shapes_at_the_papers_size():
    with torch.device("meta"):
        net = LRCN().eval()
        assert net(torch.empty(1, 16, 3, 227, 227)).shape == (1, 16, 101)
        assert net.predict(torch.empty(1, 16, 3, 227, 227)).shape == (1, 101)


def test_dropout_and_initial_weights_are_the_releases():
    net = LRCN(4, **TINY)
    assert [m.p for m in net.cnn.modules() if isinstance(m, nn.Dropout)] == [0.9]
    assert net.dropout.p == 0.5
    assert net.lstm.peephole is None
    for name, p in net.lstm.named_parameters():
        assert p.abs().max() <= 0.01, name
    assert net.lstm.bias_l0.abs().max() == 0


@pytest.mark.parametrize("backbone", ["hybrid", "caffenet"])
@pytest.mark.parametrize("layer", ["fc6", "fc7"])
def test_equals_its_parts_frame_by_frame(backbone, layer):
    net = LRCN(4, backbone=backbone, layer=layer, in_channels=2, **TINY).eval()
    names = {n.split(".")[0] for n in net.cnn.classifier.state_dict()}
    assert names == ({"fc6"} if layer == "fc6" else {"fc6", "fc7"})
    cell = fastrcn.LSTMCell(16, 6)
    cell.load_state_dict({n.removesuffix("_l0"): v for n, v in net.lstm.state_dict().items()})
    frames = torch.randn(2, 3, 2, 67, 67)
    state, steps = None, []
    for t in range(3):
        state = cell(net.cnn(frames[:, t]), state)
        steps.append(net.classifier(state[0]))
    truth = torch.stack(steps, 1)
    torch.testing.assert_close(net(frames), truth)


def test_prediction_is_the_mean_of_each_steps_softmax(monkeypatch):
    """1/4, 3/4 and 9/10, 1/10 by hand; the softmax of the mean score would be 0.634."""
    net = LRCN(2, **TINY)
    scores = torch.log(torch.tensor([[[1.0, 3.0], [9.0, 1.0]]]))
    monkeypatch.setattr(net, "forward", lambda frames: scores)
    torch.testing.assert_close(net.predict(None), torch.tensor([[0.575, 0.425]]))


def test_markers_begin_a_clip_anew():
    net = LRCN(4, **TINY).eval()
    nn.init.normal_(net.lstm.weight_hh_l0)
    a, b = torch.randn(1, 3, 3, 67, 67), torch.randn(1, 2, 3, 67, 67)
    both = torch.cat([a, b], 1)
    found = net(both, markers=torch.tensor([[0, 1, 1, 0, 1]]))
    torch.testing.assert_close(found, torch.cat([net(a), net(b)], 1))
    assert (net(both)[:, 3:] - found[:, 3:]).abs().max() > 1e-4


@pytest.mark.parametrize(
    ("frames", "starts"), [(16, [0]), (17, [0, 1]), (24, [0, 8]), (30, [0, 8, 14]), (40, [0, 8, 16, 24])]
)
def test_clips_of_a_video(frames, starts):
    assert clip_starts(frames) == starts


def test_clips_of_other_lengths():
    assert clip_starts(10, length=4, stride=3) == [0, 3, 6]
    assert clip_starts(11, length=4, stride=3) == [0, 3, 6, 7]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: LRCN(backbone="vgg"), "backbone: expected one of hybrid, caffenet, got 'vgg'"),
        (lambda: LRCN(layer="fc8"), "layer"),
        (lambda: models.create("lrcn", small=True)(torch.zeros(2, 3, 67, 67)), r"frames: expected \(N,T,C,H,W\)"),
        (lambda: models.create("lrcn", small=True)(torch.zeros(1, 2, 3, 64, 67)), r"x: expected \(N,3,67,67\)"),
        (lambda: clip_starts(15), "num_frames: expected at least 16, one clip, got 15"),
        (lambda: clip_starts(20, stride=0), "stride"),
    ],
)
def test_errors(make, words):
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.slow
def test_learns_which_way_a_bar_moves():
    """Single frames cannot tell the two classes apart: only the LSTM can."""
    torch.manual_seed(0)
    net = LRCN(2, hidden_size=16, width=12, cnn_hidden=24, size=67, cnn_dropout=0.0, dropout=0.0)
    clips = torch.zeros(8, 4, 3, 67, 67)
    for n in range(8):
        for t in range(4):
            place = 2 + 3 * (n // 2) + 12 * (t if n % 2 else 3 - t)
            clips[n, t, :, :, place : place + 8] = 1.0
    labels = torch.arange(8) % 2
    optimizer = torch.optim.Adam(net.parameters(), 2e-3)
    for _ in range(60):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(net(clips).transpose(1, 2), labels[:, None].expand(8, 4))
        loss.backward()
        optimizer.step()
    assert (net.eval().predict(clips).argmax(1) == labels).all()
