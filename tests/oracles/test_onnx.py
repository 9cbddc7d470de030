"""LSTM (with and without peepholes) and GRU (both resets) against the ONNX operators as onnxruntime runs them."""

import numpy as np
import pytest
import torch

import fastrcn
from tests.helpers.tolerances import assert_close

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

STEPS, BATCH, FEATURES, HIDDEN = 5, 3, 4, 6
LENGTHS = np.array([5, 2, 4], dtype=np.int32)


def run_operator(kind, tensors, **attributes):
    """Run one ONNX operator on named float32 arrays; an empty name leaves an input out."""
    names = [name if value is not None else "" for name, value in tensors.items()]
    outputs = ["Y", "Y_h", "Y_c"][: 3 if kind == "LSTM" else 2]
    node = onnx.helper.make_node(kind, names, outputs, hidden_size=HIDDEN, **attributes)
    feeds = {name: value for name, value in tensors.items() if value is not None}
    inputs = [
        onnx.helper.make_tensor_value_info(n, onnx.helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
        for n, v in feeds.items()
    ]
    results = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, None) for n in outputs]
    graph = onnx.helper.make_graph([node], "cell", inputs, results)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 14)], ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return [torch.from_numpy(v) for v in session.run(None, feeds)]


def packed(layer, name, blocks, order):
    """A parameter of both directions as ONNX wants it: (2, blocks*H, ...), blocks in ``order``."""
    directions = []
    for suffix in ("_l0", "_l0_reverse"):
        parts = getattr(layer, name + suffix).detach().chunk(blocks)
        directions.append(torch.cat([parts[k] for k in order]))
    return torch.stack(directions).numpy()


def two_biases(merged):
    """ONNX adds two biases."""
    return np.concatenate([merged, np.zeros_like(merged)], 1)


def check(layer, results, x, hx):
    output, states = layer(torch.from_numpy(x), hx, lengths=torch.from_numpy(LENGTHS))
    states = states if isinstance(states, tuple) else (states,)
    y, *last = results
    assert_close(output, y.movedim(1, 2).flatten(2), "output")
    for found, truth in zip(states, last, strict=True):
        assert_close(found, truth, "last state")


@pytest.fixture(params=["reference", "cpu"])
def backend(request):
    with fastrcn.use_backend(request.param):
        yield request.param


def random_inputs(states):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((STEPS, BATCH, FEATURES)).astype(np.float32)
    return x, [rng.standard_normal((2, BATCH, HIDDEN)).astype(np.float32) for _ in range(states)]


@pytest.mark.parametrize("peephole", [None, "channel"])
def test_lstm(peephole, backend):
    layer = fastrcn.LSTM(FEATURES, HIDDEN, bidirectional=True, peephole=peephole)
    for p in layer.parameters():
        torch.nn.init.uniform_(p, -0.7, 0.7)
    x, (h, c) = random_inputs(2)
    iofg = (0, 3, 1, 2)  # ONNX: input, output, forget, cell
    tensors = {
        "X": x,
        "W": packed(layer, "weight_ih", 4, iofg),
        "R": packed(layer, "weight_hh", 4, iofg),
        "B": two_biases(packed(layer, "bias", 4, iofg)),
        "lengths": LENGTHS,
        "h": h,
        "c": c,
        "P": packed(layer, "weight_ch", 3, (0, 2, 1)) if peephole else None,
    }
    results = run_operator("LSTM", tensors, direction="bidirectional")
    check(layer, results, x, (torch.from_numpy(h), torch.from_numpy(c)))


@pytest.mark.parametrize("reset", ["before", "after"])
def test_gru(reset, backend):
    layer = fastrcn.GRU(FEATURES, HIDDEN, bidirectional=True, reset=reset)
    for p in layer.parameters():
        torch.nn.init.uniform_(p, -0.7, 0.7)
    x, (h,) = random_inputs(1)
    zrn = (1, 0, 2)
    w, r = packed(layer, "weight_ih", 3, zrn), packed(layer, "weight_hh", 3, zrn)
    if reset == "before":
        bias = two_biases(packed(layer, "bias", 3, zrn))
        # ONNX keeps the state with weight z, the paper renews it with weight z: 1 - sigmoid(a) = sigmoid(-a).
        for value in (w, r, bias):
            value[:, :HIDDEN] *= -1
    else:
        merged = packed(layer, "bias", 4, (1, 0, 2, 3))
        hidden = np.zeros_like(merged[:, : 3 * HIDDEN])
        hidden[:, 2 * HIDDEN :] = merged[:, 3 * HIDDEN :]
        bias = np.concatenate([merged[:, : 3 * HIDDEN], hidden], 1)
    tensors = {"X": x, "W": w, "R": r, "B": bias, "lengths": LENGTHS, "h": h}
    results = run_operator("GRU", tensors, direction="bidirectional", linear_before_reset=int(reset == "after"))
    check(layer, results, x, torch.from_numpy(h))
