"""Several labels at once: mean average precision over classes, and the global one of YouTube-8M."""

import torch

from fastrcn.metrics.classification import best_classes, check_many_labels
from fastrcn.metrics.ranking import average_precision


def multi_label_map(scores, labels):
    """Mean average precision: samples are ranked by each class's score, and the classes' average precisions averaged.

    For videos with several labels (Charades, Hollywood2), and for labels of every frame (MultiTHUMOS, Yeung et al.
    2015, arXiv 1507.05738: there N counts the frames of all videos). Not interpolated; samples with equal scores share
    a rank, as in scikit-learn's ``average_precision_score``.

    Args:
        scores: (N,num_classes). labels: (N,num_classes), 1 or True where a label is true, otherwise 0.
    Returns: the mean, a float, over the classes that some sample has; and (num_classes,) of them all, NaN for classes
        that none has.
    Raises: ValueError naming the argument.
    """
    check_many_labels(scores, labels)
    table = torch.empty(scores.shape[1], dtype=torch.float64)
    for k, (column, truth) in enumerate(zip(scores.unbind(1), labels.unbind(1), strict=True)):
        column, order = column.sort(descending=True)
        table[k] = average_precision(truth[order] > 0, int((truth > 0).sum()), column)
    return float(table.nanmean()), table


class GlobalAveragePrecision:
    """GAP@k, batch by batch: the ``k`` best classes of every video in one list, ranked by score; its average precision.

    Sum over the list of the precision so far where a label is right, divided by the number of all labels, also of those
    that are not in the list. Abu-El-Haija et al. 2016, arXiv 1609.08675, with 20 classes of a video. Only those are
    kept. Entries with equal scores share a rank.

    Args:
        k: classes of a video; all, where there are fewer.
    Raises: ValueError naming the argument.
    """

    def __init__(self, k=20):
        if k < 1:
            raise ValueError(f"k: expected at least 1, got {k}")
        self.k, self.positives = k, 0
        self._scores, self._hits = [], []

    def add(self, scores, labels):
        """scores, labels (N,num_classes), labels 1 or True where true, otherwise 0."""
        check_many_labels(scores, labels)
        best = best_classes(scores, min(self.k, scores.shape[1]))
        self._scores.append(scores.detach().gather(1, best).flatten().cpu())
        self._hits.append((labels > 0).gather(1, best).flatten().cpu())
        self.positives += int((labels > 0).sum())

    def compute(self):
        """GAP@k of all that was added, a float; NaN where there were no labels."""
        if not self._scores:
            raise ValueError("predictions: expected at least one batch, none was added")
        scores, order = torch.cat(self._scores).sort(descending=True)
        return average_precision(torch.cat(self._hits)[order], self.positives, scores)


def global_average_precision(scores, labels, k=20):
    """``GlobalAveragePrecision`` of scores, labels (N,num_classes) that are all there."""
    gap = GlobalAveragePrecision(k)
    gap.add(scores, labels)
    return gap.compute()
