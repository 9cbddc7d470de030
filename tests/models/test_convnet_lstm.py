"""ConvNet+LSTM: the published count, the net written out, the loss of every step and the prediction of the last."""

import math

import pytest
import torch
from torch import nn

from fastrcn.models import ConvNetLSTM, create

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = {"num_classes": 5, "width": 8, "hidden_size": 6, "size": 48}


@pytest.mark.parametrize("bn", ["input", None])
def test_parameter_count(bn):
    with torch.device("meta"):
        net = create("convnet_lstm", bn=bn)
    assert sum(p.numel() for p in net.parameters()) == 8_952_880
    assert net.lstm.weight_ih_l0.shape == (4 * 512, 1024)
    assert net.classifier.weight.shape == (400, 512)


def test_shapes_at_the_papers_size():
    with torch.device("meta"):
        net = ConvNetLSTM(backend="reference").eval()
        (frames,) = net.example_inputs(2)
        assert frames.shape == (2, 25, 3, 224, 224)
        assert net(frames).shape == (2, 25, 400)
        assert net.predict(torch.empty(1, 50, 3, 224, 224)).shape == (1, 400)


def lstm_by_loops(net, features):
    """Hidden states of one LSTM, gates in the order i, f, g, o: (N,T,D) -> (N,T,H)."""
    w, u, b = net.lstm.weight_ih_l0, net.lstm.weight_hh_l0, net.lstm.bias_l0
    h = c = features.new_zeros(len(features), u.shape[1])
    found = []
    for t in range(features.shape[1]):
        i, f, g, o = (features[:, t] @ w.T + h @ u.T + b).chunk(4, 1)
        c = 1 / (1 + (-f).exp()) * c + 1 / (1 + (-i).exp()) * torch.tanh(g)
        h = 1 / (1 + (-o).exp()) * torch.tanh(c)
        found.append(h)
    return torch.stack(found, 1)


@pytest.mark.parametrize("bn", ["input", None])
@pytest.mark.parametrize("training", [True, False])
def test_equals_the_net_written_out(bn, training):
    net = ConvNetLSTM(**SMALL, bn=bn).double().train(training)
    frames = torch.randn(2, 4, 3, 48, 48, dtype=torch.float64)
    if bn:
        net.norm.running_mean.normal_()
        net.norm.running_var.uniform_(0.5, 2)
    features = net.cnn.features(frames.flatten(0, 1)).mean((2, 3))
    if bn and training:  # over clips and steps
        features = (features - features.mean(0)) / (features.var(0, correction=0) + 1e-3).sqrt()
    elif bn:
        features = (features - net.norm.running_mean) / (net.norm.running_var + 1e-3).sqrt()
    hidden = lstm_by_loops(net, features.unflatten(0, (2, 4)))
    scores = hidden @ net.classifier.weight.T + net.classifier.bias
    torch.testing.assert_close(net(frames), scores, rtol=1e-9, atol=1e-12)


def test_prediction_is_the_softmax_of_the_last_step():
    net = create("convnet_lstm", small=True).eval()
    (frames,) = net.example_inputs(2)
    found, scores = net.predict(frames), net(frames)
    for n in range(2):
        largest = [math.exp(v) for v in scores[n, -1].tolist()]
        assert found[n].tolist() == pytest.approx([v / sum(largest) for v in largest], rel=1e-5)
    assert not torch.allclose(found, net.predict(frames[:, :-1]), atol=1e-9, rtol=0)


@pytest.mark.slow
def test_learns_from_the_loss_of_every_step():
    """Whether the first of four frames was bright: the others are so or not whatever that one was."""
    bright = torch.cartesian_prod(*[torch.tensor([0, 1])] * 4)
    labels = bright[:, 0]
    frames = (2.0 * bright - 1)[..., None, None, None] * torch.rand(3, 32, 32)
    net = ConvNetLSTM(2, width=8, hidden_size=64, size=32)
    optimizer = torch.optim.Adam(net.parameters(), 5e-3)
    for _ in range(60):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(net(frames).flatten(0, 1), labels.repeat_interleave(4))
        loss.backward()
        optimizer.step()
    assert loss < 0.1
    # With the clips' own statistics: the running ones need more steps than these.
    assert torch.equal(net.predict(frames).argmax(1), labels)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ConvNetLSTM(bn="cell"), "bn: expected \"input\" or None, got 'cell'"),
        (lambda: ConvNetLSTM(**SMALL)(torch.zeros(1, 3, 48, 48)), r"frames: expected \(N,T,3,H,W\)"),
        (lambda: ConvNetLSTM(**SMALL)(torch.zeros(1, 0, 3, 48, 48)), "with at least one frame"),
        (lambda: ConvNetLSTM(**SMALL)(torch.zeros(1, 3, 4, 48, 48)), r"frames: expected \(N,T,3,H,W\)"),
    ],
)
def test_errors(make, words):
    with pytest.raises(ValueError, match=words):
        make()
