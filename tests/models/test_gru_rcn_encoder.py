"""The captioning encoder of GRU-RCN: shapes of the contexts and what is in them."""

import pytest
import torch

from fastrcn.models import GRURCN, GRURCNEncoder
from fastrcn.models.gru_rcn import SMALL
from tests.helpers.tolerances import assert_close

SIZES = {n: v for n, v in SMALL.items() if n != "num_classes"}
LEVELS = sum(SIZES["hidden_sizes"])


def segments(k=3, t=4):
    return torch.randn(2, k, t, 3, 32, 32, dtype=torch.float64)


@pytest.mark.parametrize(
    ("options", "size"),
    [
        ({}, 4096 + 2 * 1216),
        ({"bidirectional": False}, 4096 + 1216),
        ({"bidirectional": False, "mode": "bottom_up"}, 4096 + 1216),
        ({"fc7_only": True}, 4096),
    ],
)
def test_contexts_at_the_papers_size(options, size):
    with torch.device("meta"):
        net = GRURCNEncoder(**options)
        contexts = net(*net.example_inputs(2))
    assert contexts.shape == (2, 10, size)
    assert net.context_size == size


@pytest.mark.parametrize("bidirectional", [True, False])
def test_a_context_is_fc7_beside_the_states_of_one_segment(bidirectional):
    net = GRURCNEncoder(**SIZES, bidirectional=bidirectional).double()
    clip_net = GRURCN(**SIZES, bidirectional=bidirectional).double()
    clip_net.trunk.load_state_dict(net.trunk.state_dict())
    clip_net.recurrent.load_state_dict(net.recurrent.state_dict())
    x = segments()
    contexts = net(x)
    for k in range(3):
        fc7 = clip_net.taps(x[:, k])[-1].flatten(2).mean(1)
        assert_close(contexts[:, k], torch.cat([fc7, *clip_net.features(x[:, k])], 1))
    whole = GRURCNEncoder(**SIZES, bidirectional=bidirectional, concat_final=True).double()
    whole.load_state_dict(net.state_dict())
    clip = x.flatten(1, 2)
    fc7 = clip_net.taps(clip)[-1].flatten(2).mean(1)
    assert_close(whole(x), torch.cat([fc7, *clip_net.features(clip)], 1)[:, None])


def test_one_segment_is_one_clip_either_way():
    net, whole = GRURCNEncoder(**SIZES).double(), GRURCNEncoder(**SIZES, concat_final=True).double()
    whole.load_state_dict(net.state_dict())
    x = segments(k=1)
    assert net(x).shape == (2, 1, 8 + 2 * LEVELS)
    assert_close(whole(x), net(x))


def test_fc7_only():
    full = GRURCNEncoder(**SIZES).double()
    net = GRURCNEncoder(**SIZES, fc7_only=True).double()
    net.trunk.load_state_dict(full.trunk.state_dict())
    x = segments()
    assert_close(net(x), full(x)[..., :8])
    assert [n for n, _ in net.named_children()] == ["trunk"]


def test_taps_that_were_computed_before():
    net = GRURCNEncoder(**SIZES).double()
    x = segments()
    assert torch.equal(net(net.taps(x)), net(x))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: GRURCNEncoder(**SIZES)(torch.randn(2, 3, 3, 32, 32)), r"segments: expected \(N,K,T,C,H,W\)"),
        (lambda: GRURCNEncoder(**SIZES)(torch.randn(2, 0, 3, 3, 32, 32)), "at least one segment"),
        (lambda: GRURCNEncoder(**SIZES)(torch.randn(2, 2, 0, 3, 32, 32)), "at least one frame"),
        (lambda: GRURCNEncoder(**SIZES)([torch.randn(2, 3, 8, 8, 8)] * 5), r"taps: expected maps \(N,K,T,c,h,w\)"),
        (lambda: GRURCNEncoder(**SIZES)([torch.randn(2, 2, 3, 8, 8, 8)] * 5), "taps: expected maps"),
    ],
)
def test_errors(make, words):
    with pytest.raises(ValueError, match=words):
        make()
