"""The losses of all models, to minimise.

One label for a clip is ``torch.nn.functional.cross_entropy``, the mean of -log p(class | clip); forecasts in real
numbers are ``mse_loss``. Papers that print a log-likelihood and call it the loss, such as Ballas et al. 2016, mean its
negative. What else they need is here: labels at every step, several labels at once, captions, attention, frames,
segments. TAL-Net's four losses are made from a net's own proposals: ``fastrcn.models.TALNet.loss``.
"""

import math

import torch
from torch.nn import functional as F

from fastrcn.checks import check_lengths

WEIGHTS = ("from_zero", "from_first")


def within(lengths, size):
    """Booleans (N,size): True before each length."""
    return torch.arange(size, device=lengths.device) < lengths[:, None]


def _rising(step, steps, kind):
    """The weight of a step that is counted from 0, of so many."""
    if kind not in WEIGHTS:
        raise ValueError(f"kind: expected one of {', '.join(WEIGHTS)}, got {kind!r}")
    if kind == "from_first":
        return (step + 1) / steps
    return torch.where(steps > 1, step / (steps - 1).clamp(min=1), 1.0)


def frame_weights(steps, kind="from_zero", *, device=None, dtype=None):
    """The weights g of the steps, rising linearly to 1: (T,). Ng et al. 2015, arXiv 1503.08909, 3.2.

    The paper says from 0 to 1; which its end-points are is not known. "from_zero" is t/(T-1), with 1 for a single step;
    "from_first" is (t+1)/T, for t = 0 .. T-1. Raises ValueError for another kind.
    """
    step = torch.arange(steps, device=device, dtype=dtype or torch.get_default_dtype())
    return _rising(step, torch.full_like(step, steps), kind)


def _of_steps(scores, labels, lengths):
    """Cross-entropy of every step (N,T), 0 past the lengths; and which steps count (N,T)."""
    if scores.dim() != 3 or 0 in scores.shape:
        raise ValueError(f"scores: expected (N,T,num_classes), none of them 0, got shape {tuple(scores.shape)}")
    n, steps, classes = scores.shape
    if labels.is_floating_point() or labels.dtype == torch.bool or labels.shape not in ((n,), (n, steps)):
        came = f"{labels.dtype} of shape {tuple(labels.shape)}"
        raise ValueError(f"labels: expected whole numbers {(n,)} or {(n, steps)}, got {came}")
    counts = torch.ones(n, steps, dtype=torch.bool, device=scores.device)
    if lengths is not None:
        counts = within(check_lengths(lengths, scores.transpose(0, 1)), steps)
    labels = (labels[:, None].expand(n, steps) if labels.dim() == 1 else labels).long().masked_fill(~counts, 0)
    if not torch.compiler.is_compiling() and not labels.is_meta:
        if not bool(counts.any()):
            raise ValueError("lengths: expected at least one step that counts, got 0 for all sequences")
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= classes:
            raise ValueError(f"labels: expected classes from 0 to {classes - 1}, got {low} to {high}")
    every = F.cross_entropy(scores.flatten(0, 1), labels.flatten(), reduction="none").view(n, steps)
    return every.masked_fill(~counts, 0), counts


def step_cross_entropy(scores, labels, lengths=None):
    """Cross-entropy at every step, the mean over all steps of all clips that count.

    LRCN (Donahue et al. 2015, arXiv 1411.4389) and ConvNet+LSTM (Carreira and Zisserman 2017, arXiv 1705.07750) train
    so. Where a sequence holds several clips, one after the other (``fastrcn.layers.run_with_markers``), each step has
    the label of its clip: the mean is the same.

    Args:
        scores: (N,T,num_classes) before softmax.
        labels: (N,) of clips, or (N,T) of steps; past a length any number.
        lengths: (N,) steps that count; all if None.
    Raises: ValueError or TypeError naming the argument.
    """
    every, counts = _of_steps(scores, labels, lengths)
    return every.sum() / counts.sum()


def weighted_step_cross_entropy(scores, labels, kind="from_zero", *, lengths=None, markers=None):
    """Cross-entropy at every step, times the step's weight g (``frame_weights``); the mean over steps that count.

    Ng et al. 2015, arXiv 1503.08909, 3.2: late steps have seen more of the video. g rises over each clip's own steps.

    Args:
        scores: (N,T,num_classes) before softmax.
        labels: (N,) of clips, or (N,T) of steps.
        kind: as ``frame_weights``.
        lengths: (N,) steps that count; all if None.
        markers: (N,T), 0 where a clip begins and 1 where it goes on, where sequences hold several clips; the first step
            begins one in any case. Labels are then (N,T). Not with ``lengths``.
    Raises: ValueError or TypeError naming the argument.
    """
    every, counts = _of_steps(scores, labels, lengths)
    n, steps = every.shape
    step = torch.arange(steps, device=every.device, dtype=every.dtype).expand(n, steps)
    if markers is None:
        long = counts.sum(1, keepdim=True).to(every.dtype).expand(n, steps)
    else:
        if lengths is not None or labels.dim() != 2:
            raise ValueError("markers: expected labels (N,T) and no lengths with them, got others")
        if tuple(markers.shape) != (n, steps) or not bool(((markers == 0) | (markers == 1)).all()):
            came = f"shape {tuple(markers.shape)} with values {markers.unique().tolist()}"
            raise ValueError(f"markers: expected 0 or 1 of shape {(n, steps)}, got {came}")
        begins = (markers == 0).to(every.device)
        begins[:, 0] = True
        clip = begins.flatten().cumsum(0) - 1  # counted through the first sequence, then the second, and so on
        first = begins.flatten().nonzero()[:, 0]
        step = (torch.arange(n * steps, device=every.device) - first[clip]).view(n, steps).to(every.dtype)
        long = clip.bincount()[clip].view(n, steps).to(every.dtype)
    return (_rising(step, long.clamp(min=1), kind) * every).sum() / counts.sum()


def gru_rcn_loss(logits, labels, objective="levels"):
    """The negative log-likelihood of a clip's class by several classifiers: Ballas et al. 2016, arXiv 1511.06432.

    The paper prints the mean of log p as the loss; it is to be maximised, and here its negative minimised.

    Args:
        logits: (N,levels,num_classes), the second output of the GRU-RCN models.
        labels: (N,) class indices.
        objective: "levels" trains every classifier on its own (the mean of their cross-entropies); "mean" is the
            likelihood of the averaged distribution. The paper does not say which.
    Raises: ValueError naming the argument.
    """
    if objective not in ("levels", "mean"):
        raise ValueError(f'objective: expected "levels" or "mean", got {objective!r}')
    if logits.dim() != 3 or labels.shape != logits.shape[:1]:
        came = f"{tuple(logits.shape)} and {tuple(labels.shape)}"
        raise ValueError(f"logits, labels: expected (N,levels,num_classes) and (N,), got shapes {came}")
    log_p = logits.log_softmax(-1)
    if objective == "levels":
        return F.nll_loss(log_p.transpose(1, 2), labels[:, None].expand(log_p.shape[:2]))
    return F.nll_loss(log_p.logsumexp(1) - math.log(log_p.shape[1]), labels)


def multi_label_loss(scores, labels, lengths=None):
    """Binary cross-entropy of every label, the mean over classes and whatever else there is.

    For labels of frames (MultiLSTM), of persons (AVA) and of videos (YouTube-8M). Some code sums over the classes: that
    is num_classes times this.

    Args:
        scores: (N,num_classes) or (N,T,num_classes) before sigmoid.
        labels: of that shape, from 0 to 1.
        lengths: (N,) frames that count, for scores with T; all if None. Labels past them are not read.
    Raises: ValueError or TypeError naming the argument.
    """
    if scores.dim() not in (2, 3) or 0 in scores.shape:
        expected = "(N,num_classes) or (N,T,num_classes), none of them 0"
        raise ValueError(f"scores: expected {expected}, got shape {tuple(scores.shape)}")
    if labels.shape != scores.shape:
        raise ValueError(f"labels: expected the scores' shape {tuple(scores.shape)}, got {tuple(labels.shape)}")
    if lengths is not None:
        if scores.dim() != 3:
            raise ValueError(f"lengths: expected None with scores (N,num_classes), got {lengths}")
        counts = within(check_lengths(lengths, scores.transpose(0, 1)), scores.shape[1])
        scores, labels = scores[counts], labels[counts]
        if not len(scores):
            raise ValueError("lengths: expected at least one step that counts, got 0 for all sequences")
    labels = labels.to(scores.dtype)
    if not torch.compiler.is_compiling() and not labels.is_meta and not bool(((labels >= 0) & (labels <= 1)).all()):
        raise ValueError(f"labels: expected from 0 to 1, got {labels.min().item()} to {labels.max().item()}")
    return F.binary_cross_entropy_with_logits(scores, labels)


def caption_nll(log_probs, tokens, lengths=None):
    """-1/N sum_n sum_i log p(token_i | those before, x^n), the mean over captions, not over tokens.

    x^n is the whole video, or image, that caption n is about. (Ballas et al. 2016 print x_i^n, as if a word depended on
    one frame; their decoder reads all.)

    Args:
        log_probs: (N,L,V). tokens: (N,L). lengths: (N,) tokens that count; all if None.
    Raises: ValueError naming the argument.
    """
    if tokens.shape != log_probs.shape[:2]:
        raise ValueError(f"tokens: expected shape {tuple(log_probs.shape[:2])}, got {tuple(tokens.shape)}")
    found = log_probs.gather(2, tokens[..., None])[..., 0]
    if lengths is not None:
        if lengths.shape != tokens.shape[:1]:
            raise ValueError(f"lengths: expected shape {tuple(tokens.shape[:1])}, got {tuple(lengths.shape)}")
        found = found.masked_fill(~within(lengths, tokens.shape[1]), 0)
    return -found.sum() / len(tokens)


def doubly_stochastic_penalty(weights):
    """Mean over the batch of sum_i (1 - sum_t weights[t, i])^2, for weights (N,T,places).

    The second sum that Xu et al. 2015, arXiv 1502.03044, ask to be one: each place is looked at equally over time.
    """
    return (1 - weights.sum(1)).square().sum(-1).mean()


def frame_cross_entropy(predicted, frames):
    """Cross-entropy summed over pixels and frames, averaged over the batch: Shi et al. 2015, arXiv 1506.04214.

    Their loss on Moving MNIST. ``predicted`` and ``frames`` (B,T,C,H,W) are from 0 to 1. Raises ValueError naming the
    argument.
    """
    if predicted.shape != frames.shape:
        came = f"{tuple(predicted.shape)} and {tuple(frames.shape)}"
        raise ValueError(f"predicted, frames: expected one shape, got {came}")
    return F.binary_cross_entropy(predicted, frames, reduction="sum") / len(frames)


def offset_loss(offsets, targets, count):
    """Smooth L1 of the offsets of positives, summed, over the ``count`` of a sample with its negatives.

    z^2/2 where the difference z is below 1, |z| - 1/2 beyond: Girshick 2015, arXiv 1504.08083, and TAL-Net (Chao et al.
    2018, arXiv 1804.07667).

    Args:
        offsets, targets: (positives,2), as ``fastrcn.models.temporal_segments.encode`` makes them; 0 of them give 0.
        count: at least 1.
    Raises: ValueError naming the argument.
    """
    if offsets.shape != targets.shape:
        raise ValueError(f"targets: expected the offsets' shape {tuple(offsets.shape)}, got {tuple(targets.shape)}")
    if count < 1:
        raise ValueError(f"count: expected at least 1, got {count}")
    return F.smooth_l1_loss(offsets, targets, reduction="sum") / count
