"""Scores of captions: examples worked out by hand, brute force over alignments, scikit-learn's counts of n-grams."""

import itertools
import math
import random

import numpy as np
import pytest
import torch
from sklearn.feature_extraction.text import CountVectorizer

from fastrcn.metrics import bleu, cider, cider_d, meteor

CAT = ["the", "cat", "is", "on", "the", "mat"]


def test_bleu_clips_counts():
    """The paper's example: "the" seven times has two of seven in the reference that has most of them."""
    references = [[CAT, ["there", "is", "a", "cat", "on", "the", "mat"]]]
    assert bleu([["the"] * 7], references, 1) == pytest.approx([2 / 7])
    assert bleu([["the"] * 7], references)[1:] == [0.0, 0.0, 0.0]


def test_bleu_by_hand():
    candidate = ["the", "cat", "sat", "on", "the", "mat"]
    # 1-grams: 5 of 6; 2-grams: the cat, on the, the mat, 3 of 5; 3-grams: on the mat, 1 of 4; no 4-gram.
    assert bleu([candidate], [[CAT]]) == pytest.approx(
        [5 / 6, math.sqrt(5 / 6 * 3 / 5), (5 / 6 * 3 / 5 / 4) ** (1 / 3), 0.0]
    )
    assert bleu([CAT], [[["a"], CAT]]) == pytest.approx([1.0] * 4)


def test_bleu_of_short_candidates():
    assert bleu([["the", "cat"]], [[CAT]], 2) == pytest.approx([math.exp(1 - 6 / 2)] * 2)
    # The closest of 2 and 6 tokens for 4 is the shorter one: no penalty, 2 of 4.
    assert bleu([["the", "cat", "x", "y"]], [[CAT, ["a", "b"]]], 1) == pytest.approx([2 / 4])
    assert bleu([["the", "cat", "x", "y"]], [[CAT, ["a"]]], 1) == pytest.approx([2 / 4 * math.exp(1 - 6 / 4)])
    assert bleu([[]], [[CAT]]) == [0.0] * 4


def test_bleu_counts_over_the_corpus():
    candidates, references = [CAT, ["a", "dog", "x"]], [[CAT], [["a", "dog"]]]
    assert bleu(candidates, references, 2) == pytest.approx([8 / 9, math.sqrt(8 / 9 * 6 / 7)])
    # Candidates of 2 and 8 tokens, references of 4 and 6: together none is too short.
    candidates, references = [["a", "b"], list("abcdefgh")], [[list("abcd")], [list("abcdef")]]
    assert bleu(candidates, references, 1) == pytest.approx([(2 + 6) / 10])


def test_meteor_by_hand():
    # Six matches in one chunk.
    assert meteor([CAT], [[CAT]])[1] == pytest.approx([1 - 0.5 / 6**3])
    # "on the mat" | "the cat": five of five, five of six, two chunks.
    score, scores = meteor([["on", "the", "mat", "the", "cat"]], [[CAT]])
    mean = 10 * (5 / 5) * (5 / 6) / (5 / 6 + 9 * 5 / 5)
    assert scores == pytest.approx([mean * (1 - 0.5 * (2 / 5) ** 3)])
    assert score == scores[0]
    # Every token is a chunk of its own: half is lost.
    assert meteor([list("cba")], [[list("abc")]])[0] == pytest.approx(0.5)
    assert meteor([["dog"], []], [[CAT], [CAT]]) == (0.0, [0.0, 0.0])


def test_meteor_takes_the_best_reference_and_sums_counts():
    score, scores = meteor([CAT, ["a", "b"]], [[["x"], CAT, ["the"]], [["b", "c"]]])
    first = 1 - 0.5 / 6**3
    second = 10 * 0.25 / 5 * 0.5  # one match of two and of two tokens, one chunk
    assert scores == pytest.approx([first, second])
    # 7 matches, 2 chunks, 8 tokens of 8.
    assert score == pytest.approx(7 / 8 * (1 - 0.5 * (2 / 7) ** 3))


def chunks_by_brute_force(candidate, reference):
    """All ways to match each token with a place of the reference or none."""
    options = [[None, *(k for k, r in enumerate(reference) if r == token)] for token in candidate]
    best = (0, 0)
    for places in itertools.product(*options):
        used = [p for p in places if p is not None]
        if len(set(used)) < len(used):
            continue
        chunks = sum(
            p is not None and (k == 0 or places[k - 1] is None or places[k - 1] + 1 != p)
            for k, p in enumerate(places)
        )  # fmt: skip
        best = max(best, (len(used), -chunks))
    return best[0], -best[1]


def test_meteor_finds_the_alignment_with_fewest_chunks():
    choose, several = random.Random(0), 0
    for _ in range(150):
        candidate, reference = ([choose.choice("aabc") for _ in range(choose.randint(1, 6))] for _ in range(2))
        matches, chunks = chunks_by_brute_force(candidate, reference)
        several += chunks > 1
        precision, recall = matches / len(candidate), matches / len(reference)
        truth = matches and 10 * precision * recall / (recall + 9 * precision) * (1 - 0.5 * (chunks / matches) ** 3)
        assert meteor([candidate], [[reference]])[0] == pytest.approx(truth)
    assert several > 50


def test_meteor_of_a_caption_that_repeats_itself_ends():
    caption = list("ab" * 15)
    assert meteor([caption], [[caption]])[0] == pytest.approx(1 - 0.5 / 30**3)


DOGS = [[["a", "dog", "runs"], ["a", "dog"]], [["a", "cat", "sits"]], [["a", "bird", "sings"]]]


def test_cider_by_hand():
    """Three clips; "a" is in all of them and weighs nothing, everything else log 3."""
    _, scores = cider([["a", "dog", "sits"], ["a", "cat", "sits"], ["fish"]], DOGS)
    # First: "dog" of "dog sits" against "dog runs" 1/2, against "dog" 1/sqrt(2); "a dog" of "a dog", "dog sits" against
    # "a dog", "dog runs" 1/2, against "a dog" 1/sqrt(2); no 3-gram is common.
    first = 2 * (1 / 2 + 1 / math.sqrt(2)) / 2 / 4
    assert scores == pytest.approx([first, 3 / 4, 0.0])  # a perfect caption of three tokens has no 4-gram
    assert cider([["a", "dog", "sits"], ["a", "cat", "sits"], ["fish"]], DOGS)[0] == pytest.approx(sum(scores) / 3)


def test_cider_d_by_hand():
    candidates = [["a", "dog", "dog", "dog"], ["a", "cat", "sits"], ["a", "bird"]]
    _, scores = cider_d(candidates, DOGS)
    # "dog" counts once: 1 * 1 / (3 * sqrt 2) against "dog runs", 1 / 3 against "dog"; "a dog" of "a dog", twice "dog
    # dog": 1 / (sqrt 5 * sqrt 2) and 1 / sqrt 5. Lengths differ by 1 and 2.
    longer, shorter = math.exp(-1 / 72), math.exp(-4 / 72)
    first = (1 / (3 * math.sqrt(2)) + 1 / math.sqrt(10)) * longer + (1 / 3 + 1 / math.sqrt(5)) * shorter
    third = 2 / math.sqrt(2) * longer  # "bird" of "bird sings", "a bird" of "a bird", "bird sings"
    assert scores == pytest.approx([10 * first / 2 / 4, 10 * 3 / 4, 10 * third / 4])


def by_scikit_learn(candidates, references, clipped):
    """Its counts of n-grams as dense vectors."""
    scores = np.zeros(len(candidates))
    for n in range(1, 5):
        everything = list(candidates) + [r for many in references for r in many]
        count = CountVectorizer(analyzer=lambda c, n=n: [" ".join(c[k : k + n]) for k in range(len(c) - n + 1)])
        count.fit(everything)
        found_in = sum((count.transform(many).toarray().sum(0) > 0).astype(float) for many in references)
        idf = np.log(len(candidates) / np.maximum(1, found_in))
        for clip, (candidate, many) in enumerate(zip(candidates, references, strict=True)):
            ours = count.transform([candidate]).toarray()[0] * idf
            for reference in many:
                theirs = count.transform([reference]).toarray()[0] * idf
                top = np.minimum(ours, theirs) @ theirs if clipped else ours @ theirs
                below = np.linalg.norm(ours) * np.linalg.norm(theirs)
                penalty = 10 * np.exp(-((len(candidate) - len(reference)) ** 2) / 72) if clipped else 1
                scores[clip] += penalty * top / below / len(many) / 4 if below else 0
    return scores.tolist()


def test_cider_against_scikit_learn():
    choose = random.Random(1)

    def caption():
        return [choose.choice(["the", "a", "dog", "cat", "runs", "sits"]) for _ in range(choose.randint(3, 9))]

    candidates = [caption() for _ in range(8)]
    references = [[caption() for _ in range(choose.randint(1, 4))] for _ in range(8)]
    for score, clipped in ((cider, False), (cider_d, True)):
        mean, scores = score(candidates, references)
        truth = by_scikit_learn(candidates, references, clipped)
        assert min(truth) > 0.01
        assert scores == pytest.approx(truth, rel=1e-12)
        assert mean == pytest.approx(np.mean(truth), rel=1e-12)


def test_tokens_may_be_numbers():
    number = {"the": 0, "cat": 1, "is": 2, "on": 3, "mat": 4, "sat": 5, "a": 6}
    words = [["the", "cat", "sat"], ["a", "cat"]], [[CAT, ["a", "mat"]], [["a", "cat"]]]
    numbers = [[number[w] for w in c] for c in words[0]], [[[number[w] for w in r] for r in m] for m in words[1]]
    for score in (bleu, meteor, cider, cider_d):
        assert score(*numbers) == score(*words)


@pytest.mark.parametrize("score", [bleu, meteor, cider, cider_d])
@pytest.mark.parametrize(
    ("candidates", "references", "words"),
    [
        ([], [], "candidates, references: expected as many of both, at least one, got 0 and 0"),
        ([CAT, CAT], [[CAT]], "candidates, references: expected as many of both, at least one, got 2 and 1"),
        ([CAT, CAT], [[CAT], []], r"references: expected a list of at least one caption for clip 1, got \[\]"),
        ([CAT, CAT], [[CAT], "a cat"], "references: expected a list of at least one caption for clip 1, got 'a cat'"),
        (["a cat", CAT], [[CAT], [CAT]], "candidates: expected sequences of tokens, got the text 'a cat'; split it"),
        ([torch.arange(3), CAT], [[CAT], [CAT]], "candidates: expected tokens that are numbers or text, got tensors"),
        ([CAT, CAT], [[CAT], [list(torch.arange(3))]], "references: expected tokens that are numbers or text"),
        ([CAT, CAT], [[CAT], ["a cat"]], "references: expected sequences of tokens, got the text 'a cat'"),
    ],
)
def test_errors(score, candidates, references, words):
    with pytest.raises(ValueError, match=words):
        score(candidates, references)


def test_errors_of_single_functions():
    with pytest.raises(ValueError, match="n: expected at least 1, got 0"):
        bleu([CAT], [[CAT]], 0)
    for score in (cider, cider_d):
        with pytest.raises(ValueError, match=r"candidates: expected at least 2 clips, .* got 1"):
            score([CAT], [[CAT]])
