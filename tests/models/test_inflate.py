"""Inflation: a video of one image gives at every step what the image gives, and where zeros around it break that."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fastrcn.models import I3D, InceptionV1, boring_video, check_fixed_point, create, inflate, inflate_inception
from fastrcn.models.i3d import ENDPOINTS
from fastrcn.models.inflate import InflatedConv3d, inflate_weight
from tests.helpers.tolerances import assert_close
from tests.helpers.torchvision_models import models as torchvision_models

pytestmark = pytest.mark.usefixtures("one_thread")

EXACT = 1e-12  # of the norm, in float64
POOLS = [4, 9, 16, 23, 30]  # VGG-16's
NETS = {  # options, table over time, frames
    "vgg16": ({}, {f"features.{k}": (3, 2) if k == 9 else (1, 1) for k in POOLS}, 6),
    "inception_v1": ({"size": 40}, {"maxpool[12]": (1, 1)}, 9),
    "inception_v1_same": ({"size": 37, "padding": "same"}, {"max_pool2d*": (3, 1)}, 10),
    "resnet50": ({}, {"layer[234].0.conv2": (3, 1), "layer?.0.downsample.0": (1, 1)}, 9),
    "single_frame": ({}, {"features.[37]": (1, 1)}, 13),
    "single_frame_toy": ({}, {"features.2": (1, 1)}, 5),
}


def lively(net):
    """In float64 and evaluation, with statistics and weights that let the input through."""
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.2)
                module.running_var.uniform_(0.5, 1.5)
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.2)
            elif isinstance(module, (nn.Conv2d, nn.Linear)):
                module.weight.normal_(0, (2 / module.weight[0].numel()) ** 0.5)
                if module.bias is not None:
                    module.bias.normal_(0, 0.2)
    return net.double().eval()


def make(name):
    """A net of images, its function, an image, and the table over time."""
    options, spec, frames = NETS[name]
    net = lively(create(name.removesuffix("_same"), small=True, **options))
    method = "image_logits" if name.startswith("single") else "forward"
    return net, method, torch.randn(2, 3, net.size, net.size, dtype=torch.float64), spec, frames


def distances(net, method, inflated, image, frames):
    return check_fixed_point(getattr(net, method), lambda clip: inflated(clip, average=False), image, frames)


def test_boring_video():
    image = torch.randn(2, 3, 4, 5)
    video = boring_video(image, 6)
    assert video.shape == (2, 3, 6, 4, 5)
    assert all(torch.equal(video[:, :, t], image) for t in range(6))


def test_weights_over_time():
    weight = torch.randn(4, 3, 5, 5, dtype=torch.float64)
    mean, centre = (inflate_weight(weight, 3, kind) for kind in ("mean", "centre"))
    assert mean.shape == centre.shape == (4, 3, 3, 5, 5)
    for step in range(3):
        assert torch.equal(mean[:, :, step], weight / 3)
        assert torch.equal(centre[:, :, step], weight if step == 1 else torch.zeros_like(weight))


@pytest.mark.parametrize(
    ("padding", "weights", "wrong"),
    [
        ("zeros", "mean", [0, 1, 7, 8]),
        ("replicate", "mean", []),
        ("zeros", "centre", []),
        ("replicate", "centre", []),
        ("valid", "mean", []),
    ],
)
def test_which_steps_are_exact(padding, weights, wrong):
    """A kernel of five steps: with zeros, the two next to each end are not."""
    net = nn.Sequential(nn.Conv2d(3, 4, 5, padding=2), nn.ReLU(), nn.Flatten()).double()
    image = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    inflated = inflate(net, image, weights=weights, temporal_padding=padding)
    found = distances(net, "forward", inflated, image, 9)
    assert len(found) == (5 if padding == "valid" else 9)
    for step, distance in enumerate(found):
        assert distance > 0.05 if step in wrong else distance < EXACT


@pytest.mark.parametrize("name", NETS)
def test_fixed_point(name):
    net, method, image, spec, frames = make(name)
    for padding, weights in (("replicate", "mean"), ("zeros", "centre")):
        inflated = inflate(net, image, spec, weights=weights, temporal_padding=padding, method=method)
        found = distances(net, method, inflated, image, frames)
        assert len(found) >= 2
        assert found.max() < EXACT, (padding, weights)
        with torch.no_grad():
            assert_close(inflated(boring_video(image, frames)), getattr(net, method)(image))
    zeros = inflate(net, image, spec, method=method)
    assert distances(net, method, zeros, image, frames)[[0, -1]].min() > 1e-3


def test_cubes_are_the_default():
    """Five 2x2x2 poolings leave one step of 32."""
    net, _, image, _, _ = make("vgg16")
    inflated = inflate(net, image, temporal_padding="replicate")
    assert distances(net, "forward", inflated, image, 64).shape == (2,)
    assert distances(net, "forward", inflated, image, 64).max() < EXACT
    convs = [m for m in inflated.modules() if isinstance(m, InflatedConv3d)]
    assert [m.kernel_size for m in convs] == [(3, 3, 3)] * 13
    assert [m.pool.kernel for m in convs].count((2, 2, 2)) == 5


def test_interior_steps_are_exact_with_zeros():
    net, method, image, _, _ = make("single_frame_toy")
    found = distances(net, method, inflate(net, image, {"features.2": (1, 1)}, method=method), image, 8)
    assert (found > 1e-3).tolist() == [True, True, False, False, False, False, True, True]
    assert found[2:6].max() < EXACT


def test_every_activation_is_the_images():
    net, _, image, spec, frames = make("inception_v1")
    inflated = inflate(net, image, spec, temporal_padding="replicate")
    truth, found = {}, {}
    for name, module in net.named_modules():
        if type(module).__name__ == "ConvBNReLU" and name not in ("conv1", "conv3"):  # pooled in the same layer
            module.register_forward_hook(lambda m, a, out, name=name: truth.update({name: out}))
            unit = inflated.get_submodule(f"{name}.conv")
            unit.register_forward_hook(lambda m, a, out, name=name: found.update({name: out}))
    with torch.no_grad():
        net(image)
        inflated(boring_video(image, frames))
    assert len(truth) == 55
    for name, maps in truth.items():
        assert found[name].shape[2] > 1
        assert_close(found[name], boring_video(maps, found[name].shape[2]), name)


def test_normalisation_must_be_in_evaluation():
    net, _, image, _, frames = make("resnet50")
    inflated = inflate(net, image, temporal_padding="replicate").train()
    assert distances(net, "forward", inflated, image, frames).min() > 1e-3


@pytest.mark.parametrize("window", [(2, 2), (3, 1), (3, 2), (5, 3)])
def test_max_pooling_over_time_is_harmless(window):
    net, method, image, _, _ = make("single_frame_toy")
    for padding, weights in (("zeros", "centre"), ("replicate", "mean")):
        inflated = inflate(net, image, {"features.2": window}, weights=weights, temporal_padding=padding, method=method)
        assert distances(net, method, inflated, image, 9).max() < EXACT


def small_net(kind=nn.MaxPool2d):
    return lively(
        nn.Sequential(
            nn.Conv2d(3, 6, 3, 2, 1, bias=False), nn.BatchNorm2d(6), nn.ReLU(), kind(3, 2, 1), nn.Conv2d(6, 4, 3),
            nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(4 * 3 * 3, 5), nn.ReLU(), nn.Linear(5, 3),
        )
    )  # fmt: skip


@pytest.mark.parametrize("padding", ["zeros", "replicate"])
def test_training_in_float32(padding):
    """Whoever convolves before the normalisation: that depends on type and size, and here one clip is small."""
    layers = nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()
    net = lively(nn.Sequential(*layers, nn.Linear(64, 3)))
    exact = inflate(net, torch.zeros(1, 3, 8, 8).double(), {"0": (3, 1)}, temporal_padding=padding).train()
    for shape in ((1, 3, 3, 8, 8), (4, 3, 9, 8, 8)):
        clip = torch.randn(shape, dtype=torch.float64)
        found, truth = copy.deepcopy(exact).float()(clip.float()), copy.deepcopy(exact)(clip)
        assert_close(found, truth, dtype=torch.float32)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_equals_the_layers_written_out(backend, training):
    """On a clip that moves, with all gradients."""
    net = small_net()
    spec = {"0": (3, 1), "3": (3, 2), "4": (5, 1), "6": (1, 1)}
    inflated = inflate(net, torch.zeros(1, 3, 32, 32).double(), spec, backend=backend).train(training)
    clip = torch.randn(2, 3, 9, 32, 32, dtype=torch.float64)
    p = {n: v.detach().clone().requires_grad_() for n, v in net.named_parameters()}
    w0 = p["0.weight"][:, :, None].expand(-1, -1, 3, -1, -1) / 3
    w4 = p["4.weight"][:, :, None].expand(-1, -1, 5, -1, -1) / 5
    x = F.conv3d(clip, w0, None, (1, 2, 2), 1)
    statistics = net[1].running_mean.clone(), net[1].running_var.clone()
    x = F.batch_norm(x, *statistics, p["1.weight"], p["1.bias"], training)
    x = F.max_pool3d(x.relu(), 3, 2, 1)
    x = F.max_pool3d(F.conv3d(x, w4, p["4.bias"], 1, (2, 0, 0)).relu(), (1, 2, 2))
    steps = []
    for t in range(x.shape[2]):
        hidden = F.linear(x[:, :, t].flatten(1), p["8.weight"], p["8.bias"]).relu()
        steps.append(F.linear(hidden, p["10.weight"], p["10.bias"]))
    truth = torch.stack(steps, 2)
    found = inflated(clip, average=False)
    assert_close(found, truth)
    assert_close(inflated.eval()(clip) if not training else found.mean(2), truth.mean(2))
    found.square().sum().backward()
    truth.square().sum().backward()
    for name, parameter in inflated.named_parameters():  # of a kernel's gradient: the mean of those of its copies
        assert_close(parameter.grad.mean(2) if parameter.dim() == 5 else parameter.grad, p[name].grad, name)
    if training:
        assert_close(inflated.get_submodule("1").running_mean, statistics[0])


def test_layers_are_single_operations():
    """No normalisation, ReLU or pooling is called after a convolution."""
    net, _, image, spec, _ = make("inception_v1")
    inflated = inflate(net, image, spec)
    called = [type(m).__name__ for m in inflated.modules() if not list(m.children())]
    assert called.count("InflatedConv3d") == called.count("BatchNorm3d") == 57
    pools = [n for n in inflated.graph.nodes if n.target is F.max_pool3d]
    assert len(pools) == 9 + 2  # before a convolution, and after the join of four branches
    assert not any("relu" in str(n.target) for n in inflated.graph.nodes)


def test_keys_stay_and_the_module_too():
    net, _, image, spec, _ = make("resnet50")
    before = copy.deepcopy(net.state_dict())
    inflated = inflate(net.train(), image, spec)
    assert inflated.training
    assert sorted(inflated.state_dict()) == sorted(before)
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in before.items())
    assert inflated.state_dict()["layer1.0.conv2.weight"].shape == (4, 4, 3, 3, 3)
    clip = boring_video(image, 5)
    inflated.eval()
    again = (copy.deepcopy(inflated), pickle.loads(pickle.dumps(inflated)))
    with torch.no_grad():
        assert all(torch.equal(other(clip), inflated(clip)) for other in again)


@pytest.mark.parametrize(
    ("padding", "size", "frames"),
    [("same", 32, 17), ("same", 23, 20), ("torchvision", 32, 18), ("torchvision", 29, 17)],
)
def test_i3d_from_inception(padding, size, frames):
    image_net = lively(InceptionV1(5, width=8, padding=padding))
    image = torch.randn(1, 3, size, size, dtype=torch.float64)
    options = {"width": 8, "size": size, "spatial_padding": padding}
    mean, centre, zeros = (
        I3D(5, **options, temporal_padding=p).double().eval() for p in ("replicate", "zeros", "zeros")
    )
    for net, weights in ((mean, "mean"), (centre, "centre"), (zeros, "mean")):
        net.load_state_dict(inflate_inception(image_net.state_dict(), weights))
    assert check_fixed_point(image_net, mean.per_step, image, frames).max() < EXACT
    assert check_fixed_point(image_net, centre.per_step, image, frames).max() < EXACT
    assert check_fixed_point(image_net, zeros.per_step, image, frames).min() > 1e-3
    maps = check_fixed_point(image_net.features, lambda clip: mean.endpoint(clip, ENDPOINTS[-1]), image, frames)
    assert len(maps) == -(-frames // 8)
    assert maps.max() < EXACT


def test_no_step_of_64_frames_is_free_of_padding():
    """I3D sees 99 frames, 8 apart: with zeros around a clip of 64 no step is exact, with 250 some are."""
    image_net = lively(InceptionV1(5, width=8, padding="same"))
    image = torch.randn(1, 3, 9, 9, dtype=torch.float64)
    net = I3D(5, width=8, size=9).double().eval()
    net.load_state_dict(inflate_inception(image_net.state_dict()))

    def maps(clip):
        return net.endpoint(clip, ENDPOINTS[-1])

    assert check_fixed_point(image_net.features, maps, image, 64).min() > 1e-6
    long = check_fixed_point(image_net.features, maps, image, 160)
    assert long[8:12].max() < EXACT
    assert long[[0, 1, 18, 19]].min() > 1e-6


def test_torchvisions_weights_fit_i3d():
    with torch.device("meta"):
        theirs = torchvision_models.googlenet(num_classes=400, aux_logits=True, init_weights=False)
        net = I3D()
        net.load_state_dict(inflate_inception(theirs.state_dict()), strict=True, assign=True)
        assert net.Mixed_3b.b1b.conv3d.weight.shape == (128, 96, 3, 3, 3)


class Choosing(nn.Module):
    def forward(self, x):
        return x.flatten(1) if x.sum() > 0 else -x.flatten(1)


def padded_by_name():
    return nn.Sequential(nn.Conv2d(3, 2, 3, padding="same")).double()


@pytest.mark.parametrize(
    ("make_error", "words"),
    [
        (lambda i: inflate(small_net(), i, weights="middle"), "weights: expected one of mean, centre, got 'middle'"),
        (lambda i: inflate(small_net(), i, temporal_padding="same"), "temporal_padding: expected one of zeros"),
        (lambda i: inflate(small_net(), i, backend="nothing"), "backend"),
        (lambda i: inflate(small_net(), i, {"4": (1, 1), "40": (1, 1)}), r"spec: expected names .* got \['40'\]"),
        (lambda i: inflate(small_net(), i, {"0": (2, 1)}, weights="centre"), "weights: expected mean for an even"),
        (lambda i: inflate(small_net(nn.AvgPool2d), i), "module: expected layers that can be inflated, got %_3"),
        (lambda i: inflate(small_net()[:3], i), r"module: expected a net that gives \(N,D\)"),
        (lambda i: inflate(padded_by_name(), i), "module: expected convolutions padded by numbers of zeros, got 0"),
        (lambda i: inflate(InceptionV1(5, width=8, transform_input=True).double(), i), "inflated, got %new_tensor"),
        (lambda i: inflate(Choosing(), i), "module: expected a net whose path does not depend on values"),
        (lambda i: inflate(InceptionV1(5, width=8).double(), i[0]), r"x: expected \(N,3,H,W\)"),
        (lambda i: inflate_inception({"conv9.conv.weight": i}), "state_dict: expected keys of Inception-v1, got"),
        (lambda i: check_fixed_point(torch.flatten, torch.flatten, i, 3), "clip_net: expected values"),
    ],
)
def test_errors(make_error, words):
    with pytest.raises(ValueError, match=words):
        make_error(torch.randn(1, 3, 32, 32, dtype=torch.float64))
