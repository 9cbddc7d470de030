"""Captions out of a decoder: greedy, beam search, sampling.

A decoder is a function ``step(tokens, state) -> (log_probs, state)`` of the tokens (N,) that came last, giving
log-probabilities (N,V) of those that come next; a state is a tensor with N first, or nested tuples of such. A caption
ends with the token EOS, which it includes; BOS comes before its first token and is no part of it. The released code of
the captioning papers has one number for both, which is possible here too.
"""

from typing import Any, NamedTuple

import torch
from torch import nn


class Captions(NamedTuple):
    """What a search found.

    tokens: (N,L), EOS after the end. lengths: (N,) tokens, EOS included if it was reached. log_probs: (N,) of the
    captions.
    """

    tokens: torch.Tensor
    lengths: torch.Tensor
    log_probs: torch.Tensor

    def scores(self, length_power=0.0):
        """Log-probability over length**length_power: 0 for the plain one, 1 for the mean of the tokens'."""
        return self.log_probs / self.lengths.to(self.log_probs.dtype) ** length_power


def _rows(state, index):
    """These rows of every tensor of a state."""
    return tuple(_rows(s, index) for s in state) if isinstance(state, tuple) else state.index_select(0, index)


def _first(state) -> Any:
    return _first(state[0]) if isinstance(state, tuple) else state


def _follow(step, state, choose, bos, eos, max_length):
    """One caption each; ``choose`` takes log-probabilities (N,V) and gives tokens (N,)."""
    if max_length < 1:
        raise ValueError(f"max_length: expected at least 1, got {max_length}")
    first = _first(state)
    tokens = torch.full((len(first),), bos, device=first.device)
    ended = torch.zeros_like(tokens, dtype=torch.bool)
    lengths, caption = torch.zeros_like(tokens), []
    total: Any = 0
    for _ in range(max_length):
        log_probs, state = step(tokens, state)
        tokens = choose(log_probs).masked_fill(ended, eos)
        total = total + log_probs.gather(1, tokens[:, None])[:, 0].masked_fill(ended, 0)
        lengths = lengths + ~ended
        caption.append(tokens)
        ended = ended | (tokens == eos)
        if ended.all():
            break
    return Captions(torch.stack(caption, 1), lengths, total)


@torch.no_grad()
def greedy(step, state, *, bos, eos, max_length=30):
    """The likeliest token at each step."""
    return _follow(step, state, lambda log_probs: log_probs.argmax(1), bos, eos, max_length)


@torch.no_grad()
def sample(step, state, *, bos, eos, max_length=30, generator=None):
    """Each token drawn from its distribution; ``generator`` (of the state's device) makes it repeatable."""

    def draw(log_probs):
        return log_probs.exp().multinomial(1, generator=generator)[:, 0]

    return _follow(step, state, draw, bos, eos, max_length)


@torch.no_grad()
def beam_search(step, state, *, bos, eos, max_length=30, width=5, length_power=0.0):
    """The best caption that is found with ``width`` candidates kept at each step.

    Candidates, ended or not, are ranked by ``Captions.scores(length_power)``. The greedy caption is one more candidate
    at the end, because a beam may lose it on the way and end below it: so the result never scores below the greedy
    one, and is the greedy one at width 1.
    """
    if width < 1:
        raise ValueError(f"width: expected at least 1, got {width}")
    best = greedy(step, state, bos=bos, eos=eos, max_length=max_length)
    n, device = best.lengths.shape[0], best.lengths.device
    items = torch.arange(n, device=device)[:, None]
    state = _rows(state, items.expand(n, width).flatten())
    tokens = torch.full((n, width), bos, device=device)
    captions = tokens.new_empty(n, width, 0)
    ended, lengths = torch.zeros_like(tokens, dtype=torch.bool), torch.zeros_like(tokens)
    # All candidates are equal at first: only one of them counts.
    total = torch.full((n, width), -torch.inf, dtype=best.log_probs.dtype, device=device)
    total[:, 0] = 0
    for _ in range(max_length):
        log_probs, state = step(tokens.flatten(), state)
        log_probs = log_probs.view(n, width, -1)
        # A caption that has ended goes on as itself, by an EOS that costs nothing.
        log_probs = log_probs.masked_fill(ended[..., None], -torch.inf)
        log_probs[..., eos] = log_probs[..., eos].masked_fill(ended, 0)
        lengths = lengths + ~ended
        scores = (total[..., None] + log_probs) / lengths[..., None].to(total.dtype) ** length_power
        chosen = scores.flatten(1).topk(width).indices
        origin, tokens = chosen // log_probs.shape[2], chosen % log_probs.shape[2]
        total = (total[..., None] + log_probs).flatten(1).gather(1, chosen)
        captions = torch.cat([captions.take_along_dim(origin[..., None], 1), tokens[..., None]], 2)
        lengths, ended = lengths.gather(1, origin), ended.gather(1, origin) | (tokens == eos)
        state = _rows(state, (items * width + origin).flatten())
        if ended.all():
            break
    return _best(best, captions, lengths, total, eos, length_power)


def _best(greedy_caption, captions, lengths, total, eos, length_power):
    """The best of the candidates (N,W,L) and the greedy caption, which comes first where they are equal."""
    length = max(captions.shape[2], greedy_caption.tokens.shape[1])

    def padded(tokens):
        return nn.functional.pad(tokens, (0, length - tokens.shape[-1]), value=eos)

    tokens = torch.cat([padded(greedy_caption.tokens)[:, None], padded(captions)], 1)
    lengths = torch.cat([greedy_caption.lengths[:, None], lengths], 1)
    total = torch.cat([greedy_caption.log_probs[:, None], total], 1)
    index = Captions(tokens, lengths, total).scores(length_power).argmax(1, keepdim=True)
    lengths = lengths.gather(1, index)[:, 0]
    tokens = tokens.take_along_dim(index[..., None], 1)[:, 0, : int(lengths.max())]
    return Captions(tokens, lengths, total.gather(1, index)[:, 0])


class CaptionDecoder(nn.Module):
    """What the decoders share: BOS and EOS, and searching for a caption.

    A decoder has ``start(*inputs) -> state``, ``step(tokens, state) -> (log_probs, state)``, and ``forward(*inputs,
    tokens)`` for given captions.
    """

    start: Any
    step: Any

    def __init__(self, vocabulary, bos, eos):
        super().__init__()
        for name, token in (("bos", bos), ("eos", eos)):
            if not 0 <= token < vocabulary:
                raise ValueError(f"{name}: expected a token from 0 to {vocabulary - 1}, got {token}")
        self.vocabulary, self.bos, self.eos = vocabulary, bos, eos

    def generate(self, *inputs, search=greedy, **options):
        """Captions for the inputs of ``start``; ``search``: greedy, beam_search or sample, with its options."""
        return search(self.step, self.start(*inputs), bos=self.bos, eos=self.eos, **options)

    def shifted(self, tokens, batch):
        """The tokens (N,L) that are read when ``tokens`` are to be said: BOS first, the last one never."""
        if tokens.dim() != 2 or tokens.shape[0] != batch or tokens.shape[1] < 1:
            raise ValueError(f"tokens: expected ({batch},L) with L at least 1, got shape {tuple(tokens.shape)}")
        return nn.functional.pad(tokens[:, :-1], (1, 0), value=self.bos)


def caption_lengths(tokens, eos):
    """Tokens of each caption (N,L) up to its first EOS, which counts; L where there is none."""
    before = (tokens == eos).cumsum(1) == 0
    return (before.sum(1) + 1).clamp(max=tokens.shape[1])
