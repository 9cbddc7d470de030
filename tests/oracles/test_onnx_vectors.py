"""LSTM, GRU and RNN against the test cases of the ONNX standard: inputs and outputs of the operators by its authors.

Their weights are nearly all equal, whatever the gate: so onnx's own evaluator also runs each case with random values.
"""

import numpy as np
import pytest
import torch

import fastrcn
from tests.helpers.tolerances import assert_close

onnx = pytest.importorskip("onnx", reason="onnx is not installed")

# Importing one operator's file computes its cases; onnx's own function would compute those of all operators.
from onnx.backend.test.case import node as cases  # noqa: E402
from onnx.backend.test.case.node import gru, lstm, rnn  # noqa: E402
from onnx.reference import ReferenceEvaluator  # noqa: E402

KINDS = {"LSTM": lstm, "GRU": gru, "RNN": rnn}
CASES = {c.name: c for c in cases._NodeTestCases if c.model.graph.node[0].op_type in KINDS}
# ONNX packs i, o, f, c and z, r, h.
ORDER = {"LSTM": (0, 2, 3, 1), "GRU": (1, 0, 2), "RNN": (0,)}

pytestmark = pytest.mark.usefixtures("one_thread")


def test_there_are_cases():
    assert len(CASES) == 18
    assert {"test_lstm_with_peepholes", "test_gru_seq_length", "test_simple_rnn_batchwise"} <= CASES.keys()


def blocks(kind, rows):
    """Rows of one direction in our order; a GRU's z of ONNX is the paper's 1 - z, and 1 - sigmoid(a) = sigmoid(-a)."""
    parts = list(np.split(rows, len(ORDER[kind])))
    if kind == "GRU":
        parts[0] = -parts[0]
    return torch.from_numpy(np.concatenate([parts[k] for k in ORDER[kind]]))


def parameters(kind, given, direction):
    """The parameters of one direction by our names, without a suffix."""
    found = {name: blocks(kind, given[key][direction]) for name, key in (("weight_ih", "W"), ("weight_hh", "R"))}
    if "B" in given:
        found["bias"] = blocks(kind, sum(np.split(given["B"][direction], 2)))
    if "P" in given:
        i, o, f = np.split(given["P"][direction], 3)
        found["weight_ch"] = torch.from_numpy(np.concatenate([i, f, o]))
    return found


def values(case, published):
    """(inputs, outputs): the published ones, in float32, or random ones in float64."""
    [(inputs, outputs)] = case.data_sets
    if published:
        return inputs, outputs
    rng = np.random.default_rng(0)
    inputs = [v if v.dtype == np.int32 else rng.uniform(-1, 1, v.shape) for v in inputs]
    named = dict(zip((i.name for i in case.model.graph.input), inputs, strict=True))
    return inputs, ReferenceEvaluator(case.model).run(None, named)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("published", [True, False], ids=["published", "random"])
@pytest.mark.parametrize("name", CASES)
def test_case(name, published, backend):
    inputs, outputs = values(CASES[name], published)
    (node,) = CASES[name].model.graph.node
    options = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    given = dict(zip((i for i in node.input if i), inputs, strict=True))
    expected = dict(zip((o for o in node.output if o), outputs, strict=True))
    kind, direction = node.op_type, options.get("direction", b"forward").decode()
    assert set(options) <= {"hidden_size", "direction", "layout"}
    assert set(given) <= {"X", "W", "R", "B", "P", "sequence_lens", "initial_h", "initial_c"}

    # One direction from the last step to the first is the second one of a layer with both.
    both = direction != "forward"
    layer = getattr(fastrcn, kind)(
        given["X"].shape[2], options["hidden_size"], bias="B" in given, bidirectional=both,
        batch_first=options.get("layout", 0) == 1, backend=backend, dtype=torch.from_numpy(given["X"]).dtype,
        **({"peephole": "channel"} if "P" in given else {}),
    )  # fmt: skip
    state = layer.state_dict()
    suffixes = {"forward": ["_l0"], "reverse": ["_l0_reverse"], "bidirectional": ["_l0", "_l0_reverse"]}[direction]
    for k, suffix in enumerate(suffixes):
        state |= {key + suffix: value for key, value in parameters(kind, given, k).items()}
    layer.load_state_dict(state)

    hx = None
    if "initial_h" in given:
        hx = tuple(torch.from_numpy(given[key]) for key in ("initial_h", "initial_c") if key in given)
    lengths = torch.from_numpy(given["sequence_lens"]) if "sequence_lens" in given else None
    output, last = layer(torch.from_numpy(given["X"]), hx, lengths=lengths)
    output = output.unflatten(2, (-1, options["hidden_size"]))  # (T,B,D,H), or (B,T,D,H)
    last = dict(zip(("Y_h", "Y_c"), last if isinstance(last, tuple) else (last,), strict=False))
    if direction == "reverse":
        output, last = output[:, :, 1:], {key: value[1:] for key, value in last.items()}
    found = last | {"Y": output.transpose(1, 2)}
    if options.get("layout") == 1:
        found = {key: value.transpose(0, 1) for key, value in last.items()} | {"Y": output}
    for key, truth in expected.items():
        assert_close(found[key], torch.from_numpy(truth), key)
