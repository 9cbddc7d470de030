"""Two-stream networks: counts, each fusion, the support vector machine against scikit-learn's."""

import pytest
import torch
from sklearn.svm import LinearSVC
from torch import nn

from fastrcn.models import LinearSVM, TwoStream, create

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = {"width": 3, "hidden": (12, 8), "size": 64}
NAMES = ("two_stream", "two_stream_very_deep", "two_stream_inception")


class Given(nn.Module):
    """A stream whose scores are its input's first channels, at the first pixel."""

    def __init__(self, classes):
        super().__init__()
        self.classes = classes

    def forward(self, x):
        return x[:, : self.classes, 0, 0]


def given(**options):
    return TwoStream(3, (Given(3), Given(3)), **options).double()


def images(*rows):
    return torch.tensor(rows, dtype=torch.float64)[..., None, None]


def softmax(row):
    e = [2.718281828459045**v for v in row]
    return [v / sum(e) for v in e]


@pytest.mark.parametrize(
    ("name", "options", "count"),
    [
        ("two_stream", {}, 90_627_813 + 90_707_781),
        ("two_stream_very_deep", {}, 134_674_341 + 134_684_133),
        ("two_stream_inception", {}, 12_073_120),
        ("two_stream_inception", {"num_classes": 101}, 12_073_120 - 2 * 299 * 1025),
        ("two_stream", {"auxiliary_classes": 51}, 90_627_813 + 90_707_781 + 51 * 2049),
        ("two_stream", {"fusion": "svm"}, 90_627_813 + 90_707_781),
    ],
)
def test_parameter_counts(name, options, count):
    with torch.device("meta"):
        net = create(name, **options)
    assert sum(p.numel() for p in net.parameters()) == count


@pytest.mark.parametrize(("name", "classes"), list(zip(NAMES, (101, 101, 400), strict=True)))
def test_shapes_at_the_papers_size(name, classes):
    with torch.device("meta"):
        net = create(name)
        assert [tuple(x.shape) for x in net.example_inputs(2)] == [(2, 3, 224, 224), (2, 20, 224, 224)]
        assert net(*net.example_inputs(2)).shape == (2, classes)


@pytest.mark.parametrize("name", NAMES)
def test_a_weight_of_nothing_leaves_one_stream(name):
    rgb, flow = create(name, small=True).example_inputs(2)
    for weights, stream in (((1.0, 0.0), "spatial"), ((0.0, 2.0), "temporal")):
        net = create(name, small=True, fusion="weighted", weights=weights).eval()
        alone = getattr(net, stream)(rgb if stream == "spatial" else flow).softmax(1)
        assert torch.equal(net(rgb, flow), alone)


def test_streams_of_equal_weight_can_change_places():
    a, b = create("two_stream", small=True).eval(), create("two_stream", small=True).eval()
    x, y = torch.randn(2, 3, 64, 64), torch.randn(2, 3, 64, 64)
    for weights, same in (((2, 2), True), ((1, 2), False)):
        options = {"fusion": "weighted", "weights": weights}
        one_way = TwoStream(5, (a.spatial, b.spatial), **options)(x, y)
        other_way = TwoStream(5, (b.spatial, a.spatial), **options)(y, x)
        assert torch.allclose(one_way, other_way, rtol=0, atol=1e-7) is same


def test_fusion_of_given_scores():
    rgb, flow = [1.0, 2.0, 0.0], [0.0, -1.0, 3.0]
    pairs = list(zip(softmax(rgb), softmax(flow), strict=True))
    average = given()(images(rgb), images(flow))
    assert average[0].tolist() == pytest.approx([(p + q) / 2 for p, q in pairs], abs=1e-12)
    wang = given(fusion="weighted")(images(rgb), images(flow))  # flow counts twice
    assert wang[0].tolist() == pytest.approx([(p + 2 * q) / 3 for p, q in pairs], abs=1e-12)


@pytest.mark.parametrize("fusion", ["average", "weighted"])
def test_scores_of_videos_are_the_mean_over_25_positions(fusion):
    rgb, flow = torch.randn(2, 25, 3, 1, 1).double(), torch.randn(2, 25, 3, 1, 1).double()
    net = given(fusion=fusion)
    found = net.predict(rgb, flow)
    for n in range(2):
        truth = sum(net(rgb[n, k][None], flow[n, k][None]) for k in range(25)) / 25
        torch.testing.assert_close(found[n], truth[0])
    torch.testing.assert_close(net.predict(rgb[:, :1], flow[:, :1]), net(rgb[:, 0], flow[:, 0]))
    assert net.predict(rgb, flow[:, :10]).shape == (2, 3)


def test_scores_of_videos_of_a_whole_net():
    net = create("two_stream_inception", small=True).eval()
    rgb, flow = torch.randn(1, 3, 3, 64, 64), torch.randn(1, 3, 20, 64, 64)
    torch.testing.assert_close(net.predict(rgb, flow)[0], net(rgb[0], flow[0]).mean(0))


def test_objective_of_the_support_vector_machine():
    """Two samples of classes 0 and 1; scores 1, 0, 0.5 and 0, 0.25, -2; losses 0.5 and 0.75."""
    svm = LinearSVM(2, 3, C=4.0).double()
    svm.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 0.25], [0.5, -2.0]]))
    x = torch.eye(2, dtype=torch.float64)
    assert svm(x).tolist() == [[1.0, 0.0, 0.5], [0.0, 0.25, -2.0]]
    square = 1 + 0.0625 + 0.25 + 4
    assert svm.objective(x, torch.tensor([0, 1])).item() == square / 2 + 4 * (0.5 + 0.75)
    svm.bias[0] = 0.5  # the losses: 0, 1.25
    assert svm.objective(x, torch.tensor([0, 1])).item() == (square + 0.25) / 2 + 4 * 1.25


@pytest.mark.parametrize("C", [0.3, 5.0])
def test_support_vector_machine_is_scikit_learns(C):
    """LIBLINEAR's Crammer-Singer form has the same objective; ours is at most 0.1 % above its minimum."""
    labels = torch.arange(160) % 4
    features = torch.randn(160, 6, dtype=torch.float64) + 1.2 * nn.functional.one_hot(labels, 6)
    train, test = slice(0, 100), slice(100, None)
    known = LinearSVC(multi_class="crammer_singer", C=C, tol=1e-9, max_iter=1_000_000)
    known.fit(features[train].numpy(), labels[train].numpy())
    theirs = LinearSVM(6, 4, C).double()
    theirs.weight.copy_(torch.from_numpy(known.coef_))
    theirs.bias.copy_(torch.from_numpy(known.intercept_))
    ours = LinearSVM(6, 4, C).double().fit(features[train], labels[train])
    best = theirs.objective(features[train], labels[train])
    assert abs(ours.objective(features[train], labels[train]) / best - 1) < 1e-3
    difference = (ours(features[test]) - theirs(features[test])).norm() / theirs(features[test]).norm()
    assert difference < 0.01
    agreement = ours(features[test]).argmax(1) == torch.from_numpy(known.predict(features[test].numpy()))
    assert agreement.double().mean() > 0.98


def test_fusion_by_a_support_vector_machine():
    """Each stream tells two classes from the third only; both together tell all."""
    labels = torch.arange(60) % 3
    rgb = torch.randn(60, 3).double() * 0.2 + 3 * torch.eye(3).double()[torch.tensor([0, 1, 1])][labels]
    flow = torch.randn(60, 3).double() * 0.2 + 3 * torch.eye(3).double()[torch.tensor([0, 0, 2])][labels]
    net = given(fusion="svm", svm_c=10.0)
    p, q = rgb.softmax(1), flow.softmax(1)
    assert net.fit_svm(p, q, labels) is net
    found = net(rgb[..., None, None], flow[..., None, None])
    stacked = torch.cat([p / p.square().sum(1, keepdim=True).sqrt(), q / q.square().sum(1, keepdim=True).sqrt()], 1)
    torch.testing.assert_close(found, stacked @ net.svm.weight.T + net.svm.bias)
    assert torch.equal(found.argmax(1), labels)
    for alone in (p, q):
        assert (alone.argmax(1) == labels).double().mean() < 0.7
    other = given(fusion="svm")
    other.load_state_dict(net.state_dict())  # the fitted weights are part of it
    assert torch.equal(other(rgb[..., None, None], flow[..., None, None]), found)
    mean = net.predict(rgb[None, ..., None, None], flow[None, ..., None, None])
    torch.testing.assert_close(mean[0], net._fuse(p.mean(0)[None], q.mean(0)[None])[0])


@pytest.mark.parametrize("cnn", ["cnn_m_2048", "inception_v1"])
def test_two_data_sets(cnn):
    """The second one's loss reaches what both share and its own last layer, not the first one's."""
    options = SMALL if cnn == "cnn_m_2048" else {"width": 8, "size": 64}
    net = TwoStream(5, cnn, auxiliary_classes=4, cnn_options=options, dropout=0.0)
    rgb, flow = net.example_inputs(2)
    assert net(rgb, flow).shape == (2, 5)
    scores = net.temporal(flow, task=1)
    assert scores.shape == (2, 4)
    nn.functional.cross_entropy(scores, torch.tensor([0, 3])).backward()
    first, second = net.temporal.heads
    assert first.weight.grad is None
    assert second.weight.grad.abs().sum() > 0
    assert all(p.grad is not None for p in net.temporal.trunk.parameters())
    net.eval()
    alone = (net.spatial(rgb).softmax(1) + first(net.temporal.trunk(flow)).softmax(1)) / 2
    torch.testing.assert_close(net(rgb, flow), alone)


@pytest.mark.parametrize("auxiliary", [None, 4])
def test_flow_starts_from_rgb(auxiliary):
    net = create("two_stream_very_deep", small=True, auxiliary_classes=auxiliary)
    before = {n: v.clone() for n, v in net.temporal.state_dict().items()}
    net.start_flow_from_rgb()
    stem = net.spatial.features[0].weight
    trunk = net.temporal if auxiliary is None else net.temporal.trunk
    for k in range(20):
        torch.testing.assert_close(trunk.features[0].weight[:, k], (stem[:, 0] + stem[:, 1] + stem[:, 2]) / 3)
    for n, v in net.spatial.state_dict().items():
        if n.startswith("classifier.6."):
            continue
        if n != "features.0.weight":
            assert torch.equal(trunk.state_dict()[n], v), n
    own = [n for n in before if n.startswith(("classifier.6.", "heads."))]
    assert own
    assert all(torch.equal(net.temporal.state_dict()[n], before[n]) for n in own)


def test_only_the_temporal_cnn_m_lacks_the_second_normalisation():
    net = create("two_stream", small=True)
    assert hasattr(net.spatial.features, "norm2")
    assert not hasattr(net.temporal.features, "norm2")
    assert {m.p for m in net.modules() if isinstance(m, nn.Dropout)} == {0.9}


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: TwoStream(fusion="max"), "fusion: expected one of average, weighted, svm, got 'max'"),
        (lambda: TwoStream(cnn="resnet"), "cnn: expected one of cnn_m_2048, vgg16, inception_v1 or a pair"),
        (lambda: TwoStream(cnn=(Given(3),)), "cnn: expected one of"),
        (lambda: TwoStream(3, (Given(3), Given(3)), auxiliary_classes=4), "cnn_options, auxiliary_classes"),
        (lambda: given(fusion="weighted", weights=(0, 0))(images([1.0] * 3), images([1.0] * 3)), "weights: expected"),
        (lambda: given().predict(torch.zeros(1, 3, 1, 1), torch.zeros(1, 1, 3, 1, 1)), r"rgb: expected \(N,K,C,H,W\)"),
        (lambda: given().fit_svm(torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(2)), 'fusion: expected "svm"'),
        (lambda: given().start_flow_from_rgb(), "cnn: expected VGG16 for both streams, got Given and Given"),
        (lambda: given().example_inputs(), "cnn: only the input of those with a name is known"),
        (lambda: LinearSVM(2, 3, 0.0), "C: expected a positive number"),
        (lambda: LinearSVM(2, 3).fit(torch.zeros(4, 3), torch.zeros(4).long()), r"x: expected \(N,2\), got"),
        (
            lambda: LinearSVM(2, 3).fit(torch.zeros(4, 2), torch.full((4,), 3)),
            r"labels: expected \(4,\) from 0 to 2, got",
        ),
    ],
)
def test_errors(make, words):
    with pytest.raises(ValueError, match=words):
        make()
