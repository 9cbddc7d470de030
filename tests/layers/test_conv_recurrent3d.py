"""Layers and cells on volumes (C,D,H,W) against loops over ``torch.nn.functional.conv3d``."""

from typing import Any

import pytest
import torch

import fastrcn
from tests.helpers import loops
from tests.helpers.tolerances import assert_close

pytestmark = pytest.mark.usefixtures("one_thread")

LAYERS = {
    "lstm": (fastrcn.ConvLSTM3d, {"peephole": "full", "map_size": (3, 2, 4)}, loops.lstm_step, 2),
    "gru": (fastrcn.ConvGRU3d, {}, loops.gru_step, 1),
    "rnn": (fastrcn.ConvRNN3d, {}, loops.rnn_step, 1),
}


def parameters(layer, k, direction):
    """Those of a layer and direction by their names without a suffix."""
    suffix = f"_l{k}" + "_reverse" * direction
    return {n.removesuffix(suffix): p for n, p in layer.named_parameters() if n.endswith(suffix)}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_two_layers_and_directions_with_all_gradients(name, dtype):
    make, options, step, n_states = LAYERS[name]
    options: Any = options | {"stride": (1, 2, 1), "padding": (1, 0, 1), "recurrent_kernel_size": (3, 1, 3)}
    layer = make(2, 3, (3, 3, 3), 2, bidirectional=True, batch_first=True, **options).double()
    with torch.no_grad():
        for p in layer.parameters():
            p.uniform_(-0.3, 0.3)
    x = torch.randn(3, 4, 2, 3, 5, 4, dtype=torch.float64, requires_grad=True)
    hx = [torch.randn(4, 3, 3, 3, 2, 4, dtype=torch.float64, requires_grad=True) for _ in range(n_states)]
    lengths, below, last = torch.tensor([4, 2, 0]), x.transpose(0, 1), []
    for k in range(2):
        convolved, outputs = {"stride": (1, 2, 1), "padding": (1, 0, 1)} if k == 0 else {}, []
        for d in range(2):
            states = tuple(s[2 * k + d] for s in hx)
            output, states = loops.run(step, parameters(layer, k, d), below, states, lengths, bool(d), **convolved)
            outputs.append(output)
            last.append(states)
        below = torch.cat(outputs, 2)
    truth = [below.transpose(0, 1), *(torch.stack(s) for s in zip(*last, strict=True))]
    weights = [torch.randn_like(t) for t in truth]
    losses = [(w * t).sum() for w, t in zip(weights, truth, strict=True)]
    expected = torch.autograd.grad(losses, [x, *layer.parameters(), *hx])

    layer = layer.to(dtype)
    x, *hx = (t.detach().to(dtype).requires_grad_() for t in (x, *hx))
    output, states = layer(x, tuple(hx) if n_states > 1 else hx[0], lengths=lengths)
    results = [output, *(states if n_states > 1 else (states,))]
    for found, value in zip(results, truth, strict=True):
        assert_close(found, value, dtype=dtype)
    losses = [(w.to(dtype) * r).sum() for w, r in zip(weights, results, strict=True)]
    for found, value in zip(torch.autograd.grad(losses, [x, *layer.parameters(), *hx]), expected, strict=True):
        assert_close(found, value, dtype=dtype)


def test_reset_begins_anew():
    layer, x = fastrcn.ConvLSTM3d(2, 3, peephole="channel"), torch.randn(5, 2, 2, 2, 3, 4)
    reset = torch.zeros(5, 2, dtype=torch.bool)
    reset[2, 0] = reset[3, 1] = True
    output, (h, _) = layer(x, reset=reset)
    for b, begin in ((0, 2), (1, 3)):
        one = x[:, b : b + 1]
        truth = torch.cat([layer(one[:begin])[0], layer(one[begin:])[0]])
        assert_close(output[:, b : b + 1], truth)
        assert_close(h[0, b], truth[-1, 0])


def test_zoneout_and_recurrent_dropout():
    """In evaluation their expectation; in training each unit keeps its value or takes the new one."""
    layer = fastrcn.ConvGRU3d(2, 3, zoneout=0.25, recurrent_dropout=0.5)
    x, hx = torch.randn(3, 2, 2, 2, 3, 4), torch.randn(1, 2, 3, 2, 3, 4)
    p, h = parameters(layer, 0, 0), hx[0]
    for x_t in x:
        h = 0.25 * h + 0.75 * loops.gru_step(p, x_t, (h,))[0]
    assert_close(layer.eval()(x, hx)[1][0], h)
    output = layer.train()(x, hx)[0]
    kept = (output[0] == hx[0]).float().mean()
    assert 0.1 < kept < 0.4
    assert output.requires_grad


CELLS = {
    "lstm": (fastrcn.ConvLSTM3dCell, fastrcn.ConvLSTM3d, {"peephole": "channel", "forget_bias": 1.0}, 2),
    "gru": (fastrcn.ConvGRU3dCell, fastrcn.ConvGRU3d, {"reset": "after"}, 1),
    "rnn": (fastrcn.ConvRNN3dCell, fastrcn.ConvRNN3d, {"nonlinearity": "relu"}, 1),
}


@pytest.mark.parametrize("name", CELLS)
def test_a_cell_is_one_step_of_its_layer(name):
    make_cell, make, options, n_states = CELLS[name]
    cell, layer = make_cell(2, 3, (1, 3, 3), stride=2, **options), make(2, 3, (1, 3, 3), stride=2, **options)
    cell.load_state_dict({n.removesuffix("_l0"): p for n, p in layer.state_dict().items()})
    x = torch.randn(4, 2, 2, 3, 4, 5)
    truth, last = layer(x)
    state: Any = None
    for x_t, value in zip(x, truth, strict=True):
        state = cell(x_t, state)
        assert_close(state[0] if n_states > 1 else state, value)
    assert_close(state[1] if n_states > 1 else state, last[1][0] if n_states > 1 else last[0])
    single: Any = cell(x[0, 0])  # unbatched
    assert_close(single[0] if n_states > 1 else single, truth[0, 0])


@pytest.mark.parametrize("name", LAYERS)
def test_state_dict_has_the_names_of_the_layer_on_maps(name):
    make, options, _, _ = LAYERS[name]
    flat = {"lstm": fastrcn.ConvLSTM, "gru": fastrcn.ConvGRU, "rnn": fastrcn.ConvRNN}[name]
    deep = make(2, 3, (1, 3, 3), 2, bidirectional=True, **options).state_dict()
    maps = flat(2, 3, 3, 2, bidirectional=True, **{n: v[1:] if n == "map_size" else v for n, v in options.items()})
    assert list(deep) == list(maps.state_dict())
    for key, value in maps.state_dict().items():
        shape = tuple(value.shape)
        frames = {"weight_ch": 3}.get(key[:9], 1)
        assert tuple(deep[key].shape) == ((*shape[:-2], frames, *shape[-2:]) if len(shape) > 1 else shape)


def test_shapes_and_description():
    layer = fastrcn.ConvLSTM3d(2, 3, (1, 3, 3), padding="valid", stride=(1, 2, 2), peephole="channel")
    assert "2, 3, kernel_size=(1, 3, 3), stride=(1, 2, 2), padding=(0, 0, 0), peephole='channel'" in repr(layer)
    output, (h, c) = layer(torch.randn(5, 2, 4, 7, 9))  # unbatched
    assert output.shape == (5, 3, 4, 3, 4)
    assert h.shape == c.shape == (1, 3, 4, 3, 4)
    assert "stride" not in repr(fastrcn.ConvGRU3d(2, 3))
    limit = 1 / (3 * 27) ** 0.5
    assert 0.9 * limit < fastrcn.ConvRNN3d(2, 3).weight_hh_l0.abs().max() <= limit


def test_autocast():
    layer = fastrcn.ConvLSTM3d(2, 3, bidirectional=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output, (_, c) = layer(torch.randn(3, 2, 2, 2, 3, 4))
    assert output.dtype == c.dtype == torch.bfloat16
    output.float().sum().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in layer.parameters())


def test_compiled_once_for_all_lengths_batches_and_sizes():
    from torch._dynamo.testing import CompileCounterWithBackend

    torch._dynamo.reset()
    layer = fastrcn.ConvLSTM3d(2, 3, peephole="channel", bidirectional=True)
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(layer, backend=counter, fullgraph=True)
    for steps, batch, *size in ((3, 2, 4, 5, 6), (4, 3, 2, 7, 4), (5, 4, 3, 3, 8)):
        x = torch.randn(steps, batch, 2, *size, requires_grad=True)
        for axis in (0, 1, 3, 4, 5):
            torch._dynamo.mark_dynamic(x, axis)
        leaves, found, truth = [x, *layer.parameters()], compiled(x)[0], layer(x)[0]
        assert_close(found, truth)
        grads = (torch.autograd.grad(output.sum(), leaves) for output in (found, truth))
        for a, b in zip(*grads, strict=True):
            assert_close(a, b)
    assert counter.frame_count == 1


def test_export_of_the_plain_form_keeps_the_convolution_of_its_rank():
    for make, size, convolution in ((fastrcn.ConvGRU3d, (2, 4, 3), "conv3d"), (fastrcn.ConvGRU, (4, 3), "conv2d")):
        layer, x = make(2, 3, backend="reference"), torch.randn(3, 2, 2, *size)
        program = torch.export.export(layer, (x,))
        targets = [str(n.target) for n in program.graph.nodes if "conv" in str(n.target)]
        assert targets
        assert all(convolution in t for t in targets)
        assert_close(program.module()(x)[0], layer(x)[0])


def test_errors():
    pair: Any = (3, 3)
    with pytest.raises(ValueError, match=r"input: expected \(T,B,C,D,H,W\) or unbatched \(T,C,D,H,W\), got shape \(2,"):
        fastrcn.ConvGRU3d(2, 3)(torch.randn(2, 3, 4, 4))
    with pytest.raises(ValueError, match=r"input: expected \(B,C,D,H,W\) or unbatched \(C,D,H,W\), got shape \(2, 4"):
        fastrcn.ConvGRU3dCell(2, 3)(torch.randn(2, 4, 4))
    with pytest.raises(ValueError, match=r"kernel_size: expected a positive int or three of them, got \(3, 3\)"):
        fastrcn.ConvGRU3d(2, 3, kernel_size=pair)
    with pytest.raises(ValueError, match=r"stride: expected a positive int or three of them, got \(1, 2\)"):
        fastrcn.ConvLSTM3d(2, 3, stride=(1, 2))
    with pytest.raises(ValueError, match="kernel_size: expected odd"):
        fastrcn.ConvRNN3d(2, 3, (2, 3, 3))
    with pytest.raises(ValueError, match="map_size: expected the size of the hidden map"):
        fastrcn.ConvLSTM3d(2, 3, peephole="full")
    with pytest.raises(ValueError, match=r"map_size: expected a positive int or three of them, got \(4, 4\)"):
        fastrcn.ConvLSTM3d(2, 3, peephole="full", map_size=(4, 4))
    with pytest.raises(ValueError, match=r"hx \(h\): expected shape \(1, 2, 3, 4, 4, 4\), got \(1, 2, 3, 4, 4\)"):
        fastrcn.ConvRNN3d(2, 3)(torch.randn(2, 2, 2, 4, 4, 4), torch.zeros(1, 2, 3, 4, 4))
