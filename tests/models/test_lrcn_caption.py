"""LRCN captions: the three stacks by hand, images and videos, and that it can learn captions by heart."""

import pytest
import torch

from fastrcn import models
from fastrcn.models import LRCNCaption, caption_nll, greedy
from tests.helpers import vectors
from tests.helpers.tolerances import assert_close

SIZES = {"vocabulary": 11, "features": 5, "embedding": 4, "hidden": 6}
TOKENS = torch.zeros(2, 3, dtype=torch.int64)


def by_hand(net, seen, tokens):
    """Log-probabilities (N,L,V), one word and one layer at a time."""
    zeros = torch.zeros(len(tokens), net.hidden, dtype=torch.float64)
    states = [(zeros, zeros) for _ in net.layers]
    last = torch.full((len(tokens),), net.bos)
    found = []
    for t in range(tokens.shape[1]):
        x = net.embedding.weight[last]
        if net.variant == "1u":
            states[0] = vectors.lstm(net.layers[0], torch.cat([x, seen], 1), states[0])
        elif net.variant == "2u":
            states[0] = vectors.lstm(net.layers[0], torch.cat([x, seen], 1), states[0])
            states[1] = vectors.lstm(net.layers[1], states[0][0], states[1])
        else:
            states[0] = vectors.lstm(net.layers[0], x, states[0])
            states[1] = vectors.lstm(net.layers[1], torch.cat([states[0][0], seen], 1), states[1])
        found.append((states[-1][0] @ net.head.weight.T + net.head.bias).log_softmax(-1))
        last = tokens[:, t]
    return torch.stack(found, 1)


@pytest.mark.parametrize("variant", ["1u", "2u", "2f"])
def test_equals_loop_for_images_and_frames(variant):
    net = LRCNCaption(**SIZES, variant=variant, bos=3).double()
    tokens = torch.randint(11, (2, 5))
    image, frames = torch.randn(2, 5).double(), torch.randn(2, 4, 5).double()
    assert_close(net(image, tokens), by_hand(net, image, tokens))
    assert_close(net(frames, tokens), by_hand(net, frames.mean(1), tokens))


@pytest.mark.parametrize("variant", ["1u", "2u", "2f"])
def test_encoder_equals_loop(variant):
    net = LRCNCaption(**SIZES, variant=variant, video="encoder").double()
    tokens, frames = torch.randint(11, (2, 5)), torch.randn(2, 4, 5).double()
    zeros = torch.zeros(2, 6, dtype=torch.float64)
    state = zeros, zeros
    for t in range(4):
        state = vectors.lstm(net.encoder, frames[:, t], state)
    assert_close(net(frames, tokens), by_hand(net, state[0], tokens))
    assert not torch.allclose(net(frames.flip(1), tokens), net(frames, tokens))


def lstm_size(inputs, hidden=1000):
    return 4 * hidden * (inputs + hidden + 1)


@pytest.mark.parametrize(
    ("variant", "layers"), [("1u", [1000 + 4096]), ("2u", [1000 + 4096, 1000]), ("2f", [1000, 1000 + 4096])]
)
def test_parameter_counts_and_shapes(variant, layers):
    with torch.device("meta"):
        net = models.create(f"lrcn_caption_{variant}")
        log_probs = net(torch.empty(2, 4096), torch.zeros(2, 20, dtype=torch.int64))
    assert [layer.input_size for layer in net.layers] == layers
    words = 8945 * 1000 + 8945 * 1001
    assert sum(p.numel() for p in net.parameters()) == words + sum(map(lstm_size, layers))
    assert log_probs.shape == (2, 20, 8945)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("lrcn_caption_1u", {}),
        ("lrcn_caption_2f", {"video": "encoder"}),
        ("soft_attention_caption", {"dropout": 0.0, "embedding": 16}),
    ],
)
def test_learns_captions_by_heart(name, options):
    net = models.create(name, small=True, hidden=32, **options)
    captions = torch.tensor([[1, 2, 3, 0, 0, 0], [2, 1, 4, 5, 6, 0], [7, 7, 0, 0, 0, 0], [1, 2, 8, 9, 0, 0]])
    lengths = torch.tensor([4, 6, 3, 5])
    videos = torch.randn(4, 3, 5)
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(80):
        optimizer.zero_grad()
        outputs = net(videos, captions)
        log_probs = outputs[0] if isinstance(outputs, tuple) else outputs
        caption_nll(log_probs, captions, lengths).backward()
        optimizer.step()
    found = net.eval().generate(videos, search=greedy)
    assert torch.equal(found.tokens, captions)
    assert torch.equal(found.lengths, lengths)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: LRCNCaption(**SIZES, variant="3u"), "variant: expected one of 1u, 2u, 2f, got '3u'"),
        (lambda: LRCNCaption(**SIZES, video="crf"), "video: expected one of fixed, encoder"),
        (lambda: LRCNCaption(**SIZES)(torch.zeros(2, 6), TOKENS), r"features: .*\(N,T,5\) or \(N,5\)"),
        (lambda: LRCNCaption(**SIZES)(torch.zeros(2, 0, 5), TOKENS), "features"),
        (
            lambda: LRCNCaption(**SIZES, video="encoder")(torch.zeros(2, 5), TOKENS),
            r"expected \(N,T,5\), got",
        ),
        (lambda: LRCNCaption(**SIZES)(torch.zeros(3, 5), TOKENS), r"tokens: expected \(3,L\)"),
        (lambda: LRCNCaption(**SIZES)(torch.zeros(2, 5), TOKENS[:, :0]), "tokens"),
    ],
)
def test_errors(make, words):
    with pytest.raises(ValueError, match=words):
        make()
