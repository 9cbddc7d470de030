"""GRU-RCN: the published widths and counts, the levels against loops that run step by step, its options and loss."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import fastrcn
from fastrcn.models import GRURCN, VGG16RNN, VGG16Frames, fuse_rgb_flow, gru_parameter_counts, gru_rcn_loss
from fastrcn.models.gru_rcn import SMALL
from tests.helpers import loops
from tests.helpers.nets import count
from tests.helpers.tolerances import assert_close

LEVELS = 5


def small(**options):
    """A small net in float64 without dropout, whose states depend on the whole clip."""
    net = GRURCN(**{**SMALL, "dropout": 0.0, **options}).double()
    for p in net.recurrent.parameters():
        nn.init.uniform_(p, -0.4, 0.4)
    return net


def random_taps(net, batch=2, steps=4):
    """Random maps of the sizes that the net's VGG-16 gives; those of pool5 have more than one pixel from 64x64 on."""
    sides = [net.trunk.size // k for k in (4, 8, 16, 32)] + [1]
    channels = list(net.trunk.tap_channels.values())[1:]
    return [torch.randn(batch, steps, c, s, s, dtype=torch.float64) for c, s in zip(channels, sides, strict=True)]


def parameters(level, suffix="_l0"):
    found = {n.removesuffix(suffix): p for n, p in level.named_parameters() if n.endswith(suffix)}
    return {"bias": None, **found}


def step_by_step(net, taps):
    """All levels inside each time step, as the paper has it; returns the last states averaged over their maps."""
    states = [
        torch.zeros(x.shape[0], level.hidden_size, *x.shape[3:], dtype=x.dtype)
        for level, x in zip(net.recurrent.levels, taps, strict=True)
    ]
    for t in range(taps[0].shape[1]):
        for k, (level, x) in enumerate(zip(net.recurrent.levels, taps, strict=True)):
            mode, frame = net.recurrent.mode, x[:, t]
            if k and mode != "independent":
                ratio = states[k - 1].shape[-1] // frame.shape[-1]
                below = F.max_pool2d(states[k - 1], ratio)  # of this step
                if mode == "bottom_up":
                    candidate = level.cell.bottom_up_in_candidate
                    p = parameters(level)
                    (states[k],) = loops.stacked_gru_step(p, (frame, below), (states[k],), candidate=candidate)
                    continue
                frame = below
            (states[k],) = loops.gru_step(parameters(level), frame, (states[k],))
    return [state.mean((2, 3)) for state in states]


class TestCounts:
    """Counts and sizes of the paper's nets."""

    @pytest.mark.parametrize(
        ("options", "cells", "classifiers"),
        [
            ({}, 19_353_600, 123_321),
            ({"bias": True}, 19_357_248, 123_321),
            ({"mode": "bottom_up"}, 19_353_600 + 2_179_072, 123_321),
            ({"mode": "bottom_up", "bottom_up_in_candidate": True}, 19_353_600 + 3_268_608, 123_321),
            ({"bidirectional": True}, 38_707_200, 246_137),
            ({"in_channels": 20}, 19_353_600, 123_321),
        ],
    )
    def test_parameters(self, options, cells, classifiers):
        with torch.device("meta"):
            net = GRURCN(**options)
        assert count(net.recurrent) == cells
        assert count(net.classifiers) == classifiers

    def test_parameters_of_each_level(self):
        with torch.device("meta"):
            found = [count(level) for level in GRURCN().recurrent.levels]
        assert found == [331_776, 1_327_104, 5_308_416, 5_308_416, 7_077_888]
        assert 9 * found[-1] == 63_700_992  # with a 3x3 kernel on fc7

    @pytest.mark.parametrize("name", ["gru_rcn", "gru_rcn_stacked", "gru_rcn_bidirectional"])
    def test_shapes_at_the_papers_size(self, name):
        with torch.device("meta"):
            net = fastrcn.models.create(name)
            taps = net.taps(*net.example_inputs(2))
            states = [
                level(x)[0].shape[2:] for level, x in zip(net.recurrent.levels, taps, strict=True)
                if name == "gru_rcn"
            ]  # fmt: skip
            scores, logits = net(*net.example_inputs(2))
        sides = [(128, 56), (256, 28), (512, 14), (512, 7), (4096, 1)]
        assert [tuple(tap.shape) for tap in taps] == [(2, 10, c, s, s) for c, s in sides]
        if name == "gru_rcn":
            widths = [(64, 56), (128, 28), (256, 14), (256, 7), (512, 1)]
            assert states == [(c, s, s) for c, s in widths]
        assert scores.shape == (2, 101)
        assert logits.shape == (2, 5, 101)

    def test_gru_rnn_is_as_large_as_the_fifth_level(self):
        with torch.device("meta"):
            net = VGG16RNN()
        assert count(net.rnn) == 7_077_888
        assert count(net.classifier) == 512 * 101 + 101

    def test_comparison_with_fully_connected_grus(self):
        counts = gru_parameter_counts((28, 28), 256, 128)
        assert counts["conv_gru"] == 1_327_104
        assert counts["fc_gru_as_printed"] == 3 * 784 * 128 * (256 + 128)
        assert counts["fc_gru"] == 784 * counts["fc_gru_as_printed"]
        flat = fastrcn.GRU(4 * 5, 4 * 3, bias=False)  # 2x2 maps of 5 and 3 channels, flattened
        assert gru_parameter_counts((2, 2), 5, 3, 1)["fc_gru"] == count(flat)
        assert gru_parameter_counts((2, 2), 5, 3, 3)["conv_gru"] == count(fastrcn.ConvGRU(5, 3, bias=False))


class TestCell:
    """What must hold of the cell; loops by hand, gradients and bounds are tested with the layers."""

    def test_on_one_pixel_is_the_fully_connected_gru(self):
        layer = fastrcn.ConvGRU(3, 4, 1, bias=False).double()
        x = torch.randn(5, 2, 3, dtype=torch.float64)
        w, u = layer.weight_ih_l0[..., 0, 0], layer.weight_hh_l0[..., 0, 0]
        h = torch.zeros(2, 4, dtype=torch.float64)
        for x_t in x:
            r = torch.sigmoid(x_t @ w[:4].T + h @ u[:4].T)
            z = torch.sigmoid(x_t @ w[4:8].T + h @ u[4:8].T)
            h = (1 - z) * h + z * torch.tanh(x_t @ w[8:].T + (r * h) @ u[8:].T)
        assert_close(layer(x[..., None, None])[1][0, ..., 0, 0], h)

    def test_open_reset_gate_is_a_leaky_conv_rnn(self):
        layer = fastrcn.ConvGRU(2, 3).double()
        with torch.no_grad():
            layer.bias_l0[:3] = 1000.0  # r = 1
        x = torch.randn(5, 2, 2, 4, 6, dtype=torch.float64)
        w, u, b = layer.weight_ih_l0, layer.weight_hh_l0, layer.bias_l0
        h = torch.zeros(2, 3, 4, 6, dtype=torch.float64)
        for x_t in x:
            z = torch.sigmoid(loops.same(x_t, w[3:6], b[3:6]) + loops.same(h, u[3:6]))
            h = (1 - z) * h + z * torch.tanh(loops.same(x_t, w[6:], b[6:]) + loops.same(h, u[6:]))
        assert_close(layer(x)[1][0], h)


MODES = [
    {}, {"bias": True}, {"mode": "bottom_up"}, {"mode": "bottom_up", "bottom_up_in_candidate": True, "bias": True},
    {"mode": "replace"},
]  # fmt: skip


@pytest.mark.parametrize("options", MODES, ids=str)
def test_levels_equal_all_levels_inside_each_step(options):
    net = small(size=64, **options)
    taps = random_taps(net)
    for found, truth in zip(net.features(taps), step_by_step(net, taps), strict=True):
        assert_close(found, truth)


def test_bidirectional_levels_end_at_their_own_ends():
    net = small(bidirectional=True)
    taps = random_taps(net)
    for level, x, found in zip(net.recurrent.levels, taps, net.features(taps), strict=True):
        zero = (torch.zeros(2, level.hidden_size, *x.shape[3:], dtype=x.dtype),)
        steps = x.transpose(0, 1)
        _, (ahead,) = loops.run(loops.gru_step, parameters(level), steps, zero)
        _, (back,) = loops.run(loops.gru_step, parameters(level, "_l0_reverse"), steps, zero, reverse=True)
        assert_close(found, torch.cat([ahead.mean((2, 3)), back.mean((2, 3))], 1))


def test_reversed_input_swaps_the_directions():
    net = small(bidirectional=True)
    state = net.recurrent.state_dict()
    net.recurrent.load_state_dict({n: state[n.removesuffix("_reverse")] for n in state})
    taps = random_taps(net)
    there, back = net.features(taps), net.features([tap.flip(1) for tap in taps])
    for a, b in zip(there, back, strict=True):
        first, second = a.chunk(2, 1)
        assert_close(torch.cat([second, first], 1), b)
        assert (first - second).abs().max() > 1e-3


@pytest.mark.parametrize("candidate", [False, True])
def test_stacked_without_bottom_up_weights_is_independent(candidate):
    stacked = small(mode="bottom_up", bottom_up_in_candidate=candidate)
    for name, p in stacked.named_parameters():
        if "weight_bh" in name:
            nn.init.zeros_(p)
    plain = small()
    plain.load_state_dict({n: p for n, p in stacked.state_dict().items() if "weight_bh" not in n})
    frames = torch.randn(2, 3, 3, 32, 32, dtype=torch.float64)
    for found, truth in zip(stacked.eval()(frames), plain.eval()(frames), strict=True):
        assert_close(found, truth)


def test_one_frame_is_a_gated_feed_forward_net():
    net = small()
    taps = random_taps(net, steps=1)
    for level, x, found in zip(net.recurrent.levels, taps, net.features(taps), strict=True):
        _, z, n = loops.same(x[:, 0], level.weight_ih_l0).chunk(3, 1)
        assert_close(found, (torch.sigmoid(z) * torch.tanh(n)).mean((2, 3)))


@pytest.mark.parametrize("options", [{}, {"mode": "bottom_up"}, {"mode": "replace"}], ids=str)
def test_time_reversal_changes_the_output(options):
    net = small(**options).eval()
    taps = random_taps(net)
    (_, there), (_, back) = net(taps), net([tap.flip(1) for tap in taps])
    assert ((there - back).abs().amax(2) > 1e-3).all()


@pytest.mark.parametrize("average", ["probabilities", "logits"])
@pytest.mark.parametrize("kept", range(LEVELS))
def test_zeroed_classifiers_but_one_leave_that_level(kept, average):
    net = small(average=average).eval()
    for k, classifier in enumerate(net.classifiers):
        if k != kept:
            nn.init.zeros_(classifier.weight)
            nn.init.zeros_(classifier.bias)
    taps = random_taps(net)
    scores, logits = net(taps)
    alone = F.linear(net.features(taps)[kept], net.classifiers[kept].weight, net.classifiers[kept].bias)
    assert_close(logits[:, kept], alone)
    if average == "logits":
        assert_close(scores, alone / LEVELS)
    else:  # the others say 1/num_classes of every class
        assert_close(scores, (alone.softmax(1) + (LEVELS - 1) / 5) / LEVELS)
        assert_close(scores.sum(1), torch.ones(2, dtype=torch.float64))


class TestLoss:
    def test_hand_worked(self):
        # Two levels that give the true class 1/2 and 1/8: each on its own (1 + 3)/2 bits, together -log2(5/16).
        p = torch.tensor([[[0.5, 0.5], [0.125, 0.875]]], dtype=torch.float64)
        labels = torch.tensor([0])
        assert gru_rcn_loss(p.log(), labels).item() == pytest.approx(2 * math.log(2))
        assert gru_rcn_loss(p.log(), labels, "mean").item() == pytest.approx(math.log(16 / 5))

    def test_is_the_mean_of_cross_entropies(self):
        logits, labels = torch.randn(3, 5, 7, dtype=torch.float64), torch.tensor([0, 3, 6])
        truth = sum(F.cross_entropy(logits[:, k], labels) for k in range(5)) / 5
        assert_close(gru_rcn_loss(logits, labels), truth)
        mean = F.nll_loss(logits.softmax(2).mean(1).log(), labels)
        assert_close(gru_rcn_loss(logits, labels, "mean"), mean)

    def test_each_classifier_for_itself_or_together(self):
        logits = torch.tensor([[[9.0, 0.0], [0.0, 0.0]]], requires_grad=True)
        own, together = (
            torch.autograd.grad(gru_rcn_loss(logits, torch.tensor([0]), objective), logits)[0][0, 1, 0].abs()
            for objective in ("levels", "mean")
        )
        assert own.item() == pytest.approx(0.25)
        assert together < 0.2  # the other level already decides


def test_dropout_drops_with_the_given_probability():
    net = GRURCN(**SMALL)
    assert net.dropout.p == 0.7
    kept = (net.train().dropout(torch.ones(100_000)) != 0).double().mean().item()
    assert kept == pytest.approx(0.3, abs=0.01)
    taps = [tap.float() for tap in random_taps(net, 1, 2)]
    assert not torch.equal(net(taps)[1], net(taps)[1])
    net.eval()
    assert torch.equal(net(taps)[1], net(taps)[1])


class TestTrunk:
    def test_is_frozen_and_stays_in_evaluation_mode(self):
        net = GRURCN(**SMALL).train()
        assert net.training
        assert not any(m.training for m in net.trunk.modules())
        frames = torch.randn(2, 3, 3, 32, 32)
        assert not any(tap.requires_grad for tap in net.taps(frames))
        gru_rcn_loss(net(frames)[1], torch.tensor([0, 1])).backward()
        assert all(p.grad is None for p in net.trunk.parameters())
        assert all(p.grad is not None for p in (*net.recurrent.parameters(), *net.classifiers.parameters()))

    def test_can_be_trained(self):
        net = GRURCN(**SMALL, train_cnn=True).train()
        assert all(m.training for m in net.trunk.modules())
        net.eval()
        assert not any(m.training for m in net.trunk.modules())
        gru_rcn_loss(net(torch.randn(2, 3, 3, 32, 32))[1], torch.tensor([0, 1])).backward()
        assert all(p.grad is not None for p in net.parameters())
        with torch.no_grad():
            assert not net(torch.randn(1, 2, 3, 32, 32))[0].requires_grad

    @pytest.mark.parametrize("options", [{}, {"mode": "bottom_up"}, {"bidirectional": True}], ids=str)
    def test_taps_that_were_computed_before(self, options):
        net = GRURCN(**SMALL, **options, in_channels=20).eval()
        frames = torch.randn(2, 3, 20, 32, 32)
        taps = net.taps(frames)
        assert all(torch.equal(a, b) for a, b in zip(net(taps), net(frames), strict=True))
        one = net.trunk.taps(frames[:, 1])
        for tap, truth in zip(taps, one, strict=True):
            assert torch.allclose(tap[:, 1], truth, atol=1e-6)


class TestBaselines:
    @pytest.mark.parametrize("average", ["probabilities", "logits"])
    def test_frames(self, average):
        net = VGG16Frames(5, average=average, width=4, fc=8, size=32).eval()
        frames = torch.randn(2, 4, 3, 32, 32)
        scores, logits = net(frames)
        one = torch.stack([net.cnn(frame[None])[0] for frame in frames[1]])
        assert torch.allclose(logits[1], one, atol=1e-6)
        parts = one.softmax(1) if average == "probabilities" else one
        assert torch.allclose(scores[1], sum(parts) / 4, atol=1e-6)
        assert torch.allclose(net(frames.flip(1))[0], scores, atol=1e-6)  # knows no order

    def test_rnn_reads_fc7(self):
        net = VGG16RNN(5, hidden_size=6, width=4, fc=8, size=32).double().eval()
        frames = torch.randn(2, 4, 3, 32, 32, dtype=torch.float64)
        fc7 = torch.stack([net.trunk.taps(frames[:, t])[-1].flatten(1) for t in range(4)], 1)
        p = {n: v[..., None, None] for n, v in parameters(net.rnn).items() if v is not None}
        zero = (torch.zeros(2, 6, 1, 1, dtype=torch.float64),)
        _, (h,) = loops.run(loops.gru_step, {"bias": None, **p}, fc7.transpose(0, 1)[..., None, None], zero)
        truth = F.linear(h.flatten(1), net.classifier.weight, net.classifier.bias)
        assert_close(net(frames), truth)
        assert_close(net(net.fc7(frames)), truth)
        assert not any(p.requires_grad for p in net.trunk.parameters())

    def test_rnn_with_the_cnn(self):
        net = VGG16RNN(5, hidden_size=6, width=4, fc=8, size=32, train_cnn=True)
        net(torch.randn(2, 3, 3, 32, 32)).sum().backward()
        assert all(p.grad is not None for p in net.parameters())


def test_fusion():
    rgb, flow = torch.tensor([[0.9, 0.1]]), torch.tensor([[0.3, 0.7]])
    assert torch.allclose(fuse_rgb_flow(rgb, flow), torch.tensor([[0.5, 0.5]]))
    assert torch.allclose(fuse_rgb_flow(rgb, flow, (1, 1)), torch.tensor([[0.6, 0.4]]))
    assert torch.equal(fuse_rgb_flow(rgb, flow, (0, 3)), flow)


def made(**options):
    return GRURCN(**{**SMALL, **options})


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: made(mode="up"), r"mode: expected one of independent, bottom_up, replace, got 'up'"),
        (lambda: made(average="votes"), "average: expected one of probabilities, logits"),
        (lambda: made(hidden_sizes=(1, 2)), "hidden_sizes: expected 5 widths"),
        (lambda: made(mode="replace", bidirectional=True), 'mode: expected "independent" with bidirectional'),
        (lambda: made(bottom_up_in_candidate=True), "bottom_up_in_candidate"),
        (lambda: made()(torch.randn(2, 3, 32, 32)), r"frames: expected \(N,T,C,H,W\)"),
        (lambda: made()(torch.randn(2, 0, 3, 32, 32)), "at least one frame"),
        (lambda: made()(torch.randn(2, 3, 3, 30, 32)), r"x: expected \(N,3,32,32\)"),
        (lambda: made()([torch.randn(2, 3, 8, 8, 8)]), "taps: expected maps"),
        (lambda: made()([t[:, : k + 1] for k, t in enumerate(random_taps(made()))]), "taps: expected maps"),
        (lambda: VGG16Frames(5, average="votes", width=4, fc=8, size=32), "average"),
        (lambda: VGG16Frames(5, width=4, fc=8, size=32)(torch.randn(2, 3, 32, 32)), "frames: expected"),
        (lambda: VGG16RNN(5, width=4, fc=8, size=32)(torch.randn(2, 3, 32, 32)), "frames: expected .* or fc7"),
        (lambda: gru_rcn_loss(torch.zeros(2, 5, 3), torch.zeros(2), "sum"), "objective"),
        (lambda: gru_rcn_loss(torch.zeros(2, 3), torch.zeros(2)), "logits, labels"),
        (lambda: fuse_rgb_flow(torch.zeros(2, 3), torch.zeros(2, 4)), "flow: expected the shape of rgb"),
        (lambda: fuse_rgb_flow(torch.zeros(2), torch.zeros(2), (0, 0)), "weights"),
    ],
)
def test_errors(make, words):
    with pytest.raises(ValueError, match=words):
        make()
