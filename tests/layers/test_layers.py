"""The layers' contract: shapes, options, state dicts, and equality with torch.nn on 1x1 maps."""

import copy
import pickle

import pytest
import torch
from torch import nn

import fastrcn
from fastrcn import cells
from tests.helpers import loops
from tests.helpers.cells import MGU
from tests.helpers.tolerances import assert_close

LAYERS = {
    "lstm": (fastrcn.ConvLSTM, {}, loops.lstm_step, 2),
    "lstm_peephole": (fastrcn.ConvLSTM, {"peephole": "channel"}, loops.lstm_step, 2),
    "gru": (fastrcn.ConvGRU, {}, loops.gru_step, 1),
    "rnn": (fastrcn.ConvRNN, {}, loops.rnn_step, 1),
}


def parameters_of(layer, suffix=""):
    names = ("weight_ih", "weight_hh", "bias", "weight_ch")
    return {n: getattr(layer, n + suffix, None) for n in names}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
def test_shapes_and_stacking(name, layers, bidirectional, batch_first):
    make, options, step, n_states = LAYERS[name]
    layer = make(2, 3, num_layers=layers, bidirectional=bidirectional, batch_first=batch_first, **options).double()
    directions = 2 if bidirectional else 1
    x = torch.randn(4, 5, 2, 6, 7, dtype=torch.float64)
    output, states = layer(x.transpose(0, 1) if batch_first else x)
    states = states if isinstance(states, tuple) else (states,)
    output = output.transpose(0, 1) if batch_first else output
    assert output.shape == (4, 5, 3 * directions, 6, 7)
    assert len(states) == n_states
    assert all(s.shape == (layers * directions, 5, 3, 6, 7) for s in states)
    below = x
    for k in range(layers):
        parts = []
        for d in range(directions):
            zero = tuple(torch.zeros(5, 3, 6, 7, dtype=torch.float64) for _ in range(n_states))
            p = parameters_of(layer, f"_l{k}" + "_reverse" * d)
            found, last = loops.run(step, p, below, zero, reverse=d == 1)
            parts.append(found)
            for state, value in zip(states, last, strict=True):
                assert_close(state[k * directions + d], value)
        below = torch.cat(parts, 2)
    assert_close(output, below)


@pytest.mark.parametrize("name", LAYERS)
def test_unbatched_input(name):
    make, options, _, n_states = LAYERS[name]
    layer = make(2, 3, num_layers=2, **options)
    x = torch.randn(4, 2, 6, 7)
    output, states = layer(x)
    batched, batched_states = layer(x[:, None])
    assert torch.equal(output, batched[:, 0])
    for a, b in zip(*(s if n_states > 1 else (s,) for s in (states, batched_states)), strict=True):
        assert torch.equal(a, b[:, 0])
    again, _ = layer(x, states)
    assert again.shape == output.shape


@pytest.mark.parametrize("name", LAYERS)
def test_states_carry_a_stream_on(name):
    make, options, _, _ = LAYERS[name]
    layer = make(2, 3, num_layers=2, **options).double()
    x = torch.randn(6, 2, 2, 4, 5, dtype=torch.float64)
    whole, last = layer(x)
    first, states = layer(x[:2])
    second, states = layer(x[2:], states)
    assert_close(torch.cat([first, second]), whole)
    for a, b in zip(*(s if isinstance(s, tuple) else (s,) for s in (states, last)), strict=True):
        assert_close(a, b)


@pytest.mark.parametrize(
    ("make_cell", "make_layer", "options"),
    [
        (fastrcn.ConvLSTMCell, fastrcn.ConvLSTM, {"peephole": "channel"}),
        (fastrcn.ConvGRUCell, fastrcn.ConvGRU, {"reset": "after"}),
        (fastrcn.ConvRNNCell, fastrcn.ConvRNN, {"nonlinearity": "relu"}),
    ],
)
def test_cell_is_one_step_of_the_layer(make_cell, make_layer, options):
    cell, layer = make_cell(2, 3, **options), make_layer(2, 3, **options)
    layer.load_state_dict({f"{name}_l0": value for name, value in cell.state_dict().items()})
    x = torch.randn(3, 2, 2, 4, 5)
    output, _ = layer(x)
    state = None
    for t in range(3):
        state = cell(x[t], state)
        h = state[0] if isinstance(state, tuple) else state
        assert_close(h, output[t])
    unbatched = cell(x[0, 0])
    assert_close(unbatched[0] if isinstance(unbatched, tuple) else unbatched, output[0, 0])


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_vector_cells_equal_torch_nn(kind):
    theirs = getattr(nn, f"{kind}Cell")(5, 7).double()
    ours = getattr(fastrcn, f"{kind}Cell")(5, 7, **({"reset": "after"} if kind == "GRU" else {})).double()
    ours.load_state_dict(theirs.state_dict())
    x, h, c = torch.randn(4, 5).double(), torch.randn(4, 7).double(), torch.randn(4, 7).double()
    state = (h, c) if kind == "LSTM" else h
    for input, given in ((x, state), (x, None), (x[0], None)):
        found, truth = (t if kind == "LSTM" else (t,) for t in (ours(input, given), theirs(input, given)))
        for a, b in zip(found, truth, strict=True):
            assert_close(a, b)
    with pytest.raises(ValueError, match=r"input: expected \(B,features\) or unbatched \(features\)"):
        ours(x[None])


@pytest.mark.parametrize("layers", [1, 2, 5])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_equals_torch_nn(kind, layers, bidirectional):
    theirs = getattr(nn, kind)(5, 7, layers, bidirectional=bidirectional).double()
    options = {"reset": "after"} if kind == "GRU" else {}
    ours = getattr(fastrcn, kind)(5, 7, layers, bidirectional=bidirectional, **options).double()
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(6, 4, 5, dtype=torch.float64, requires_grad=True)
    y = x.detach().clone().requires_grad_()
    output, states = ours(x)
    truth, true_states = theirs(y)
    assert_close(output, truth)
    for a, b in zip(*(s if kind == "LSTM" else (s,) for s in (states, true_states)), strict=True):
        assert_close(a, b)
    weight = torch.randn_like(truth)
    (output * weight).sum().backward()
    (truth * weight).sum().backward()
    assert_close(x.grad, y.grad)
    for name, p in theirs.named_parameters():
        if "weight" in name:
            assert_close(getattr(ours, name).grad, p.grad, name)


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_packed_sequences_of_torch_nn_equal_lengths(kind):
    theirs = getattr(nn, kind)(3, 4, 2, bidirectional=True).double()
    options = {"reset": "after"} if kind == "GRU" else {}
    ours = getattr(fastrcn, kind)(3, 4, 2, bidirectional=True, **options).double()
    ours.load_state_dict(theirs.state_dict())
    x, lengths = torch.randn(5, 3, 3, dtype=torch.float64), torch.tensor([5, 3, 1])
    packed, true_states = theirs(nn.utils.rnn.pack_padded_sequence(x, lengths))
    truth, _ = nn.utils.rnn.pad_packed_sequence(packed)
    output, states = ours(x, lengths=lengths)
    assert_close(output, truth)
    for a, b in zip(*(s if kind == "LSTM" else (s,) for s in (states, true_states)), strict=True):
        assert_close(a, b)


def test_maps_of_one_pixel_equal_torch_nn():
    theirs = nn.LSTM(5, 7).double()
    ours = fastrcn.ConvLSTM(5, 7, 1).double()
    state = {n: v[..., None, None] for n, v in theirs.state_dict().items() if "weight" in n}
    ours.load_state_dict(state | {"bias_l0": theirs.bias_ih_l0 + theirs.bias_hh_l0})
    x = torch.randn(6, 4, 5, dtype=torch.float64)
    assert_close(ours(x[..., None, None])[0][..., 0, 0], theirs(x)[0])
    wide = x[..., None, None].expand(-1, -1, -1, 3, 2)
    assert_close(ours(wide)[0][..., 2, 1], theirs(x)[0])


def test_gru_forms_agree_where_they_must():
    """M4: with a diagonal U and no candidate bias, resetting before or after is the same, up to z -> 1 - z."""
    before, after = fastrcn.GRU(3, 4, bias=False).double(), fastrcn.GRU(3, 4, bias=False, reset="after").double()
    state = before.state_dict()
    state["weight_hh_l0"][8:] = torch.diag(torch.randn(4, dtype=torch.float64))
    before.load_state_dict(state)
    flipped = {n: v.clone() for n, v in state.items()}
    for value in flipped.values():
        value[4:8] *= -1
    after.load_state_dict(flipped)
    x = torch.randn(5, 2, 3, dtype=torch.float64)
    assert_close(before(x)[0], after(x)[0])
    full = {n: torch.randn_like(v) for n, v in state.items()}
    for layer in (before, after):
        layer.load_state_dict(full)
    assert (before(x)[0] - after(x)[0]).abs().max() > 1e-2


def test_torch_gru_weights_do_not_load_into_the_other_form():
    with pytest.raises(RuntimeError, match="bias_ih_l0"):
        fastrcn.GRU(3, 4).load_state_dict(nn.GRU(3, 4).state_dict())


class TestEquations:
    """The `Verify` lines of the cells' descriptions."""

    def test_rnn_without_recurrence_is_framewise(self):
        layer = fastrcn.ConvRNN(2, 3).double()
        nn.init.zeros_(layer.weight_hh_l0)
        x = torch.randn(4, 2, 2, 5, 6, dtype=torch.float64)
        truth = torch.tanh(nn.functional.conv2d(x.flatten(0, 1), layer.weight_ih_l0, layer.bias_l0, padding=1))
        assert_close(layer(x)[0].flatten(0, 1), truth)

    def test_output_gate_reads_the_new_cell_state(self):
        layer = fastrcn.ConvLSTM(1, 1, 1, peephole="channel").double()
        for p in layer.parameters():
            nn.init.zeros_(p)
        with torch.no_grad():
            layer.bias_l0[:3] = torch.tensor([9.0, 9.0, 9.0])  # i = f = 1, g = 1
            layer.weight_ch_l0[2] = 1.0
        h, c = layer(torch.zeros(1, 1, 1, 1, 1, dtype=torch.float64))[1]
        assert_close(h, torch.sigmoid(c) * torch.tanh(c))
        assert (h - torch.sigmoid(torch.zeros(())) * torch.tanh(c)).abs().max() > 0.1

    def test_zero_peepholes_change_nothing(self):
        plain, peephole = fastrcn.ConvLSTM(2, 3).double(), fastrcn.ConvLSTM(2, 3, peephole="channel").double()
        peephole.load_state_dict(plain.state_dict() | {"weight_ch_l0": torch.zeros(9)})
        x = torch.randn(4, 2, 2, 5, 6, dtype=torch.float64)
        assert_close(peephole(x)[0], plain(x)[0])

    def test_shift_equivariance_away_from_borders(self):
        layer = fastrcn.ConvLSTM(2, 3).double()
        x = torch.zeros(2, 1, 2, 16, 16, dtype=torch.float64)
        x[..., 6:9, 6:9] = torch.randn(2, 1, 2, 3, 3, dtype=torch.float64)
        output, shifted = layer(x)[0], layer(x.roll((1, 2), (3, 4)))[0]
        assert_close(shifted[..., 4:13, 5:13], output[..., 3:12, 3:11])

    def test_gru_state_stays_bounded(self):
        layer = fastrcn.ConvGRU(2, 3)
        assert layer(100 * torch.randn(20, 1, 2, 4, 4))[0].abs().max() <= 1

    def test_stacked_without_bottom_up_weights_is_gru(self):
        stacked, plain = fastrcn.StackedConvGRU((2, 4), 3).double(), fastrcn.ConvGRU(2, 3).double()
        nn.init.zeros_(stacked.weight_bh_l0)
        plain.load_state_dict({n: v for n, v in stacked.state_dict().items() if n != "weight_bh_l0"})
        x, below = torch.randn(4, 2, 2, 5, 5, dtype=torch.float64), torch.randn(4, 2, 4, 5, 5, dtype=torch.float64)
        assert_close(stacked((x, below))[0], plain(x)[0])

    def test_saturated_gates_hide_the_level_below(self):
        x, below = torch.randn(4, 2, 2, 5, 5), torch.randn(4, 2, 4, 5, 5)
        for candidate in (False, True):
            layer = fastrcn.StackedConvGRU((2, 4), 3, bottom_up_in_candidate=candidate)
            with torch.no_grad():
                layer.bias_l0[:6] = 1000.0
            same = torch.equal(layer((x, below))[0], layer((x, below + 1))[0])
            assert same is not candidate

    @pytest.mark.parametrize(
        ("layer", "count"),
        [
            (fastrcn.ConvRNN(5, 7), 9 * 7 * 12 + 7),
            (fastrcn.LSTM(5, 7), 4 * 7 * 12 + 28),
            (fastrcn.LSTM(5, 7, peephole="channel"), 4 * 7 * 12 + 28 + 21),
            (fastrcn.GRU(5, 7), 3 * 7 * 12 + 21),
            (
                fastrcn.ConvLSTM(5, 7, 5, recurrent_kernel_size=3, peephole="channel"),
                4 * (25 * 5 * 7 + 9 * 49) + 28 + 21,
            ),
            (fastrcn.ConvGRU(5, 7, bias=False), 3 * 9 * 7 * 12),
            (fastrcn.StackedConvGRU((5, 6), 7, bias=False), 3 * 9 * 7 * 12 + 2 * 9 * 6 * 7),
            (
                fastrcn.StackedConvGRU((5, 6), 7, bias=False, bottom_up_in_candidate=True),
                3 * 9 * 7 * 12 + 3 * 9 * 6 * 7,
            ),
        ],
    )
    def test_parameter_counts(self, layer, count):
        assert sum(p.numel() for p in layer.parameters()) == count


def test_names_of_parameters():
    layer = fastrcn.ConvLSTM(2, 3, num_layers=2, bidirectional=True, peephole="channel")
    names = {"weight_ih", "weight_hh", "bias", "weight_ch"}
    suffixes = ("_l0", "_l0_reverse", "_l1", "_l1_reverse")
    assert set(layer.state_dict()) == {n + s for n in names for s in suffixes}
    full = fastrcn.ConvLSTM(2, 3, peephole="full", map_size=(4, 5))
    assert full.weight_ch_l0.shape == (9, 4, 5)


def test_dropout_acts_between_layers_in_training_only():
    layer = fastrcn.ConvGRU(2, 3, num_layers=2, dropout=0.5)
    x = torch.randn(3, 2, 2, 4, 4)
    assert not torch.equal(layer(x)[0], layer(x)[0])
    layer.eval()
    assert torch.equal(layer(x)[0], layer(x)[0])
    with pytest.warns(UserWarning, match="num_layers is 1"):
        fastrcn.ConvGRU(2, 3, dropout=0.5)


@pytest.mark.parametrize("stride", [2, 3])
def test_stride_belongs_to_the_first_layer(stride):
    layer = fastrcn.ConvLSTM(2, 3, num_layers=2, stride=stride)
    output, (h, _) = layer(torch.randn(3, 1, 2, 7, 9))
    assert output.shape[3:] == h.shape[3:] == (1 + 6 // stride, 1 + 8 // stride)


def test_copies_and_pickles():
    layer = fastrcn.ConvRecurrent(MGU(), 2, 3)
    x = torch.randn(3, 2, 2, 4, 4)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(other(x)[0], layer(x)[0])


def test_repr_names_the_cell_where_the_class_does_not():
    cell = "fastrcn.cells.conv_gru.ConvGRU(reset='after')"
    layer = fastrcn.ConvRecurrent(cells.ConvGRU("after"), 2, 3, 5, num_layers=2)
    assert repr(layer) == f"ConvRecurrent({cell}, 2, 3, kernel_size=(5, 5), num_layers=2)"
    step = fastrcn.ConvRecurrentCell(cells.ConvGRU("after"), 2, 3, bias=False)
    assert repr(step) == f"ConvRecurrentCell({cell}, 2, 3, kernel_size=(3, 3), bias=False)"
    assert repr(fastrcn.ConvGRU(2, 3)) == "ConvGRU(2, 3, kernel_size=(3, 3))"


def test_meta_device_and_empty_batch():
    layer = fastrcn.ConvLSTM(2, 3, device="meta", dtype=torch.bfloat16)
    output, _ = layer(torch.randn(3, 2, 2, 4, 4, device="meta", dtype=torch.bfloat16))
    assert output.is_meta
    assert output.dtype == torch.bfloat16
    layer = fastrcn.ConvLSTM(2, 3)
    x = torch.randn(3, 0, 2, 4, 4, requires_grad=True)
    output, _ = layer(x)
    assert output.shape == (3, 0, 3, 4, 4)
    output.sum().backward()
    assert x.grad.shape == x.shape
    assert layer.weight_hh_l0.grad.abs().max() == 0


def test_every_parameter_gets_a_gradient():
    layer = fastrcn.ConvLSTM(2, 3, num_layers=2, bidirectional=True, peephole="channel")
    layer(torch.randn(3, 2, 2, 4, 4))[0].square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in layer.parameters())


def test_output_may_be_changed_in_place():
    layer = fastrcn.ConvGRU(2, 3)
    x = torch.randn(3, 2, 2, 4, 4)
    with torch.no_grad():
        layer(x)[0].relu_()
    output = layer(x)[0] * 1
    output.relu_().sum().backward()
