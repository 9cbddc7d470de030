"""Inception-v1: torchvision's count, keys, outputs and gradients; the arithmetic of both paddings written out."""

import pytest
import torch
from torch.nn import functional as F

from fastrcn.models import InceptionV1
from fastrcn.models.inception import MODULES
from tests.helpers.nets import randomize
from tests.helpers.tolerances import assert_close
from tests.helpers.torchvision_models import models as torchvision_models

pytestmark = pytest.mark.usefixtures("one_thread")


def test_count_is_torchvisions():
    with torch.device("meta"):
        assert sum(p.numel() for p in InceptionV1().parameters()) == 6_624_904


def test_keys_are_torchvisions():
    """Those of ``googlenet(aux_logits=False)``, with the shapes that its table of channels gives."""
    with torch.device("meta"):
        found = {n: tuple(v.shape) for n, v in InceptionV1().state_dict().items()}
    # torchvision's calls: Inception(in_channels, ch1x1, ch3x3red, ch3x3, ch5x5red, ch5x5, pool_proj)
    table = {
        "3a": (192, 64, 96, 128, 16, 32, 32), "3b": (256, 128, 128, 192, 32, 96, 64),
        "4a": (480, 192, 96, 208, 16, 48, 64), "4b": (512, 160, 112, 224, 24, 64, 64),
        "4c": (512, 128, 128, 256, 24, 64, 64), "4d": (512, 112, 144, 288, 32, 64, 64),
        "4e": (528, 256, 160, 320, 32, 128, 128), "5a": (832, 256, 160, 320, 32, 128, 128),
        "5b": (832, 384, 192, 384, 48, 128, 128),
    }  # fmt: skip
    blocks = {"conv1": (64, 3, 7), "conv2": (64, 64, 1), "conv3": (192, 64, 3)}
    for name, (i, b1, r2, b2, r3, b3, b4) in table.items():
        parts = {"1": (b1, i, 1), "2.0": (r2, i, 1), "2.1": (b2, r2, 3), "3.0": (r3, i, 1), "3.1": (b3, r3, 3)}
        blocks |= {f"inception{name}.branch{k}": v for k, v in (parts | {"4.1": (b4, i, 1)}).items()}
    expected = {"fc.weight": (1000, 1024), "fc.bias": (1000,)}
    for name, (out, i, k) in blocks.items():
        expected[f"{name}.conv.weight"] = (out, i, k, k)
        expected |= {f"{name}.bn.{n}": (out,) for n in ("weight", "bias", "running_mean", "running_var")}
        expected[f"{name}.bn.num_batches_tracked"] = ()
    assert found == expected


def test_shapes_at_the_papers_size():
    sides, net = [], None
    with torch.device("meta"):
        net = InceptionV1(101, 20).eval()
        for name in ("conv1", "maxpool1", "conv3", "maxpool2", "inception3b", "maxpool3", "inception4e", "maxpool4"):
            net.get_submodule(name).register_forward_hook(lambda m, a, out: sides.append(tuple(out.shape[1:])))
        x = torch.empty(2, 20, 224, 224)
        assert net(x).shape == (2, 101)
        assert net.features(x).shape == (2, 1024, 7, 7)
        assert net.pooled(x).shape == (2, 1024)
        assert InceptionV1(None).eval()(torch.empty(2, 3, 224, 224)).shape == (2, 1024)
    assert sides[:8] == [
        (64, 112, 112), (64, 56, 56), (192, 56, 56), (192, 28, 28), (480, 28, 28), (480, 14, 14), (832, 14, 14),
        (832, 7, 7),
    ]  # fmt: skip


def test_equals_torchvisions():
    theirs = torchvision_models.googlenet(num_classes=7, aux_logits=False, init_weights=False).double()
    ours = InceptionV1(7, dropout=0.0).double()
    theirs.dropout.p = 0.0
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 3, 37, 42, dtype=torch.float64)
    found, truth = ours.train()(x), theirs.train()(x)
    assert_close(found, truth)
    grads = torch.autograd.grad(found.square().sum(), list(ours.parameters()))
    expected = torch.autograd.grad(truth.square().sum(), list(theirs.parameters()))
    for (name, _), a, b in zip(ours.named_parameters(), grads, expected, strict=True):
        assert_close(a, b, name)
    with torch.no_grad():  # with the statistics that both have found
        assert_close(ours.eval()(x), theirs.eval()(x))


def around(size, kernel, stride):
    """SAME padding of one axis by its definition: the fewest cells that give ceil(size / stride) windows."""
    cells = 0
    while (size + cells - kernel) // stride + 1 < -(-size // stride):
        cells += 1
    return cells // 2, cells - cells // 2


@pytest.mark.parametrize(
    ("padding", "size"),
    [("torchvision", (52, 40)), ("same", (52, 40)), ("same", (64, 64)), ("same", (65, 47)), ("same", (33, 1))],
)
def test_equals_the_arithmetic_written_out(padding, size):
    net = randomize(InceptionV1(5, width=8, padding=padding).double().eval(), 0.3)
    p = net.state_dict()

    def block(x, name, stride=1):
        weight = p[f"{name}.conv.weight"]
        k = weight.shape[-1]
        h, w = (around(n, k, stride) if padding == "same" else (k // 2, k // 2) for n in x.shape[2:])
        x = F.conv2d(F.pad(x, (*w, *h)), weight, None, stride)
        mean, var, g, b = (
            p[f"{name}.bn.{n}"][:, None, None] for n in ("running_mean", "running_var", "weight", "bias")
        )
        return ((x - mean) / torch.sqrt(var + 0.001) * g + b).relu()

    def module(x, name):
        third = block(block(x, f"{name}.branch3.0"), f"{name}.branch3.1")
        second = block(block(x, f"{name}.branch2.0"), f"{name}.branch2.1")
        padded = F.pad(x, (1, 1, 1, 1), value=float("-inf"))
        fourth = block(F.max_pool2d(padded, 3, 1), f"{name}.branch4.1")
        return torch.cat([block(x, f"{name}.branch1"), second, third, fourth], 1)

    def pool(x, kernel):
        if padding == "same":
            h, w = (around(n, kernel, 2) for n in x.shape[2:])
        else:  # rounding up: a last window that holds fewer cells
            h, w = ((0, -(n - kernel) % 2) for n in x.shape[2:])
        return F.max_pool2d(F.pad(x, (*w, *h), value=float("-inf")), kernel, 2)

    image = torch.randn(2, 3, *size, dtype=torch.float64)
    x = pool(block(image, "conv1", 2), 3)
    x = pool(block(block(x, "conv2"), "conv3"), 3)
    for name in MODULES:
        if name == "4a":
            x = pool(x, 3)
        if name == "5a":
            x = pool(x, 2)
        x = module(x, f"inception{name}")
    torch.testing.assert_close(net.features(image), x, rtol=1e-9, atol=1e-9)
    pooled = x.sum((2, 3)) / (x.shape[2] * x.shape[3])
    torch.testing.assert_close(net.pooled(image), pooled, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(net(image), F.linear(pooled, p["fc.weight"], p["fc.bias"]), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("size", [(224, 224), (225, 97), (1, 2)])
def test_same_padding_divides_sizes_rounding_up(size):
    sides = []
    with torch.device("meta"):
        net = InceptionV1(None, padding="same").eval()
        for name in ("conv1", "conv2", "inception3a", "inception4a", "inception5a"):
            net.get_submodule(name).register_forward_hook(lambda m, a, out: sides.append(tuple(out.shape[2:])))
        net(torch.empty(1, 3, *size))
    assert sides == [tuple(-(-n // 2**k) for n in size) for k in range(1, 6)]


def test_paddings_differ_in_the_stem_alone_at_224():
    one = randomize(InceptionV1(5, width=8), 0.3)
    other = InceptionV1(5, width=8, padding="same")
    other.load_state_dict(one.state_dict())
    x = torch.randn(1, 3, 224, 224)
    stem = F.relu(one.eval().conv1.bn(F.conv2d(F.pad(x, (2, 3, 2, 3)), one.conv1.conv.weight, stride=2)))
    with torch.no_grad():
        truth = other.eval()(x)
        assert not torch.allclose(one(x), truth, rtol=1e-4, atol=1e-4)
        one.conv1.forward = lambda _: stem
        assert torch.allclose(one(x), truth, rtol=1e-4, atol=1e-4)


def test_normalisation_has_the_papers_epsilon():
    with torch.device("meta"):
        norms = [m for m in InceptionV1().modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert len(norms) == 57
    assert {m.eps for m in norms} == {1e-3}


def test_input_transform_is_torchvisions():
    plain, transforming = (randomize(InceptionV1(5, width=8, transform_input=t).eval(), 0.3) for t in (False, True))
    transforming.load_state_dict(plain.state_dict())
    x = torch.randn(1, 3, 40, 40)
    first = x[:, :1] * (0.229 / 0.5) + (0.485 - 0.5) / 0.5
    second = x[:, 1:2] * (0.224 / 0.5) + (0.456 - 0.5) / 0.5
    third = x[:, 2:] * (0.225 / 0.5) + (0.406 - 0.5) / 0.5
    truth = plain(torch.cat([first, second, third], 1))
    torch.testing.assert_close(transforming(x), truth, rtol=1e-4, atol=1e-4)
    assert (plain(x) - truth).abs().max() > 1e-2


def test_pooled_features_lead_to_the_scores():
    net = InceptionV1(5, width=8, dropout=0.9).eval()
    shorter = InceptionV1(None, width=8).eval()
    shorter.load_state_dict({n: v for n, v in net.state_dict().items() if not n.startswith("fc.")})
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(net.fc(net.pooled(x)), net(x))
    assert torch.equal(shorter(x), net.pooled(x))
    net.train()
    assert not torch.equal(net(x), net(x))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: InceptionV1(width=12), "width: expected a multiple of 8, got 12"),
        (lambda: InceptionV1(in_channels=20, transform_input=True), "transform_input"),
        (lambda: InceptionV1(padding="SAME"), "padding: expected one of torchvision, same, got 'SAME'"),
        (lambda: InceptionV1(5, width=8)(torch.zeros(1, 4, 32, 32)), r"x: expected \(N,3,H,W\), got shape"),
        (lambda: InceptionV1(5, width=8)(torch.zeros(3, 32, 32)), r"x: expected \(N,3,H,W\), got shape"),
    ],
)
def test_errors(make, words):
    with pytest.raises(ValueError, match=words):
        make()
