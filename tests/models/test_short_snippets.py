"""Pooling over long videos: every variant written out, what they have in common, frames of long clips."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fastrcn.models import ShortSnippetsPooling
from fastrcn.models.short_snippets import POOLINGS, flow_pairs, max_over_time, sampled_frames, windowed_max

SHAPE = (3, 2, 4)  # of a frame's maps


def make(pooling, num_frames=23, **options):
    """On maps, without dropout, with weights that are not small."""
    net = ShortSnippetsPooling(
        5, pooling, num_frames=num_frames, cnn=None, feature_shape=SHAPE, hidden=6, **{"channels": 4, **options}
    ).double()
    with torch.no_grad():
        for p in net.parameters():
            p.normal_(0, 0.4)
    return net.eval()


def written_out(net, maps):
    """Each variant as loops over frames, windows and steps, for one clip (T,C,h,w)."""
    p = dict(net.named_parameters())

    def fc6(x):
        return F.linear(x.reshape(-1), p["fc6.0.weight"], p["fc6.0.bias"]).relu()

    def fc7(x):
        return F.linear(x, p["fc7.0.weight"], p["fc7.0.bias"]).relu()

    def top(xs):
        result = xs[0]
        for x in xs[1:]:
            result = torch.maximum(result, x)
        return result

    windows = [top(list(maps[s : s + 10])) for s in range(0, len(maps) - 9, 5)]
    if net.pooling == "conv":
        x = fc7(fc6(top(list(maps))))
    elif net.pooling == "late":
        x = top([fc7(fc6(m)) for m in maps])
    elif net.pooling == "slow":
        x = fc7(top([fc6(w) for w in windows]))
    elif net.pooling == "local":
        x = torch.cat([fc7(fc6(w)) for w in windows])
    else:
        w, b = p["conv.weight"], p["conv.bias"]
        length, stride = w.shape[2], net.conv.stride[0]
        steps = []
        for s in range(0, len(maps) - length + 1, stride):
            parts = [F.conv2d(maps[s + k][None], w[:, :, k], padding=w.shape[3] // 2)[0] for k in range(length)]
            steps.append((sum(parts) + b[:, None, None]).relu())
        x = fc7(fc6(top(steps)))
    return F.linear(x, p["classifier.weight"], p["classifier.bias"])


POINTWISE = {"kernel_size": (1, 1, 1), "stride": (1, 1, 1)}


@pytest.mark.parametrize(("pooling", "options"), [*((p, {}) for p in POOLINGS), ("time_domain", POINTWISE)])
def test_equals_loops(pooling, options):
    net = make(pooling, **options)
    maps = torch.randn(2, 23, *SHAPE, dtype=torch.float64)
    truth = torch.stack([written_out(net, clip) for clip in maps])
    torch.testing.assert_close(net(maps), truth, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("pooling", ["conv", "late"])
def test_order_of_frames_does_not_matter(pooling):
    net, maps = make(pooling), torch.randn(2, 23, *SHAPE, dtype=torch.float64)
    torch.testing.assert_close(net(maps[:, torch.randperm(23)]), net(maps), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("pooling", ["slow", "local", "time_domain"])
def test_order_of_frames_matters(pooling):
    net, maps = make(pooling), torch.randn(2, 23, *SHAPE, dtype=torch.float64)
    assert (net(maps.flip(1)) - net(maps)).abs().max() > 1e-3


@pytest.mark.parametrize(("pooling", "frames"), [("conv", 1), ("conv", 7), ("late", 7), ("slow", 10), ("slow", 23)])
def test_copies_of_a_frame_equal_the_frame(pooling, frames):
    net, image = make(pooling), torch.randn(2, 1, *SHAPE, dtype=torch.float64)
    single = net.classifier(net.fc7(net.fc6(image[:, 0].flatten(1))))
    copies = net(image.expand(-1, frames, -1, -1, -1))
    torch.testing.assert_close(copies, single, rtol=1e-12, atol=1e-12)


def test_one_window_makes_slow_local_and_conv_the_same():
    """With one window both maxima over windows fall away, and max - fc6 - fc7 - classifier is left."""
    nets = [make(pooling, num_frames=10) for pooling in ("conv", "slow", "local")]
    maps = torch.randn(2, 10, *SHAPE, dtype=torch.float64)
    for net in nets[1:]:
        net.load_state_dict(nets[0].state_dict())
        torch.testing.assert_close(net(maps), nets[0](maps), rtol=1e-12, atol=1e-12)
    wider = torch.randn(2, 23, *SHAPE, dtype=torch.float64)
    assert (nets[1](wider) - nets[0](wider)).abs().max() > 1e-3


@pytest.mark.parametrize("pool", [max_over_time, lambda x: windowed_max(x)[:, 0]])
def test_gradient_of_a_maximum_reaches_one_frame(pool):
    x = torch.randn(2, 10, *SHAPE, dtype=torch.float64)
    x[:, 3] = x[:, 7] = x.max() + 1  # equal ones too
    x.requires_grad_()
    pool(x).sum().backward()
    assert torch.equal(x.grad.sum(1), torch.ones(2, *SHAPE, dtype=torch.float64))
    assert torch.equal((x.grad != 0).sum(1), torch.ones(2, *SHAPE, dtype=torch.int64))


@pytest.mark.parametrize("pooling", ["conv", "late", "time_domain"])
def test_gradient_of_the_net_reaches_one_frame_for_each_maximum(pooling):
    net = make(pooling, **POINTWISE)
    maps = torch.randn(1, 12, *SHAPE, dtype=torch.float64, requires_grad=True)
    net(maps).sum().backward()
    reached = (maps.grad != 0).flatten(2).any(2).sum()  # frames
    largest = {"conv": 24, "late": 6, "time_domain": 4 * 8}[pooling]  # as many as there are maxima
    assert 1 < reached <= min(12, largest)
    if pooling == "conv":  # and each place of one of them
        assert ((maps.grad != 0).sum(1) == 1).all()


def test_windows():
    x = torch.arange(23.0).view(1, 23, 1, 1, 1)
    assert windowed_max(x).flatten().tolist() == [9, 14, 19]
    assert windowed_max(x[:, :10]).flatten().tolist() == [9]
    assert windowed_max(torch.arange(120.0).view(1, 120)).shape == (1, 23)


@pytest.mark.parametrize("pooling", ["conv", "late", "slow", "time_domain"])
def test_weights_of_short_clips_serve_long_ones(pooling):
    short, long = make(pooling, num_frames=10), make(pooling, num_frames=30)
    long.load_state_dict(short.state_dict())
    maps = torch.randn(1, 10, *SHAPE, dtype=torch.float64)
    assert torch.equal(short(maps), long(maps))
    assert long(maps.repeat(1, 3, 1, 1, 1)).shape == (1, 5)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_papers_size(pooling):
    with torch.device("meta"):
        net = ShortSnippetsPooling(pooling=pooling, backend="reference").eval()
        assert net(torch.empty(1, 120, 3, 220, 220)).shape == (1, 487)
    assert net.classifier.in_features == (23 * 4096 if pooling == "local" else 4096)
    if pooling == "time_domain":
        assert net.conv.weight.shape == (256, 256, 10, 3, 3)
        assert net.conv.stride == (5, 1, 1)


def test_a_cnn_that_is_given():
    cnn = nn.Conv2d(2, 3, 1)
    net = ShortSnippetsPooling(5, "conv", cnn=cnn, feature_shape=SHAPE, hidden=6).eval()
    frames = torch.randn(2, 4, 2, *SHAPE[1:])
    truth = net.classifier(net.fc7(net.fc6(torch.stack([cnn(f) for f in frames]).amax(1).flatten(1))))
    torch.testing.assert_close(net(frames), truth)


@pytest.mark.parametrize(
    ("frames", "fps", "options", "expected"),
    [
        (100, 25, {"length": 4}, [0, 25, 50, 75]),
        (101, 25, {"length": 7}, [0, 25, 50, 75, 100, 0, 25]),  # repeated from the start
        (1, 25, {"length": 3}, [0, 0, 0]),
        (90, 29.97, {"length": 5}, [0, 29, 59, 89, 0]),
        (1000, 25, {"length": 3}, [0, 25, 50]),  # what is longer is left
        (100, 30, {"length": 4, "rate": 15}, [0, 2, 4, 6]),
    ],
)
def test_frames_of_a_long_clip(frames, fps, options, expected):
    assert sampled_frames(frames, fps, **options) == expected


def test_five_minutes_are_300_frames():
    found = sampled_frames(10 * 60 * 30, 30)
    assert found == list(range(0, 9000, 30))


def test_pairs_of_frames_for_flow():
    assert flow_pairs(100, 30, [0, 30, 99]) == [(0, 2), (30, 32), (97, 99)]
    assert flow_pairs(100, 15, [5]) == [(5, 6)]
    assert flow_pairs(100, 10, [5]) == [(5, 6)]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: ShortSnippetsPooling(pooling="mean"), "pooling: expected one of conv"),
        (lambda: ShortSnippetsPooling(cnn="vgg"), "cnn"),
        (lambda: ShortSnippetsPooling(cnn=None, cnn_options={"width": 2}), "cnn_options"),
        (lambda: ShortSnippetsPooling(pooling="slow", num_frames=9), "num_frames: expected at least 10"),
        (lambda: make("time_domain", kernel_size=(3, 2, 3)), "kernel_size"),
        (lambda: make("slow")(torch.zeros(1, 9, *SHAPE).double()), "at least 10 of them, got 9"),
        (lambda: make("local")(torch.zeros(1, 24, *SHAPE).double()), "expected 23 of them, got 24"),
        (lambda: make("conv")(torch.zeros(1, 9, 3, 4, 4).double()), r"feature_shape: .*got \(3, 4, 4\)"),
        (lambda: make("conv")(torch.zeros(9, *SHAPE).double()), r"frames: expected 5 dimensions"),
        (
            lambda: ShortSnippetsPooling(2, hidden=4, cnn_options={"width": 2}, feature_shape=(8, 5, 5))(
                torch.zeros(1, 2, 3, 224, 224)
            ),
            r"frames: expected \(N,T,3,220,220\)",
        ),
        (lambda: ShortSnippetsPooling(2, cnn=nn.Identity(), hidden=4).example_inputs(), "cnn"),
        (lambda: sampled_frames(0, 25), "num_frames"),
        (lambda: sampled_frames(10, 25, rate=30), "rate"),
        (lambda: flow_pairs(10, 30, [10]), "frames"),
        (lambda: flow_pairs(2, 30, [0]), "frames"),
        (lambda: flow_pairs(3, 30, [1]), "frames: expected a neighbour"),
    ],
)
def test_errors(call, words):
    with pytest.raises(ValueError, match=words):
        call()
