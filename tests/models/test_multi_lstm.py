"""MultiLSTM: the equations, who votes on which frame, and that windows of one are a plain LSTM."""

import pytest
import torch

from fastrcn.models import MultiLSTM
from fastrcn.models.multi_lstm import average_votes
from tests.helpers import vectors
from tests.helpers.tolerances import assert_close

SIZES = {"num_classes": 3, "features": 5, "hidden": 6}


def made(n_in=3, n_out=2, **options):
    return MultiLSTM(**SIZES, n_in=n_in, n_out=n_out, **options).double()


def score(attention, s, h):
    a, b = (getattr(attention, k).weight @ x if hasattr(attention, k) else None for k, x in (("query", s), ("key", h)))
    if attention.score == "dot":
        return s @ h
    if attention.score == "bilinear":
        return s @ b
    if attention.score == "concat":
        return attention.out.weight[0] @ torch.tanh(a + b)
    return attention.out.weight[0] @ (torch.tanh(a) * torch.tanh(b))


@pytest.mark.parametrize("boundary", ["clamp", "fewer"])
@pytest.mark.parametrize("score_name", ["multiplicative", "dot", "bilinear", "concat"])
def test_equals_loop(boundary, score_name):
    sizes = {**SIZES, "features": 6} if score_name == "dot" else SIZES
    net = MultiLSTM(**sizes, n_in=3, n_out=4, score=score_name, boundary=boundary).double()
    features = torch.randn(2, 6, sizes["features"]).double()
    for n in range(2):
        state = (torch.zeros(1, 6, dtype=torch.float64),) * 2
        votes = {j: [] for j in range(6)}
        for t in range(6):
            frames = range(t - 2, t + 1)
            window = [features[n, max(i, 0)] for i in frames if i >= 0 or boundary == "clamp"]
            alpha = torch.stack([score(net.attention, state[0][0], v) for v in window]).exp()
            x = sum(a * v for a, v in zip(alpha / alpha.sum(), window, strict=True))
            state = vectors.lstm(net.cell, x[None], state)
            said = (net.head.weight @ state[0][0] + net.head.bias).view(4, 3)
            for k in range(4):
                if t - 3 + k >= 0:
                    votes[t - 3 + k].append(said[k])
        assert [len(v) for v in votes.values()] == [min(4, 6 - j) for j in range(6)]
        truth = torch.stack([sum(v) / len(v) for v in votes.values()])
        assert_close(net(features)[n], truth)


def test_windows_of_one_are_a_plain_lstm():
    net = made(1, 1)
    features = torch.randn(2, 5, 5).double()
    plain = torch.nn.LSTM(5, 6, batch_first=True).double()
    with torch.no_grad():
        plain.weight_ih_l0.copy_(net.cell.weight_ih)
        plain.weight_hh_l0.copy_(net.cell.weight_hh)
        plain.bias_ih_l0.copy_(net.cell.bias)
        plain.bias_hh_l0.zero_()
    assert_close(net(features), plain(features)[0] @ net.head.weight.T + net.head.bias)


@pytest.mark.parametrize("n_out", [1, 2, 4, 9])
def test_votes_of_each_frame(n_out):
    steps = 5
    ones = torch.ones(2, steps, n_out, 3)
    assert torch.equal(average_votes(7 * ones), torch.full((2, steps, 3), 7.0))
    # A vote that carries the number of its step, and one that carries the frame it is about.
    step = torch.arange(5.0)[None, :, None, None].expand(1, -1, n_out, 1)
    for j, mean in enumerate(average_votes(step)[0, :, 0].tolist()):
        voters = range(j, min(j + n_out, steps))
        assert len(voters) == min(n_out, steps - j)
        assert mean == pytest.approx(sum(voters) / len(voters))
    about = step - n_out + 1 + torch.arange(n_out)[:, None]
    assert torch.equal(average_votes(about)[0, :, 0], torch.arange(5.0))


def test_only_the_voters_of_a_frame_get_its_gradient():
    votes = torch.randn(1, 6, 3, 2, requires_grad=True)
    for j in range(6):
        (grad,) = torch.autograd.grad(average_votes(votes)[0, j].sum(), votes)
        voters = [(t, k) for t in range(6) for k in range(3) if t - 2 + k == j]
        truth = torch.zeros(6, 3)
        for t, k in voters:
            truth[t, k] = 1 / min(3, 6 - j)
        assert torch.allclose(grad[0], truth[..., None].expand(-1, -1, 2))


@pytest.mark.parametrize("score_name", ["multiplicative", "bilinear", "concat"])
def test_equal_frames_are_looked_at_equally(score_name):
    features = torch.randn(2, 1, 5).double().expand(-1, 6, -1)
    _, weights = made(score=score_name).votes(features)
    assert_close(weights, torch.full((2, 6, 3), 1 / 3, dtype=torch.float64))
    _, weights = made(score=score_name, boundary="fewer").votes(features)
    truth = torch.tensor([[0, 0, 1], [0, 1 / 2, 1 / 2], *[[1 / 3] * 3] * 4], dtype=torch.float64)
    assert_close(weights, truth.expand(2, -1, -1))


def test_a_step_sees_its_window_only_through_the_state():
    net = made(n_in=3, n_out=1)
    for p in (net.cell.weight_hh, net.attention.query.weight):
        torch.nn.init.zeros_(p)
    with torch.no_grad():  # forget gate shut: no memory either
        net.cell.bias[6:12] = -1e4
    features = torch.randn(1, 8, 5).double().requires_grad_()
    (grad,) = torch.autograd.grad(net(features)[0, 5].sum(), features)
    assert [bool(g.any()) for g in grad[0]] == [3 <= i <= 5 for i in range(8)]


def test_loss():
    scores, labels = torch.randn(2, 4, 3).double(), torch.randint(2, (2, 4, 3)).double()
    p = torch.sigmoid(scores)
    assert_close(MultiLSTM.loss(scores, labels), -(labels * p.log() + (1 - labels) * (1 - p).log()).mean())


def test_sizes():
    with torch.device("meta"):
        net = MultiLSTM()
        assert net(torch.empty(2, 20, 4096)).shape == (2, 20, 65)
    assert (net.n_in, net.n_out) == (15, 15)
    attention = 512 * 512 + 512 * 4096 + 512
    lstm = 4 * 512 * (4096 + 512 + 1)
    assert sum(p.numel() for p in net.parameters()) == attention + lstm + 15 * 65 * 513


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: made(0, 1), "n_in: expected at least 1, got 0"),
        (lambda: made(1, 0), "n_out"),
        (lambda: made(boundary="wrap"), "boundary: expected one of clamp, fewer, got 'wrap'"),
        (lambda: made(score="dot"), "key_size"),
        (lambda: made()(torch.zeros(2, 5).double()), r"features: expected \(N,T,5\), got shape \(2, 5\)"),
        (lambda: made()(torch.zeros(2, 3, 4).double()), "features"),
        (lambda: made()(torch.zeros(2, 0, 5).double()), "features"),
    ],
)
def test_errors(make, words):
    with pytest.raises(ValueError, match=words):
        make()
