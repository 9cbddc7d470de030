"""Original, Fixed and Full-FT: what one step of training changes, and what it leaves."""

import copy
import pickle

import pytest
import torch
from torch import nn

from fastrcn import ConvReLUPool3d, models
from fastrcn.models import freeze_all_but_heads, heads_of, parameter_groups, prepare_transfer, replace_heads, unfreeze

pytestmark = pytest.mark.usefixtures("one_thread")


class SmallC3D(nn.Module):
    """Convolutions with pooling and fully connected layers, with one normalisation."""

    heads = ("fc8",)

    def __init__(self, num_classes):
        super().__init__()
        self.conv1 = ConvReLUPool3d(3, 4, 3, padding=1, pool_kernel_size=(1, 2, 2))
        self.bn1 = nn.BatchNorm3d(4)
        self.conv2 = ConvReLUPool3d(4, 6, 3, padding=1, pool_kernel_size=2)
        self.fc6 = nn.Linear(6 * 4 * 4 * 4, 8)
        self.fc8 = nn.Linear(8, num_classes)

    def forward(self, clip):
        x = self.conv2(self.bn1(self.conv1(clip)))
        return self.fc8(self.fc6(x.flatten(1)).sigmoid())

    def example_inputs(self, batch):
        return (torch.randn(batch, 3, 8, 16, 16),)


NAMES = ["i3d_rgb", "i3d_two_stream", "inception_v1", "vgg16", "with_a_norm"]
CLASSIFIERS = [
    "alexnet", "c2d_resnet50", "c3d", "c3d_batch_norm", "caffenet", "cnn_m_2048", "convnet_lstm", "early_fusion",
    "early_fusion_toy", "i3d_flow", "i3d_resnet50", "i3d_rgb", "i3d_two_stream", "inception_v1", "late_fusion",
    "late_fusion_fc_toy", "late_fusion_pool_toy", "lrcn_hybrid", "resnet50", "single_frame",
    "single_frame_multiresolution", "single_frame_toy", "slow_fusion", "slow_fusion_toy", "slow_resnet50",
    "slowfast_4x16_r50", "two_stream", "two_stream_3d_fused", "two_stream_3d_fused_separate", "two_stream_inception",
    "two_stream_very_deep", "vgg16",
]  # fmt: skip


def make(name):
    return SmallC3D(5) if name == "with_a_norm" else models.create(name, small=True)


def step(model, classes, groups=None):
    """One step of training; the names of what it changed."""
    before = copy.deepcopy(model.state_dict())
    model.train()
    optimiser = torch.optim.SGD(parameter_groups(model, 0.1) if groups is None else groups, lr=0.1)
    scores = model(*model.example_inputs(2))
    assert scores.shape == (2, classes)
    nn.functional.cross_entropy(scores, torch.tensor([0, 1])).backward()
    optimiser.step()
    return {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}


def of_heads(model):
    return {f"{name}.{end}" for name in model.heads for end in ("weight", "bias")}


@pytest.mark.parametrize("name", NAMES)
def test_fixed_changes_the_heads_alone(name):
    model = prepare_transfer(make(name), "fixed", 3)
    assert step(model, 3) == of_heads(model)
    assert {n for n, p in model.named_parameters() if p.grad is not None} == of_heads(model)
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert not any(m.training for m in norms)
    assert model.training
    if name != "vgg16":
        assert norms


@pytest.mark.parametrize("protocol", ["original", "full_ft"])
@pytest.mark.parametrize("name", NAMES)
def test_others_change_everything(name, protocol):
    model = prepare_transfer(make(name), protocol, 3)
    assert all(p.requires_grad for p in model.parameters())
    assert step(model, 3) == set(model.state_dict())


@pytest.mark.parametrize("protocol", models.transfer.PROTOCOLS)
def test_weights_are_kept_but_for_new_heads(protocol):
    trained = make("inception_v1").double()
    same = prepare_transfer(copy.deepcopy(trained), protocol)
    assert all(torch.equal(v, same.state_dict()[n]) for n, v in trained.state_dict().items())
    other = prepare_transfer(copy.deepcopy(trained), protocol, 7).state_dict()
    assert other["fc.weight"].shape == (7, trained.out_channels)
    assert other["fc.weight"].dtype == torch.float64
    assert all(torch.equal(v, other[n]) for n, v in trained.state_dict().items() if not n.startswith("fc."))


def test_fixed_features_do_not_depend_on_the_batch():
    model = prepare_transfer(make("i3d_rgb"), "fixed").train()
    clips = model.example_inputs(3)[0]
    assert torch.allclose(model.features(clips)[:1], model.features(clips[:1]), rtol=1e-4, atol=1e-5)
    model = unfreeze(model)
    assert not torch.allclose(model.features(clips)[:1], model.features(clips[:1]), rtol=1e-4, atol=1e-5)


def test_frozen_models_are_copied_and_saved():
    frozen = freeze_all_but_heads(make("with_a_norm"))
    for model in (copy.deepcopy(frozen), pickle.loads(pickle.dumps(frozen))):
        model.train()
        assert model.bn1.train.args[0] is model.bn1
        assert not model.bn1.training
        assert step(model, 5) == of_heads(model)
        again = unfreeze(model)
        assert again.bn1.training
        assert again.bn1.train(False).train().training
        assert step(again, 5) == set(again.state_dict())


def test_freezing_twice_is_freezing_once():
    model = freeze_all_but_heads(freeze_all_but_heads(make("with_a_norm")))
    assert step(model, 5) == of_heads(model)
    other = freeze_all_but_heads(model, heads=("fc6",))
    assert step(other, 5) == {"fc6.weight", "fc6.bias"}


def test_groups_of_an_optimiser():
    model = make("with_a_norm")
    heads, rest = parameter_groups(model, 0.01, 0.1)
    assert heads["lr"] == 0.1
    assert rest["lr"] == 0.01
    assert {id(p) for p in heads["params"]} == {id(model.fc8.weight), id(model.fc8.bias)}
    assert len(heads["params"]) + len(rest["params"]) == len(list(model.parameters()))
    assert len({id(p) for g in (heads, rest) for p in g["params"]}) == len(list(model.parameters()))
    assert [g["lr"] for g in parameter_groups(model, 0.5)] == [0.5, 0.5]
    (only,) = parameter_groups(freeze_all_but_heads(model), 0.01, 0.1)
    assert only["lr"] == 0.1
    assert len(only["params"]) == 2


def test_heads_named_by_the_caller():
    """For a model whose class does not tell them: an inflated net."""
    net = make("inception_v1").eval()
    inflated = models.inflate(net, net.example_inputs(1)[0], {"maxpool?": (1, 1)})
    clip = models.boring_video(net.example_inputs(2)[0], 3)
    replace_heads(inflated, 4, heads=("fc",))
    assert inflated(clip).shape == (2, 4)
    freeze_all_but_heads(inflated, heads=("fc",))
    assert [n for n, p in inflated.named_parameters() if p.requires_grad] == ["fc.weight", "fc.bias"]
    with pytest.raises(ValueError, match="heads: expected names of last layers, which Inflated does not tell"):
        heads_of(inflated)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_heads_are_what_gives_the_classes(name):
    """The counts of all other parameters do not depend on the number of classes."""
    with torch.device("meta"):
        sizes = [{n: p.shape for n, p in models.create(name, num_classes=k).named_parameters()} for k in (3, 4)]
        model = models.create(name)
    differing = {n for n in sizes[0] if sizes[0][n] != sizes[1][n]}
    assert differing == {f"{head}.{end}" for head in heads_of(model) for end in ("weight", "bias")}


def test_heads_of_two_data_sets():
    model = models.create("two_stream", small=True, auxiliary_classes=7)
    assert heads_of(model) == ("spatial.classifier.full8", "temporal.heads.0")


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda: prepare_transfer(make("with_a_norm"), "frozen"),
            "protocol: expected one of original, fixed, full_ft, got 'frozen'",
        ),
        (lambda: prepare_transfer(make("with_a_norm"), "fixed", 0), "num_classes: expected a positive int, got 0"),
        (
            lambda: prepare_transfer(nn.Linear(2, 2), "full_ft", 3),
            "heads: expected names of last layers, which Linear does not",
        ),
        (lambda: heads_of(make("with_a_norm"), ("fc9",)), "heads: expected names of linear layers .*, got 'fc9'"),
        (lambda: heads_of(make("with_a_norm"), ("bn1",)), "heads: expected names of linear layers .*, got 'bn1'"),
        (lambda: heads_of(models.InceptionV1(None, width=8)), "heads: expected names of linear layers .*, got 'fc'"),
    ],
)
def test_errors(call, words):
    with pytest.raises(ValueError, match=words):
        call()
