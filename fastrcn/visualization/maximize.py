"""Clips that a class score is largest for: Feichtenhofer et al. 2018, https://arxiv.org/abs/1801.01415.

Gradient ascent on a network's inputs (image, flow, clip) with two regularisers: the energy, which is bounded, and the
total variation, whose weights over space and over time are apart. A large weight over time asks for slow motion, none
allows fast motion.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from fastrcn.visualization.gradients import as_inputs, class_scores


def _power(squares, exponent):
    """A power of sums of squares whose gradient at zero is zero, for exponents below 1 too."""
    if exponent == 1:
        return squares
    some = squares > 0
    return torch.where(some, torch.where(some, squares, 1).pow(exponent), 0)


def _check_clip(clip, name):
    if clip.dim() != 5:
        raise ValueError(f"{name}: expected (N,C,T,H,W), got shape {tuple(clip.shape)}")


def total_variation(clip, *, kappa=1.0, chi=0.0, beta=2.0):
    """Total variation of clips: the sum of [kappa (dx^2 + dy^2) + chi dt^2]^(beta/2) over channels, frames and places.

    dx, dy and dt are differences to the next value; those of the last row, column and frame are zero.

    Args:
        clip: (N,C,T,H,W).
        kappa, chi: weights of changes over space and over time.
        beta: 2 for squares; 1 for lengths, which keep edges.
    Shapes: (N,C,T,H,W) -> (N,).
    Raises: ValueError naming the argument.
    """
    _check_clip(clip, "clip")
    squares = torch.zeros_like(clip)
    for dim, weight in ((2, chi), (3, kappa), (4, kappa)):
        if weight:
            after = [0, 0] * (4 - dim) + [0, 1]
            squares = squares + weight * torch.nn.functional.pad(clip.diff(dim=dim).square(), after)
    return _power(squares, beta / 2).sum((1, 2, 3, 4))


def energy(clip, *, alpha=2.0):
    """Sum over frames and places of the length of a place's channels to the power ``alpha``: (N,C,T,H,W) -> (N,)."""
    _check_clip(clip, "clip")
    return _power(clip.square().sum(1), alpha / 2).sum((1, 2, 3))


def bounded(clip, bound):
    """The clip with places whose channels are longer than ``bound`` shortened to it: the nearest clip allowed."""
    _check_clip(clip, "clip")
    length = clip.norm(dim=1, keepdim=True)
    return torch.where(length > bound, clip * (bound / torch.where(length > 0, length, 1)), clip)


@dataclass(frozen=True)
class Regularizer:
    """What an input is asked for besides a large score. The paper's weights are recalled, not checked: choose yours.

    kappa, chi, beta: of the total variation. ``chi=math.inf`` is its limit: all frames are the same.
    variation, energy: weights (lambda) of the total variation and of the energy, both as means over the clip's values,
        so that they need not change with its size.
    alpha: power of the energy. bound: largest length of a place's channels.
    """

    kappa: float = 1.0
    chi: float = 0.0
    beta: float = 2.0
    variation: float = 1.0
    energy: float = 0.0
    alpha: float = 2.0
    bound: float = math.inf

    def __post_init__(self):
        for name in ("kappa", "chi", "variation", "energy"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name}: expected a number of at least 0, got {getattr(self, name)}")
        for name in ("beta", "alpha", "bound"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}: expected a positive number, got {getattr(self, name)}")

    def penalty(self, clip):
        """What is taken off the score: (N,C,T,H,W) -> (N,)."""
        chi = 0.0 if math.isinf(self.chi) else self.chi  # the clip is constant over time already
        variation = total_variation(clip, kappa=self.kappa, chi=chi, beta=self.beta)
        return (self.variation * variation + self.energy * energy(clip, alpha=self.alpha)) / clip[0].numel()


SLOW, FAST = Regularizer(chi=10.0), Regularizer(chi=0.0)
"""Slow and fast motion."""


class Maximized(NamedTuple):
    """``inputs``: the clips that were found, a tuple. ``scores``: (steps+1,N), before each step and at the end."""

    inputs: tuple[torch.Tensor, ...]
    scores: torch.Tensor


def maximize(
    model, starts, classes, regularizers: Regularizer | Sequence[Regularizer] = FAST, *, steps=200, learning_rate=0.05,
    progress=None,
) -> Maximized:  # fmt: skip
    """Ascend from ``starts`` to inputs with large scores of their classes, less the penalties, by Adam.

    Args:
        model: called with the inputs, returns scores before softmax (N,classes); in evaluation mode. For a model that
            reads stacked flow, wrap it: ``lambda flow: net(flow.transpose(1, 2).flatten(1, 2))``.
        starts: a clip (N,C,T,H,W) or several (image and flow); an image is a clip of one frame.
        classes: an int, or one for each example (N,).
        regularizers: one for all inputs, or one for each.
        learning_rate: of the first step, in the inputs' unit; it falls to zero along a half cosine.
        progress: wraps the iterable of steps, such as ``tqdm``.
    Raises: ValueError naming the argument.
    """
    starts = as_inputs(starts, "starts")
    for start in starts:
        _check_clip(start, "starts")
    alone = isinstance(regularizers, Regularizer)
    each = (regularizers,) * len(starts) if isinstance(regularizers, Regularizer) else tuple(regularizers)
    if not alone and len(each) != len(starts):
        raise ValueError(f"regularizers: expected {len(starts)}, one for each input, got {len(each)}")
    if steps < 1:
        raise ValueError(f"steps: expected a positive int, got {steps}")
    # With chi=inf the unknown is one frame.
    unknowns = [
        (s.mean(2, keepdim=True) if math.isinf(r.chi) else s).detach().clone().requires_grad_()
        for s, r in zip(starts, each, strict=True)
    ]
    optimizer = torch.optim.Adam(unknowns, learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    scores = []

    def clips():
        return tuple(u.expand_as(s) for u, s in zip(unknowns, starts, strict=True))

    for _ in (progress or iter)(range(steps)):
        optimizer.zero_grad()
        inputs = clips()
        score = class_scores(model(*inputs), classes)
        scores.append(score.detach())
        loss = -score.sum()
        for regularizer, clip in zip(each, inputs, strict=True):
            loss = loss + regularizer.penalty(clip).sum()
        gradients = torch.autograd.grad(loss, unknowns)
        for unknown, gradient in zip(unknowns, gradients, strict=True):
            unknown.grad = gradient
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            for unknown, r in zip(unknowns, each, strict=True):
                unknown.copy_(bounded(unknown, r.bound))
    with torch.no_grad():
        found = tuple(x.clone() for x in clips())
        scores.append(class_scores(model(*found), classes))
    return Maximized(found, torch.stack(scores))
