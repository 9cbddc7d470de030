"""The soft-attention caption decoder: the released configuration's size, the equations, what attention does."""

import pytest
import torch

from fastrcn import models
from fastrcn.models import SoftAttentionCaption
from tests.helpers import vectors
from tests.helpers.tolerances import assert_close


def small(**options):
    return models.create("soft_attention_caption", small=True, **options).double().eval()


def test_parameter_count_and_shapes():
    with torch.device("meta"):
        net = SoftAttentionCaption()
        log_probs, alphas = net(torch.empty(2, 28, 1024), torch.zeros(2, 30, dtype=torch.int64))
        without = SoftAttentionCaption(selector=False)
    count = sum(p.numel() for p in net.parameters())
    assert count == 103_249_860
    assert count - sum(p.numel() for p in without.parameters()) == 3519
    assert log_probs.shape == (2, 30, 20000)
    assert alphas.shape == (2, 30, 28)


@pytest.mark.parametrize("selector", [True, False])
def test_equals_loop(selector):
    net = small(selector=selector, bos=2)
    contexts, tokens = torch.randn(2, 7, 5).double(), torch.randint(11, (2, 4))

    def linear(layer, x):
        return x @ layer.weight.T + layer.bias

    mean = contexts.sum(1) / 7
    h, c = torch.tanh(linear(net.init_h, mean)), torch.tanh(linear(net.init_c, mean))
    word, attention = torch.zeros(2, 4, dtype=torch.float64), net.attention
    log_probs, alphas = net(contexts, tokens)
    for t in range(4):
        scores = torch.stack(
            [
                torch.tanh(attention.query.weight @ h[n] + attention.key.weight @ v + attention.key.bias)
                @ attention.out.weight[0]
                for n in range(2)
                for v in contexts[n]
            ]
        ).view(2, 7)
        alpha = scores.exp() / scores.exp().sum(1, keepdim=True)
        context = (alpha[..., None] * contexts).sum(1)
        if selector:
            context = torch.sigmoid(linear(net.selector, h)) * context
        h, c = vectors.lstm(net.cell, torch.cat([word, context], 1), (h, c))
        readout = torch.tanh(linear(net.readout_h, h) + word + linear(net.readout_context, context))
        assert_close(log_probs[:, t], linear(net.head, readout).log_softmax(-1))
        assert_close(alphas[:, t], alpha)
        word = net.embedding.weight[tokens[:, t]]


def test_attention_sums_to_one_and_the_order_of_contexts_does_not_matter():
    net = small()
    contexts, tokens = torch.randn(2, 7, 5).double(), torch.randint(11, (2, 4))
    log_probs, alphas = net(contexts, tokens)
    assert_close(alphas.sum(-1), torch.ones(2, 4).double())
    order = torch.randperm(7)
    moved, moved_alphas = net(contexts[:, order], tokens)
    assert_close(moved, log_probs)
    assert_close(moved_alphas, alphas[..., order])


def test_equal_contexts_have_the_effect_of_one():
    net = small()
    one, tokens = torch.randn(2, 1, 5).double(), torch.randint(11, (2, 4))
    log_probs, alphas = net(one.expand(-1, 7, -1), tokens)
    assert_close(alphas, torch.full((2, 4, 7), 1 / 7, dtype=torch.float64))
    assert_close(log_probs, net(one, tokens)[0])


def test_gradient_of_attention():
    net = small()
    contexts, tokens = torch.randn(1, 3, 5).double().requires_grad_(), torch.randint(11, (1, 3))
    assert torch.autograd.gradcheck(lambda x: net(x, tokens), contexts)


def test_loss():
    net = small(penalty=0.5)
    tokens = torch.tensor([[1, 2, 0], [3, 0, 0]])
    log_probs = torch.full((2, 3, 4), 0.25).log()
    alphas = torch.tensor([[[0.5, 0.5], [1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]])
    ln4 = torch.tensor(4.0).log()
    # Of the second caption two tokens count; then it has looked at each context once.
    first = 2 * (1 - 1.5) ** 2
    assert net.loss(log_probs, alphas, tokens, torch.tensor([3, 2])).item() == pytest.approx(
        float(5 * ln4 / 2 + 0.5 * first / 2)
    )
    second = (1 - 2.0) ** 2
    assert net.loss(log_probs, alphas, tokens).item() == pytest.approx(float(3 * ln4 + 0.5 * (first + second) / 2))
    assert SoftAttentionCaption(vocabulary=2, features=2, embedding=2, hidden=2).penalty == 0.70602


def test_dropout_acts_in_training_only():
    net = small()
    inputs = net.example_inputs(2)
    inputs = inputs[0].double(), inputs[1]
    assert torch.equal(net(*inputs)[0], net(*inputs)[0])
    net.train()
    assert not torch.equal(net(*inputs)[0], net(*inputs)[0])
    assert torch.equal(net(*inputs)[1], net(*inputs)[1])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: small()(torch.zeros(2, 5).double(), torch.zeros(2, 3).long()), r"contexts: expected \(N,K,5\)"),
        (lambda: small()(torch.zeros(2, 3, 4).double(), torch.zeros(2, 3).long()), "contexts"),
        (lambda: small()(torch.zeros(2, 0, 5).double(), torch.zeros(2, 3).long()), "contexts"),
        (lambda: small()(torch.zeros(2, 3, 5).double(), torch.zeros(1, 3).long()), r"tokens: expected \(2,L\)"),
    ],
)
def test_errors(make, words):
    with pytest.raises(ValueError, match=words):
        make()
