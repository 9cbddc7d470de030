"""ResNet-50: torchvision's keys, outputs and gradients; counts and shapes of the paper."""

import pytest
import torch
from torch.nn import functional as F

from fastrcn.models import ResNet50
from tests.helpers.nets import randomize_normalisations
from tests.helpers.tolerances import assert_close
from tests.helpers.torchvision_models import models as torchvision_models


@pytest.mark.parametrize(("classes", "count"), [(1000, 25_557_032), (400, 24_327_632), (None, 23_508_032)])
def test_parameter_counts(classes, count):
    with torch.device("meta"):
        assert sum(p.numel() for p in ResNet50(classes).parameters()) == count


def test_keys_and_their_order_are_torchvisions():
    with torch.device("meta"):
        found = [(n, tuple(v.shape)) for n, v in ResNet50().state_dict().items()]
        truth = [(n, tuple(v.shape)) for n, v in torchvision_models.resnet50().state_dict().items()]
    assert found == truth
    assert len(found) == 320


def test_equals_torchvisions_with_all_gradients():
    """At the full width; evaluation and training, where the running statistics change too."""
    theirs = randomize_normalisations(torchvision_models.resnet50(num_classes=7)).double()
    ours = ResNet50(7).double()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    image = torch.randn(2, 3, 72, 56, dtype=torch.float64)
    with torch.no_grad():
        assert_close(ours.eval()(image), theirs.eval()(image), "evaluation")
    results = []
    for net in (ours, theirs):
        x = image.clone().requires_grad_()
        scores = net.train()(x)
        (scores * torch.linspace(-1, 1, scores.numel(), dtype=scores.dtype).view_as(scores)).sum().backward()
        results.append({"scores": scores, "x": x.grad} | {n: p.grad for n, p in net.named_parameters()})
    for name, truth in results[1].items():
        assert_close(results[0][name], truth, name)
    for (name, found), truth in zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True):
        assert_close(found.double(), truth.double(), name)  # the number of batches is an int


def test_start_is_that_of_torchvision():
    """He's normal numbers by the outputs of each convolution; scales 1, shifts 0."""
    for name, parameter in ResNet50(5, width=32).named_parameters():
        if parameter.dim() == 4:
            assert parameter.std().item() == pytest.approx((2 / parameter[:, 0].numel()) ** 0.5, rel=0.1), name
        elif not name.startswith("fc"):
            assert (parameter == (1 if name.endswith("weight") else 0)).all(), name


def test_blocks_let_their_input_through_where_asked():
    net = ResNet50(5, width=4, zero_init=True).eval()
    block = net.layer2[1]
    x = torch.randn(1, 32, 6, 6)
    assert torch.equal(block(x), x.relu())
    assert not torch.equal(ResNet50(5, width=4).eval().layer2[1](x), x.relu())


def test_shapes_at_the_papers_size():
    with torch.device("meta"):
        net, x = ResNet50(101, 20).eval(), torch.empty(2, 20, 224, 224)
        assert net(x).shape == (2, 101)
        assert [tuple(t.shape[1:]) for t in net.taps(x)] == [
            (256, 56, 56), (512, 28, 28), (1024, 14, 14), (2048, 7, 7)
        ]  # fmt: skip
        assert ResNet50(None).eval()(torch.empty(2, 3, 224, 224)).shape == (2, 2048)


def test_pooled_features_lead_to_the_scores():
    net = randomize_normalisations(ResNet50(5, width=4)).eval()
    x = torch.randn(2, 3, 64, 64)
    maps = net.taps(x)[-1]
    pooled = maps.sum((2, 3)) / (maps.shape[2] * maps.shape[3])
    torch.testing.assert_close(net.pooled(x), pooled)
    assert [net.get_submodule(name) for name in net.heads] == [net.fc]
    torch.testing.assert_close(net(x), F.linear(pooled, net.fc.weight, net.fc.bias))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ResNet50(width=0), "width: expected a positive int, got 0"),
        (lambda: ResNet50(5, width=4)(torch.zeros(1, 4, 64, 64)), r"x: expected \(N,3,H,W\), got shape \(1, 4"),
        (lambda: ResNet50(5, width=4)(torch.zeros(3, 64, 64)), r"x: expected \(N,3,H,W\), got shape"),
    ],
)
def test_errors(make, words):
    with pytest.raises(ValueError, match=words):
        make()
