"""TAL-Net, temporal action localisation: Chao et al. 2018, https://arxiv.org/abs/1804.07667.

Faster R-CNN over time: segments of a video are proposed first, then classified and their ends refined.
"""

from itertools import pairwise
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from fastrcn.losses import offset_loss
from fastrcn.models.registry import register
from fastrcn.models.temporal_segments import decode, encode, make_anchors, match, nms, sample, soi_pool
from fastrcn.overlap import tiou

SCALES = (1, 2, 3, 4, 5, 6, 8, 11, 16)


class Tower(nn.Module):
    """The proposals of one anchor length: a receptive field that fits the anchor, or twice as long with context.

    Max-pooling over a sixth of the anchor, two convolutions with kernel 3 and dilations of one and two sixths (twice
    that with context): 1 + 2/6 + 4/6 of its length. Then 1x1 convolutions for score and offsets.
    """

    def __init__(self, channels, hidden, length, context):
        super().__init__()
        self.window = max(1, round(length / 6))
        first, second = (k * self.window * (2 if context else 1) for k in (1, 2))
        self.conv1 = nn.Conv1d(channels, hidden, 3, padding=first, dilation=first)
        self.conv2 = nn.Conv1d(hidden, hidden, 3, padding=second, dilation=second)
        self.score = nn.Conv1d(hidden, 1, 1)
        self.offsets = nn.Conv1d(hidden, 2, 1)

    def forward(self, features):
        """(N,C,T) -> (N,T), (N,T,2)."""
        around = ((self.window - 1) // 2, self.window // 2)
        x = F.max_pool1d(F.pad(features, around, value=float("-inf")), self.window, 1)
        x = self.conv2(self.conv1(x).relu()).relu()
        return self.score(x)[:, 0], self.offsets(x).transpose(1, 2)


class SegmentProposalNetwork(nn.Module):
    """A tower for each anchor length. Shapes: (N,C,T) -> scores before sigmoid (N,T,A), offsets (N,T,A,2)."""

    def __init__(self, channels, hidden, lengths, context=True):
        super().__init__()
        self.towers = nn.ModuleList(Tower(channels, hidden, length, context) for length in lengths)

    def forward(self, features):
        """Scores and offsets of all anchors."""
        scores, offsets = zip(*(tower(features) for tower in self.towers), strict=True)
        return torch.stack(scores, 2), torch.stack(offsets, 2)


class SegmentClassifier(nn.Module):
    """Pooled features of segments (K,C,bins) -> class scores before softmax (K,classes+1), the last one of background;
    offsets for each class (K,classes,2)."""

    def __init__(self, channels, bins, hidden, num_classes, dropout):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(channels * bins, hidden), nn.Linear(hidden, hidden)
        self.dropout = nn.Dropout(dropout)
        self.scores = nn.Linear(hidden, num_classes + 1)
        self.offsets = nn.Linear(hidden, 2 * num_classes)

    def forward(self, pooled):
        """Scores and offsets."""
        x = self.dropout(self.fc1(pooled.flatten(1)).relu())
        x = self.dropout(self.fc2(x).relu())
        return self.scores(x), self.offsets(x).unflatten(1, (-1, 2))


@register(
    "tal_net", paper="Chao et al. 2018, arXiv 1804.07667",
    small={
        "num_classes": 3, "channels": 6, "hidden": 8, "classifier_hidden": 10, "scales": (1, 3), "num_proposals": 8,
        "steps": 40,
    },
)  # fmt: skip
class TALNet(nn.Module):
    """Proposals and classes of segments, from features of a video in one or two streams.

    The streams have nets of their own and are fused late, twice: the mean of their proposal scores decides which
    segments are proposed, the mean of their class probabilities what they are; offsets are averaged too.

    Args:
        num_classes: without background; 20 for THUMOS'14.
        streams: names; a single one has no fusion.
        channels: of the features, 1024 for I3D.
        scales: of the anchors at each step, in units of ``unit`` steps: 0.6 to 9.6 s at 10 features a second.
        hidden, classifier_hidden: channels of a tower, units of the two fully connected layers.
        bins: parts that a segment is pooled into.
        context: look at twice an anchor's length in a tower; the classifier always sees half of a proposal's length
            before and after it.
        num_proposals: most for a video. proposal_threshold, detection_threshold: tIoU of the suppression among
            proposals, and among detections of a class.
        dropout: after each of the fully connected layers.
        steps: length of ``example_inputs``; sequences of any length run.
    Shapes: features (N,channels,T) of each stream -> see ``forward`` and ``detect``.
    Raises: ValueError naming the argument.

    ``unit``, the widths, ``bins`` and dropout could not be established from the sources; they are ours. With 6 steps a
    sixth of an anchor's length is a whole number, so receptive fields fit exactly.
    """

    def __init__(
        self, num_classes=20, *, streams=("rgb", "flow"), channels=1024, scales=SCALES, unit=6, hidden=256,
        classifier_hidden=1024, bins=7, context=True, num_proposals=300, proposal_threshold=0.7,
        detection_threshold=0.4, dropout=0.5, steps=600,
    ):  # fmt: skip
        super().__init__()
        if not scales or min(scales) <= 0:
            raise ValueError(f"scales: expected positive numbers, got {scales}")
        if not streams or isinstance(streams, str):
            raise ValueError(f"streams: expected a tuple of names, got {streams!r}")
        for name, value in (("num_classes", num_classes), ("num_proposals", num_proposals), ("bins", bins)):
            if value < 1:
                raise ValueError(f"{name}: expected a positive int, got {value}")
        self.num_classes, self.channels, self.steps, self.bins = num_classes, channels, steps, bins
        self.num_proposals, self.proposal_threshold = num_proposals, proposal_threshold
        self.detection_threshold = detection_threshold
        self.lengths = tuple(float(scale * unit) for scale in scales)
        self.proposers = nn.ModuleDict(
            {name: SegmentProposalNetwork(channels, hidden, self.lengths, context) for name in streams}
        )
        self.classifiers = nn.ModuleDict(
            {name: SegmentClassifier(channels, bins, classifier_hidden, num_classes, dropout) for name in streams}
        )

    def _check(self, features):
        if len(features) != len(self.proposers):
            raise ValueError(f"features: expected one for each of {', '.join(self.proposers)}, got {len(features)}")
        for x in features:
            if x.dim() != 3 or x.shape[1] != self.channels or not x.shape[2]:
                raise ValueError(f"features: expected (N,{self.channels},T), got shape {tuple(x.shape)}")
        for a, b in pairwise(features):
            if a.shape != b.shape:
                raise ValueError(f"features: expected the same shape, got {tuple(a.shape)} and {tuple(b.shape)}")

    def _propose(self, features):
        """Per stream (scores (N,A), offsets (N,A,2)) of all anchors, and the anchors (A,2)."""
        found = []
        for net, x in zip(self.proposers.values(), features, strict=True):
            scores, offsets = net(x)
            found.append((scores.flatten(1), offsets.flatten(1, 2)))
        anchors = make_anchors(features[0].shape[2], self.lengths, device=features[0].device, dtype=features[0].dtype)
        return found, anchors.flatten(0, 1)

    def _select(self, proposed, anchors, steps):
        """The best segments of each video by the streams' fused scores: (M,3) with the video's number, scores (M,)."""
        chances = torch.stack([scores.sigmoid() for scores, _ in proposed]).mean(0)
        offsets = torch.stack([offsets for _, offsets in proposed]).mean(0)
        segments, scores = [], []
        for video, (offset, chance) in enumerate(zip(offsets, chances, strict=True)):
            all_of_it = decode(offset, anchors).clamp(0, steps)
            some = (all_of_it[:, 1] > all_of_it[:, 0]).nonzero()[:, 0]
            best = some[
                nms(all_of_it[some].detach(), chance[some].detach(), self.proposal_threshold, self.num_proposals)
            ]
            segments.append(F.pad(all_of_it[best], (1, 0), value=float(video)))
            scores.append(chance[best])
        return torch.cat(segments), torch.cat(scores)

    def _classify(self, features, proposals):
        """Per stream (class scores before softmax (M,classes+1), offsets (M,classes,2)) of proposals (M,3)."""
        proposals = proposals.detach()
        segments = proposals[:, 1:]
        half = (segments[:, 1:] - segments[:, :1]) / 2
        wide = torch.cat([segments[:, :1] - half, segments[:, 1:] + half], 1)
        found = []
        for net, x in zip(self.classifiers.values(), features, strict=True):
            pooled = [soi_pool(clip, wide[proposals[:, 0] == k], self.bins) for k, clip in enumerate(x)]
            found.append(net(torch.cat(pooled)))
        return found

    def forward(self, *features):
        """The fused proposals and what they are.

        Returns: proposals (M,3) of (video, start, end), the best of each video first; their scores (M,); class
        probabilities (M,classes+1), the last one of background; offsets (M,classes,2) from the proposal.
        """
        self._check(features)
        proposed, anchors = self._propose(features)
        proposals, scores = self._select(proposed, anchors, features[0].shape[2])
        classified = self._classify(features, proposals)
        probabilities = torch.stack([s.softmax(1) for s, _ in classified]).mean(0)
        return proposals, scores, probabilities, torch.stack([offsets for _, offsets in classified]).mean(0)

    @torch.no_grad()
    def detect(self, *features, min_score=0.0):
        """Detections (D,5) of (video, start, end, class, score): of each class the proposals moved by its offsets,
        overlapping ones suppressed; the best of each video and class first. Call it in evaluation mode."""
        proposals, _, probabilities, offsets = self(*features)
        steps, found = features[0].shape[2], [proposals.new_zeros(0, 5)]
        for video in range(len(features[0])):
            of_it = proposals[:, 0] == video
            for label in range(self.num_classes):
                segments = decode(offsets[of_it, label], proposals[of_it, 1:]).clamp(0, steps)
                scores = probabilities[of_it, label]
                some = ((scores > min_score) & (segments[:, 1] > segments[:, 0])).nonzero()[:, 0]
                kept = some[nms(segments[some], scores[some], self.detection_threshold)]
                facts = segments.new_tensor([video, label]).expand(len(kept), 2)
                found.append(torch.cat([facts[:, :1], segments[kept], facts[:, 1:], scores[kept, None]], 1))
        return torch.cat(found)

    def loss(
        self, features, segments, labels, *, anchors_per_video=256, proposals_per_video=128, generator=None
    ) -> dict[str, torch.Tensor]:
        """Losses of proposals and classes, summed over the streams and averaged over the videos.

        Anchors with tIoU above 0.7, and the best one of each segment, are positive, those below 0.3 negative; half of a
        sample are positives at most. Proposals, and the true segments themselves, with tIoU of at least 0.5 have that
        segment's class, others are background; a quarter of a sample are of a class at most. Smooth L1 for offsets of
        positives.

        Args:
            features: a tensor (N,channels,T) for each stream.
            segments, labels: for each video its true segments (G,2) and their classes (G,); G may be 0.
            generator: of the samples.
        Returns: "proposal_score", "proposal_offsets", "class", "class_offsets"; their sum is what to minimise.
        """
        features = tuple(features)
        self._check(features)
        for name, value in (("segments", segments), ("labels", labels)):
            if len(value) != len(features[0]):
                raise ValueError(f"{name}: expected {len(features[0])}, one for each video, got {len(value)}")
        for truth in segments:
            if truth.dim() != 2 or truth.shape[1] != 2 or not (truth[:, 1] > truth[:, 0]).all():
                raise ValueError(f"segments: expected (G,2) with ends after starts, got {truth.tolist()}")
        proposed, anchors = self._propose(features)
        total: dict[str, Any] = {"proposal_score": 0.0, "proposal_offsets": 0.0, "class": 0.0, "class_offsets": 0.0}

        def add(score, score_loss, offset, offset_loss):
            total[score] = total[score] + score_loss / len(segments)
            total[offset] = total[offset] + offset_loss / len(segments)

        for video, truth in enumerate(segments):
            kinds, index = match(anchors, truth, 0.7, 0.3)
            chosen = sample(kinds, anchors_per_video, 0.5, generator)
            positive = chosen[kinds[chosen] > 0]
            target = encode(truth[index[positive]], anchors[positive])
            for scores, offsets in proposed:
                score_loss = F.binary_cross_entropy_with_logits(scores[video, chosen], kinds[chosen].to(scores))
                add("proposal_score", score_loss, "proposal_offsets",
                    offset_loss(offsets[video, positive], target, len(chosen)))  # fmt: skip

        proposals = self._select(proposed, anchors, features[0].shape[2])[0].detach()
        chosen, kinds, targets = self._sample_proposals(proposals, segments, labels, proposals_per_video, generator)
        for scores, offsets in self._classify(features, chosen):
            for video in range(len(segments)):
                of_it = chosen[:, 0] == video
                positive = of_it & (kinds < self.num_classes)
                of_class = offsets[positive, kinds[positive]]
                add("class", F.cross_entropy(scores[of_it], kinds[of_it]), "class_offsets",
                    offset_loss(of_class, targets[positive], of_it.sum()))  # fmt: skip
        return total

    def _sample_proposals(self, proposals, segments, labels, count, generator):
        """Proposals to train on (M,3), their classes (M,), background is the last; offsets to their segments (M,2)."""
        chosen, kinds, targets = [], [], []
        for video, (truth, label) in enumerate(zip(segments, labels, strict=True)):
            near = torch.cat([proposals[proposals[:, 0] == video, 1:], truth])
            kind = torch.full((len(near),), self.num_classes, device=near.device)
            target = torch.zeros_like(near)
            if len(truth):
                most, index = tiou(near, truth).max(1)
                kind = torch.where(most >= 0.5, label[index], kind)
                target = encode(truth[index], near)
            some = sample((kind < self.num_classes).long(), count, 0.25, generator)
            chosen.append(F.pad(near[some], (1, 0), value=float(video)))
            kinds.append(kind[some])
            targets.append(target[some])
        return torch.cat(chosen), torch.cat(kinds), torch.cat(targets)

    def example_inputs(self, batch=1):
        """Arguments of a forward pass."""
        return tuple(torch.randn(batch, self.channels, self.steps) for _ in self.proposers)
