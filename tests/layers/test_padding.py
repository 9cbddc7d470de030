"""``padding`` of the input convolution in the layers; the operator's cases are PADDINGS in tests/helpers/cells.py."""

import pytest
import torch

import fastrcn
from fastrcn.functional import conv_lstm
from tests.helpers import loops
from tests.helpers.tolerances import assert_close


def of(layer, suffix):
    return {n: getattr(layer, n + suffix, None) for n in ("weight_ih", "weight_hh", "bias", "weight_ch")}


@pytest.mark.parametrize(("padding", "shape"), [("valid", (5, 4)), (0, (5, 4)), ((2, 0), (9, 4)), (1, (7, 6))])
@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_layers_keep_the_map_that_comes_out(padding, shape, backend, one_thread):
    layer = fastrcn.ConvLSTM(
        2, 3, num_layers=2, bidirectional=True, padding=padding, peephole="full", map_size=shape, backend=backend
    ).double()
    with torch.no_grad():
        for p in layer.parameters():
            p.uniform_(-0.5, 0.5)
    x = torch.randn(4, 2, 2, 7, 6, dtype=torch.float64, requires_grad=True)
    h, c = (torch.randn(4, 2, 3, *shape, dtype=torch.float64) for _ in range(2))
    output, (h_n, _) = layer(x, (h, c))
    below, last = x, []
    for k in range(2):
        parts = []
        for d in range(2):
            states, number = of(layer, f"_l{k}" + "_reverse" * d), 2 * k + d
            options = {"padding": {"valid": 0}.get(padding, padding)} if k == 0 else {}
            found, state = loops.run(
                loops.lstm_step, states, below, (h[number], c[number]), reverse=d == 1, **options
            )  # fmt: skip
            parts.append(found)
            last.append(state[0])
        below = torch.cat(parts, 2)
    assert output.shape == (4, 2, 6, *shape)
    assert_close(output, below)
    assert_close(h_n, torch.stack(last))
    leaves, weight = [x, *layer.parameters()], torch.randn_like(output)
    grads = [torch.autograd.grad((r * weight).sum(), leaves) for r in (output, below)]
    for k, (found, expected) in enumerate(zip(*grads, strict=True)):
        assert_close(found, expected, f"gradient {k}")


def test_padding_of_the_same_size_is_same():
    same, given = fastrcn.ConvGRU(2, 3, 5), fastrcn.ConvGRU(2, 3, 5, padding=2)
    given.load_state_dict(same.state_dict())
    x = torch.randn(3, 2, 2, 6, 7)
    assert torch.equal(given(x)[0], same(x)[0])


def test_one_step_with_an_even_kernel():
    """By hand: a 2x2 window of ones sums its four pixels, the recurrent 1x1 weight adds the state."""
    cell = fastrcn.ConvRNNCell(1, 1, 2, recurrent_kernel_size=1, padding="valid", bias=False, nonlinearity="relu")
    for p in cell.parameters():
        torch.nn.init.ones_(p)
    x = torch.tensor([[[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]]])
    assert torch.equal(cell(x, torch.tensor([[[[10.0, 20.0]]]])), torch.tensor([[[[22.0, 36.0]]]]))


def test_compiled():
    torch._dynamo.reset()
    layer = fastrcn.ConvLSTM(2, 3, padding="valid", stride=2)
    x = torch.randn(3, 2, 2, 7, 6)
    assert_close(torch.compile(layer, backend="aot_eager", fullgraph=True)(x)[0], layer(x)[0])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"padding": "full"}, 'padding: expected "same", "valid".* got \'full\''),
        ({"padding": -1}, "padding: expected.*at least 0.*got -1"),
        ({"padding": (1, 2, 3)}, r"padding: expected.*pair.*got \(1, 2, 3\)"),
        ({"padding": 1.0}, "padding: expected.*got 1.0"),
        ({"padding": True}, "padding: expected.*got True"),
        ({"kernel_size": 2, "padding": "valid"}, r"recurrent_kernel_size: expected odd.*\(2, 2\)"),
        ({"kernel_size": 2, "recurrent_kernel_size": 3, "padding": 0, "num_layers": 2}, "kernel_size: expected odd"),
    ],
)
def test_errors(options, words):
    with pytest.raises(ValueError, match=words):
        fastrcn.ConvLSTM(2, 3, **options)


def test_errors_of_calls():
    layer = fastrcn.ConvLSTM(2, 3, 5, padding="valid")
    with pytest.raises(ValueError, match=r"input: expected a map that the kernel \(5, 5\).*fits in, got \(4, 6\)"):
        layer(torch.randn(2, 1, 2, 4, 6))
    with pytest.raises(ValueError, match=r"hx \(h\): expected shape \(1, 1, 3, 2, 3\), got \(1, 1, 3, 6, 7\)"):
        layer(torch.randn(2, 1, 2, 6, 7), (torch.zeros(1, 1, 3, 6, 7),) * 2)
    with pytest.raises(ValueError, match="padding: expected"):
        conv_lstm(torch.randn(2, 1, 2, 4, 6), torch.randn(12, 2, 3, 3), torch.randn(12, 3, 3, 3), padding="causal")
    with pytest.raises(TypeError, match="padding: a layer of vectors has no maps"):
        fastrcn.LSTM(2, 3, padding="valid")
