"""C3D with batch normalisation: count, sizes, the layers written out in both modes, biases without effect."""

import pytest
import torch
from torch.nn import functional as F

from fastrcn import models
from fastrcn.models import C3DBatchNorm
from tests.helpers.tolerances import assert_close

pytestmark = pytest.mark.usefixtures("one_thread")

TINY = {"num_classes": 5, "channels": ((4,), (4,), (6, 6), (8, 8), (8, 8)), "hidden": 12, "size": 48}
BLOCKS = ("1", "2", "3a", "3b", "4a", "4b", "5a", "5b", "6", "7")


def make(batch=3, **options):
    net = C3DBatchNorm(**TINY, dropout=0, **options).double()
    with torch.no_grad():
        for name, value in net.state_dict().items():
            if name.endswith("running_var") or (name.startswith("bn") and name.endswith("weight")):
                value.uniform_(0.5, 1.5)
            elif value.is_floating_point():
                value.normal_(0, 0.3)
    return net, torch.randn(batch, 3, 16, 48, 48, dtype=torch.float64)


def test_counts():
    with torch.device("meta"):
        assert sum(p.numel() for p in models.create("c3d_batch_norm").parameters()) == 79_656_464
        without = models.create("c3d_batch_norm", bias=False)
    biases = 64 + 128 + 2 * 256 + 4 * 512 + 2 * 4096
    assert sum(p.numel() for p in without.parameters()) == 79_656_464 - biases


def test_keys():
    with torch.device("meta"):
        keys = set(C3DBatchNorm().state_dict())
    expected = {"fc8.weight", "fc8.bias"}
    for k in BLOCKS:
        layer = f"fc{k}" if k in "67" else f"conv{k}"
        expected |= {f"{layer}.weight", f"{layer}.bias"}
        expected |= {
            f"bn{k}.{n}" for n in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
        }  # fmt: skip
    assert keys == expected


def test_sizes_at_the_papers_size():
    with torch.device("meta"):
        net, x, sizes = C3DBatchNorm(), torch.empty(2, 3, 16, 112, 112), []
        for name, pool in net.layers:
            x = net._convolve(name, x, pool)
            if not pool.identity:
                sizes.append(tuple(x.shape[1:4]))
        assert sizes == [(64, 8, 56), (128, 4, 28), (256, 2, 14), (512, 1, 7), (512, 1, 4)]
        assert net(*net.example_inputs(2)).shape == (2, 400)


def written_out(net, clip, pool5):
    """Scores, and (mean, variance without bias) of each normalisation in the batch; plain functions of PyTorch."""
    p, statistics = net.state_dict(keep_vars=True), {}

    def normalise(x, k):
        axes = [d for d in range(x.dim()) if d != 1]
        shape = [1, -1] + [1] * (x.dim() - 2)
        if net.training:
            mean = x.mean(axes)
            var = (x - mean.view(shape)).square().mean(axes)
            cells = x.numel() // x.shape[1]
            statistics[k] = (mean.detach(), var.detach() * cells / (cells - 1))
        else:
            mean, var = p[f"bn{k}.running_mean"], p[f"bn{k}.running_var"]
        scale = p[f"bn{k}.weight"] / (var + 1e-5).sqrt()
        return (x - mean.view(shape)) * scale.view(shape) + p[f"bn{k}.bias"].view(shape)

    x = clip
    for k in BLOCKS[:8]:
        bias = p.get(f"conv{k}.bias")
        x = normalise(F.conv3d(x, p[f"conv{k}.weight"], bias, padding=1), k).relu()
        if k == "5b":  # 3 rows to 2, time is over
            around = (0, 1, 0, 1) if pool5 == "ceil" else (1, 0, 1, 0)
            x = F.max_pool3d(F.pad(x, around, value=float("-inf")), (1, 2, 2))
        elif not k.endswith("a"):
            x = F.max_pool3d(x, 2)
    x = x.flatten(1)
    for k in BLOCKS[8:]:
        x = normalise(F.linear(x, p[f"fc{k}.weight"], p.get(f"fc{k}.bias")), k).relu()
    return F.linear(x, p["fc8.weight"], p["fc8.bias"]), statistics


@pytest.mark.parametrize("pool5", ["ceil", "pad"])
@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_equals_layers_written_out_in_evaluation(backend, pool5):
    net, clip = make(backend=backend, pool5=pool5)
    net.eval()
    assert_close(net(clip), written_out(net, clip, pool5)[0])


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_equals_layers_written_out_in_training(backend):
    net, clip = make(8, backend=backend)
    before = {n: v.clone() for n, v in net.state_dict().items()}
    truth, statistics = written_out(net, clip, "ceil")
    found = net(clip)
    torch.testing.assert_close(found, truth, rtol=1e-9, atol=1e-9)
    for k, (mean, var) in statistics.items():
        for n, value in (("running_mean", mean), ("running_var", var)):
            expected = 0.9 * before[f"bn{k}.{n}"] + 0.1 * value
            torch.testing.assert_close(net.state_dict()[f"bn{k}.{n}"], expected, rtol=1e-9, atol=1e-9)
    names, parameters = zip(*net.named_parameters(), strict=True)
    weights = torch.randn_like(truth)
    grads = torch.autograd.grad((found * weights).sum(), parameters)
    truths = torch.autograd.grad((truth * weights).sum(), parameters)
    for n, a, b in zip(names, grads, truths, strict=True):
        if n.endswith("bias") and not n.startswith(("bn", "fc8")):  # the normalisation takes them away again
            weight = grads[names.index(n.replace("bias", "weight"))]
            assert a.norm() < 1e-10 * weight.norm(), n
        else:
            torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10 * float(b.norm()), msg=lambda m, n=n: f"{n}: {m}")


def test_biases_have_no_effect_in_training_but_on_the_running_mean():
    net, clip = make()
    other = C3DBatchNorm(**TINY, dropout=0, bias=False).double()
    missing = other.load_state_dict({n: v for n, v in net.state_dict().items() if n in other.state_dict()})
    assert not missing.missing_keys
    torch.testing.assert_close(net(clip), other(clip), rtol=1e-8, atol=1e-8)
    shift = 0.1 * net.conv1.bias
    torch.testing.assert_close(net.bn1.running_mean - other.bn1.running_mean, shift, rtol=1e-9, atol=1e-9)
    assert [n for n, _ in other.named_parameters() if n.endswith("bias") and n[:2] != "bn"] == ["fc8.bias"]


def test_errors():
    with pytest.raises(ValueError, match=r"clip: expected \(N,3,16,48,48\), got shape"):
        C3DBatchNorm(**TINY)(torch.zeros(1, 3, 8, 48, 48))
    with pytest.raises(ValueError, match="pool5: expected one of ceil, pad"):
        C3DBatchNorm(pool5="floor")
    with pytest.raises(ValueError, match="frames: expected enough for every pooling, got 8"):
        C3DBatchNorm(frames=8, **TINY)
