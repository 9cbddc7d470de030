"""Video ResNets: published counts, keys and tables; arithmetic written out; a still clip is torchvision's ResNet-50."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fastrcn import models
from fastrcn.models import VideoResNet
from tests.helpers.nets import randomize_normalisations
from tests.helpers.tolerances import assert_close, relative_error
from tests.helpers.torchvision_models import models as torchvision_models

BLOCKS = (3, 4, 6, 3)
# Kernels over time of conv1 and of all blocks, as the papers' tables print them.
KERNELS = {
    "c2d": (1, (1, 1, 1), (1, 1, 1, 1), (1, 1, 1, 1, 1, 1), (1, 1, 1)),
    "i3d": (5, (3, 3, 3), (3, 1, 3, 1), (3, 1, 3, 1, 3, 1), (1, 3, 1)),
    "slow": (1, (1, 1, 1), (1, 1, 1, 1), (3, 3, 3, 3, 3, 3), (3, 3, 3)),
}


def small(variant, **options):
    """A net whose normalisations are not those of the start."""
    torch.manual_seed(0)
    net = VideoResNet(5, variant, **{"width": 4, "zero_init": False, "dropout": 0.0} | options)
    return randomize_normalisations(net).double()


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("c2d_resnet50", 24_327_632), ("i3d_resnet50", 28_043_472), ("slow_resnet50", 32_454_096),
        ("i3d_resnet50_32_frames", 28_043_472), ("c2d_resnet50_nonlocal", 31_686_096),
        ("i3d_resnet50_nonlocal", 35_401_936),
    ],
)  # fmt: skip
def test_parameter_counts(name, count):
    with torch.device("meta"):
        net = models.create(name)
    assert sum(p.numel() for p in net.parameters()) == count


@pytest.mark.parametrize("variant", KERNELS)
def test_keys_are_pyslowfasts(variant):
    """Names and shapes as its modules give them; non-local blocks after 1, 3 of res3 and after 1, 3, 5 of res4."""
    with torch.device("meta"):
        net = VideoResNet(400, variant, non_local={})
    expected = {"head.projection.weight": (400, 2048), "head.projection.bias": (400,)}

    def add(name, *shape):
        expected[f"{name}.weight"] = shape

    def add_norm(name, channels):
        expected.update({f"{name}.{n}": (channels,) for n in ("weight", "bias", "running_mean", "running_var")})
        expected[f"{name}.num_batches_tracked"] = ()

    first, *stages = KERNELS[variant]
    add("s1.pathway0_stem.conv", 64, 3, first, 7, 7)
    add_norm("s1.pathway0_stem.bn", 64)
    channels = 64
    for s, (times, inner) in enumerate(zip(stages, (64, 128, 256, 512), strict=True), 2):
        for i, time in enumerate(times):
            block = f"s{s}.pathway0_res{i}"
            if i == 0:
                add(f"{block}.branch1", 4 * inner, channels, 1, 1, 1)
                add_norm(f"{block}.branch1_bn", 4 * inner)
            add(f"{block}.branch2.a", inner, channels, time, 1, 1)
            add(f"{block}.branch2.b", inner, inner, 1, 3, 3)
            add(f"{block}.branch2.c", 4 * inner, inner, 1, 1, 1)
            for n, c in (("a", inner), ("b", inner), ("c", 4 * inner)):
                add_norm(f"{block}.branch2.{n}_bn", c)
            channels = 4 * inner
            if (s, i) in ((3, 1), (3, 3), (4, 1), (4, 3), (4, 5)):
                at = f"s{s}.pathway0_nonlocal{i}"
                half = channels // 2
                for n, out, into in (
                    ("theta", half, channels), ("phi", half, channels), ("g", half, channels), ("out", channels, half)
                ):  # fmt: skip
                    add(f"{at}.conv_{n}", out, into, 1, 1, 1)
                    expected[f"{at}.conv_{n}.bias"] = (out,)
                add_norm(f"{at}.norm", channels)
    assert {n: tuple(v.shape) for n, v in net.state_dict().items()} == expected


def stage_shapes(net):
    """(C,T,H,W) after conv1 with its pooling and after each stage, at the net's own size."""
    found = []
    for name in ("s1.pathway0_stem", "s2", "s3", "s4", "s5"):
        net.get_submodule(name).register_forward_hook(
            lambda m, a, out: found.append(tuple((out if isinstance(out, torch.Tensor) else out[0]).shape[1:]))
        )
    with torch.device("meta"):
        assert net.eval()(*net.example_inputs(2)).shape == (2, 400)
    return found


@pytest.mark.parametrize(
    ("name", "frames"),
    [
        ("c2d_resnet50", (8, 8, 4, 4, 4)), ("i3d_resnet50", (8, 8, 4, 4, 4)), ("slow_resnet50", (8, 8, 8, 8, 8)),
        ("i3d_resnet50_32_frames", (8, 8, 4, 4, 4)), ("i3d_resnet50_nonlocal", (8, 8, 4, 4, 4)),
    ],
)  # fmt: skip
def test_shapes_at_the_papers_size(name, frames):
    with torch.device("meta"):
        net = models.create(name)
    sides, channels = (56, 56, 28, 14, 7), (64, 256, 512, 1024, 2048)
    assert stage_shapes(net) == [(c, t, s, s) for c, t, s in zip(channels, frames, sides, strict=True)]


def as_clips(name):
    """The key here of torchvision's."""
    name = name.replace("downsample.0", "branch1").replace("downsample.1", "branch1_bn")
    for k, letter in enumerate("abc", 1):
        name = name.replace(f".conv{k}", f".branch2.{letter}").replace(f".bn{k}", f".branch2.{letter}_bn")
    if name.startswith("layer"):
        stage, block, rest = name.split(".", 2)
        return f"s{int(stage[5:]) + 1}.pathway0_res{block}.{rest}"
    start, end = name.split(".")
    return {"conv1": "s1.pathway0_stem.conv", "bn1": "s1.pathway0_stem.bn", "fc": "head.projection"}[start] + f".{end}"


def test_c2d_of_a_still_clip_is_torchvisions_resnet50():
    """Scores and gradients, in evaluation and in training, where the statistics of equal frames are the frame's."""
    image_net = randomize_normalisations(torchvision_models.resnet50(num_classes=7)).double()
    net = VideoResNet(7, "c2d", dropout=0.0).double()
    state = {as_clips(n): v[:, :, None] if v.dim() == 4 else v for n, v in image_net.state_dict().items()}
    net.load_state_dict(state, strict=True)
    image = torch.randn(2, 3, 72, 56, dtype=torch.float64)
    clip = image[:, :, None].expand(-1, -1, 2, -1, -1)
    with torch.no_grad():
        assert_close(net.eval()(clip), image_net.eval()(image), "evaluation")
    scores, truth = net.train()(clip), image_net.train()(image)
    assert_close(scores, truth, "training")
    weights = torch.randn_like(truth)
    (scores * weights).sum().backward()
    (truth * weights).sum().backward()
    found = dict(net.named_parameters())
    for name, parameter in image_net.named_parameters():
        grad = found[as_clips(name)].grad
        assert_close(grad[:, :, 0] if grad.dim() == 5 else grad, parameter.grad, name)


def written_out(net, variant, clip, halve_time=False, non_local=False):
    """The net's table in PyTorch's functions, in training."""
    p = net.state_dict()

    def normed(x, name):
        dims = (0, 2, 3, 4)
        mean, var = x.mean(dims, keepdim=True), x.var(dims, unbiased=False, keepdim=True)
        scale, shift = p[f"{name}.weight"].view(1, -1, 1, 1, 1), p[f"{name}.bias"].view(1, -1, 1, 1, 1)
        return (x - mean) / torch.sqrt(var + 1e-5) * scale + shift

    def same(x, name, stride):
        weight = p[f"{name}.weight"]
        return F.conv3d(x, weight, None, stride, [k // 2 for k in weight.shape[2:]])

    def attended(x, name):
        def tokens(y, part):
            y = F.conv3d(y, p[f"{name}.conv_{part}.weight"], p[f"{name}.conv_{part}.bias"])
            return y.flatten(2).transpose(1, 2)

        seen = F.max_pool3d(x, (1, 2, 2))
        theta, phi, g = tokens(x, "theta"), tokens(seen, "phi"), tokens(seen, "g")
        y = torch.softmax(theta @ phi.transpose(1, 2) / theta.shape[2] ** 0.5, 2) @ g
        y = y.transpose(1, 2).unflatten(2, x.shape[2:])
        return x + normed(F.conv3d(y, p[f"{name}.conv_out.weight"], p[f"{name}.conv_out.bias"]), f"{name}.norm")

    time = 2 if halve_time else 1
    x = normed(same(clip, "s1.pathway0_stem.conv", (time, 2, 2)), "s1.pathway0_stem.bn").relu()
    x = F.max_pool3d(x, (time, 3, 3), (time, 2, 2), (0, 1, 1))
    for s, times in enumerate(KERNELS[variant][1:], 2):
        for i, time in enumerate(times):
            name = f"s{s}.pathway0_res{i}"
            stride = (1, 2, 2) if s > 2 and i == 0 else 1
            assert p[f"{name}.branch2.a.weight"].shape[2] == time
            y = normed(same(x, f"{name}.branch2.a", 1), f"{name}.branch2.a_bn").relu()
            y = normed(same(y, f"{name}.branch2.b", stride), f"{name}.branch2.b_bn").relu()
            y = normed(same(y, f"{name}.branch2.c", 1), f"{name}.branch2.c_bn")
            if i == 0:
                x = normed(same(x, f"{name}.branch1", stride), f"{name}.branch1_bn")
            x = (x + y).relu()
            if non_local and s in (3, 4) and i % 2:
                x = attended(x, f"s{s}.pathway0_nonlocal{i}")
        if s == 2 and variant != "slow":
            x = torch.maximum(x[:, :, : x.shape[2] // 2 * 2 : 2], x[:, :, 1::2])
    pooled = x.flatten(2).sum(2) / x[0, 0].numel()
    return F.linear(pooled, p["head.projection.weight"], p["head.projection.bias"])


@pytest.mark.parametrize(
    ("variant", "frames", "options"),
    [
        ("c2d", 5, {}), ("i3d", 5, {}), ("slow", 3, {}), ("i3d", 16, {"halve_time": True}),
        ("c2d", 15, {"halve_time": True}), ("i3d", 4, {"non_local": {"subsample": (1, 2, 2), "zero_init": None}}),
    ],
)  # fmt: skip
def test_equals_the_table_written_out(variant, frames, options):
    net = small(variant, **options).train()
    clip = torch.randn(2, 3, frames, 70, 66, dtype=torch.float64)
    with torch.no_grad():
        truth = written_out(net, variant, clip, options.get("halve_time"), "non_local" in options)
        found = net(clip)
    assert_close(found, truth)


@pytest.mark.parametrize(
    "non_local",
    [{"variant": "embedded"}, {"variant": "gaussian", "subsample": (1, 2, 2)}, {"variant": "concatenation"}],
)
def test_fused_equals_reference_with_normalised_non_local_blocks(non_local):
    """By the largest gradient: those of the biases before a normalisation or a softmax are zero but for rounding."""
    options = {"blocks": (1, 3, 3, 1), "non_local": {**non_local, "zero_init": None}}
    nets = [small("i3d", backend=b, **options).train() for b in ("cpu", "reference")]
    clip = torch.randn(2, 3, 4, 48, 48, dtype=torch.float64)
    results = []
    for net in nets:
        scores = net(clip)
        weights = torch.linspace(-1, 1, scores.numel(), dtype=scores.dtype).view_as(scores)
        results.append((scores, torch.autograd.grad((scores * weights).sum(), list(net.parameters()))))
    (found, grads), (truth, true_grads) = results
    assert_close(found, truth)
    largest = max(float(g.norm()) for g in true_grads)
    for (name, _), a, b in zip(nets[0].named_parameters(), grads, true_grads, strict=True):
        assert float((a - b).norm()) <= 1e-12 * largest, name


def test_c2d_halving_the_frames_fused_equals_reference():
    """No gradient of the first shift: it moves all that the pooling chooses, and what follows normalises."""
    nets = [small("c2d", backend=b, blocks=(2, 2, 2, 2), halve_time=True) for b in ("cpu", "reference")]
    clip = torch.randn(2, 3, 16, 48, 48, dtype=torch.float64)
    outputs = [net.train()(clip) for net in nets]
    assert_close(outputs[0], outputs[1])
    for output in outputs:
        (output * torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view_as(output)).sum().backward()
    for (name, a), b in zip(nets[0].named_parameters(), nets[1].parameters(), strict=True):
        if name != "s1.pathway0_stem.bn.bias":
            assert_close(a.grad, b.grad, name)


def test_start_is_the_published_one():
    net = VideoResNet(50, "i3d", width=32, non_local={})
    for name, parameter in net.named_parameters():
        if parameter.dim() == 5:
            fan_out = parameter[:, 0].numel()
            assert parameter.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.1), name
        elif name.endswith(("c_bn.weight", "norm.weight", "bias")):
            assert (parameter == 0).all(), name
        elif not name.startswith("head"):
            assert (parameter == 1).all(), name
    assert net.head.projection.weight.std().item() == pytest.approx(0.01, rel=0.05)
    lecture = VideoResNet(5, "i3d", width=4, non_local={"zero_init": "conv"})
    assert (lecture.s3.pathway0_nonlocal1.conv_out.weight == 0).all()
    assert (lecture.s3.pathway0_nonlocal1.norm.weight == 1).all()


def test_blocks_and_non_local_blocks_change_nothing_at_first():
    net, plain = VideoResNet(5, "i3d", width=4, non_local={}), VideoResNet(5, "i3d", width=4)
    plain.load_state_dict({n: v for n, v in net.state_dict().items() if "nonlocal" not in n})
    clip = torch.randn(2, 3, 4, 64, 64)
    assert torch.equal(net.eval()(clip), plain.eval()(clip))
    x = torch.rand(2, 16, 3, 5, 5)
    for block in (net.s2.pathway0_res1, net.s2.pathway0_res2):
        assert torch.equal(block.train()(x), x)
    assert relative_error(small("i3d").s2.pathway0_res1.train()(x.double()), x.double()) > 0.1


def test_without_the_last_layer():
    net = small("slow").eval()
    bare = VideoResNet(None, "slow", width=4).double().eval()
    bare.load_state_dict({n: v for n, v in net.state_dict().items() if not n.startswith("head")})
    clip = torch.randn(2, 3, 2, 64, 64, dtype=torch.float64)
    pooled = net.features(clip)[0].mean((2, 3, 4))
    assert torch.equal(bare(clip), pooled)
    assert torch.equal(net(clip), net.head.projection(pooled))


def test_dropout_before_the_last_layer():
    net = VideoResNet(5, "slow", width=4, dropout=0.5)
    assert isinstance(net.head.dropout, nn.Dropout)
    assert [net.get_submodule(name) for name in net.heads] == [net.head.projection]
    assert net.head.dropout.p == 0.5
    maps = [torch.rand(2, 128, 2, 2, 2)]
    assert not torch.equal(net.head.train()(maps), net.head(maps))


def test_resnet_101_repeats_the_kernels():
    with torch.device("meta"):
        net = VideoResNet(400, "i3d", blocks=(3, 4, 23, 3))
    assert [net.get_submodule(f"s4.pathway0_res{i}.branch2.a").kernel_size[0] for i in range(23)] == [3, 1] * 11 + [3]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: VideoResNet(5, "p3d"), "variant: expected one of c2d, i3d, slow, got 'p3d'"),
        (lambda: VideoResNet(5, width=0), "width: expected a positive int, got 0"),
        (lambda: VideoResNet(5, blocks=(3, 4)), r"blocks: expected 4 positive ints, got \(3, 4\)"),
        (lambda: small("i3d")(torch.zeros(2, 2, 4, 32, 32)), r"clip: expected \(N,3,T,H,W\), got shape \(2, 2"),
        (lambda: small("i3d")(torch.zeros(3, 4, 32, 32)), r"clip: expected \(N,3,T,H,W\), got shape"),
        (lambda: small("i3d")(torch.zeros(2, 3, 1, 32, 32)), "clip: expected at least 2 frames, got 1"),
        (lambda: small("i3d", halve_time=True)(torch.zeros(2, 3, 6, 32, 32)), "clip: expected at least 7 frames"),
        (lambda: VideoResNet(5, non_local={"variant": "cosine"}), "variant: expected one of embedded"),
    ],
)
def test_errors(make, words):
    with pytest.raises(ValueError, match=words):
        make()
