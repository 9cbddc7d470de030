"""Class-score gradients against finite differences and a linear model's weights."""

import pytest
import torch
from torch import nn

from fastrcn import ConvReLUPool3d
from fastrcn.visualization import class_score_gradients, contribution, saliency

pytestmark = pytest.mark.usefixtures("one_thread")


class TwoStream(nn.Module):
    """An image and a flow clip, each through fused 3-D convolution, ReLU and pooling."""

    def __init__(self):
        super().__init__()
        self.image = ConvReLUPool3d(3, 4, (1, 3, 3), padding=(0, 1, 1), pool_kernel_size=(1, 2, 2))
        self.flow = ConvReLUPool3d(2, 4, 3, padding=1, pool_kernel_size=2)
        self.classifier = nn.Linear(8, 5)

    def forward(self, image, flow):
        maps = (self.image(image), self.flow(flow))
        return self.classifier(torch.cat([m.square().mean((2, 3, 4)) for m in maps], 1))


def test_equal_finite_differences():
    model = TwoStream().double()
    image, flow = torch.randn(2, 3, 1, 4, 6).double(), torch.randn(2, 2, 4, 4, 4).double()
    classes = [3, 1]
    scores, gradients = class_score_gradients(model, (image, flow), classes)
    assert [g.shape for g in gradients] == [image.shape, flow.shape]
    torch.testing.assert_close(scores, model(image, flow)[[0, 1], classes])
    for k, x in enumerate((image, flow)):
        places, slopes = torch.randperm(x.numel())[:60], []
        for place in places:
            step = torch.zeros_like(x)
            step.view(-1)[place] = 1e-6
            pair = [[image, flow] for _ in range(2)]
            pair[0][k], pair[1][k] = x + step, x - step
            up, down = (model(*p).detach()[[0, 1], classes].sum() for p in pair)
            slopes.append(float(up - down) / 2e-6)
        slopes = torch.tensor(slopes).double()
        torch.testing.assert_close(gradients[k].flatten()[places], slopes, rtol=1e-6, atol=1e-8)
        assert slopes.abs().max() > 1e-3


def test_each_example_has_its_own_class():
    model = TwoStream().double().eval()
    inputs = torch.randn(2, 3, 1, 4, 6).double(), torch.randn(2, 2, 4, 4, 4).double()
    _, together = class_score_gradients(model, inputs, [3, 1])
    for n, label in enumerate((3, 1)):
        _, alone = class_score_gradients(model, tuple(x[n : n + 1] for x in inputs), label)
        for a, b in zip(together, alone, strict=True):
            torch.testing.assert_close(a[n : n + 1], b)
    _, same = class_score_gradients(model, inputs, 3)
    _, listed = class_score_gradients(model, inputs, torch.tensor([3, 3]))
    assert all(torch.equal(a, b) for a, b in zip(same, listed, strict=True))


def test_saliency_of_a_linear_model_is_its_weights():
    linear = nn.Linear(3 * 2 * 4 * 5, 7)
    clip = torch.randn(2, 3, 2, 4, 5)
    scores, (gradient,) = class_score_gradients(lambda x: linear(x.flatten(1)), clip, 4)
    weight = linear.weight[4].detach().view(3, 2, 4, 5)
    assert torch.equal(gradient, weight.expand(2, -1, -1, -1, -1))
    torch.testing.assert_close(scores, linear(clip.flatten(1))[:, 4].detach())
    maps = saliency(gradient)
    largest = torch.stack([weight[0].abs(), weight[1].abs(), weight[2].abs()]).max(0).values
    assert torch.equal(maps, largest.expand(2, -1, -1, -1))


def test_saliency_by_hand():
    gradient = torch.tensor([[[[1.0, -2.0]], [[-3.0, 1.5]]]])  # (1,2,1,2)
    assert saliency(gradient).tolist() == [[[3.0, 2.0]]]


def test_contributions_of_a_linear_model_sum_to_the_difference_of_scores():
    linear = nn.Linear(3 * 2 * 4 * 5, 7)
    clip, baseline = torch.randn(2, 2, 3, 2, 4, 5)
    scores, (gradient,) = class_score_gradients(lambda x: linear(x.flatten(1)), clip, 4)
    parts = contribution(gradient, clip, baseline)
    assert parts.shape == (2, 2, 4, 5)
    before = linear(baseline.flatten(1))[:, 4].detach()
    torch.testing.assert_close(parts.sum((1, 2, 3)), scores - before, rtol=1e-4, atol=1e-4)
    still = clip[:, :, :1].expand_as(clip)
    assert (contribution(gradient, still, still.mean(2, keepdim=True)).abs() < 1e-6).all()


def test_leaves_model_and_inputs_alone():
    model, image, flow = TwoStream(), torch.randn(1, 3, 1, 4, 4), torch.randn(1, 2, 2, 4, 4)
    model(image, flow).sum().backward()
    before = [p.grad.clone() for p in model.parameters()]
    class_score_gradients(model, (image, flow), 0)
    assert all(torch.equal(p.grad, b) for p, b in zip(model.parameters(), before, strict=True))
    assert not image.requires_grad
    assert image.grad is None


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda f, x: class_score_gradients(f, x, 7), "classes: expected classes of 0 to 6, got 7"),
        (lambda f, x: class_score_gradients(f, x, [0, -1]), r"classes: expected classes of 0 to 6, got \[0, -1\]"),
        (lambda f, x: class_score_gradients(f, x, [0, 1, 2]), "classes: expected an int, or 2 of them"),
        (lambda f, x: class_score_gradients(f, x, 0.5), "classes: expected an int"),
        (lambda f, x: class_score_gradients(f, x.long(), 0), "inputs: expected a tensor of floating point"),
        (lambda f, x: class_score_gradients(f, (), 0), "inputs: expected a tensor of floating point"),
        (lambda f, x: class_score_gradients(torch.sum, x, 0), r"model: expected scores \(N,classes\), got shape \(\)"),
        (lambda f, x: contribution(x[:1], x, x), r"gradient: expected the input's shape \(2, 4\), got \(1, 4\)"),
        (lambda f, x: saliency(x[0]), r"gradient: expected \(N,C,...\), got shape \(4,\)"),
    ],
)
def test_errors(call, words):
    with pytest.raises(ValueError, match=words):
        call(nn.Linear(4, 7), torch.zeros(2, 4))
