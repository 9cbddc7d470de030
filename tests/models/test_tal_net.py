"""TAL-Net: receptive fields, late fusion, losses written out, and a segment that is found after training."""

import pytest
import torch
from torch.nn import functional as F

from fastrcn import models
from fastrcn.metrics import temporal_detection_ap
from fastrcn.models import TALNet
from fastrcn.models.tal_net import SCALES, SegmentProposalNetwork, Tower
from fastrcn.models.temporal_segments import decode, make_anchors
from fastrcn.overlap import tiou

pytestmark = pytest.mark.usefixtures("one_thread")
SMALL = models.describe("tal_net").small


def test_shapes_at_the_papers_size():
    with torch.device("meta"):
        net = TALNet()
        spn = net.proposers["rgb"](torch.empty(2, 1024, 600))
        pooled = net.classifiers["flow"](torch.empty(300, 1024, 7))
    assert SCALES == (1, 2, 3, 4, 5, 6, 8, 11, 16)
    assert [tuple(x.shape) for x in spn] == [(2, 600, 9), (2, 600, 9, 2)]
    assert [tuple(x.shape) for x in pooled] == [(300, 21), (300, 20, 2)]


@pytest.mark.parametrize("length", [6.0, 12.0, 30.0, 96.0])
@pytest.mark.parametrize("context", [False, True])
def test_receptive_field_fits_the_anchor(length, context):
    """Convolutions see 1 + 2/6 + 4/6 of the anchor, twice that with context; pooling adds a sixth less one step."""
    tower = Tower(1, 1, length, context).double()
    for conv in (tower.conv1, tower.conv2, tower.score):
        torch.nn.init.constant_(conv.weight, 1.0)
        torch.nn.init.constant_(conv.bias, 0.0)
    steps = 401
    features = torch.rand(1, 1, steps).double().requires_grad_()
    (gradient,) = torch.autograd.grad(tower(features)[0][0, 200], features)
    seen = gradient[0, 0].nonzero()[:, 0]
    sixth = int(length) // 6
    reach = 3 * sixth * (2 if context else 1)
    first, last = 200 - reach - (sixth - 1) // 2, 200 + reach + sixth // 2
    # pooled windows at the ends pass on the gradient of their largest step only
    assert first <= seen.min() <= first + sixth - 1
    assert last - sixth + 1 <= seen.max() <= last


def test_tower_equals_a_loop():
    tower = Tower(2, 3, 18.0, True).double()  # pooling over 3, dilations 6 and 12
    x = torch.randn(1, 2, 30).double()
    pooled = torch.stack([x[0, :, max(0, t - 1) : t + 2].max(1).values for t in range(30)], 1)

    def conv(maps, layer, dilation):
        out = []
        for t in range(30):
            value = layer.bias.clone()
            for k, s in enumerate((t - dilation, t, t + dilation)):
                if 0 <= s < 30:
                    value = value + layer.weight[:, :, k] @ maps[:, s]
            out.append(value.relu())
        return torch.stack(out, 1)

    hidden = conv(conv(pooled, tower.conv1, 6), tower.conv2, 12)
    scores, offsets = tower(x)
    truth = tower.score.weight[:, :, 0] @ hidden + tower.score.bias[:, None]
    torch.testing.assert_close(scores, truth)
    truth = tower.offsets.weight[:, :, 0] @ hidden + tower.offsets.bias[:, None]
    torch.testing.assert_close(offsets[0], truth.T)


def test_network_has_a_tower_for_each_length():
    net = SegmentProposalNetwork(3, 4, (6.0, 18.0))
    x = torch.randn(2, 3, 25)
    scores, offsets = net(x)
    for k, tower in enumerate(net.towers):
        assert torch.equal(scores[:, :, k], tower(x)[0])
        assert torch.equal(offsets[:, :, k], tower(x)[1])


def test_forward_proposes_and_classifies():
    net = TALNet(**SMALL).eval()
    features = net.example_inputs(3)
    proposals, scores, probabilities, offsets = net(*features)
    count = len(proposals)
    assert proposals.shape == (count, 3)
    assert scores.shape == (count,)
    assert probabilities.shape == (count, 4)
    assert offsets.shape == (count, 3, 2)
    torch.testing.assert_close(probabilities.sum(1), torch.ones(count))
    for video in range(3):
        of_it = proposals[:, 0] == video
        assert 0 < of_it.sum() <= 8
        assert (scores[of_it].diff() <= 0).all()
        segments = proposals[of_it, 1:]
        assert (segments >= 0).all()
        assert (segments <= 40).all()
        assert (segments[:, 1] > segments[:, 0]).all()
        assert (tiou(segments, segments) - torch.eye(len(segments))).max() <= 0.7
    alone = net(*(x[1:2] for x in features))
    torch.testing.assert_close(alone[0][:, 1:], proposals[proposals[:, 0] == 1, 1:])
    torch.testing.assert_close(alone[2], probabilities[proposals[:, 0] == 1])


def test_streams_are_fused_at_both_scores():
    """By hand from the two streams' own nets: the mean of the proposal scores, the mean of the class probabilities."""
    net = TALNet(**SMALL).eval()
    rgb, flow = net.example_inputs(1)
    proposals, scores, probabilities, offsets = net(rgb, flow)
    (a, da), (b, db) = net.proposers["rgb"](rgb), net.proposers["flow"](flow)
    fused = ((a.sigmoid() + b.sigmoid()) / 2).flatten()
    segments = decode((da + db).flatten(1, 2)[0] / 2, make_anchors(40, (6.0, 18.0)).flatten(0, 1)).clamp(0, 40)
    assert scores[0] == fused.max()
    torch.testing.assert_close(proposals[0, 1:], segments[fused.argmax()])

    streams = []
    for name, x in (("rgb", rgb), ("flow", flow)):
        pooled = []
        for _, start, end in proposals.tolist():
            half = (end - start) / 2
            cuts = torch.linspace(start - half, end + half, 8)
            first = cuts[:-1].floor().clamp(0, 39).int()
            last = torch.maximum(cuts[1:].ceil().clamp(1, 40).int(), first + 1)
            pooled.append(torch.stack([x[0, :, i:j].max(1).values for i, j in zip(first, last, strict=True)], 1))
        streams.append(net.classifiers[name](torch.stack(pooled)))
    torch.testing.assert_close(probabilities, (streams[0][0].softmax(1) + streams[1][0].softmax(1)) / 2)
    torch.testing.assert_close(offsets, (streams[0][1] + streams[1][1]) / 2)


def test_two_equal_streams_are_one():
    one, two = TALNet(**SMALL, streams=("rgb",)).eval(), TALNet(**SMALL).eval()
    for name in ("rgb", "flow"):
        two.proposers[name].load_state_dict(one.proposers["rgb"].state_dict())
        two.classifiers[name].load_state_dict(one.classifiers["rgb"].state_dict())
    (x,) = one.example_inputs(2)
    for a, b in zip(one(x), two(x, x), strict=True):
        torch.testing.assert_close(a, b)
    torch.testing.assert_close(one.detect(x), two.detect(x, x))


def test_losses_written_out():
    """With a sample that takes every anchor and proposal, so that nothing is random."""
    net = TALNet(**SMALL, streams=("rgb",)).double().eval()
    (x,) = (f.double() for f in net.example_inputs(1))
    truth, label = torch.tensor([[11.0, 18.0]]).double(), torch.tensor([2])
    losses = net.loss([x], [truth], [label], anchors_per_video=10**6, proposals_per_video=10**6)

    scores, offsets = net.proposers["rgb"](x)
    score_loss, offset_loss, count = 0.0, 0.0, 0
    best = max(
        (float(tiou(torch.tensor([[t + 0.5 - n / 2, t + 0.5 + n / 2]]).double(), truth)), t, k)
        for t in range(40) for k, n in enumerate((6.0, 18.0))
    )  # fmt: skip
    for t in range(40):
        for k, length in enumerate((6.0, 18.0)):
            low, high = t + 0.5 - length / 2, t + 0.5 + length / 2
            common = max(0.0, min(high, 18.0) - max(low, 11.0))
            ratio = common / (length + 7 - common)
            positive = ratio > 0.7 or (abs(ratio - best[0]) < 1e-12 and (t, k) == best[1:])
            if not positive and ratio >= 0.3:
                continue
            count += 1
            score_loss += F.softplus(-scores[0, t, k] if positive else scores[0, t, k])
            if positive:
                target = torch.tensor([(14.5 - t - 0.5) / length, torch.tensor(7 / length).double().log()]).double()
                gap = (offsets[0, t, k] - target).abs()
                offset_loss += torch.where(gap < 1, gap**2 / 2, gap - 0.5).sum()
    torch.testing.assert_close(losses["proposal_score"], score_loss / count)
    torch.testing.assert_close(losses["proposal_offsets"], offset_loss / count)

    proposals = torch.cat([net(x)[0], torch.tensor([[0.0, 11.0, 18.0]]).double()])
    class_scores, class_offsets = net._classify([x], proposals)[0]
    near = tiou(proposals[:, 1:], truth)[:, 0] >= 0.5
    assert near[-1], "the true segment itself"
    expected = F.cross_entropy(class_scores, torch.where(near, 2, 3))
    torch.testing.assert_close(losses["class"], expected)
    total = 0.0
    for proposal, offset in zip(proposals[near], class_offsets[near, 2], strict=True):
        length, centre = proposal[2] - proposal[1], (proposal[1] + proposal[2]) / 2
        gap = (offset - torch.stack([(14.5 - centre) / length, (7 / length).log()])).abs()
        total += torch.where(gap < 1, gap**2 / 2, gap - 0.5).sum()
    torch.testing.assert_close(losses["class_offsets"], total / len(proposals))


def test_losses_train_everything_and_take_videos_without_segments():
    net = TALNet(**SMALL)
    features = net.example_inputs(2)
    truth = [torch.tensor([[5.0, 12.0], [20.0, 37.0]]), torch.zeros(0, 2)]
    labels = [torch.tensor([0, 2]), torch.zeros(0, dtype=torch.long)]
    losses = net.loss(features, truth, labels, generator=torch.Generator().manual_seed(0))
    assert sorted(losses) == ["class", "class_offsets", "proposal_offsets", "proposal_score"]
    sum(losses.values()).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in net.parameters())
    empty = net.loss([f[1:] for f in features], truth[1:], labels[1:])
    assert empty["proposal_offsets"] == 0
    assert empty["class_offsets"] == 0
    assert empty["class"] > 0


def make_videos(count, generator, steps=48):
    """Noise with one segment a video, whose first or second channel is high."""
    features = 0.3 * torch.randn(count, 4, steps, generator=generator)
    segments, labels = [], torch.randint(2, (count,), generator=generator)
    for video in range(count):
        length = float(torch.randint(6, 19, (), generator=generator))
        start = float(torch.randint(int(steps - length), (), generator=generator))
        features[video, labels[video], int(start) : int(start + length)] += 2.0
        segments.append(torch.tensor([[start, start + length]]))
    return features, segments, [label[None] for label in labels]


@pytest.mark.slow
def test_finds_a_segment_after_training():
    generator = torch.Generator().manual_seed(0)
    net = TALNet(
        2, streams=("rgb",), channels=4, scales=(1, 2, 3), hidden=16, classifier_hidden=32, num_proposals=10,
        dropout=0.0,
    )  # fmt: skip
    held_out, truth, labels = make_videos(24, generator)
    rows = [torch.cat([torch.tensor([[float(k)]]), t, c[:, None].float()], 1) for k, (t, c) in
            enumerate(zip(truth, labels, strict=True))]  # fmt: skip
    before = temporal_detection_ap(net.eval().detect(held_out), torch.cat(rows), 2, (0.5, 0.7))[0]
    net.train()
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 120)
    for _ in range(120):
        features, segments, classes = make_videos(8, generator)
        losses = net.loss([features], segments, classes, generator=generator)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        schedule.step()
    detections = net.eval().detect(held_out)
    after = temporal_detection_ap(detections, torch.cat(rows), 2, (0.5, 0.7))[0]
    assert before[0] < 0.5
    assert after[0] > 0.9
    assert after[1] > 0.6
    sure = detections[detections[:, 4] > 0.5]
    assert len(sure) <= 2 * len(rows)


def test_detections_are_suppressed_within_a_class_only():
    net = TALNet(**SMALL).eval()
    found = net.detect(*net.example_inputs(2))
    assert found.shape[1] == 5
    for video in range(2):
        for label in range(3):
            rows = found[(found[:, 0] == video) & (found[:, 3] == label)]
            assert len(rows)
            assert (rows[:, 4].diff() <= 0).all()
            assert (tiou(rows[:, 1:3], rows[:, 1:3]) - torch.eye(len(rows))).max() <= 0.4
    fewer = net.detect(*net.example_inputs(2), min_score=1.0)
    assert fewer.shape == (0, 5)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda net: net(torch.zeros(1, 6, 40)), "features: expected one for each of rgb, flow, got 1"),
        (lambda net: net(*[torch.zeros(1, 7, 40)] * 2), r"features: expected \(N,6,T\), got shape \(1, 7, 40\)"),
        (lambda net: net(*[torch.zeros(6, 40)] * 2), r"features: expected \(N,6,T\), got shape"),
        (lambda net: net(torch.zeros(1, 6, 40), torch.zeros(1, 6, 41)), "features: expected the same shape"),
        (lambda net: net.loss([torch.zeros(2, 6, 40)] * 2, [], []), "segments: expected 2, one for each video, got 0"),
        (
            lambda net: net.loss([torch.zeros(1, 6, 40)] * 2, [torch.tensor([[4.0, 4.0]])], [torch.tensor([0])]),
            r"segments: expected \(G,2\) with ends after starts",
        ),
        (lambda net: TALNet(scales=(0, 1)), r"scales: expected positive numbers, got \(0, 1\)"),
        (lambda net: TALNet(streams="rgb"), "streams: expected a tuple of names, got 'rgb'"),
        (lambda net: TALNet(num_classes=0), "num_classes: expected a positive int, got 0"),
    ],
)
def test_errors(call, words):
    with pytest.raises(ValueError, match=words):
        call(TALNet(**SMALL))
