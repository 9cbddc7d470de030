"""The 3D-fused two-stream network: counts, sizes and the fusion written out as a loop."""

import pytest
import torch

from fastrcn.models import InceptionV1, TwoStream3DFused, create

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = {"num_classes": 5, "width": 8, "channels": 6, "flow_length": 2, "size": 143}


@pytest.mark.parametrize(
    ("name", "count"), [("two_stream_3d_fused", 39_770_384), ("two_stream_3d_fused_separate", 39_975_696)]
)
def test_parameter_counts(name, count):
    with torch.device("meta"):
        net = create(name)
    assert sum(p.numel() for p in net.parameters()) == count


@pytest.mark.parametrize(("stream", "depth"), [("concatenate", 2048), ("separate", 1024)])
def test_shapes_at_the_papers_size(stream, depth):
    with torch.device("meta"):
        net = TwoStream3DFused(stream=stream, backend="reference").eval()
        rgb, flow = net.example_inputs(2)
        assert rgb.shape == (2, 3, 5, 224, 224)
        assert flow.shape == (2, 5, 20, 224, 224)
        sizes = []
        for module in net.fusion:
            module.register_forward_hook(lambda m, a, out: sizes.append((tuple(a[0].shape), tuple(out.shape))))
        assert net(rgb, flow).shape == (2, 400)
    assert sizes == [((2, depth, 5, 7, 7), (2, 512, 1, 1, 1))] * len(net.fusion)
    assert [tuple(m[0].weight.shape) for m in net.fusion] == [(512, depth, 3, 3, 3)] * len(net.fusion)


def calibrated(net, rgb, flow):
    """In evaluation, with the statistics of these clips: the maps of a net that was never trained are nearly 0."""
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        net.train()(rgb, flow)
    return net.eval()


def fused_by_loops(maps, weight, bias):
    """Convolution, ReLU and the largest of 3x3x3 cells of (C,5,5..,5..) maps, without padding."""
    sides = [(s - 2) // 3 for s in maps.shape[1:]]
    out = torch.zeros(len(weight), *sides, dtype=maps.dtype)
    for t in range(3 * sides[0]):
        for y in range(3 * sides[1]):
            for x in range(3 * sides[2]):
                value = ((weight * maps[:, t : t + 3, y : y + 3, x : x + 3]).sum((1, 2, 3, 4)) + bias).relu()
                out[:, t // 3, y // 3, x // 3] = out[:, t // 3, y // 3, x // 3].maximum(value)
    return out


@pytest.mark.parametrize("stream", ["concatenate", "separate"])
@pytest.mark.parametrize("steps", [5, 8])
def test_equals_the_fusion_written_out(stream, steps):
    rgb = torch.randn(2, 3, steps, 143, 143, dtype=torch.float64)
    flow = torch.randn(2, steps, 4, 143, 143, dtype=torch.float64)
    net = calibrated(TwoStream3DFused(**SMALL, stream=stream).double(), rgb, flow)
    torch.nn.init.normal_(net.classifier.weight)
    for parameter in [net.classifier.bias, *(m[0].bias for m in net.fusion)]:
        torch.nn.init.normal_(parameter)
    found = net(rgb, flow)
    for n in range(2):
        a = torch.stack([net.spatial.features(rgb[n, :, t][None])[0] for t in range(steps)], 1)
        b = torch.stack([net.temporal.features(flow[n, t][None])[0] for t in range(steps)], 1)
        assert a.shape == (128, steps, 5, 5)
        parts = [torch.cat([a, b])] if stream == "concatenate" else [a, b]
        cells = [fused_by_loops(x, m[0].weight, m[0].bias) for x, m in zip(parts, net.fusion, strict=True)]
        cells = torch.cat(cells)
        assert cells.shape[1:] == ((1, 1, 1) if steps == 5 else (2, 1, 1))
        scores = torch.zeros(5, dtype=torch.float64)
        for t in range(cells.shape[1]):
            scores += (net.classifier.weight @ cells[:, t, 0, 0] + net.classifier.bias) / cells.shape[1]
        torch.testing.assert_close(found[n], scores, rtol=1e-9, atol=1e-12)


def test_time_matters():
    net = TwoStream3DFused(**SMALL)
    rgb, flow = net.example_inputs(2)
    calibrated(net, rgb, flow)
    scores = net(rgb, flow)
    assert (scores - net(rgb.flip(2), flow.flip(1))).norm() > 0.01 * scores.norm()


def test_new_layers_start_from_a_gaussian():
    net = TwoStream3DFused(width=8, channels=64)
    weight = net.fusion[0][0].weight
    assert weight.std().item() == pytest.approx(0.01, rel=0.01)
    assert weight.mean().abs() < 1e-4
    kurtosis = (weight / weight.std()).pow(4).mean().item()
    assert kurtosis == pytest.approx(3, rel=0.05)  # 1.8 of a uniform distribution
    assert not net.fusion[0][0].bias.any()
    assert not net.classifier.bias.any()


def test_trunks_take_the_weights_of_image_nets():
    net = TwoStream3DFused(width=8)
    images = InceptionV1(1000, width=8).state_dict()
    net.spatial.load_state_dict({n: v for n, v in images.items() if not n.startswith("fc.")}, strict=True)
    assert torch.equal(net.spatial.conv1.conv.weight, images["conv1.conv.weight"])


def small(rgb=(1, 3, 5, 143, 143), flow=(1, 5, 4, 143, 143)):
    return TwoStream3DFused(**SMALL)(torch.zeros(rgb), torch.zeros(flow))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: TwoStream3DFused(stream="sum"), "stream: expected one of concatenate, separate, got 'sum'"),
        (lambda: TwoStream3DFused(size=142), "size: expected at least 143"),
        (lambda: small(rgb=(1, 3, 4, 143, 143)), r"rgb: expected \(N,3,T,H,W\) with at least 5 frames"),
        (lambda: small(rgb=(3, 5, 143, 143)), r"rgb: expected \(N,3,T,H,W\)"),
        (lambda: small(flow=(1, 4, 5, 143, 143)), r"flow: expected shape \(1, 5, 4, 143, 143\) with rgb"),
        (lambda: small((1, 3, 5, 128, 128), (1, 5, 4, 128, 128)), "rgb: expected images of at least 143x143"),
    ],
)
def test_errors(make, words):
    with pytest.raises(ValueError, match=words):
        make()
