"""The deep LSTM: counts, the weights of the steps, aggregations and loss by hand, frames and features."""

import pytest
import torch
from torch import nn

import fastrcn
from fastrcn.losses import frame_weights, weighted_step_cross_entropy
from fastrcn.models import ShortSnippetsLSTM
from fastrcn.models.short_snippets_lstm import aggregate


@pytest.mark.parametrize(("features", "expected"), [(1024, 11_794_407), (4096, 18_085_863)])
def test_counts(features, expected):
    with torch.device("meta"):
        for peephole, more in ((None, 0), ("channel", 7_680)):
            net = ShortSnippetsLSTM(cnn=None, input_size=features, peephole=peephole)
            assert sum(p.numel() for p in net.parameters()) == expected + more


def test_papers_size():
    with torch.device("meta"):
        net = ShortSnippetsLSTM().eval()
        assert net(torch.empty(1, 8, 3, 220, 220)).shape == (1, 8, 487)
    assert net.lstm.num_layers == 5
    assert net.lstm.input_size == 4096
    assert net.lstm.peephole == "channel"


def test_weights_rise_linearly():
    assert frame_weights(5).tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert frame_weights(4, "from_first").tolist() == [0.25, 0.5, 0.75, 1]
    assert frame_weights(1).tolist() == frame_weights(1, "from_first").tolist() == [1]
    assert frame_weights(3, dtype=torch.float64).dtype == torch.float64


def test_aggregations_by_hand():
    p = torch.tensor([[[0.5, 0.3, 0.2], [0.1, 0.8, 0.1], [0.2, 0.3, 0.5]]], dtype=torch.float64)
    expected = {
        "last": [0.2, 0.3, 0.5],
        "max": [0.5, 0.8, 0.5],
        "average": [0.8 / 3, 1.4 / 3, 0.8 / 3],
        "weighted": [(0.05 + 0.2) / 1.5, (0.4 + 0.3) / 1.5, (0.05 + 0.5) / 1.5],  # g = 0, 1/2, 1
    }
    for how, values in expected.items():
        torch.testing.assert_close(aggregate(p, how)[0], torch.tensor(values, dtype=torch.float64))
    thirds = [(0.5 + 0.2 + 0.6) / 6, (0.3 + 1.6 + 0.9) / 6, (0.2 + 0.2 + 1.5) / 6]  # g = 1/3, 2/3, 1
    found = aggregate(p, "weighted", "from_first")[0]
    torch.testing.assert_close(found, torch.tensor(thirds, dtype=torch.float64))
    assert aggregate(p, "weighted").sum().item() == pytest.approx(1)


def test_last_is_weighted_where_only_the_last_weight_is_not_zero():
    p = torch.rand(3, 2, 4, dtype=torch.float64).softmax(-1)  # two steps: g = 0, 1
    torch.testing.assert_close(aggregate(p, "weighted"), aggregate(p, "last"), rtol=1e-12, atol=0)
    assert not torch.allclose(aggregate(p, "weighted", "from_first"), aggregate(p, "last"))


@pytest.mark.parametrize("kind", ["from_zero", "from_first"])
def test_gradient_of_a_step_is_proportional_to_its_weight(kind):
    scores = torch.randn(2, 6, 4, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([1, 3])
    (found,) = torch.autograd.grad(weighted_step_cross_entropy(scores, labels, kind), scores)
    for t in range(6):
        step = nn.functional.cross_entropy(scores[:, t], labels)
        (plain,) = torch.autograd.grad(step, scores)
        g = t / 5 if kind == "from_zero" else (t + 1) / 6
        torch.testing.assert_close(found[:, t], g * plain[:, t] / 6, rtol=1e-12, atol=1e-15)


def test_loss_by_hand():
    scores = torch.tensor([[[0.0, 0.0], [0.0, 1.0], [2.0, 0.0]]], dtype=torch.float64)
    e = torch.exp(torch.tensor([1.0, 2.0], dtype=torch.float64))
    expected = (0.5 * torch.log(1 + e[0]) + torch.log(1 + 1 / e[1])) / 3  # label 0
    torch.testing.assert_close(weighted_step_cross_entropy(scores, torch.tensor([0])), expected)


def test_steps_equal_stacked_cells():
    net = ShortSnippetsLSTM(4, cnn=None, input_size=3, hidden_size=5, num_layers=5).double().eval()
    with torch.no_grad():
        for p in net.parameters():
            p.uniform_(-0.5, 0.5)
    stack = []
    for k in range(5):
        cell = fastrcn.LSTMCell(3 if k == 0 else 5, 5, peephole="channel").double()
        values = net.lstm.state_dict().items()
        cell.load_state_dict({n.removesuffix(f"_l{k}"): v for n, v in values if n.endswith(f"_l{k}")})
        stack.append(cell)
    features, states = torch.randn(2, 4, 3, dtype=torch.float64), [None] * 5
    found = net(features)
    for t in range(4):
        x = features[:, t]
        for k, cell in enumerate(stack):
            states[k] = cell(x, states[k])
            x = states[k][0]
        torch.testing.assert_close(found[:, t], net.classifier(x), rtol=1e-10, atol=1e-10)


def test_prediction():
    net = ShortSnippetsLSTM(4, cnn=None, input_size=3, hidden_size=5, num_layers=2).eval()
    features = torch.randn(2, 6, 3)
    p = net(features).softmax(-1)
    for how in ("last", "max", "average", "weighted"):
        torch.testing.assert_close(net.predict(features, how), aggregate(p, how))
    torch.testing.assert_close(net.predict(features), aggregate(p, "weighted"))


def test_a_cnn_that_is_given():
    cnn = nn.Sequential(nn.Conv2d(2, 3, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    net = ShortSnippetsLSTM(4, cnn=cnn, input_size=3, hidden_size=5, num_layers=2).eval()
    alone = ShortSnippetsLSTM(4, cnn=None, input_size=3, hidden_size=5, num_layers=2).eval()
    alone.load_state_dict({n: v for n, v in net.state_dict().items() if not n.startswith("cnn")})
    frames = torch.randn(2, 4, 2, 5, 5)
    torch.testing.assert_close(net(frames), alone(torch.stack([cnn(f) for f in frames])))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: ShortSnippetsLSTM(cnn="vgg"), "cnn"),
        (lambda: ShortSnippetsLSTM(cnn=None), "input_size"),
        (lambda: ShortSnippetsLSTM(input_size=3), "input_size"),
        (lambda: ShortSnippetsLSTM(cnn=None, input_size=3, cnn_options={}), "cnn_options"),
        (lambda: ShortSnippetsLSTM(2, cnn=None, input_size=3)(torch.zeros(1, 4, 2)), "input_size: .*got shape"),
        (lambda: ShortSnippetsLSTM(2, cnn=None, input_size=3)(torch.zeros(4, 3)), r"frames: expected \(N,T,input"),
        (lambda: ShortSnippetsLSTM(2, cnn=nn.Flatten(), input_size=3).example_inputs(), "cnn"),
        (lambda: aggregate(torch.zeros(1, 2, 3), "sum"), "how: expected one of last, max, average, weighted"),
        (lambda: frame_weights(3, "half"), "kind"),
    ],
)
def test_errors(call, words):
    with pytest.raises(ValueError, match=words):
        call()
