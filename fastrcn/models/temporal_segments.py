"""Segments of time for detectors: (start, end) pairs, anchors, offsets, suppression, pooling.

Times are real numbers in steps of a sequence of features: step t covers t to t+1.
"""

import math

import torch
from torch.nn import functional as F

from fastrcn.overlap import check_segments, tiou


def make_anchors(steps, lengths, *, device=None, dtype=None):
    """Segments of the given lengths around the middle of every step: (steps,len(lengths),2)."""
    lengths = torch.as_tensor(lengths, device=device, dtype=dtype or torch.get_default_dtype())
    middles = torch.arange(steps, device=lengths.device, dtype=lengths.dtype)[:, None] + 0.5
    return torch.stack([middles - lengths / 2, middles + lengths / 2], -1)


def encode(segments, anchors):
    """Offsets of segments from anchors: ((c - c_a) / l_a, log(l / l_a)) of centres and lengths, (...,2)."""
    check_segments(segments, "segments")
    check_segments(anchors, "anchors")
    length, anchor_length = (s[..., 1] - s[..., 0] for s in (segments, anchors))
    centre, anchor_centre = (s.mean(-1) for s in (segments, anchors))
    return torch.stack([(centre - anchor_centre) / anchor_length, (length / anchor_length).log()], -1)


def decode(offsets, anchors):
    """Segments at offsets from anchors: c = c_a + dc l_a, l = l_a exp(dl), (...,2)."""
    check_segments(offsets, "offsets")
    check_segments(anchors, "anchors")
    anchor_length, anchor_centre = anchors[..., 1] - anchors[..., 0], anchors.mean(-1)
    centre = anchor_centre + offsets[..., 0] * anchor_length
    half = anchor_length * offsets[..., 1].exp() / 2
    return torch.stack([centre - half, centre + half], -1)


def nms(segments, scores, threshold, limit=None):
    """Non-maximum suppression: the best segment is kept, those that overlap it by more than ``threshold`` go, and on.

    Args:
        segments: (K,2). scores: (K,). limit: most segments to keep.
    Returns: indices of those kept, the best first.
    Raises: ValueError naming the argument.
    """
    check_segments(segments, "segments")
    if scores.shape != segments.shape[:1]:
        raise ValueError(f"scores: expected shape ({len(segments)},), got {tuple(scores.shape)}")
    order = scores.argsort(descending=True, stable=True)
    kept = []
    while len(order) and (limit is None or len(kept) < limit):
        best, order = order[:1], order[1:]
        kept.append(best)
        order = order[tiou(segments[best], segments[order])[0] <= threshold]
    return torch.cat(kept) if kept else order


def soi_pool(features, segments, bins):
    """Segment-of-interest pooling: each segment is cut into equal bins, and the largest value in each is taken.

    As in RoI pooling a bin's ends are rounded outwards to whole steps, at least one; steps outside the sequence do not
    count, and a bin that lies outside takes the nearest step.

    Args:
        features: (C,T). segments: (K,2). bins: number of them.
    Shapes: -> (K,C,bins).
    Raises: ValueError naming the argument.
    """
    check_segments(segments, "segments")
    if features.dim() != 2 or features.shape[1] < 1:
        raise ValueError(f"features: expected (C,T), T at least 1, got shape {tuple(features.shape)}")
    if bins < 1:
        raise ValueError(f"bins: expected a positive int, got {bins}")
    steps = features.shape[1]
    cuts = segments[:, :1] + (segments[:, 1:] - segments[:, :1]) * torch.linspace(0, 1, bins + 1).to(segments)
    start = cuts[:, :-1].floor().long().clamp(0, steps - 1)
    end = torch.maximum(cuts[:, 1:].ceil().long().clamp(1, steps), start + 1)
    # The largest value over 2^k steps from each one; any bin is covered by two such ranges.
    levels = [features]
    for k in range(int(math.log2(steps))):
        reach = 2**k
        levels.append(torch.maximum(levels[-1], F.pad(levels[-1][:, reach:], (0, reach), value=float("-inf"))))
    level = (end - start).double().log2().floor().long()
    table = torch.stack(levels).transpose(1, 2)  # (levels,T,C)
    return torch.maximum(table[level, start], table[level, end - 2**level]).transpose(1, 2)


def match(anchors, segments, positive, negative):
    """Which anchors should find which segment: tIoU above ``positive``, or the best anchor of a segment.

    Args:
        anchors: (A,2). segments: (G,2), the truth; G may be 0.
    Returns: labels (A,): 1 positive, 0 negative (tIoU below ``negative`` with all), -1 neither; and the index of the
        segment that each overlaps most (A,), which is for positives the one to find.
    """
    if not len(segments):
        none = torch.zeros(len(anchors), dtype=torch.long, device=anchors.device)
        return none, none
    overlap = tiou(anchors, segments)
    most, index = overlap.max(1)
    labels = torch.full_like(index, -1)
    labels[most < negative] = 0
    labels[most > positive] = 1
    best = overlap.max(0)
    found = best.values > 0
    labels[best.indices[found]] = 1
    index[best.indices[found]] = torch.arange(len(segments), device=index.device)[found]
    return labels, index


def sample(labels, count, share, generator=None):
    """Indices of a random sample for training: at most ``share`` of ``count`` are positives, the rest negatives.

    Args:
        labels: (A,), above 0 positive, 0 negative, -1 left out.
    """

    def some(mask, limit):
        places = mask.nonzero()[:, 0]
        return places[torch.randperm(len(places), generator=generator).to(places.device)[:limit]]

    positives = some(labels > 0, int(share * count))
    return torch.cat([positives, some(labels == 0, count - len(positives))])
