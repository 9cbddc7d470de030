"""Activation maximisation: the regularisers by hand and in loops, the ascent against a solution in closed form."""

import math

import pytest
import torch
from torch import nn

from fastrcn import ConvReLUPool3d
from fastrcn.visualization import FAST, SLOW, Regularizer, bounded, energy, maximize, total_variation

pytestmark = pytest.mark.usefixtures("one_thread")


def test_total_variation_of_a_constant_clip_is_zero():
    clip = torch.full((2, 3, 4, 5, 6), 0.7).double().requires_grad_()
    for beta in (1.0, 2.0, 3.0):
        variation = total_variation(clip, kappa=2.0, chi=10.0, beta=beta)
        assert variation.tolist() == [0.0, 0.0]
        (gradient,) = torch.autograd.grad(variation.sum(), clip)
        assert (gradient == 0).all(), "not NaN either, where the root has no slope"


def test_total_variation_by_hand():
    clip = torch.tensor([[[[0.0, 3.0], [4.0, 3.0]], [[0.0, 3.0], [4.0, 5.0]]]])[None].double()  # T 2, H 2, W 2
    # first frame: (dx,dy) = (3,4), (0,0), (-1,0), (0,0); second: (3,4), (0,2), (1,0), (0,0); dt: 2 at one place
    assert total_variation(clip, beta=2.0).tolist() == [25 + 1 + 25 + 4 + 1]
    assert total_variation(clip, beta=1.0).tolist() == [5 + 1 + 5 + 2 + 1]
    assert total_variation(clip, kappa=0.0, chi=10.0).tolist() == [10 * 4]
    assert total_variation(clip, kappa=4.0, chi=9.0, beta=1.0).tolist() == [2 * (5 + 1 + 5 + 2 + 1) + 3 * 2]


@pytest.mark.parametrize("beta", [1.0, 2.0, 3.0])
def test_total_variation_in_loops(beta):
    clip = torch.randn(2, 2, 3, 4, 3).double()
    kappa, chi = 0.7, 2.5
    for n in range(2):
        total = 0.0
        for c in range(2):
            for t in range(3):
                for y in range(4):
                    for x in range(3):
                        here = clip[n, c, t, y, x]
                        dx = clip[n, c, t, y, x + 1] - here if x < 2 else 0
                        dy = clip[n, c, t, y + 1, x] - here if y < 3 else 0
                        dt = clip[n, c, t + 1, y, x] - here if t < 2 else 0
                        total += float((kappa * (dx**2 + dy**2) + chi * dt**2) ** (beta / 2))
        found = total_variation(clip, kappa=kappa, chi=chi, beta=beta)[n]
        torch.testing.assert_close(float(found), total, rtol=1e-12, atol=0)


def test_energy_and_bound_by_hand():
    clip = torch.tensor([[3.0, 0.0], [4.0, 0.6]]).view(1, 2, 1, 1, 2)  # two places: (3,4) and (0,0.6)
    torch.testing.assert_close(energy(clip), torch.tensor([25 + 0.36]))
    torch.testing.assert_close(energy(clip, alpha=3.0), torch.tensor([125 + 0.216]))
    torch.testing.assert_close(bounded(clip, 1.0).flatten(), torch.tensor([0.6, 0.0, 0.8, 0.6]))
    assert torch.equal(bounded(clip, math.inf), clip)
    assert torch.equal(bounded(torch.zeros_like(clip), 1.0), torch.zeros_like(clip))


def _squares(shape, kappa, chi):
    """The matrix L with x'Lx = the total variation of a clip with one channel, made difference by difference."""
    places = torch.arange(math.prod(shape)).view(shape)
    matrix = torch.zeros(places.numel(), places.numel()).double()
    for dim, weight in ((0, chi), (1, kappa), (2, kappa)):
        size = shape[dim] - 1
        pairs = zip(places.narrow(dim, 0, size).flatten(), places.narrow(dim, 1, size).flatten(), strict=True)
        for a, b in pairs:
            matrix[a, a] += weight
            matrix[b, b] += weight
            matrix[a, b] -= weight
            matrix[b, a] -= weight
    return matrix


def test_reaches_the_maximum_of_a_linear_score():
    """score w.x - (lambda_e x.x + lambda_v x'Lx) / size is largest where 2 (lambda_e + lambda_v L) x = size w."""
    shape = (4, 3, 3)
    linear = nn.Linear(36, 2).double()
    solutions = {}
    for chi in (0.0, 10.0, 100.0, math.inf):
        weights = 0.5 * torch.eye(36).double() + 0.3 * _squares(shape, 2.0, min(chi, 1e8))
        truth = torch.linalg.solve(2 * weights, 36 * linear.weight[1].detach()).view(1, 1, *shape)
        regularizer = Regularizer(kappa=2.0, chi=chi, variation=0.3, energy=0.5)
        start = torch.zeros(1, 1, *shape).double()
        found = maximize(lambda x: linear(x.flatten(1)), start, 1, regularizer, steps=400, learning_rate=0.3).inputs[0]
        if chi <= 10 or math.isinf(chi):  # between these the ascent is slow
            torch.testing.assert_close(found, truth, rtol=1e-3, atol=1e-3)
        solutions[chi] = found
    changes = [float(x.diff(dim=2).abs().max()) for x in solutions.values()]
    assert changes[0] > 2 * changes[1] > 4 * changes[2] > 0
    assert changes[3] == 0


class Moving(nn.Module):
    """Scores of a clip and a flow by fused 3-D convolution; random filters see any motion."""

    def __init__(self):
        super().__init__()
        self.conv = ConvReLUPool3d(3, 8, 3, padding=1, pool_kernel_size=(1, 2, 2))
        self.flow = ConvReLUPool3d(2, 8, 3, padding=1)
        self.classifier = nn.Linear(16, 4)

    def forward(self, clip, flow):
        return self.classifier(torch.cat([self.conv(clip).mean((2, 3, 4)), self.flow(flow).mean((2, 3, 4))], 1))


def test_scores_increase_and_slow_clips_change_less():
    model = Moving().eval()
    starts = 0.1 * torch.randn(2, 3, 6, 8, 8), 0.1 * torch.randn(2, 2, 6, 8, 8)
    before = [s.clone() for s in starts]
    kinds = (SLOW, Regularizer(chi=math.inf, energy=1.0, bound=0.5))
    found = maximize(model, starts, [0, 3], kinds, steps=60)
    assert found.scores.shape == (61, 2)
    assert (found.scores[-1] > found.scores[0]).all()
    direct = model(*found.inputs)[[0, 1], [0, 3]].detach()
    torch.testing.assert_close(found.scores[-1], direct)
    assert all(torch.equal(s, b) for s, b in zip(starts, before, strict=True))
    flow = found.inputs[1]
    assert torch.equal(flow, flow[:, :, :1].expand_as(flow))
    assert (flow.norm(dim=1) <= 0.5 + 1e-6).all()

    fast = maximize(model, starts, [0, 3], FAST, steps=60)
    assert fast.inputs[0].diff(dim=2).square().mean() > 2 * found.inputs[0].diff(dim=2).square().mean()
    assert (fast.scores[-1] > found.scores[-1]).all()
    assert all(p.grad is None for p in model.parameters())


def test_progress_sees_every_step():
    seen = []

    def progress(steps):
        for step in steps:
            seen.append(step)
            yield step

    linear = nn.Linear(8, 2)
    maximize(lambda x: linear(x.flatten(1)), torch.zeros(1, 1, 2, 2, 2), 0, steps=5, progress=progress)
    assert seen == [0, 1, 2, 3, 4]


def test_an_image_is_a_clip_of_one_frame():
    linear = nn.Linear(12, 2)
    found = maximize(lambda x: linear(x[:, :, 0].flatten(1)), torch.zeros(1, 3, 1, 2, 2), 1, steps=10)
    assert found.inputs[0].shape == (1, 3, 1, 2, 2)
    assert found.scores[-1] > found.scores[0]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: Regularizer(kappa=-1.0), "kappa: expected a number of at least 0, got -1.0"),
        (lambda: Regularizer(chi=math.nan), "chi: expected a number of at least 0, got nan"),
        (lambda: Regularizer(bound=0.0), "bound: expected a positive number, got 0.0"),
        (lambda: total_variation(torch.zeros(3, 4, 5, 6)), r"clip: expected \(N,C,T,H,W\), got shape"),
        (lambda: energy(torch.zeros(3, 4, 5, 6)), r"clip: expected \(N,C,T,H,W\), got shape"),
        (lambda: maximize(nn.Flatten(), torch.zeros(1, 3, 4, 4), 0), r"starts: expected \(N,C,T,H,W\), got shape"),
        (lambda: maximize(nn.Flatten(), torch.zeros(1, 1, 1, 2, 2), 0, steps=0), "steps: expected a positive int"),
        (
            lambda: maximize(nn.Flatten(), torch.zeros(1, 1, 1, 2, 2), 0, [SLOW, FAST]),
            "regularizers: expected 1, one for each input, got 2",
        ),
        (lambda: maximize(nn.Flatten(), torch.zeros(1, 1, 1, 2, 2), 4), "classes: expected classes of 0 to 3, got 4"),
    ],
)
def test_errors(call, words):
    with pytest.raises(ValueError, match=words):
        call()
