"""Visual attention LSTM: sizes of the paper and of the released net, the equations, the loss, the vote."""

import pytest
import torch
from torch.nn import functional as F

from fastrcn import models
from fastrcn.models import VisualAttentionLSTM
from fastrcn.models.visual_attention import majority_vote
from tests.helpers import vectors
from tests.helpers.nets import count
from tests.helpers.tolerances import assert_close

SIZES = {"num_classes": 5, "features": 4, "grid": 3, "hidden": 6}


def made(**options):
    return VisualAttentionLSTM(**SIZES, **options).double().eval()


def test_parameter_counts_and_shapes():
    with torch.device("meta"):
        net = VisualAttentionLSTM()
        released = VisualAttentionLSTM(num_layers=1, scorer="mlp")
        scores, maps = released(torch.empty(2, 30, 49, 1024))
    assert count(net.location) == 25_088
    assert count(net.cells) == 7_346_176
    assert count(released) == 6_040_588
    assert scores.shape == (2, 30, 11)
    assert maps.shape == (2, 30, 7, 7)


def linear(layer, x):
    return x @ layer.weight.T + layer.bias


def by_hand(net, features, look):
    """Scores (N,T,classes) and weights (N,T,places); ``look`` gives the weights from h and a frame."""
    mean = features.flatten(1, 2).mean(1)
    h, c = (torch.tanh(linear(init, mean)).chunk(net.num_layers, 1) for init in (net.init_h, net.init_c))
    states = list(zip(h, c, strict=True))
    scores, weights = [], []
    for t in range(features.shape[1]):
        alpha = look(states[-1][0], features[:, t])
        x = (alpha[..., None] * features[:, t]).sum(1)
        for k, cell in enumerate(net.cells):
            states[k] = vectors.lstm(cell, x, states[k])
            x = states[k][0]
        scores.append(linear(net.head, torch.tanh(linear(net.output, x))))
        weights.append(alpha)
    return torch.stack(scores, 1), torch.stack(weights, 1)


def looks(net):
    def location(h, frame):
        scores = (h @ net.location.weight.T).exp()
        return scores / scores.sum(1, keepdim=True)

    def mlp(h, frame):
        a = net.attention
        scores = []
        for n in range(len(h)):
            for x in frame[n]:
                inner = torch.tanh(a.key.weight @ x + a.query.weight @ h[n] + a.key.bias)
                scores.append(a.out.weight[0] @ inner + a.out.bias[0])
        scores = torch.stack(scores).view(len(h), -1).exp()
        return scores / scores.sum(1, keepdim=True)

    return location if net.attention is None else mlp


@pytest.mark.parametrize("scorer", ["location", "mlp"])
@pytest.mark.parametrize("num_layers", [1, 3])
def test_equals_loop(scorer, num_layers):
    net = made(scorer=scorer, num_layers=num_layers)
    features = torch.randn(2, 4, 9, 4).double()
    scores, maps = net(features)
    truth, weights = by_hand(net, features, looks(net))
    assert_close(scores, truth)
    assert_close(maps.flatten(2), weights)
    assert_close(maps.sum((2, 3)), torch.ones(2, 4).double())


def test_location_weights_of_zero_are_average_pooling():
    net = made()
    torch.nn.init.zeros_(net.location.weight)
    features = torch.randn(2, 4, 9, 4).double()
    scores, maps = net(features)
    assert_close(maps, torch.full((2, 4, 3, 3), 1 / 9, dtype=torch.float64))
    pooled = torch.nn.LSTM(4, 6, 3, batch_first=True).double()
    with torch.no_grad():
        for k, cell in enumerate(net.cells):
            getattr(pooled, f"weight_ih_l{k}").copy_(cell.weight_ih)
            getattr(pooled, f"weight_hh_l{k}").copy_(cell.weight_hh)
            getattr(pooled, f"bias_ih_l{k}").copy_(cell.bias)
            getattr(pooled, f"bias_hh_l{k}").zero_()
    mean = features.mean((1, 2))
    first = (torch.tanh(linear(i, mean)).view(2, 3, 6).transpose(0, 1).contiguous() for i in (net.init_h, net.init_c))
    hidden, _ = pooled(features.mean(2), tuple(first))
    assert_close(scores, linear(net.head, torch.tanh(linear(net.output, hidden))))


def test_location_is_chosen_before_the_frame_is_seen():
    for scorer, changes in (("location", False), ("mlp", True)):
        net = made(scorer=scorer)
        features = torch.randn(1, 3, 9, 4).double()
        other = features.clone()
        other[:, 2] = other[:, 2].flip(1)  # has the same mean
        (_, a), (_, b) = net(features), net(other)
        assert_close(b[:, :2], a[:, :2])
        assert torch.allclose(a[:, 2], b[:, 2], rtol=1e-12) != changes


def test_loss():
    net = made()
    scores, labels = torch.randn(2, 3, 5).double(), torch.tensor([1, 4])
    maps = torch.full((2, 3, 3, 3), 1 / 9, dtype=torch.float64)
    nll = -sum(scores[n, t].log_softmax(0)[labels[n]] for n in range(2) for t in range(3)) / 2
    squares = sum((p**2).sum() for p in net.parameters())
    assert_close(net.loss(scores, maps, labels, decay=0), nll)
    assert_close(net.loss(scores, maps, labels, penalty=10.0, decay=0), nll + 10 * 9 * (1 - 3 / 9) ** 2)
    assert_close(net.loss(scores, maps, labels, decay=0.1), nll + 0.1 * squares)
    once = torch.eye(9, dtype=torch.float64)[None, :3].expand(2, -1, -1).clone()
    once[:, 2, 2:] = 1  # each place is looked at once in all
    assert_close(net.loss(scores, once.unflatten(2, (3, 3)), labels, penalty=10.0, decay=0), nll)


def test_majority_vote():
    # Blocks vote 1 (sum 1.1 against 0.9), 0, 1; the sum over everything would say 0.
    blocks = torch.tensor([[[0.3, 0.7], [0.6, 0.4]], [[1.0, 0.0], [1.0, 0.0]], [[0.4, 0.6], [0.5, 0.5]]])
    tied = blocks[[0, 1, 0, 1]]
    assert majority_vote(blocks[None]).tolist() == [1]
    assert majority_vote(tied[None]).tolist() == [0]
    assert majority_vote(torch.stack([blocks, blocks.flip(-1)])).tolist() == [1, 0]


def test_classify_reads_each_block_from_the_start():
    net = made()
    video = 3 * torch.randn(6, 11, 9, 4).double()
    for stride, starts in ((None, (0, 4)), (2, (0, 2, 4, 6)), (1, range(8))):
        votes = torch.stack([net(video[:, s : s + 4])[0].softmax(-1).sum(1).argmax(1) for s in starts])
        truth = [max(range(5), key=v.count) for v in votes.T.tolist()]
        assert net.classify(video, 4, stride).tolist() == truth
    short = torch.cat([video[:, :3], video[:, 2:3], video[:, 2:3]], 1)
    assert torch.equal(net.classify(video[:, :3], 5), net(short)[0].softmax(-1).sum(1).argmax(1))


def test_dropout_acts_in_training_only():
    net = made()
    features = torch.randn(1, 3, 9, 4).double()
    assert torch.equal(net(features)[0], net(features)[0])
    net.train()
    assert not torch.equal(net(features)[0], net(features)[0])


@pytest.mark.slow
def test_learns_where_the_marker_is():
    """One place carries a marker and the class, all others another class without it."""
    net = VisualAttentionLSTM(4, 5, 3, 16, 1, scorer="mlp", dropout=0.0)
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)

    def batch(n):
        labels, others, place = torch.randint(4, (n,)), torch.randint(4, (n, 3, 9)), torch.randint(9, (n, 3, 1))
        marker = F.one_hot(place[..., 0], 9)
        shown = torch.where(marker == 1, labels[:, None, None], others)
        return torch.cat([F.one_hot(shown, 4), marker[..., None]], -1).float(), labels, marker

    for _ in range(150):
        features, labels, _ = batch(32)
        optimizer.zero_grad()
        scores, maps = net(features)
        net.loss(scores, maps, labels).backward()
        optimizer.step()
    features, labels, marker = batch(200)
    scores, maps = net(features)
    assert (maps.flatten(2) * marker).sum(-1).mean() > 0.8
    assert (scores[:, -1].argmax(-1) == labels).double().mean() > 0.95


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: made(scorer="dot"), "scorer: expected one of location, mlp, got 'dot'"),
        (lambda: made(num_layers=0), "num_layers"),
        (lambda: made()(torch.zeros(2, 3, 8, 4).double()), r"features: expected \(N,T,9,4\), got shape \(2, 3, 8, 4\)"),
        (lambda: made()(torch.zeros(2, 9, 4).double()), "features"),
        (lambda: made()(torch.zeros(2, 0, 9, 4).double()), "features"),
        (lambda: made().classify(torch.zeros(2, 0, 9, 4).double()), "features"),
        (lambda: models.create("visual_attention_lstm", small=True, backend="gpu"), "backend"),
    ],
)
def test_errors(make, words):
    with pytest.raises(ValueError, match=words):
        make()
