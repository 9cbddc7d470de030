"""CNN-M-2048: counts and sizes of the published net, its arithmetic written out."""

import pytest
import torch
from torch.nn import functional as F

from fastrcn.models import CNNM2048


@pytest.mark.parametrize(
    ("options", "count"),
    [({}, 90_627_813), ({"in_channels": 20, "second_norm": False}, 90_707_781)],
)
def test_parameter_counts(options, count):
    with torch.device("meta"):
        net = CNNM2048(101, **options)
    assert sum(p.numel() for p in net.parameters()) == count


def test_sizes_at_the_papers_size():
    found = {}
    with torch.device("meta"):
        net = CNNM2048(101)
        for name, module in net.features.named_children():
            module.register_forward_hook(lambda m, a, out, name=name: found.update({name: tuple(out.shape[1:])}))
        assert net(torch.empty(2, 3, 224, 224)).shape == (2, 101)
    named = ("conv1", "pool1", "conv2", "pool2", "conv3", "conv4", "conv5", "pool5")
    sizes = [(96, 109), (96, 54), (256, 26), (256, 13), (512, 13), (512, 13), (512, 13), (512, 6)]
    assert [found[n] for n in named] == [(c, s, s) for c, s in sizes]


@pytest.mark.parametrize("second_norm", [True, False])
def test_equals_the_arithmetic_written_out(second_norm):
    net = CNNM2048(5, 20, second_norm=second_norm, width=6, hidden=(9, 7), size=64).double().eval()
    p = {n: v * 20 if n == "features.conv1.weight" else v for n, v in net.state_dict().items()}
    net.load_state_dict(p)  # large enough for the normalisation to matter

    def conv(x, k, stride, padding):
        return F.conv2d(x, p[f"features.conv{k}.weight"], p[f"features.conv{k}.bias"], stride, padding).relu()

    def norm(x):  # Krizhevsky et al. 2012, section 3.3: k=2, n=5, alpha=1e-4, beta=0.75
        out = torch.empty_like(x)
        for c in range(x.shape[1]):
            near = x[:, max(0, c - 2) : c + 3]
            out[:, c] = x[:, c] / (2 + 1e-4 * near.square().sum(1)) ** 0.75
        return out

    def pool(x):  # rounding up: a last window that holds fewer cells
        extra = [-(x.shape[d] - 3) % 2 for d in (2, 3)]
        return F.max_pool2d(F.pad(x, (0, extra[1], 0, extra[0]), value=float("-inf")), 3, 2)

    images = torch.randn(2, 20, 64, 64, dtype=torch.float64) * 20
    x = pool(norm(conv(images, 1, 2, 0)))
    x = conv(x, 2, 2, 1)
    x = pool(norm(x) if second_norm else x)
    x = pool(conv(conv(conv(x, 3, 1, 1), 4, 1, 1), 5, 1, 1)).flatten(1)
    for k in (6, 7, 8):
        x = F.linear(x, p[f"classifier.full{k}.weight"], p[f"classifier.full{k}.bias"])
        x = x.relu() if k < 8 else x
    torch.testing.assert_close(net(images), x, rtol=1e-9, atol=1e-12)


def test_without_the_last_layer():
    net = CNNM2048(5, width=3, hidden=(12, 8), size=64).eval()
    shorter = CNNM2048(None, width=3, hidden=(12, 8), size=64).eval()
    shorter.load_state_dict({n: v for n, v in net.state_dict().items() if "full8" not in n})
    x = torch.randn(2, 3, 64, 64)
    assert torch.equal(net.classifier.full8(shorter(x)), net(x))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: CNNM2048(width=4), "width: expected a multiple of 3, got 4"),
        (lambda: CNNM2048(hidden=(4, 0)), r"hidden: expected two positive ints, got \(4, 0\)"),
        (lambda: CNNM2048(size=20), "size: expected images large enough for every layer, got 20"),
        (
            lambda: CNNM2048(2, width=3, hidden=(4, 4), size=64)(torch.zeros(1, 3, 32, 32)),
            r"x: expected \(N,3,64,64\), got shape \(1, 3, 32, 32\)",
        ),
    ],
)
def test_errors(make, words):
    with pytest.raises(ValueError, match=words):
        make()
