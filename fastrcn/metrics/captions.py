"""Scores of captions against reference captions: BLEU, METEOR in its exact form, CIDEr.

A caption is a sequence of tokens, words or their numbers, without the one that ends it: ``caption.split()``, or
``tokens[:length - 1].tolist()`` of a decoder's caption that has ended. Papers put captions in lower case without
punctuation first, as the COCO evaluation's tokenizer does; here tokens are compared as they come.

Every function takes ``candidates``, a list with one caption for each clip, and ``references``, a list with the list of
reference captions of each clip. It raises ValueError naming the argument. Published numbers are mostly 100 times these.
"""

import heapq
import math
from collections import Counter

import torch

ALIGNMENT_LIMIT = 2000
"""Alignments that METEOR follows at a time, the best ones: only captions that repeat words many times have more."""


def _checked(candidates, references):
    """Both with every caption as a tuple of tokens."""
    if len(candidates) != len(references) or not len(candidates):
        came = f"{len(candidates)} and {len(references)}"
        raise ValueError(f"candidates, references: expected as many of both, at least one, got {came}")
    for clip, captions in enumerate(references):
        if isinstance(captions, str) or not len(captions):
            raise ValueError(f"references: expected a list of at least one caption for clip {clip}, got {captions!r}")
    for name, captions in (("candidates", candidates), ("references", [c for many in references for c in many])):
        for caption in captions:
            if isinstance(caption, str):
                raise ValueError(f"{name}: expected sequences of tokens, got the text {caption!r}; split it")
            if any(isinstance(token, torch.Tensor) for token in caption):  # no two of which are equal as keys
                raise ValueError(f"{name}: expected tokens that are numbers or text, got tensors; use tolist()")
    return [tuple(c) for c in candidates], [[tuple(r) for r in captions] for captions in references]


def _ngrams(caption, n):
    """How often each sequence of ``n`` tokens is in a caption."""
    return Counter(caption[k : k + n] for k in range(len(caption) - n + 1))


def bleu(candidates, references, n=4):
    """BLEU-1 to BLEU-n of a corpus: Papineni et al. 2002, https://aclanthology.org/P02-1040.

    Counts over all captions: n-grams of the candidates that are in a reference, each at most as often as in the
    reference that has it most often; the geometric mean of their shares for 1 to n; times exp(1 - r/c) where the
    candidates' c tokens are fewer than r, the sum over clips of the length of the reference that is closest to the
    candidate's, the shorter one of two. Nothing is smoothed: BLEU-n is 0 without a common n-gram.

    Returns: a list of n floats from 0 to 1.
    """
    candidates, references = _checked(candidates, references)
    if n < 1:
        raise ValueError(f"n: expected at least 1, got {n}")
    length = sum(map(len, candidates))
    closest = sum(
        min((abs(len(r) - len(c)), len(r)) for r in captions)[1]
        for c, captions in zip(candidates, references, strict=True)
    )
    log_brevity = min(0.0, 1 - closest / length) if length else 0.0
    scores, log_shares = [], 0.0
    for order in range(1, n + 1):
        right = total = 0
        for candidate, captions in zip(candidates, references, strict=True):
            most = Counter()
            for reference in captions:
                most |= _ngrams(reference, order)
            counts = _ngrams(candidate, order)
            total += counts.total()
            right += (counts & most).total()
        log_shares += math.log(right / total) if right else -math.inf
        scores.append(math.exp(log_brevity + log_shares / order))
    return scores


def _fewest_chunks(candidate, reference):
    """Matched tokens and chunks of the best alignment of two captions.

    As many tokens as possible are matched one to one with equal ones, and of such alignments one with the fewest chunks
    is taken, runs that are adjacent in both captions. All alignments are followed from left to right, those together
    that use the same places of the reference and end alike; so this is exact up to ``ALIGNMENT_LIMIT``.
    """
    places, wanted = {}, Counter(candidate) & Counter(reference)
    for place, token in enumerate(reference):
        places.setdefault(token, []).append(place)
    left = Counter(candidate)
    alignments = {(0, None): 0}  # (places of the reference in use as bits, the last token's place) -> adjacent pairs
    for token in candidate:
        left[token] -= 1
        following = {}
        for (used, last), pairs in alignments.items():
            free = [place for place in places.get(token, ()) if not used >> place & 1]
            missing = wanted[token] - (len(places.get(token, ())) - len(free))
            options = [(used | 1 << place, place, pairs + (last is not None and place == last + 1)) for place in free]
            if missing == 0:
                options = []
            if left[token] >= missing:
                options.append((used, None, pairs))
            for used_then, place, pairs_then in options:
                key = used_then, place
                following[key] = max(pairs_then, following.get(key, 0))
        if len(following) > ALIGNMENT_LIMIT:
            following = dict(heapq.nlargest(ALIGNMENT_LIMIT, following.items(), key=lambda item: item[1]))
        alignments = following
    matches = wanted.total()
    return matches, matches - max(alignments.values())


def _meteor(matches, chunks, candidate_length, reference_length):
    if not matches:
        return 0.0
    precision, recall = matches / candidate_length, matches / reference_length
    mean = 10 * precision * recall / (recall + 9 * precision)
    return mean * (1 - 0.5 * (chunks / matches) ** 3)


def meteor(candidates, references):
    """METEOR in its exact form: Banerjee and Lavie 2005, https://aclanthology.org/W05-0909, with equal words only.

    F = 10 P R / (R + 9 P) of precision and recall of the matched tokens, times 1 - 0.5 (chunks / matches)^3, with the
    reference that scores best. Of alignments with most matches the one with fewest chunks counts, as in later versions.
    Stems, synonyms and paraphrases do not match and weights are those of 2005, so this is not the number of the METEOR
    1.5 program that papers quote, and usually less: compare it with itself only.

    Returns: the corpus's score, from its sums of matches, chunks and lengths; and the list of the captions' scores.
    """
    candidates, references = _checked(candidates, references)
    totals, scores = [0, 0, 0, 0], []
    for candidate, captions in zip(candidates, references, strict=True):
        found = [(*_fewest_chunks(candidate, r), len(candidate), len(r)) for r in captions]
        best = max(found, key=lambda counts: _meteor(*counts))
        totals = [total + count for total, count in zip(totals, best, strict=True)]
        scores.append(_meteor(*best))
    return _meteor(*totals), scores


def _cider(candidates, references, similarity):
    """The mean over 1- to 4-grams and references of ``similarity`` of vectors of weighted counts, for each caption.

    An n-gram's weight is log(clips / clips with a reference that has it), at least one clip.
    """
    candidates, references = _checked(candidates, references)
    clips = len(candidates)
    if clips < 2:
        raise ValueError(f"candidates: expected at least 2 clips, as words are weighed by how few clips have them, "
                         f"got {clips}")  # fmt: skip
    scores = [0.0] * clips
    for n in range(1, 5):
        found_in = Counter(g for captions in references for g in {g for r in captions for g in _ngrams(r, n)})

        def vector(caption, n=n, found_in=found_in):
            return {g: count * math.log(clips / max(1, found_in[g])) for g, count in _ngrams(caption, n).items()}

        for clip, (candidate, captions) in enumerate(zip(candidates, references, strict=True)):
            ours = vector(candidate)
            for reference in captions:
                theirs = vector(reference)
                norm = math.hypot(*ours.values()) * math.hypot(*theirs.values())
                if norm:
                    shift = len(candidate) - len(reference)
                    scores[clip] += similarity(ours, theirs, shift) / norm / len(captions) / 4
    return scores


def cider(candidates, references):
    """CIDEr, Vedantam et al. 2015, https://arxiv.org/abs/1411.5726: mean cosine of weighted counts of 1- to 4-grams.

    Clips that have an n-gram are counted among those that are given. The paper takes stems of words first; here tokens
    are as they come. What papers report under this name is mostly ``cider_d``.

    Returns: the mean, from 0 to 1, and the list of the captions' scores.
    """

    def cosine(ours, theirs, shift):
        return sum(weight * theirs.get(g, 0.0) for g, weight in ours.items())

    scores = _cider(candidates, references, cosine)
    return sum(scores) / len(scores), scores


def cider_d(candidates, references):
    """CIDEr-D: the form of ``cider`` that cannot be raised by repeating words, and the one that is usually reported.

    A weight of the candidate's counts at most as much as the reference's in their product; times exp(-d^2 / 72) with d
    the difference of their lengths; times 10. Counts are plain ones, not shares of a caption's, as in the COCO
    evaluation's code, whose "CIDEr" this is.

    Returns: the mean, from 0 to 10, and the list of the captions' scores.
    """

    def clipped(ours, theirs, shift):
        product = sum(min(weight, theirs[g]) * theirs[g] for g, weight in ours.items() if g in theirs)
        return 10 * product * math.exp(-(shift**2) / (2 * 6**2))

    scores = _cider(candidates, references, clipped)
    return sum(scores) / len(scores), scores
