"""Sequence to sequence with attention: both orders by hand, padding, and that it learns to reverse."""

import pytest
import torch

from fastrcn import models
from fastrcn.models import Seq2SeqAttention, caption_lengths, caption_nll
from tests.helpers import vectors
from tests.helpers.tolerances import assert_close

SIZES = {"source_vocabulary": 9, "vocabulary": 11, "embedding": 4, "hidden": 6}
SOURCE, TOKENS = torch.zeros(2, 4, dtype=torch.int64), torch.zeros(2, 3, dtype=torch.int64)
SCORES = ("dot", "bilinear", "concat", "multiplicative")


def score(attention, s, h):
    if attention.score == "dot":
        return s @ h
    if attention.score == "bilinear":
        return s @ attention.key.weight @ h
    a, b = attention.query.weight @ s, attention.key.weight @ h
    if attention.score == "concat":
        return attention.out.weight[0] @ torch.tanh(a + b)
    return attention.out.weight[0] @ (torch.tanh(a) * torch.tanh(b))


def by_hand(net, kind, source, tokens):
    """Log-probabilities (L,V) and weights (L,S) of one item."""
    step = getattr(vectors, kind)
    state = tuple(torch.zeros(2 if kind == "lstm" else 1, 1, 6, dtype=torch.float64))
    keys = []
    for word in source:
        state = step(net.encoder, net.source_embedding.weight[word][None], state)
        keys.append(state[0][0])

    def attend(s):
        scores = torch.stack([score(net.attention, s, k) for k in keys])
        alpha = scores.exp() / scores.exp().sum()
        return sum(a * k for a, k in zip(alpha, keys, strict=True)), alpha

    last, found, weights = net.bos, [], []
    for word in tokens:
        e = net.embedding.weight[last]
        if net.order == "bahdanau":
            context, alpha = attend(state[0][0])
            state = step(net.decoder, torch.cat([e, context])[None], state)
        else:
            state = step(net.decoder, e[None], state)
            context, alpha = attend(state[0][0])
        found.append((net.head.weight @ torch.cat([context, state[0][0]]) + net.head.bias).log_softmax(0))
        weights.append(alpha)
        last = word
    return torch.stack(found), torch.stack(weights)


@pytest.mark.parametrize("order", ["luong", "bahdanau"])
@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize("score", SCORES)
def test_equals_loop_whatever_the_padding(order, cell, score):
    net = Seq2SeqAttention(**SIZES, cell=cell, order=order, score=score, bos=5).double()
    source, tokens = torch.randint(9, (3, 6)), torch.randint(11, (3, 4))
    lengths = torch.tensor([6, 2, 4])
    log_probs, weights = net(source, tokens, lengths)
    for n in range(3):
        found, alpha = by_hand(net, cell, source[n, : lengths[n]].tolist(), tokens[n].tolist())
        assert_close(log_probs[n], found)
        assert_close(weights[n, :, : lengths[n]], alpha)
        assert (weights[n, :, lengths[n] :] == 0).all()
    padding = torch.where(torch.arange(6) < lengths[:, None], source, (source + 1) % 9)
    assert torch.equal(net(padding, tokens, lengths)[0], log_probs)
    assert_close(net(source[:1], tokens[:1])[0], log_probs[:1])


@pytest.mark.parametrize("order", ["luong", "bahdanau"])
def test_generation_ignores_padding(order):
    net = Seq2SeqAttention(**SIZES, order=order).eval()
    source = torch.randint(9, (2, 6))
    lengths = torch.tensor([6, 3])
    found = net.generate(source, lengths, search=models.beam_search, width=3, max_length=5)
    alone = net.generate(source[1:, :3], search=models.beam_search, width=3, max_length=5)
    assert torch.equal(found.tokens[1, : found.lengths[1]], alone.tokens[0])


@pytest.mark.parametrize(("order", "inputs"), [("luong", 620), ("bahdanau", 1620)])
def test_parameter_counts(order, inputs):
    with torch.device("meta"):
        net = Seq2SeqAttention(order=order, cell="gru")
    recurrent = 3 * 1000 * (620 + 1001) + 3 * 1000 * (inputs + 1001)
    assert sum(p.numel() for p in net.parameters()) == 2 * 30000 * 620 + recurrent + 30000 * 2001


@pytest.mark.slow
@pytest.mark.parametrize("order", ["luong", "bahdanau"])
def test_learns_to_reverse(order):
    net = Seq2SeqAttention(7, 7, 16, 32, order=order, score="bilinear")
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)

    def batch(n):
        """Sources of 2 to 4 tokens from 1 to 6, padded by 0; the same backwards, then EOS."""
        lengths = torch.randint(2, 5, (n,))
        source = torch.randint(1, 7, (n, 4)).masked_fill(torch.arange(4) >= lengths[:, None], 0)
        target = torch.zeros(n, 5, dtype=torch.int64)
        for k, length in enumerate(lengths.tolist()):
            target[k, :length] = source[k, :length].flip(0)
        return source, lengths, target

    for _ in range(120):
        source, lengths, target = batch(32)
        optimizer.zero_grad()
        log_probs, _ = net(source, target, lengths)
        caption_nll(log_probs, target, caption_lengths(target, 0)).backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 5.0)
        optimizer.step()
    source, lengths, target = batch(200)
    found = net.eval().generate(source, lengths, max_length=5)
    right = (torch.nn.functional.pad(found.tokens, (0, 5 - found.tokens.shape[1])) == target).all(1)
    assert right.double().mean() > 0.9


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Seq2SeqAttention(**SIZES, cell="rnn"), "cell: expected one of lstm, gru, got 'rnn'"),
        (lambda: Seq2SeqAttention(**SIZES, order="both"), "order: expected one of luong, bahdanau"),
        (lambda: Seq2SeqAttention(**SIZES, score="cosine"), "score"),
        (lambda: Seq2SeqAttention(**SIZES)(SOURCE[0], TOKENS), r"source: expected \(N,S\)"),
        (lambda: Seq2SeqAttention(**SIZES)(SOURCE[:, :0], TOKENS), "source"),
        (lambda: Seq2SeqAttention(**SIZES)(SOURCE, TOKENS[:1]), r"tokens: expected \(2,L\)"),
        (lambda: Seq2SeqAttention(**SIZES)(SOURCE, TOKENS, torch.tensor([5, 1])), "lengths"),
    ],
)
def test_errors(make, words):
    with pytest.raises(ValueError, match=words):
        make()
