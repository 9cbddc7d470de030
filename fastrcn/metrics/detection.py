"""Average precision of boxes in frames, as for AVA: Gu et al. 2018, https://arxiv.org/abs/1705.08421 (frame-mAP)."""

import torch

from fastrcn.metrics.ranking import average_precision
from fastrcn.overlap import box_iou


def _by_frame(rows):
    """For each frame the indices of its rows, in their order."""
    frames, order = rows[:, 0].sort(stable=True)
    frames, counts = frames.unique_consecutive(return_counts=True)
    return dict(zip(frames.tolist(), order.split(counts.tolist()), strict=True))


def _hits(detections, truths, threshold):
    """Whether each detection of a class, the surest first, is the first on the box that it overlaps most."""
    taken = torch.zeros(len(truths), dtype=torch.bool)
    hits = torch.zeros(len(detections), dtype=torch.bool)
    boxes = _by_frame(truths)
    for frame, mine in _by_frame(detections).items():
        if frame not in boxes:
            continue
        there = boxes[frame]
        most, index = box_iou(detections[mine, 1:5], truths[there, 1:5]).max(1)
        for k in (most >= threshold).nonzero()[:, 0]:
            box = there[index[k]]
            hits[mine[k]] = ~taken[box]
            taken[box] = True
    return hits


def frame_detection_ap(detections, truths, num_classes, threshold=0.5):
    """Average precision of every class over the boxes of all frames, and its mean over classes.

    The rules are those of PASCAL VOC from 2010, by which AVA is evaluated: a detection, the surest first, belongs to
    the box of its frame and class that it overlaps most; it is right if that is at least ``threshold`` and no detection
    before it was right there; precision is interpolated.

    Args:
        detections: (D,7) of (frame, x1, y1, x2, y2, class, score); a box with several classes is several detections.
            truths: (G,6) of (frame, x1, y1, x2, y2, class). Frames are numbered over all videos; numbers that float32
            does not hold, above 2**24, need float64.
        threshold: least intersection over union.
    Returns: the mean, a float, over the classes that are in ``truths``, and (num_classes,), NaN for classes that are
        not. AVA evaluates 60 of its 80 classes: leave the others out of both lists.
    Raises: ValueError naming the argument.
    """
    for name, value, columns in (("detections", detections, 7), ("truths", truths, 6)):
        if value.dim() != 2 or value.shape[1] != columns:
            raise ValueError(f"{name}: expected (.,{columns}), got shape {tuple(value.shape)}")
        if not value.isfinite().all():
            raise ValueError(f"{name}: expected finite numbers, got {int((~value.isfinite()).sum())} that are not")
        if not (value[:, 3:5] > value[:, 1:3]).all():
            raise ValueError(f"{name}: expected boxes with x2 > x1 and y2 > y1, got others")
        labels = value[:, 5]
        if not ((labels >= 0) & (labels < num_classes) & (labels == labels.floor())).all():
            raise ValueError(f"{name}: expected classes from 0 to {num_classes - 1}, got {labels.unique().tolist()}")
    detections, truths = detections.cpu(), truths.cpu()
    detections = detections[detections[:, 6].argsort(descending=True, stable=True)]
    table = torch.empty(num_classes, dtype=torch.float64)
    for label in range(num_classes):
        found, there = detections[detections[:, 5] == label], truths[truths[:, 5] == label]
        hits = _hits(found, there, threshold)
        table[label] = average_precision(hits, len(there), interpolated=True)
    return float(table.nanmean()), table
