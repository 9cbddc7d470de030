"""The attention function: its scores against loops, what follows from its definition, masks."""

import pytest
import torch
from torch.nn import functional as F

from fastrcn.models import Attention, doubly_stochastic_penalty
from tests.helpers.tolerances import assert_close

SCORES = ("dot", "bilinear", "concat", "multiplicative")


def made(score, query_size=4, key_size=4, **options):
    hidden = 5 if score in ("concat", "multiplicative") else None
    return Attention(score, query_size=query_size, key_size=key_size, hidden=hidden, **options).double()


def tensors(query_size=4, key_size=4):
    return (torch.randn(2, n, size, dtype=torch.float64) for n, size in ((3, query_size), (6, key_size), (6, 5)))


def one_score(attention, s, h):
    """The score of one query and one key, from the formulas."""
    if attention.score == "dot":
        return s @ h
    if attention.score == "bilinear":
        return s @ attention.key.weight @ h
    if attention.score == "concat":
        w1 = torch.cat([attention.query.weight, attention.key.weight], 1)
        inner = w1 @ torch.cat([s, h])
        if attention.key.bias is not None:
            return attention.out.weight[0] @ torch.tanh(inner + attention.key.bias) + attention.out.bias[0]
        return attention.out.weight[0] @ torch.tanh(inner)
    return attention.out.weight[0] @ (torch.tanh(attention.query.weight @ s) * torch.tanh(attention.key.weight @ h))


@pytest.mark.parametrize("scale", [False, True])
@pytest.mark.parametrize(("score", "bias"), [*((s, False) for s in SCORES), ("concat", True)])
def test_equals_loop(score, bias, scale):
    key_size = 4 if score == "dot" else 3
    attention = made(score, key_size=key_size, bias=bias, scale=scale)
    if bias:
        torch.nn.init.constant_(attention.out.bias, 0.7)
    query, keys, values = tensors(key_size=key_size)
    context, weights = attention(query, keys, values)
    assert context.shape == (2, 3, 5)
    assert weights.shape == (2, 3, 6)
    for n in range(2):
        for q in range(3):
            scores = torch.stack([one_score(attention, query[n, q], h) for h in keys[n]]) / (2 if scale else 1)
            alpha = scores.exp() / scores.exp().sum()
            assert_close(weights[n, q], alpha)
            assert_close(context[n, q], sum(a * v for a, v in zip(alpha, values[n], strict=True)))


@pytest.mark.parametrize("scale", [False, True])
def test_equals_pytorch(scale):
    query, keys, values = tensors()
    context, _ = made("dot", scale=scale)(query, keys, values)
    assert_close(context, F.scaled_dot_product_attention(query, keys, values, scale=0.5 if scale else 1.0))


def test_bilinear_with_identity_is_dot():
    bilinear = made("bilinear")
    torch.nn.init.eye_(bilinear.key.weight)
    query, keys, values = tensors()
    for a, b in zip(bilinear(query, keys, values), made("dot")(query, keys, values), strict=True):
        assert_close(a, b)


@pytest.mark.parametrize("score", SCORES)
def test_equal_keys_give_the_mean(score):
    query, keys, values = tensors()
    context, weights = made(score)(query, keys[:, :1].expand_as(keys), values)
    assert_close(weights, torch.full_like(weights, 1 / 6))
    assert_close(context, values.mean(1, keepdim=True).expand_as(context))


@pytest.mark.parametrize("score", SCORES)
def test_permutation(score):
    attention = made(score)
    query, keys, values = tensors()
    context, weights = attention(query, keys, values)
    order = torch.tensor([4, 0, 5, 2, 1, 3])
    moved_context, moved = attention(query[:, [2, 0, 1]], keys[:, order], values[:, order])
    assert_close(moved, weights[:, [2, 0, 1]][..., order])
    assert_close(moved_context, context[:, [2, 0, 1]])


@pytest.mark.parametrize("score", SCORES)
def test_mask_equals_shorter_keys(score):
    attention = made(score)
    query, keys, values = tensors()
    mask = torch.arange(6) < torch.tensor([[4], [6]])
    context, weights = attention(query, keys, values, mask)
    assert (weights[0, :, 4:] == 0).all()
    alone, alone_weights = attention(query[:1], keys[:1, :4], values[:1, :4])
    assert_close(context[:1], alone)
    assert_close(weights[:1, :, :4], alone_weights)
    assert_close(context[1:], attention(query[1:], keys[1:], values[1:])[0])


def test_mask_of_each_query_and_of_all_keys():
    query, keys, values = (x.requires_grad_() for x in tensors())
    mask = torch.ones(2, 3, 6, dtype=torch.bool)
    mask[0, 1] = False
    mask[1, 2, 3:] = False
    context, weights = made("dot")(query, keys, values, mask)
    assert (context[0, 1] == 0).all()
    assert_close(weights.sum(-1), mask.any(-1).double())
    assert (weights[1, 2, 3:] == 0).all()
    context.sum().backward()
    assert all(torch.isfinite(x.grad).all() for x in (query, keys, values))


def test_values_default_to_keys_and_prepared_keys_serve():
    attention = made("concat", bias=True)
    query, keys, _ = tensors()
    context, weights = attention(query, keys)
    assert_close(context, weights @ keys)
    assert torch.equal(attention.attend(query, attention.prepare(keys), keys)[0], context)


def test_bias_of_the_score_has_no_effect():
    attention = made("concat", bias=True)
    assert [n for n, p in attention.named_parameters() if not p.requires_grad] == ["out.bias"]
    query, keys, values = tensors()
    before = attention(query, keys, values)[0]
    attention.out.bias.add_(3)
    assert_close(attention(query, keys, values)[0], before)


def test_penalty():
    weights = torch.tensor([[[1.0, 0.0], [0.5, 0.5]], [[0.0, 1.0], [1.0, 0.0]]])
    # Sums over time: (1.5, 0.5) and (1, 1).
    assert doubly_stochastic_penalty(weights).item() == pytest.approx((0.25 + 0.25 + 0) / 2)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: made("cosine"), "score: expected one of dot, bilinear, concat, multiplicative, got 'cosine'"),
        (lambda: made("dot", 4, 3), "key_size: expected that of the query, 4"),
        (lambda: Attention("concat", query_size=4, key_size=4), "hidden"),
        (lambda: Attention("dot", query_size=4, key_size=4, hidden=4), "hidden"),
        (lambda: made("dot", bias=True), "bias"),
        (lambda: made("dot")(torch.zeros(2, 3, 5).double(), torch.zeros(2, 6, 4).double()), r"query: .*\(2,Lq,4\)"),
        (lambda: made("dot")(torch.zeros(2, 3, 4).double(), torch.zeros(2, 6, 5).double()), r"keys: .*\(N,Lk,4\)"),
        (lambda: made("dot")(*tensors(), torch.ones(2, 5, dtype=torch.bool)), "mask: expected booleans"),
        (lambda: made("dot")(*tensors(), torch.ones(2, 6)), "mask: expected booleans"),
        (lambda: made("dot")(*(x[:, :k] for x, k in zip(tensors(), (3, 6, 5), strict=True))), "values"),
    ],
)
def test_errors(make, words):
    with pytest.raises(ValueError, match=words):
        make()
