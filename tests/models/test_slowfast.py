"""SlowFast: published counts, keys and table; its laterals written out; a Slow ResNet where they are silent."""

import pytest
import torch
from torch.nn import functional as F

from fastrcn import models
from fastrcn.models import SlowFast, VideoResNet, slow_frames
from fastrcn.models.video_resnet import TEMPORAL_KERNELS
from tests.helpers.nets import randomize_normalisations
from tests.helpers.tolerances import assert_close, relative_error

STAGES = {"s1": (64, 8), "s2": (256, 32), "s3": (512, 64), "s4": (1024, 128), "s5": (2048, 256)}


def small(**options):
    torch.manual_seed(0)
    net = SlowFast(
        5, **{"width": 16, "num_frames": 16, "size": 48, "zero_init": False, "dropout": 0.0} | options
    ).double()  # fmt: skip
    return randomize_normalisations(net)


def clips(net, batch=2):
    return [x.double() for x in net.example_inputs(batch)]


@pytest.mark.parametrize(("name", "count"), [("slowfast_4x16_r50", 34_480_216), ("slowfast_8x8_r50", 34_566_488)])
def test_parameter_counts(name, count):
    with torch.device("meta"):
        net = models.create(name)
        assert sum(p.numel() for p in net.parameters()) == count
        assert net.out_channels == 2304
        assert SlowFast(None).head.projection is None


def test_keys_are_pyslowfasts():
    with torch.device("meta"):
        state = SlowFast().state_dict()
    found = {n: tuple(v.shape) for n, v in state.items() if v.dim() != 1 and v.numel() > 1}
    blocks = {"s2": (3, 64), "s3": (4, 128), "s4": (6, 256), "s5": (3, 512)}
    expected = {
        "s1.pathway0_stem.conv.weight": (64, 3, 1, 7, 7), "s1.pathway1_stem.conv.weight": (8, 3, 5, 7, 7),
        "head.projection.weight": (400, 2304),
    }  # fmt: skip
    for k, fast in enumerate((8, 32, 64, 128), 1):
        expected[f"s{k}_fuse.conv_f2s.weight"] = (2 * fast, fast, 5, 1, 1)
    into = {"s2": 80, "s3": 320, "s4": 640, "s5": 1280}
    for p in (0, 1):
        for s, (number, inner) in blocks.items():
            inner = inner // 8 if p else inner
            channels = (inner if s == "s2" else 2 * inner) if p else into[s]
            time = 3 if p or s in ("s4", "s5") else 1
            for i in range(number):
                name = f"{s}.pathway{p}_res{i}"
                if i == 0:
                    expected[f"{name}.branch1.weight"] = (4 * inner, channels, 1, 1, 1)
                expected[f"{name}.branch2.a.weight"] = (inner, channels, time, 1, 1)
                expected[f"{name}.branch2.b.weight"] = (inner, inner, 1, 3, 3)
                expected[f"{name}.branch2.c.weight"] = (4 * inner, inner, 1, 1, 1)
                channels = 4 * inner
    assert found == expected
    norms = {n.rsplit(".", 1)[0] for n in state if n.endswith("running_mean")}
    convolutions = {n.removesuffix(".weight") for n in expected if not n.startswith("head")}
    renamed = {
        n.removesuffix("conv") + "bn" if n.endswith("stem.conv")
        else n.removesuffix("conv_f2s") + "bn" if n.endswith("conv_f2s") else f"{n}_bn"
        for n in convolutions
    }  # fmt: skip
    assert norms == renamed
    assert len(state) == len(expected) + 5 * len(norms) + 1


@pytest.mark.parametrize(("name", "slow", "alpha"), [("slowfast_4x16_r50", 4, 8), ("slowfast_8x8_r50", 8, 4)])
def test_shapes_at_the_papers_size(name, slow, alpha):
    """Of both pathways after each stage, and of what the Slow one reads; 224 pixels."""
    found = {}
    with torch.device("meta"):
        net = models.create(name).eval()
        for s in range(1, 5):
            for part in (f"s{s}_fuse", f"s{s + 1}"):
                net.get_submodule(part).register_forward_hook(
                    lambda m, a, out, part=part: found.update({part: [tuple(t.shape[1:]) for t in out]})
                )
        inputs = net.example_inputs(2)
        assert [tuple(x.shape) for x in inputs] == [(2, 3, slow, 224, 224), (2, 3, 32, 224, 224)]
        assert net(*inputs).shape == (2, 400)
        assert net.alpha == alpha
    for s, side, joined in ((1, 56, 80), (2, 56, 320), (3, 28, 640), (4, 14, 1280)):
        assert found[f"s{s}_fuse"] == [(joined, slow, side, side), (STAGES[f"s{s}"][1], 32, side, side)]
    for s, side in ((2, 56), (3, 28), (4, 14), (5, 7)):
        channels = STAGES[f"s{s}"]
        assert found[f"s{s}"] == [(channels[0], slow, side, side), (channels[1], 32, side, side)]


def test_zeroed_laterals_decouple_the_slow_pathway():
    """Its maps are those of a Slow ResNet without the weights that read the laterals, whatever the Fast one sees."""
    net = small().eval()
    slow, fast = clips(net)
    coupled = net.features(slow, fast)
    assert relative_error(net.features(slow, fast.flip(2))[0], coupled[0]) > 1e-3
    with torch.no_grad():
        for s in range(1, 5):
            lateral = net.get_submodule(f"s{s}_fuse")
            lateral.conv_f2s.weight.zero_()
            for name in ("bias", "running_mean"):
                getattr(lateral.bn, name).zero_()
    alone = VideoResNet(5, "slow", width=16).double().eval()
    state = {n: v for n, v in net.state_dict().items() if "pathway0" in n}
    for s, channels in ((2, 16), (3, 64), (4, 128), (5, 256)):
        for part in ("branch1", "branch2.a"):
            state[f"s{s}.pathway0_res0.{part}.weight"] = state[f"s{s}.pathway0_res0.{part}.weight"][:, :channels]
    missing, unexpected = alone.load_state_dict(state, strict=False)
    assert set(missing) == {"head.projection.weight", "head.projection.bias"}
    assert not unexpected
    for seen in (fast, fast.flip(2), torch.randn_like(fast)):
        found = net.features(slow, seen)
        assert_close(found[0], alone.features(slow)[0])
    assert relative_error(found[1], coupled[1]) > 1e-3


@pytest.mark.parametrize(("alpha", "kernel"), [(8, 5), (4, 7)])
def test_laterals_written_out(alpha, kernel):
    """A weighted sum of the Fast frames around each Slow one, normalised, through ReLU, beside the Slow maps."""
    lateral = small(alpha=alpha, fusion_kernel=kernel).s2_fuse.train()
    slow = torch.randn(2, 5, 2, 3, 3, dtype=torch.float64)
    fast = torch.randn(2, 8, 2 * alpha, 3, 3, dtype=torch.float64)
    sums = torch.zeros(2, 16, 2, 3, 3, dtype=torch.float64)
    for t in range(2):
        for k in range(kernel):
            at = alpha * t + k - kernel // 2
            if 0 <= at < 2 * alpha:
                sums[:, :, t] += torch.einsum("oi,nihw->nohw", lateral.conv_f2s.weight[:, :, k, 0, 0], fast[:, :, at])
    mean, var = sums.mean((0, 2, 3, 4), keepdim=True), sums.var((0, 2, 3, 4), unbiased=False, keepdim=True)
    scale, shift = (v.view(1, -1, 1, 1, 1) for v in (lateral.bn.weight, lateral.bn.bias))
    truth = ((sums - mean) / torch.sqrt(var + 1e-5) * scale + shift).relu()
    joined, unchanged = lateral([slow, fast])
    assert_close(joined[:, 5:], truth)
    assert torch.equal(joined[:, :5], slow)
    assert unchanged is fast


def test_stages_in_their_order():
    """The net is its own modules, called as the paper's table says; the head reads the means side by side."""
    net = small().train()
    slow, fast = clips(net)
    maps = [net.s1.pathway0_stem(slow), net.s1.pathway1_stem(fast)]
    for lateral, stage in ((net.s1_fuse, net.s2), (net.s2_fuse, net.s3), (net.s3_fuse, net.s4), (net.s4_fuse, net.s5)):
        maps = stage(lateral(maps))
    pooled = torch.cat([m.flatten(2).mean(2) for m in maps], 1)
    assert_close(net(slow, fast), F.linear(pooled, net.head.projection.weight, net.head.projection.bias))
    assert TEMPORAL_KERNELS["fast"] == (5, (3,), (3,), (3,), (3,))
    assert [net.get_submodule(name) for name in net.heads] == [net.head.projection]


def test_detection_keeps_the_maps_of_res4():
    """With dilation 2 the later blocks of res5 see the same places as on halved maps; the first is dilated, too."""
    kept, halved = small(res5_stride=1).eval(), small().eval()
    kept.load_state_dict(halved.state_dict())
    for p, channels in ((0, 512), (1, 64)):
        x = torch.randn(1, channels, 2, 9, 9, dtype=torch.float64)
        name = f"s5.pathway{p}_res1"
        found, truth = kept.get_submodule(name)(x), halved.get_submodule(name)(x[..., ::2, ::2])
        assert_close(found[..., ::2, ::2], truth)
        first = kept.get_submodule(f"s5.pathway{p}_res0")
        assert (first.branch2.b.stride, first.branch2.b.dilation) == ((1, 1, 1), (1, 2, 2))
        assert first.branch1.stride == (1, 1, 1)
    slow, fast = clips(kept)
    assert [tuple(m.shape[2:]) for m in kept.features(slow, fast)] == [(2, 3, 3), (16, 3, 3)]


def test_slow_frames():
    assert slow_frames(32, 8) == [0, 10, 20, 31]
    assert slow_frames(32, 8, "stride") == [0, 8, 16, 24]
    assert slow_frames(32, 4) == [0, 4, 8, 13, 17, 22, 26, 31]
    assert slow_frames(8, 8) == [0]
    net = small(sampling="stride")
    clip = torch.randn(2, 3, 16, 8, 8)
    slow, fast = net.pathways(clip)
    assert torch.equal(slow, clip[:, :, [0, 8]])
    assert fast is clip
    assert torch.equal(small().pathways(clip)[0], clip[:, :, [0, 15]])


def test_start_is_the_published_one():
    net = SlowFast(50, width=64, blocks=(1, 1, 1, 1))
    for name, parameter in net.named_parameters():
        if parameter.dim() == 5 and parameter.numel() > 2000:
            assert parameter.std().item() == pytest.approx((2 / parameter[:, 0].numel()) ** 0.5, rel=0.1), name
        elif name.endswith(("c_bn.weight", "bias")):
            assert (parameter == 0).all(), name
        elif parameter.dim() == 1:
            assert (parameter == 1).all(), name
    assert net.head.projection.weight.std().item() == pytest.approx(0.01, rel=0.05)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: SlowFast(5, width=12), "width: expected a multiple of 8, got 12"),
        (lambda: SlowFast(5, width=8, blocks=(1, 1)), "blocks: expected 4 positive ints"),
        (lambda: SlowFast(5, width=8, fusion_kernel=4), "fusion_kernel: expected an odd number, got 4"),
        (lambda: SlowFast(5, width=8, res5_stride=3), "res5_stride: expected 1 or 2, got 3"),
        (lambda: SlowFast(5, width=8, num_frames=12), "num_frames: expected a positive multiple of alpha=8, got 12"),
        (lambda: SlowFast(5, width=8, sampling="random"), "sampling: expected one of linspace, stride, got 'random'"),
        (lambda: slow_frames(4, 8), "num_frames: expected a positive multiple of alpha=8, got 4"),
        (lambda: small().pathways(torch.zeros(2, 2, 16, 8, 8)), r"clip: expected \(N,3,T,H,W\), got shape"),
        (lambda: small()(torch.zeros(3, 2, 8, 8), torch.zeros(3, 16, 8, 8)), r"slow: expected \(N,3,T,H,W\)"),
        (
            lambda: small()(torch.zeros(1, 3, 2, 8, 8), torch.zeros(1, 3, 8, 8, 8)),
            r"fast: expected \(1, 3, 16, 8, 8\), alpha=8 times slow's frames, got shape \(1, 3, 8, 8, 8\)",
        ),
    ],
)
def test_errors(make, words):
    with pytest.raises(ValueError, match=words):
        make()
