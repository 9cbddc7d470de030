"""Losses of steps, labels and segments against loops; those of the papers' models are tested with the models."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fastrcn import losses, models
from fastrcn.losses import (
    frame_weights,
    multi_label_loss,
    offset_loss,
    step_cross_entropy,
    weighted_step_cross_entropy,
)

pytestmark = pytest.mark.usefixtures("one_thread")

LABELS = torch.tensor([1, 3, 0])
LENGTHS = torch.tensor([5, 2, 4])


def assert_close(found, expected):
    torch.testing.assert_close(found, torch.as_tensor(expected, dtype=torch.float64), rtol=1e-12, atol=1e-14)


def random_scores():
    return torch.randn(3, 5, 4, dtype=torch.float64, requires_grad=True)


def step_loss(scores, label):
    """-log softmax of one step."""
    return math.log(sum(math.exp(s) for s in scores.tolist())) - scores[label].item()


def test_steps_by_hand():
    scores = torch.tensor([[[0.0, 0.0], [math.log(3), 0.0]]], dtype=torch.float64)
    assert_close(step_cross_entropy(scores, torch.tensor([0])), (math.log(2) + math.log(4 / 3)) / 2)
    assert_close(step_cross_entropy(scores, torch.tensor([[0, 1]])), (math.log(2) + math.log(4)) / 2)
    assert_close(step_cross_entropy(scores, torch.tensor([0]), [1]), math.log(2))


def test_steps_against_pytorch():
    scores, labels = random_scores(), torch.randint(4, (3, 5))
    assert_close(step_cross_entropy(scores, labels), nn.CrossEntropyLoss()(scores.transpose(1, 2), labels).item())
    every = LABELS[:, None].expand(3, 5)
    assert_close(step_cross_entropy(scores, LABELS), nn.CrossEntropyLoss()(scores.transpose(1, 2), every).item())


@pytest.mark.parametrize("labels", [LABELS, torch.tensor([[1, 2, 3, 0, 1], [3, 1, -9, 9, 4], [0, 0, 2, 1, 9]])])
def test_steps_past_a_length_have_no_part(labels):
    scores = random_scores()
    total = sum(
        step_loss(scores[n, t], int(labels[n] if labels.dim() == 1 else labels[n, t]))
        for n, length in enumerate(LENGTHS.tolist())
        for t in range(length)
    )
    for loss in (step_cross_entropy(scores, labels, LENGTHS), step_cross_entropy(scores, labels, LENGTHS.tolist())):
        assert_close(loss, total / 11)
    (gradient,) = torch.autograd.grad(step_cross_entropy(scores, labels, LENGTHS), scores)
    there = torch.arange(5) < LENGTHS[:, None]
    assert gradient[~there].abs().max() == 0
    assert gradient[there].abs().min() > 0


@pytest.mark.parametrize("kind", ["from_zero", "from_first"])
def test_weights_rise_over_each_clips_own_steps(kind):
    scores = random_scores()
    total = 0.0
    for n, length in enumerate([5, 1, 4]):
        for t in range(length):
            g = (t + 1) / length if kind == "from_first" else t / (length - 1) if length > 1 else 1.0
            total += g * step_loss(scores[n, t], int(LABELS[n]))
    assert_close(weighted_step_cross_entropy(scores, LABELS, kind, lengths=[5, 1, 4]), total / 10)


@pytest.mark.parametrize("kind", ["from_zero", "from_first"])
def test_weights_begin_anew_at_markers(kind):
    """Sequences of clips of 2 and 3 steps, and of 1 and 4: as if each clip stood alone."""
    scores, labels = torch.randn(2, 5, 4, dtype=torch.float64), torch.randint(4, (2, 5))
    markers = torch.tensor([[1, 1, 0, 1, 1], [0, 0, 1, 1, 1]])
    total = 0.0
    for n, start, end in ((0, 0, 2), (0, 2, 5), (1, 0, 1), (1, 1, 5)):
        clip = weighted_step_cross_entropy(scores[n : n + 1, start:end], labels[n : n + 1, start:end], kind)
        total += float(clip) * (end - start)
    assert_close(weighted_step_cross_entropy(scores, labels, kind, markers=markers), total / 10)
    assert_close(weighted_step_cross_entropy(scores, labels, kind, markers=markers.bool()), total / 10)


def test_weights_of_full_sequences_are_frame_weights():
    scores = random_scores()
    g = frame_weights(5, dtype=torch.float64)
    every = F.cross_entropy(scores.transpose(1, 2), LABELS[:, None].expand(3, 5), reduction="none")
    found = weighted_step_cross_entropy(scores, LABELS)
    assert_close(found, (every * g).mean().item())
    assert_close(weighted_step_cross_entropy(scores, LABELS, lengths=[5, 5, 5]), found.item())
    assert_close(
        weighted_step_cross_entropy(scores, LABELS[:, None].expand(3, 5), markers=torch.ones(3, 5)), found.item()
    )


def test_losses_pass_gradcheck():
    scores = random_scores()
    assert torch.autograd.gradcheck(lambda s: step_cross_entropy(s, LABELS, LENGTHS), scores)
    assert torch.autograd.gradcheck(lambda s: weighted_step_cross_entropy(s, LABELS, lengths=LENGTHS), scores)
    truth = (torch.rand(3, 5, 4) < 0.5).double()
    assert torch.autograd.gradcheck(lambda s: multi_label_loss(s, truth, LENGTHS), scores)


def test_multi_label_against_pytorch_and_by_hand():
    scores, labels = torch.randn(6, 4, dtype=torch.float64), torch.rand(6, 4) < 0.4
    assert_close(multi_label_loss(scores, labels), nn.BCEWithLogitsLoss()(scores, labels.double()).item())
    hand = multi_label_loss(torch.tensor([[math.log(3), 0.0]], dtype=torch.float64), torch.tensor([[1, 0]]))
    assert_close(hand, (math.log(4 / 3) + math.log(2)) / 2)


def test_multi_label_frames_past_a_length_have_no_part():
    scores, labels = random_scores(), (torch.rand(3, 5, 4) < 0.5).double()
    labels[1, 2:] = math.nan
    parts = [(scores[n, :k], labels[n, :k]) for n, k in enumerate(LENGTHS.tolist())]
    truth = sum(nn.BCEWithLogitsLoss(reduction="sum")(s, y) for s, y in parts) / (11 * 4)
    assert_close(multi_label_loss(scores, labels, LENGTHS), truth.item())
    (gradient,) = torch.autograd.grad(multi_label_loss(scores, labels, LENGTHS), scores)
    assert gradient[1, 2:].abs().max() == 0
    assert gradient[1, :2].abs().min() > 0


def test_offsets_by_hand():
    offsets, targets = torch.tensor([[0.0, 0.5], [3.0, -1.0]]), torch.tensor([[0.0, 0.0], [0.5, 1.0]])
    # 0, 1/8, 2.5 - 1/2, 2 - 1/2
    assert offset_loss(offsets, targets, 4).item() == pytest.approx((1 / 8 + 2 + 1.5) / 4)
    assert offset_loss(offsets[:0], targets[:0], 4).item() == 0


def test_models_have_the_same_functions():
    for name in ("caption_nll", "doubly_stochastic_penalty", "frame_cross_entropy", "gru_rcn_loss"):
        assert getattr(models, name) is getattr(losses, name)


SCORES = torch.zeros(3, 5, 4)
STEPS = torch.zeros(3, 5, dtype=torch.long)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: step_cross_entropy(SCORES[0], LABELS), r"scores: expected \(N,T,num_classes\), .* \(5, 4\)"),
        (lambda: step_cross_entropy(SCORES[:, :0], LABELS), r"scores: expected .* got shape \(3, 0, 4\)"),
        (
            lambda: step_cross_entropy(SCORES, STEPS.t()),
            r"labels: .* \(3,\) or \(3, 5\), got .*\(5, 3\)",
        ),
        (lambda: step_cross_entropy(SCORES, LABELS.float()), "labels: expected whole numbers .*, got torch.float32"),
        (lambda: step_cross_entropy(SCORES, LABELS + 1), "labels: expected classes from 0 to 3, got 1 to 4"),
        (lambda: step_cross_entropy(SCORES, LABELS - 1), "labels: expected classes from 0 to 3, got -1 to 2"),
        (lambda: step_cross_entropy(SCORES, LABELS, [0, 0, 0]), "lengths: expected at least one step that counts"),
        (lambda: step_cross_entropy(SCORES, LABELS, [1, 2, 6]), "lengths: expected values from 0 to 5"),
        (lambda: step_cross_entropy(SCORES, LABELS, [1, 2]), r"lengths: expected shape \(3,\)"),
        (lambda: weighted_step_cross_entropy(SCORES, LABELS, "half"), "kind: expected one of from_zero, from_first"),
        (lambda: weighted_step_cross_entropy(SCORES, LABELS, markers=STEPS), r"markers: expected labels \(N,T\)"),
        (
            lambda: weighted_step_cross_entropy(SCORES, STEPS, markers=STEPS, lengths=LENGTHS),
            r"markers: expected labels \(N,T\) and no lengths",
        ),
        (lambda: weighted_step_cross_entropy(SCORES, STEPS, markers=STEPS + 2), r"markers: .* values \[2\]"),
        (lambda: weighted_step_cross_entropy(SCORES, STEPS, markers=STEPS[:2]), r"markers: .* got shape \(2, 5\)"),
        (
            lambda: multi_label_loss(SCORES, SCORES[:2]),
            r"labels: .* scores' shape \(3, 5, 4\), got \(2, 5, 4\)",
        ),
        (lambda: multi_label_loss(SCORES, SCORES + 2), "labels: expected from 0 to 1, got 2.0 to 2.0"),
        (lambda: multi_label_loss(SCORES, SCORES * math.nan), "labels: expected from 0 to 1, got nan to nan"),
        (lambda: multi_label_loss(SCORES, SCORES, [0, 0, 0]), "lengths: expected at least one step"),
        (lambda: multi_label_loss(SCORES[0], SCORES[0], [1]), r"lengths: expected None with scores \(N,num_classes\)"),
        (lambda: multi_label_loss(SCORES[0, 0], SCORES[0, 0]), r"scores: expected \(N,num_classes\) or"),
        (
            lambda: offset_loss(SCORES, SCORES[:1], 1),
            r"targets: .* offsets' shape \(3, 5, 4\), got \(1, 5, 4\)",
        ),
        (lambda: offset_loss(SCORES, SCORES, 0), "count: expected at least 1, got 0"),
    ],
)
def test_errors(call, words):
    with pytest.raises(ValueError, match=words):
        call()
