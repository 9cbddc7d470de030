"""Average precision of detected segments of time, as in THUMOS'14 (Jiang et al. 2014)."""

import torch

from fastrcn.metrics.ranking import average_precision
from fastrcn.overlap import tiou


def _hits(detections, truths, threshold):
    """Whether each detection of a class, the surest first, finds a segment that none before it has found."""
    taken = torch.zeros(len(truths), dtype=torch.bool, device=truths.device)
    hits = []
    for detection in detections:
        overlap = tiou(detection[None, 1:3], truths[:, 1:3])[0]
        overlap[taken | (truths[:, 0] != detection[0])] = -1.0
        hits.append(bool(len(overlap)) and bool(overlap.max() >= threshold))
        if hits[-1]:
            taken[overlap.argmax()] = True
    return hits


def temporal_detection_ap(detections, truths, num_classes, thresholds=(0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)):
    """Average precision of every class at every tIoU. A segment is found once; further detections of it are wrong.

    Args:
        detections: (D,5) of (video, start, end, class, score). truths: (G,4) of (video, start, end, class).
        thresholds: least tIoU of a detection with the segment that it finds.
    Returns: their means over the classes that are in ``truths``, mAP (len(thresholds),), and (len(thresholds),classes),
        NaN for classes that are not.
    Raises: ValueError naming the argument.
    """
    for name, value, columns in (("detections", detections, 5), ("truths", truths, 4)):
        if value.dim() != 2 or value.shape[1] != columns:
            raise ValueError(f"{name}: expected (.,{columns}), got shape {tuple(value.shape)}")
    detections = detections[detections[:, 4].argsort(descending=True, stable=True)]
    table = torch.full((len(thresholds), num_classes), float("nan"), dtype=torch.float64)
    for label in range(num_classes):
        there = truths[truths[:, 3] == label]
        found = detections[detections[:, 3] == label]
        for k, threshold in enumerate(thresholds):
            table[k, label] = average_precision(_hits(found, there, threshold), len(there))
    return table.nanmean(1), table
