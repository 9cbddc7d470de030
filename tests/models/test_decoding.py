"""Searches against enumeration and a beam search of lists; likelihoods; all decoders alike."""

import itertools
import math

import pytest
import torch

from fastrcn import models
from fastrcn.models import beam_search, caption_lengths, caption_nll, greedy, sample
from tests.helpers.tolerances import assert_close

BOS, EOS = 4, 0


def history(items, vocabulary=5, seed=0, spread=2.0):
    """A step whose log-probabilities depend on all tokens so far, and its first state."""
    g = torch.Generator().manual_seed(seed)
    a, e, w = (torch.randn(*s, generator=g, dtype=torch.float64) for s in ((6, 6), (vocabulary, 6), (6, vocabulary)))

    def step(tokens, state):
        (h,) = state
        h = torch.tanh(h @ a + e[tokens])
        return (spread * h @ w).log_softmax(-1), (h,)

    return step, (torch.randn(items, 6, generator=g, dtype=torch.float64),)


def chain(rows, vocabulary):
    """A step of a Markov chain: probabilities of the next token by the last one; EOS after those not named."""
    table = torch.zeros(vocabulary, vocabulary, dtype=torch.float64)
    for token in range(vocabulary):
        following = rows.get(token, {EOS: 1.0})
        for after, p in following.items():
            table[token, after] = p

    def step(tokens, state):
        return table[tokens].log(), state

    return step, torch.zeros(1, 1)


def score_of(step, state, caption):
    """Log-probability of one caption, a list, by single steps."""
    total, last = 0.0, BOS
    for token in caption:
        log_probs, state = step(torch.tensor([last]), state)
        total, last = total + float(log_probs[0, token]), token
    return total


def all_captions(vocabulary, max_length):
    for length in range(1, max_length + 1):
        for words in itertools.product(range(1, vocabulary), repeat=length - 1):
            for last in range(vocabulary) if length == max_length else [EOS]:
                yield [*words, last]


def plain_beam(step, state, width, max_length, power):
    """Beam search of one item, with lists: the best caption and its score."""
    beam = [([], 0.0, state, False)]
    for _ in range(max_length):
        candidates = []
        for words, total, s, ended in beam:
            if ended:
                candidates.append((words, total, s, True))
                continue
            log_probs, after = step(torch.tensor([words[-1] if words else BOS]), s)
            candidates += [
                ([*words, k], total + float(p), after, k == EOS)
                for k, p in enumerate(log_probs[0])
                if math.isfinite(float(p))
            ]
        beam = sorted(candidates, key=lambda c: -c[1] / len(c[0]) ** power)[:width]
    return beam[0][0], beam[0][1] / len(beam[0][0]) ** power


def words_of(captions, item):
    return captions.tokens[item, : captions.lengths[item]].tolist()


@pytest.mark.parametrize("power", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_a_beam_that_holds_everything_finds_the_best(power, seed):
    step, state = history(2, vocabulary=3, seed=seed)
    found = beam_search(step, state, bos=2, eos=EOS, max_length=4, width=81, length_power=power)
    for k in range(2):

        def score(caption, k=k):
            total, last, s = 0.0, 2, (state[0][k : k + 1],)
            for token in caption:
                log_probs, s = step(torch.tensor([last]), s)
                total, last = total + float(log_probs[0, token]), token
            return total / len(caption) ** power

        best = max(all_captions(3, 4), key=score)
        assert words_of(found, k) == best
        assert found.scores(power)[k].item() == pytest.approx(score(best), rel=1e-12)


@pytest.mark.parametrize("power", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("width", [1, 2, 3, 5])
def test_equals_a_beam_of_lists_and_is_never_below_greedy(width, power):
    for seed in range(4):
        step, state = history(3, seed=seed)
        found = beam_search(step, state, bos=BOS, eos=EOS, max_length=6, width=width, length_power=power)
        first = greedy(step, state, bos=BOS, eos=EOS, max_length=6)
        assert (found.scores(power) >= first.scores(power)).all()
        for k in range(3):
            alone = (state[0][k : k + 1],)
            words, score = plain_beam(step, alone, width, 6, power)
            expected = words if score > first.scores(power)[k] + 1e-12 else words_of(first, k)
            assert words_of(found, k) == expected
            assert found.log_probs[k].item() == pytest.approx(score_of(step, alone, expected), rel=1e-12)


def test_width_one_is_greedy():
    for seed in range(10):
        step, state = history(4, seed=seed)
        a = greedy(step, state, bos=BOS, eos=EOS, max_length=7)
        b = beam_search(step, state, bos=BOS, eos=EOS, max_length=7, width=1, length_power=0.5)
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_a_beam_that_loses_the_greedy_caption():
    # After two steps the two continuations of 2 are ahead of all of 1, but they fall apart at the third.
    third = 1 / 3
    first = {BOS: {1: 0.4, 2: 0.35, 3: 0.25}, 1: {5: 0.34, 6: 0.33, 7: 0.33}, 2: {8: 0.5, 9: 0.5}}
    step, state = chain(first | {k: {10: third, 11: third, 12: third} for k in (8, 9)}, 13)
    best = greedy(step, state, bos=BOS, eos=EOS)
    assert words_of(best, 0) == [1, 5, EOS]
    assert best.log_probs.exp().item() == pytest.approx(0.4 * 0.34)
    words, score = plain_beam(step, state, 2, 10, 0.0)
    assert (words[0], math.exp(score)) == (2, pytest.approx(0.35 * 0.5 / 3))
    found = beam_search(step, state, bos=BOS, eos=EOS, width=2)
    assert all(torch.equal(x, y) for x, y in zip(best, found, strict=True))


def test_length_normalisation_decides():
    # "0" alone has 0.4; "1 1 0" has 0.6 * 0.8 * 0.8 = 0.384, but a better mean.
    step, state = chain({BOS: {EOS: 0.4, 1: 0.6}, 1: {2: 0.8, 3: 0.2}, 2: {EOS: 0.8, 3: 0.2}}, 5)
    for power, words in ((0.0, [EOS]), (1.0, [1, 2, EOS])):
        assert words_of(beam_search(step, state, bos=BOS, eos=EOS, width=4, length_power=power), 0) == words


def test_max_length_and_ends():
    step, state = chain({BOS: {1: 1.0}, 1: {2: 1.0}, EOS: {3: 1.0}}, 5)
    for search in (greedy, beam_search, sample):
        cut = search(step, state, bos=BOS, eos=EOS, max_length=2)
        assert (cut.tokens.tolist(), cut.lengths.tolist()) == ([[1, 2]], [2])
        whole = search(step, state, bos=BOS, eos=EOS, max_length=9)
        assert (whole.tokens.tolist(), whole.lengths.tolist()) == ([[1, 2, EOS]], [3])
        assert whole.log_probs.tolist() == [0.0]


def test_items_of_a_batch_end_apart_and_do_not_touch():
    step, state = history(6, seed=3)
    for search, options in ((greedy, {}), (beam_search, {"width": 3})):
        together = search(step, state, bos=BOS, eos=EOS, max_length=6, **options)
        assert len(set(together.lengths.tolist())) > 1
        for k in range(6):
            alone = search(step, (state[0][k : k + 1],), bos=BOS, eos=EOS, max_length=6, **options)
            assert words_of(together, k) == words_of(alone, 0)
            assert (together.tokens[k, together.lengths[k] :] == EOS).all()


def test_bos_and_eos_may_be_one_token():
    step, state = chain({0: {1: 0.9, 0: 0.1}, 1: {0: 0.6, 1: 0.4}}, 2)
    assert words_of(greedy(step, state, bos=0, eos=0), 0) == [1, 0]
    assert words_of(beam_search(step, state, bos=0, eos=0, width=3), 0) == [1, 0]


def test_sampling():
    step, state = chain({BOS: {EOS: 0.2, 1: 0.3, 2: 0.5}, 2: {EOS: 0.5, 1: 0.5}}, 5)
    many = state.expand(20000, 1)

    def draw(seed):
        return sample(step, many, bos=BOS, eos=EOS, generator=torch.Generator().manual_seed(seed))

    found = draw(0)
    assert all(torch.equal(x, y) for x, y in zip(found, draw(0), strict=True))
    assert not torch.equal(found.tokens, draw(1).tokens)
    probability = {(EOS, EOS, EOS): 0.2, (1, EOS, EOS): 0.3, (2, EOS, EOS): 0.25, (2, 1, EOS): 0.25}
    drawn = {words: (found.tokens == torch.tensor(words)).all(1) for words in probability}
    assert sum(int(c.sum()) for c in drawn.values()) == 20000
    for words, p in probability.items():
        assert abs(float(drawn[words].double().mean()) - p) < 5 * math.sqrt(p * (1 - p) / 20000)
        assert_close(
            found.log_probs[drawn[words]].exp(), torch.full((int(drawn[words].sum()),), p, dtype=torch.float64)
        )


def test_caption_nll():
    log_probs = torch.tensor([[[0.5, 0.5], [0.25, 0.75]], [[0.1, 0.9], [0.2, 0.8]]]).double().log()
    tokens = torch.tensor([[0, 1], [1, 0]])
    whole = -(math.log(0.5) + math.log(0.75) + math.log(0.9) + math.log(0.2)) / 2
    assert caption_nll(log_probs, tokens).item() == pytest.approx(whole)
    cut = -(math.log(0.5) + math.log(0.75) + math.log(0.9)) / 2
    assert caption_nll(log_probs, tokens, torch.tensor([2, 1])).item() == pytest.approx(cut)


def test_caption_lengths():
    tokens = torch.tensor([[3, 0, 0, 2], [0, 1, 1, 1], [1, 2, 3, 1], [1, 2, 3, 0]])
    assert caption_lengths(tokens, 0).tolist() == [2, 1, 4, 4]


DECODERS = [
    *((f"lrcn_caption_{v}", {}) for v in ("1u", "2u", "2f")),
    ("lrcn_caption_2f", {"video": "encoder"}),
    ("soft_attention_caption", {}),
    *(("seq2seq_attention", {"order": o, "cell": c}) for o in ("luong", "bahdanau") for c in ("lstm", "gru")),
]


@pytest.mark.parametrize(("name", "options"), DECODERS)
def test_searches_of_every_decoder(name, options):
    """What is said step by step has the likelihood that the run over the whole caption gives it."""
    model = models.create(name, small=True, **options).double().eval()
    first, *_ = model.example_inputs(4)
    first = first.double() if first.is_floating_point() else first
    generator = torch.Generator().manual_seed(1)
    searches = ((greedy, {}), (beam_search, {"width": 3, "length_power": 1.0}), (sample, {"generator": generator}))
    found = {f: model.generate(first, search=f, max_length=7, **o) for f, o in searches}
    for captions in found.values():
        assert torch.equal(captions.lengths, caption_lengths(captions.tokens, model.eos))
        outputs = model(first, captions.tokens)
        log_probs = outputs[0] if isinstance(outputs, tuple) else outputs
        assert_close(log_probs.exp().sum(-1), torch.ones(captions.tokens.shape, dtype=torch.float64))
        for k in range(4):
            one = caption_nll(log_probs[k : k + 1], captions.tokens[k : k + 1], captions.lengths[k : k + 1])
            assert_close(-one, captions.log_probs[k])
        assert_close(caption_nll(log_probs, captions.tokens, captions.lengths), -captions.log_probs.mean())
    assert (found[beam_search].scores(1.0) >= found[greedy].scores(1.0)).all()
    one = model.generate(first, search=beam_search, max_length=7, width=1)
    assert all(torch.equal(a, b) for a, b in zip(one, found[greedy], strict=True))


@pytest.mark.parametrize(("name", "options"), DECODERS)
def test_a_token_does_not_change_what_was_before_it(name, options):
    model = models.create(name, small=True, **options).eval()
    first, tokens, *_ = model.example_inputs(2)
    other = tokens.clone()
    other[:, 2] = (tokens[:, 2] + 1) % model.vocabulary
    a, b = (o[0] if isinstance(o, tuple) else o for o in (model(first, tokens), model(first, other)))
    assert torch.equal(a[:, :3], b[:, :3])
    assert not torch.equal(a[:, 3], b[:, 3])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: greedy(*history(1), bos=BOS, eos=EOS, max_length=0), "max_length"),
        (lambda: beam_search(*history(1), bos=BOS, eos=EOS, width=0), "width"),
        (lambda: caption_nll(torch.zeros(2, 3, 4), torch.zeros(2, 4, dtype=torch.int64)), r"tokens: .*\(2, 3\)"),
        (
            lambda: caption_nll(torch.zeros(2, 3, 4), torch.zeros(2, 3, dtype=torch.int64), torch.ones(3)),
            r"lengths: .*\(2,\)",
        ),
        (lambda: models.create("lrcn_caption_1u", small=True, bos=11), "bos: expected a token from 0 to 10, got 11"),
        (lambda: models.create("lrcn_caption_1u", small=True, eos=-1), "eos"),
    ],
)  # fmt: skip
def test_errors(make, words):
    with pytest.raises(ValueError, match=words):
        make()
