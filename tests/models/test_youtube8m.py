"""YouTube-8M's two-stream net: counts, the equations written out, attention, padding, bytes."""

import pytest
import torch
from torch import nn

from fastrcn.models import YouTube8M, create
from fastrcn.models.youtube8m import dequantize
from tests.helpers import loops
from tests.helpers.nets import count

NAMES = ("weight_ih", "weight_hh", "bias", "weight_ch")


def tiny(**options):
    net = YouTube8M(7, 5, 3, embedding=4, hidden_size=6, fc_sizes=(10, 8), **options).double()
    with torch.no_grad():
        for p in net.parameters():
            p.uniform_(-0.7, 0.7)
    return net.eval()


def test_counts():
    with torch.device("meta"):
        net = YouTube8M()
        assert count(net) == 112_219_756
        assert count(YouTube8M(peephole=True)) == 112_232_044
        ours = count(net.rgb.rnn) + count(net.audio.rnn)
        theirs = 2 * count(nn.LSTM(512, 1024, bidirectional=True))
        assert count(net) - ours + theirs == 112_236_140


def test_papers_size():
    with torch.device("meta"):
        rgb, audio = torch.empty(2, 8, 1024), torch.empty(2, 8, 128)
        assert YouTube8M(backend="reference")(rgb, audio).shape == (2, 4716)


def written_out(net, stream, x, step):
    """One stream of one video (T,F), without padding: loops over time in both directions."""
    p = dict(stream.rnn.named_parameters())
    embedded = torch.tanh(nn.functional.linear(x, stream.embedding.weight, stream.embedding.bias))
    both = []
    for suffix in ("_l0", "_l0_reverse"):
        q = {n: p.get(n + suffix) for n in NAMES}
        q = {n: v if v is None or v.dim() == 1 else v[..., None, None] for n, v in q.items()}
        zero = torch.zeros(1, 6, 1, 1, dtype=x.dtype)
        states = (zero, zero) if step is loops.lstm_step else (zero,)
        maps = embedded[:, None, :, None, None]
        both.append(loops.run(step, q, maps, states, reverse="reverse" in suffix)[0][:, 0, :, 0, 0])
    hidden = torch.cat(both, 1)
    e = torch.exp(hidden @ stream.score.weight[0])
    return sum(e[t] / e.sum() * hidden[t] for t in range(len(x)))


@pytest.mark.parametrize(
    ("options", "step"),
    [({}, loops.lstm_step), ({"peephole": True}, loops.lstm_step), ({"rnn": "gru"}, loops.gru_step)],
)
def test_equals_the_equations_for_every_length(options, step):
    net = tiny(**options)
    rgb, audio = torch.randn(3, 5, 5, dtype=torch.float64), torch.randn(3, 5, 3, dtype=torch.float64)
    lengths = [5, 1, 3]
    found = net(rgb, audio, torch.tensor(lengths))
    for n, length in enumerate(lengths):
        streams = (net.rgb, rgb), (net.audio, audio)
        x = torch.cat([written_out(net, stream, v[n, :length], step) for stream, v in streams])
        x = (net.fc1.weight @ x + net.fc1.bias).clamp(min=0)
        x = torch.tanh(net.fc2.weight @ x + net.fc2.bias)
        truth = net.classifier.weight @ x + net.classifier.bias
        torch.testing.assert_close(found[n], truth, rtol=1e-10, atol=1e-10)


def test_equal_scores_are_the_mean_over_valid_frames():
    net = tiny()
    nn.init.zeros_(net.rgb.score.weight)
    x, lengths = torch.randn(2, 5, 5, dtype=torch.float64), torch.tensor([5, 2])
    hidden, _ = net.rgb.rnn(torch.tanh(net.rgb.embedding(x)), lengths=lengths)
    truth = torch.stack([hidden[0].mean(0), hidden[1, :2].mean(0)])
    torch.testing.assert_close(net.rgb(x, lengths), truth, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["youtube8m_lstm", "youtube8m_gru"])
def test_padding_does_not_matter(name):
    net = create(name, small=True).double().eval()
    rgb, audio = torch.randn(2, 6, 5, dtype=torch.float64), torch.randn(2, 6, 3, dtype=torch.float64)
    lengths = torch.tensor([4, 2])
    rgb.requires_grad_()
    found = net(rgb, audio, lengths)
    other = [v.detach().clone() for v in (rgb, audio)]
    for v in other:
        v[0, 4:], v[1, 2:] = 1e3, -1e3
    torch.testing.assert_close(net(*other, lengths), found, rtol=0, atol=0)
    torch.testing.assert_close(net(rgb[:, :4], audio[:, :4], lengths), found, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(net(rgb[1:, :2], audio[1:, :2])[0], found[1], rtol=1e-12, atol=1e-12)
    found.sum().backward()
    assert rgb.grad[0, 4:].abs().max() == rgb.grad[1, 2:].abs().max() == 0
    assert rgb.grad[1, :2].abs().min() > 0


def test_bytes_are_dequantised():
    assert dequantize(torch.tensor([0, 255], dtype=torch.uint8)).tolist() == pytest.approx([-1.9921875, 2.0078125])
    net = create("youtube8m_lstm", small=True).eval()
    rgb, audio = (torch.randint(0, 256, (1, 4, f), dtype=torch.uint8) for f in (5, 3))
    values = [v.float() * 4 / 255 + 4 / 512 - 2 for v in (rgb, audio)]
    torch.testing.assert_close(net(rgb, audio), net(*values))


def test_dropout_follows_the_recurrent_layers():
    net = tiny().train()
    rgb, audio = torch.randn(1, 5, 5, dtype=torch.float64), torch.randn(1, 5, 3, dtype=torch.float64)
    assert net.rgb.dropout.p == 0.5
    assert not torch.equal(net(rgb, audio), net(rgb, audio))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: YouTube8M(rnn="rnn"), "rnn"),
        (lambda: YouTube8M(rnn="gru", peephole=True), "peephole"),
        (lambda: tiny()(torch.zeros(1, 2, 4), torch.zeros(1, 2, 3)), r"rgb: expected \(N,T,5\)"),
        (lambda: tiny()(torch.zeros(1, 2, 5), torch.zeros(1, 3, 3)), r"audio: expected \(N,T,3\)"),
        (lambda: tiny()(torch.zeros(1, 2, 5), torch.zeros(1, 2, 3), torch.tensor([0])), "lengths: .*at least 1"),
        (lambda: tiny()(torch.zeros(1, 2, 5), torch.zeros(1, 2, 3), torch.tensor([2, 2])), "lengths: expected 1"),
    ],
)
def test_errors(call, words):
    with pytest.raises(ValueError, match=words):
        call()
