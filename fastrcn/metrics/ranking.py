"""Average precision of a ranked list: what all of the package's mean average precisions are made of."""

import torch


def average_precision(hits, positives, scores=None, *, interpolated=False):
    """The mean, over all that there was to find, of the precision at the rank where it was found; 0 if it was not.

    Args:
        hits: (D,) whether each entry is right, the surest first.
        positives: how many there were to find; 0 gives NaN.
        scores: (D,), falling. Entries with equal scores then share the last one's rank, so that their order does not
            matter, as in scikit-learn. Without scores every entry has its own rank.
        interpolated: the precision at a rank is the largest from there on, as in PASCAL VOC from 2010, ActivityNet and
            AVA; never smaller. THUMOS'14 and YouTube-8M do not.
    Raises: ValueError naming the argument.
    """
    hits = torch.as_tensor(hits, dtype=torch.bool)
    if hits.dim() != 1:
        raise ValueError(f"hits: expected (D,), got shape {tuple(hits.shape)}")
    if int(hits.sum()) > positives:
        raise ValueError(f"positives: expected at least {int(hits.sum())}, the number of hits, got {positives}")
    if not positives:
        return float("nan")
    rank = torch.arange(1, len(hits) + 1, device=hits.device)
    if scores is not None:
        scores = torch.as_tensor(scores, device=hits.device)
        if scores.shape != hits.shape or not bool((scores[1:] <= scores[:-1]).all()):
            raise ValueError(f"scores: expected {len(hits)} falling numbers, got {scores.tolist()}")
        counts = scores.unique_consecutive(return_counts=True)[1]
        rank = counts.cumsum(0).repeat_interleave(counts)
    precision = hits.cumsum(0)[rank - 1].double() / rank
    if interpolated:
        precision = precision.flip(0).cummax(0).values.flip(0)
    return float(precision[hits].sum()) / positives
