"""The non-local block: its four functions written out, identity at the start, counts, equivariance."""

import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fastrcn.models import NonLocalBlock
from tests.helpers.tolerances import assert_close

VARIANTS = ("embedded", "gaussian", "dot_product", "concatenation")


def block(*args, **options):
    torch.manual_seed(0)
    return NonLocalBlock(*args, **{"zero_init": None} | options).double()


def linear(conv, vector):
    return conv.weight.flatten(1) @ vector + conv.bias


def written_out(net, x, seen):
    """The paper's sum, one pair of positions after another; before the normalisation, without the block's input."""
    places = list(itertools.product(*map(range, x.shape[2:])))
    others = list(itertools.product(*map(range, seen.shape[2:])))
    z = torch.zeros_like(x)
    for n in range(len(x)):
        for i in places:
            x_i, terms = x[(n, slice(None), *i)], []
            for j in others:
                x_j = seen[(n, slice(None), *j)]
                if net.variant == "gaussian":
                    f = torch.exp(x_i @ x_j * (len(x_i) ** -0.5 if net.scale else 1))
                else:
                    theta, phi = linear(net.conv_theta, x_i), linear(net.conv_phi, x_j)
                    if net.variant == "embedded":
                        f = torch.exp(theta @ phi * (len(theta) ** -0.5 if net.scale else 1))
                    elif net.variant == "dot_product":
                        f = theta @ phi
                    else:
                        f = (net.w_f.weight[0] @ torch.cat([theta, phi])).relu()
                terms.append((f, linear(net.conv_g, x_j)))
            total = len(others) if net.variant in ("dot_product", "concatenation") else sum(f for f, _ in terms)
            y = sum((f * g for f, g in terms), torch.zeros(())) / total
            z[(n, slice(None), *i)] = linear(net.conv_out, y)
    return z


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("options", [{}, {"scale": False}, {"subsample": (1, 2, 2)}])
def test_equals_the_papers_sum(variant, options):
    net = block(6, variant, batch_norm=False, **options)
    x = torch.randn(2, 6, 2, 4, 3, dtype=torch.float64)
    seen = x
    if "subsample" in options:  # a last column that fills no window is left out
        seen = x[..., :2].unflatten(3, (2, 2)).amax((4, 5))[..., None]
    with torch.no_grad():
        assert_close(net(x), written_out(net, x, seen) + x, variant)


def test_equals_attention_over_flattened_tokens_with_gradients():
    """The explicit softmax over all pairs, and PyTorch's attention, of the embedded variant."""
    net = block(8, batch_norm=False)
    x = torch.randn(2, 8, 3, 4, 2, dtype=torch.float64, requires_grad=True)
    tokens = x.flatten(2).transpose(1, 2)
    theta, phi, g = (F.linear(tokens, c.weight.flatten(1), c.bias) for c in (net.conv_theta, net.conv_phi, net.conv_g))
    explicit = torch.softmax(theta @ phi.transpose(1, 2) / 2, dim=2) @ g  # 4 channels: divided by 2
    library = F.scaled_dot_product_attention(theta, phi, g)
    inputs = [x, *net.parameters()]
    weights = torch.randn_like(x)
    expected = None
    for y in (explicit, library):
        z = F.linear(y, net.conv_out.weight.flatten(1), net.conv_out.bias).transpose(1, 2).unflatten(2, (3, 4, 2)) + x
        assert_close(net(x), z)
        expected = torch.autograd.grad((z * weights).sum(), inputs, retain_graph=True)
        for k, (found, truth) in enumerate(
            zip(torch.autograd.grad((net(x) * weights).sum(), inputs), expected, strict=True)
        ):
            scale = max(float(t.norm()) for t in expected)
            assert float((found - truth).norm()) <= 1e-12 * scale, k  # phi's bias has a gradient of zero


def test_attention_keeps_no_matrix_of_all_pairs():
    """Nothing that is kept for backward has P*P' values; the concatenation has to."""
    x = torch.randn(1, 8, 8, 16, 16, requires_grad=True)
    positions, largest = 8 * 16 * 16, {}
    for variant in VARIANTS:
        sizes = [0]
        net = NonLocalBlock(8, variant)
        with torch.autograd.graph.saved_tensors_hooks(lambda t, s=sizes: s.append(t.numel()), lambda t: t):
            net(x)
        largest[variant] = max(sizes)
    assert largest.pop("concatenation") == positions**2
    assert max(largest.values()) < 20 * positions


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("mode", [True, False])
def test_lets_its_input_through_at_first(variant, mode):
    x = torch.randn(2, 6, 2, 3, 3)
    for options in ({}, {"zero_init": "conv"}, {"zero_init": "conv", "batch_norm": False}):
        assert torch.equal(NonLocalBlock(6, variant, **options).train(mode)(x), x)
    assert not torch.allclose(NonLocalBlock(6, variant, zero_init=None).train(mode)(x), x)


@pytest.mark.parametrize("variant", VARIANTS)
def test_order_of_positions_does_not_matter(variant):
    net = block(6, variant)
    x = torch.randn(2, 6, 2, 3, 4, dtype=torch.float64)
    order = torch.randperm(24)

    def shuffled(maps):
        return maps.flatten(2)[:, :, order].unflatten(2, (2, 3, 4))

    assert_close(net(shuffled(x)), shuffled(net(x)))


def test_counts():
    def count(channels, *args, **options):
        return sum(p.numel() for p in NonLocalBlock(channels, *args, **options).parameters())

    with torch.device("meta"):
        assert count(512) == 526_592
        assert count(1024) == 2_101_760
        assert 2 * count(512) + 3 * count(1024) == 7_358_464
        projection = 512 * 256 + 256
        assert count(512, "gaussian") == 526_592 - 2 * projection
        assert count(512, "dot_product") == 526_592
        assert count(512, "concatenation") == 526_592 + 512
        assert count(512, batch_norm=False, zero_init="conv") == 526_592 - 1024


@pytest.mark.parametrize(("dims", "size"), [(1, (5,)), (2, (3, 4))])
@pytest.mark.parametrize("variant", VARIANTS)
def test_images_and_sequences_are_clips_with_sides_of_one(variant, dims, size):
    net = block(6, variant, dims=dims).eval()
    clips = block(6, variant).eval()
    shapes = {n: v.shape for n, v in clips.state_dict().items()}
    clips.load_state_dict({n: v.reshape(shapes[n]) for n, v in net.state_dict().items()})
    x = torch.randn(2, 6, *size, dtype=torch.float64)
    assert_close(net(x), clips(x[(..., *[None] * (3 - dims))]).reshape(x.shape))


def test_normalisation_follows_the_last_convolution():
    net, plain = block(6), block(6, batch_norm=False)
    plain.load_state_dict({n: v for n, v in net.state_dict().items() if not n.startswith("norm")})
    x = torch.randn(3, 6, 2, 3, 4, dtype=torch.float64)
    y = plain(x) - x
    mean, var = y.mean((0, 2, 3, 4), keepdim=True), y.var((0, 2, 3, 4), unbiased=False, keepdim=True)
    assert_close(net(x), (y - mean) / torch.sqrt(var + 1e-5) + x)
    assert isinstance(net.norm, nn.BatchNorm3d)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: NonLocalBlock(6, "cosine"), "variant: expected one of embedded.*got 'cosine'"),
        (lambda: NonLocalBlock(5), "channels: expected an even number, got 5"),
        (lambda: NonLocalBlock(6, dims=4), "dims: expected 1, 2 or 3, got 4"),
        (lambda: NonLocalBlock(6, subsample=(2, 2)), r"subsample: expected 3 numbers or None, got \(2, 2\)"),
        (lambda: NonLocalBlock(6, zero_init="all"), 'zero_init: expected "bn", "conv" or None, got'),
        (lambda: NonLocalBlock(6, batch_norm=False), 'zero_init: expected "conv" or None without batch_norm'),
        (lambda: NonLocalBlock(6)(torch.zeros(1, 4, 2, 3, 3)), r"x: expected \(N,6,T,H,W\), got shape \(1, 4"),
        (lambda: NonLocalBlock(6, dims=2)(torch.zeros(6, 3, 3)), r"x: expected \(N,6,H,W\), got shape"),
        (lambda: NonLocalBlock(6, subsample=(1, 2, 2))(torch.zeros(1, 6, 2, 3, 1)), r"x: expected maps of \(1, 2, 2\)"),
    ],
)
def test_errors(make, words):
    with pytest.raises(ValueError, match=words):
        make()
