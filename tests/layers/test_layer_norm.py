"""The option ``layer_norm`` of the layers; the cells themselves: tests/cells/test_layer_norm.py."""

import pickle

import pytest
import torch
import torch.nn.functional as F

import fastrcn
from fastrcn import cells
from fastrcn.functional import conv_recurrent
from tests.helpers.tolerances import assert_close

pytestmark = pytest.mark.usefixtures("one_thread")


def vector_lstm(p, x, state):
    """Ba et al. 2016, equations 20 to 22, without the norm of c."""
    h, c = state
    a = p["norm_ih"] * F.layer_norm(x @ p["weight_ih"].T, (16,)) + p["bias"]
    i, f, g, o = (a + p["norm_hh"] * F.layer_norm(h @ p["weight_hh"].T, (16,))).chunk(4, 1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


def test_vectors():
    layer = fastrcn.LSTM(3, 4, layer_norm="channel").double()
    for parameter in layer.parameters():
        torch.nn.init.uniform_(parameter, -1, 1)
    x, state = torch.randn(5, 2, 3, dtype=torch.float64), [torch.zeros(2, 4, dtype=torch.float64)] * 2
    p, outputs = {n.removesuffix("_l0"): v for n, v in layer.named_parameters()}, []
    for t in range(5):
        state = vector_lstm(p, x[t], state)
        outputs.append(state[0])
    output, (_, c) = layer(x)
    assert_close(output, torch.stack(outputs))
    assert_close(c[0], state[1])


@pytest.mark.parametrize("peephole", [None, "channel", "full"])
@pytest.mark.parametrize("layer_norm", ["channel", "full"])
@pytest.mark.parametrize("make", [fastrcn.ConvLSTM, fastrcn.ConvLSTM1d])
def test_arguments_of_the_operation(make, layer_norm, peephole):
    """Weights per channel beside maps are spread over the map."""
    axes = 1 if make is fastrcn.ConvLSTM1d else 2
    size = (3, 5)[2 - axes :]
    layer = make(
        2, 4, peephole=peephole, layer_norm=layer_norm, layer_norm_eps=0.3, map_size=size if axes == 2 else 5,
        forget_bias=0.7,
    )  # fmt: skip
    for parameter in layer.double().parameters():
        torch.nn.init.uniform_(parameter, -1, 1)
    x = torch.randn(4, 2, 2, *size, dtype=torch.float64)

    def maps(tensor, least=3):
        """(..., H,W) with one row where there is a line."""
        tensor = tensor if tensor.dim() >= least else tensor[(..., *(None,) * axes)].expand(*tensor.shape, *size)
        return tensor.unsqueeze(-2) if axes == 1 else tensor

    p = dict(layer.named_parameters())
    bias = maps(p["bias_l0"], 1 + axes) + F.pad(x.new_full((4,), 0.7), (4, 8)).view(-1, 1, 1)
    names = [*(["weight_ch_l0"] if peephole else []), "norm_ih_l0", "norm_hh_l0"]
    factors = torch.cat([maps(p[name], 1 + axes) for name in names])
    cell = cells.LayerNorm(cells.ConvLSTM(peephole is not None), 0.3)
    weights = [p[n] if axes == 2 else p[n].unsqueeze(-2) for n in ("weight_ih_l0", "weight_hh_l0")]
    truth, _ = conv_recurrent(cell, x if axes == 2 else x.unsqueeze(-2), *weights, bias, factors, backend="reference")
    assert_close(layer(x)[0], truth.reshape(4, 2, 4, *size))


def test_stacked_bidirectional_gru_with_noise_and_its_gradients():
    options = {"num_layers": 2, "bidirectional": True, "layer_norm": "channel"}
    plain, fused = (
        fastrcn.ConvGRU(2, 3, backend=name, zoneout=0.2, recurrent_dropout=0.3, **options).double()
        for name in ("reference", "cpu")
    )
    fused.load_state_dict(plain.state_dict())
    x = torch.randn(4, 2, 2, 5, 4, dtype=torch.float64)
    found = []
    for layer in (plain, fused):
        torch.manual_seed(1)
        output, _ = layer(x, lengths=[4, 2])
        grads = torch.autograd.grad(output.square().sum(), list(layer.parameters()))
        found.append([output, *grads])
    assert sum("norm_" in name for name, _ in plain.named_parameters()) == 8
    for one, other in zip(*found, strict=True):
        assert_close(other, one)


def test_volumes():
    plain, fused = (
        fastrcn.ConvLSTM3d(2, 3, layer_norm="full", map_size=(3, 4, 5), peephole="channel", backend=name).double()
        for name in ("reference", "cpu")
    )
    for parameter in plain.parameters():
        torch.nn.init.uniform_(parameter, -1, 1)
    fused.load_state_dict(plain.state_dict())
    x = torch.randn(3, 2, 2, 3, 4, 5, dtype=torch.float64)
    found = []
    for layer in (plain, fused):
        output, _ = layer(x)
        found.append([output, *torch.autograd.grad(output.square().sum(), list(layer.parameters()))])
    h = F.layer_norm(F.conv3d(x[0], plain.weight_ih_l0, padding=1), (12, 3, 4, 5))
    i, _, g, o = (plain.norm_ih_l0 * h + plain.bias_l0).chunk(4, 1)
    c = i.sigmoid() * g.tanh()
    peephole = plain.weight_ch_l0[-3:].view(3, 1, 1, 1)
    assert_close(found[0][0][0], (o + peephole * c).sigmoid() * c.tanh())
    for one, other in zip(*found, strict=True):
        assert_close(other, one)


def test_two_inputs():
    layer = fastrcn.StackedConvGRU((2, 3), 4, layer_norm="channel").double()
    assert {n: tuple(p.shape) for n, p in layer.named_parameters() if n.startswith("norm")} == {
        "norm_ih_l0": (12,), "norm_bh_l0": (8,), "norm_hh_l0": (12,),
    }  # fmt: skip
    pair = tuple(torch.randn(3, 2, n, 4, 4, dtype=torch.float64) for n in (2, 3))
    with fastrcn.use_backend("reference"):
        truth, _ = layer(pair)
    assert_close(layer(pair)[0], truth)


def test_at_first_as_without_learned_values_and_it_trains():
    torch.manual_seed(0)
    layer = fastrcn.ConvLSTM(2, 3, layer_norm="full", map_size=(4, 5))
    assert torch.equal(layer.norm_hh_l0, torch.ones(12, 4, 5))
    assert torch.equal(layer.bias_l0, torch.zeros(12, 4, 5))
    x, target = torch.randn(4, 2, 2, 4, 5), torch.randn(4, 2, 3, 4, 5).tanh()
    optimizer, losses = torch.optim.Adam(layer.parameters(), lr=0.05), []
    for _ in range(120):
        optimizer.zero_grad()
        losses.append((layer(x)[0] - target).square().mean())
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.2 * losses[0]


def test_one_step_streams_as_the_layer_and_pickles():
    layer = fastrcn.ConvGRU(2, 3, layer_norm="channel").double()
    cell = fastrcn.ConvGRUCell(2, 3, layer_norm="channel").double()
    cell.load_state_dict({n.removesuffix("_l0"): v for n, v in layer.state_dict().items()})
    cell = pickle.loads(pickle.dumps(cell))
    x, h = torch.randn(3, 2, 2, 4, 4, dtype=torch.float64), None
    for frame in x:
        h = cell(frame, h)
    assert_close(h, layer(x)[1][0])
    assert 'layer_norm="channel"' in repr(cell) or "layer_norm='channel'" in repr(cell)


def test_compiled_and_under_autocast():
    layer = fastrcn.ConvLSTM(2, 4, layer_norm="channel")
    x = torch.randn(4, 2, 2, 5, 5)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    assert_close(compiled(x)[0], layer(x)[0])
    with torch.autocast("cpu", torch.bfloat16):
        output, _ = layer(x)
        output.sum().backward()
    assert output.dtype == torch.bfloat16
    assert layer.norm_hh_l0.grad.dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16), fastrcn.use_backend("reference"):
        plain, _ = layer(x)
    assert_close(output, layer.double()(x.double())[0], plain=plain)


def test_errors():
    for options, words in [
        ({"layer_norm": True}, 'layer_norm: expected None, "channel" or "full", got True'),
        ({"layer_norm": "full"}, 'map_size: expected the .* which layer_norm="full" needs'),
        ({"layer_norm": "channel", "layer_norm_eps": 0}, "layer_norm_eps: expected a number above 0, got 0"),
        ({"layer_norm_eps": 0.1}, "layer_norm_eps: expected its default 1e-05 without layer_norm, got 0.1"),
    ]:
        with pytest.raises(ValueError, match=words):
            fastrcn.ConvLSTM(2, 3, **options)
    for make in (fastrcn.LSTM, fastrcn.GRUCell):
        with pytest.raises(ValueError, match=r"^layer_norm: expected None or .channel. for vectors, got 'full'$"):
            make(3, 4, layer_norm="full")
