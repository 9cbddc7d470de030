"""How often a clip or a video gets its class: top-k accuracy, hit@k, mean class accuracy.

Scores may be probabilities or what comes before softmax: only their order counts. Of classes with equal scores the
lower one is the better one, so that results can be repeated; a net whose scores are all equal predicts class 0.
"""

import torch


def check_scores(scores):
    """Raises ValueError unless scores are numbers (N,num_classes), N and num_classes at least 1."""
    if scores.dim() != 2 or 0 in scores.shape:
        raise ValueError(f"scores: expected (N,num_classes), neither of them 0, got shape {tuple(scores.shape)}")
    if scores.isnan().any():
        raise ValueError(f"scores: expected numbers, got NaN in {int(scores.isnan().any(1).sum())} of {len(scores)}")


def check_one_label(scores, labels):
    """Raises ValueError unless scores are (N,num_classes), and labels (N,) whole numbers that are classes."""
    check_scores(scores)
    if labels.is_floating_point() or labels.dtype == torch.bool or labels.shape != scores.shape[:1]:
        expected = f"whole numbers ({len(scores)},)"
        raise ValueError(f"labels: expected {expected}, got {labels.dtype} of shape {tuple(labels.shape)}")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= scores.shape[1]:
        raise ValueError(f"labels: expected classes from 0 to {scores.shape[1] - 1}, got {low} to {high}")


def check_many_labels(scores, labels):
    """Raises ValueError unless scores and labels are of one shape (N,num_classes), labels 0 or 1."""
    check_scores(scores)
    if labels.shape != scores.shape:
        raise ValueError(f"labels: expected the scores' shape {tuple(scores.shape)}, got {tuple(labels.shape)}")
    if not bool(((labels == 0) | (labels == 1)).all()):
        raise ValueError(f"labels: expected 0 or 1, got values from {labels.min()} to {labels.max()}")


def best_classes(scores, k):
    """The ``k`` classes (N,k) with the largest scores (N,num_classes), the best first. ValueError for another k."""
    if not 1 <= k <= scores.shape[1]:
        raise ValueError(f"k: expected from 1 to {scores.shape[1]}, the number of classes, got {k}")
    return scores.argsort(dim=1, descending=True, stable=True)[:, :k]


def top_k_accuracy(scores, labels, k=1):
    """The share of samples whose class is among the ``k`` best.

    Args:
        scores: (N,num_classes). labels: (N,) the classes.
    Returns: a float from 0 to 1.
    Raises: ValueError naming the argument.
    """
    check_one_label(scores, labels)
    return float((best_classes(scores, k) == labels[:, None]).any(1).double().mean())


def hit_at_k(scores, labels, k=1):
    """Hit@k: the share of samples of whose true labels any is among the ``k`` best classes.

    As for Sports-1M (Karpathy et al. 2014) and YouTube-8M (Abu-El-Haija et al. 2016, arXiv 1609.08675). Clip hit@k is
    that of the scores of clips, each with the labels of its video; for a video's hit@k average the scores of its clips
    first. A sample without labels cannot be hit, and counts.

    Args:
        scores: (N,num_classes). labels: (N,num_classes), 1 or True where a label is true, otherwise 0.
    Returns: a float from 0 to 1; with one label each, ``top_k_accuracy``.
    Raises: ValueError naming the argument.
    """
    check_many_labels(scores, labels)
    return float((labels > 0).gather(1, best_classes(scores, k)).any(1).double().mean())


def mean_class_accuracy(scores, labels):
    """The mean over classes of the share of a class's samples that are predicted so: rare classes count as much.

    Args:
        scores: (N,num_classes). labels: (N,) the classes.
    Returns: the mean, a float, over the classes that are in ``labels``; and (num_classes,) of them all, NaN for
        classes that are not.
    Raises: ValueError naming the argument.
    """
    check_one_label(scores, labels)
    right = best_classes(scores, 1)[:, 0] == labels
    classes = scores.shape[1]
    table = labels[right].bincount(minlength=classes).double() / labels.bincount(minlength=classes)
    return float(table.nanmean()), table


class Predictions:
    """Scores and labels of a whole data set, gathered batch by batch on the CPU, for any metric of the two.

    ::

        seen = Predictions()
        for clips, labels in loader:
            seen.add(model(clips), labels)
        print(seen.measure(top_k_accuracy, k=5))
    """

    def __init__(self):
        self._scores, self._labels = [], []

    def add(self, scores, labels):
        """Copies of a batch's scores (N,...) and labels (N,...). ValueError unless they go with those before."""
        if scores.dim() < 1 or labels.shape[:1] != scores.shape[:1]:
            came = f"{tuple(scores.shape)} and {tuple(labels.shape)}"
            raise ValueError(f"scores, labels: expected as many of both, got shapes {came}")
        for name, value, before in (("scores", scores, self._scores), ("labels", labels, self._labels)):
            if before and (value.shape[1:], value.dtype) != (before[0].shape[1:], before[0].dtype):
                expected = f"{before[0].dtype} of shape {('N', *before[0].shape[1:])}, as before"
                raise ValueError(f"{name}: expected {expected}, got {value.dtype} of shape {tuple(value.shape)}")
        self._scores.append(scores.detach().to("cpu", copy=True))
        self._labels.append(labels.detach().to("cpu", copy=True))

    def measure(self, metric, **options):
        """``metric(scores, labels, **options)`` of everything that was added. ValueError where nothing was."""
        if not self._scores:
            raise ValueError("predictions: expected at least one batch, none was added")
        return metric(torch.cat(self._scores), torch.cat(self._labels), **options)
