"""Continuation markers against a loop over steps that zeroes the states where a marker is 0."""

import pytest
import torch

import fastrcn
from fastrcn.layers.markers import run_with_markers
from tests.helpers import loops
from tests.helpers.tolerances import assert_close

MARKERS = torch.tensor([[0, 1, 1, 0, 1, 1], [1, 1, 0, 0, 0, 1], [1, 1, 1, 1, 1, 1], [0, 1, 1, 1, 1, 0]]).t()
# (T,B): several pieces, pieces of one step, none at all, one at the end


def as_tuple(value):
    return value if isinstance(value, tuple) else (value,)


def loop_layer(step, p, x, states, markers):
    """One layer, step by step: x (T,B,C,H,W), states a tuple of (B,C,H,W)."""
    outputs = []
    for t in range(markers.shape[0]):
        keep = markers[t].view(-1, 1, 1, 1).to(states[0])
        states = step(p, tuple(v[t] for v in x) if isinstance(x, tuple) else x[t], tuple(s * keep for s in states))
        outputs.append(states[0])
    return torch.stack(outputs), states


CASES = {
    "conv_lstm": (fastrcn.ConvLSTM, {"peephole": "channel"}, loops.lstm_step, 2),
    "conv_gru": (fastrcn.ConvGRU, {}, loops.gru_step, 1),
    "conv_rnn": (fastrcn.ConvRNN, {}, loops.rnn_step, 1),
    "lstm": (fastrcn.LSTM, {}, loops.lstm_step, 2),
    "gru": (fastrcn.GRU, {}, loops.gru_step, 1),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
def test_equals_the_loop_with_all_gradients(name, layers, given, batch_first, one_thread):
    make, options, step, n_states = CASES[name]
    layer = make(2, 3, num_layers=layers, batch_first=batch_first, **options).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.uniform_(-0.5, 0.5)
    tail = (4, 5) if layer.axes else ()
    x = torch.randn(6, 4, 2, *tail, dtype=torch.float64, requires_grad=True)
    hx = [torch.randn(layers, 4, 3, *tail, dtype=torch.float64, requires_grad=True) for _ in range(n_states)]
    states = (tuple(hx) if n_states > 1 else hx[0]) if given else None
    if batch_first:
        output, last = run_with_markers(layer, x.transpose(0, 1), MARKERS.t(), states)
        output = output.transpose(0, 1)
    else:
        output, last = run_with_markers(layer, x, MARKERS, states)

    def maps(tensor):
        return tensor if layer.axes else tensor[..., None, None]

    below, true_last = maps(x), []
    for k in range(layers):
        p = {n.removesuffix(f"_l{k}"): v for n, v in layer.named_parameters() if n.endswith(f"_l{k}")}
        p = {n: v if layer.axes or v.dim() == 1 else v[..., None, None] for n, v in p.items()}
        begin = tuple(maps(s[k] if given else torch.zeros_like(s[k])) for s in hx)
        below, states = loop_layer(step, p, below, begin, MARKERS)
        true_last.append(states)
    truth = below if layer.axes else below[..., 0, 0]
    assert_close(output, truth)
    true_last = [torch.stack(s) if layer.axes else torch.stack(s)[..., 0, 0] for s in zip(*true_last, strict=True)]
    for found, expected in zip(as_tuple(last), true_last, strict=True):
        assert_close(found, expected)
    inputs = [x, *layer.parameters(), *(hx if given else ())]
    weights = [torch.randn_like(t) for t in (truth, *true_last)]
    grads = []
    for results in ((output, *as_tuple(last)), (truth, *true_last)):
        loss = sum((w * r).sum() for w, r in zip(weights, results, strict=True))
        grads.append(torch.autograd.grad(loss, inputs))
    for k, (found, expected) in enumerate(zip(*grads, strict=True)):
        assert_close(found, expected, f"gradient {k}")


def test_level_below_is_cut_too():
    layer = fastrcn.StackedConvGRU((2, 4), 3).double()
    x, below = (torch.randn(6, 4, c, 4, 5, dtype=torch.float64) for c in (2, 4))
    output, _ = run_with_markers(layer, (x, below), MARKERS)
    p = {n.removesuffix("_l0"): v for n, v in layer.named_parameters()}
    truth, _ = loop_layer(
        loops.stacked_gru_step, p, (x, below), (torch.zeros(4, 3, 4, 5, dtype=torch.float64),), MARKERS
    )
    assert_close(output, truth)


def test_a_marker_hides_everything_before_it():
    layer = fastrcn.LSTM(2, 3)
    x, state = torch.randn(5, 1, 2), (torch.randn(1, 1, 3), torch.randn(1, 1, 3))
    markers = torch.tensor([[1], [1], [0], [1], [1]])
    output, _ = run_with_markers(layer, x, markers, state)
    torch.testing.assert_close(output[2:], layer(x[2:])[0])
    changed = torch.cat([x[:2] + 1, x[2:]])
    assert torch.equal(run_with_markers(layer, changed, markers, state)[0][2:], output[2:])
    assert not torch.equal(run_with_markers(layer, x, torch.ones(5, 1), state)[0][2:], output[2:])


def test_the_layer_runs_once_and_without_lengths_where_pieces_are_even():
    layer, calls = fastrcn.GRU(2, 3), []
    run = layer._layers
    layer._layers = lambda *arguments: calls.append(arguments) or run(*arguments)
    run_with_markers(layer, torch.randn(6, 4, 2), MARKERS)
    run_with_markers(layer, torch.randn(6, 2, 2), torch.tensor([[0, 1, 0, 1, 0, 1]] * 2).t())
    ((first,), _, lengths), ((second,), _, none) = calls
    assert first.shape[:3] == (6, 9, 2)
    assert lengths.tolist() == [3, 3, 2, 1, 1, 2, 6, 5, 1]
    assert second.shape[:3] == (2, 6, 2)
    assert none is None


def test_empty_batch():
    output, _ = run_with_markers(fastrcn.GRU(2, 3), torch.randn(4, 0, 2), torch.ones(4, 0))
    assert output.shape == (4, 0, 3)


@pytest.mark.parametrize(
    ("layer", "shape", "markers", "words"),
    [
        (fastrcn.LSTM(2, 3, bidirectional=True), (5, 1, 2), torch.ones(5, 1), "layer: expected one direction"),
        (fastrcn.LSTM(2, 3), (5, 2), torch.ones(5), "input: expected 3 dimensions"),
        (fastrcn.LSTM(2, 3), (5, 1, 2), torch.ones(1, 5), r"markers: expected shape \(5, 1\).*got \(1, 5\)"),
        (fastrcn.LSTM(2, 3), (5, 1, 2), torch.full((5, 1), 2), r"markers: expected 0 .*got \[2\]"),
    ],
)
def test_errors(layer, shape, markers, words):
    with pytest.raises(ValueError, match=words):
        run_with_markers(layer, torch.randn(*shape), markers)


def test_states_of_another_batch():
    with pytest.raises(ValueError, match=r"hx \(h\): expected shape \(1, 2, 4\), got \(1, 3, 4\)"):
        run_with_markers(fastrcn.GRU(2, 4), torch.randn(5, 2, 2), torch.ones(5, 2), torch.zeros(1, 3, 4))
