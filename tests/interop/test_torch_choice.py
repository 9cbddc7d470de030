"""Which computes a call of torch.nn's layers under their names; and that torch.nn's own code gives its own results."""

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

import fastrcn
from fastrcn import native
from fastrcn.interop import torch_nn
from tests.helpers.tolerances import assert_close
from tests.interop.checks import assert_same, randomize

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def own_calls(monkeypatch):
    """A list that grows by each call of torch.nn's own code."""
    calls = []
    for kind in (nn.LSTM, nn.GRU, nn.RNN, nn.LSTMCell, nn.GRUCell, nn.RNNCell):

        def forward(self, input, hx=None, plain=kind.forward):
            calls.append(type(self).__name__)
            return plain(self, input, hx)

        monkeypatch.setattr(kind, "forward", forward)
    return calls


@pytest.mark.parametrize(
    ("kind", "hidden_size", "steps", "tracked", "fused"),
    [
        ("GRU", 4, 31, True, False),
        ("GRU", 4, 32, True, True),
        ("GRU", 4, 63, False, False),
        ("GRU", 4, 64, False, True),
        ("RNN", 4, 63, True, False),
        ("RNN", 4, 64, True, True),
        ("RNN", 4, 127, False, False),
        ("RNN", 4, 128, False, True),
        ("LSTM", 4, 1, True, False),
        ("LSTM", 4, 200, True, False),
        ("LSTM", 511, 1, False, False),
        ("LSTM", 512, 1, False, True),
        ("LSTM", 512, 1, True, True),
        ("LSTM", 512, 2, True, False),
    ],
)
def test_rule(own_calls, kind, hidden_size, steps, tracked, fused):
    layer = getattr(torch_nn, kind)(2, hidden_size)
    batch_first = getattr(torch_nn, kind)(2, hidden_size, batch_first=True)
    packed = pack_padded_sequence(torch.zeros(steps, 3, 2), [steps, 1, 1])
    with torch.set_grad_enabled(tracked):
        calls = layer, torch.zeros(steps, 3, 2), batch_first, torch.zeros(3, steps, 2)
        for module, x in (calls[:2], calls[2:], (layer, torch.zeros(steps, 2)), (layer, packed)):
            module(x)
            assert own_calls == ([] if fused else [kind])
            own_calls.clear()


def test_where_gradients_are_asked_for(own_calls):
    layer, x = torch_nn.GRU(2, 4).requires_grad_(False), torch.zeros(32, 3, 2)
    layer(x)
    assert own_calls == ["GRU"]
    layer(x.clone().requires_grad_())
    layer(x, torch.zeros(1, 3, 4, requires_grad=True))
    layer(pack_padded_sequence(x.clone().requires_grad_(), [32, 32, 1]))
    assert own_calls == ["GRU"]


def test_what_does_not_follow_it(own_calls):
    x = torch.zeros(64, 3, 2)
    torch_nn.GRU(2, 4).double()(x.double())
    assert own_calls.pop() == "GRU"  # not measured
    cell = torch_nn.GRUCell(2, 4)
    cell(x[0])
    assert own_calls.pop() == "GRUCell"
    lstm = torch_nn.LSTM(2, 4)
    with fastrcn.use_backend("cpu"):
        lstm(x)
        cell(x[0])
    with torch.autocast("cpu", torch.bfloat16):
        assert lstm(x)[0].dtype == torch.bfloat16
    assert own_calls == []


def test_one_graph(own_calls):
    layer = torch_nn.LSTM(3, 4, 2, bidirectional=True)
    x = torch.randn(5, 2, 3)
    found = torch.compile(layer, fullgraph=True, backend="eager")(x)[0]
    assert own_calls == []
    assert_close(found, layer(x)[0])


def test_without_the_compiled_extension(own_calls, monkeypatch):
    monkeypatch.setattr(native, "module", lambda: None)
    torch_nn.GRU(2, 4)(torch.zeros(64, 3, 2))
    assert own_calls == ["GRU"]


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_own_code(own_calls, kind):
    options = {"num_layers": 2, "bidirectional": True, "batch_first": True}
    theirs, ours = randomize(getattr(nn, kind)(3, 4, **options)), getattr(torch_nn, kind)(3, 4, **options)
    h = torch.randn(4, 5, 4)
    assert_same(theirs, ours, torch.randn(5, 2, 3), (h, torch.randn(4, 5, 4)) if kind == "LSTM" else h)
    theirs, ours = randomize(getattr(nn, f"{kind}Cell")(3, 4)), getattr(torch_nn, f"{kind}Cell")(3, 4)
    assert_same(theirs, ours, torch.randn(2, 3))
    assert {kind, f"{kind}Cell"} == set(own_calls)


def test_errors_without_a_backend_asked_for():
    layer = torch_nn.GRU(3, 4)
    with pytest.raises(ValueError, match=r"input: expected 3 channels, got 2"):
        layer(torch.zeros(5, 2, 2))
    with pytest.raises(ValueError, match=r"input: expected \(T,B,features\).*got shape \(5,\)"):
        layer(torch.zeros(5))
    with pytest.raises(ValueError, match=r"hx \(h\): expected shape \(1, 2, 4\), got \(2, 4\)"):
        layer(torch.zeros(5, 2, 3), torch.zeros(2, 4))
    with pytest.raises(ValueError, match=r"hx: expected 2 states \(h, c\), got 1"):
        torch_nn.LSTM(3, 4)(torch.zeros(5, 2, 3), torch.zeros(1, 2, 4))


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
class TestProjections:
    options = {"num_layers": 2, "bidirectional": True, "proj_size": 2}  # noqa: RUF012

    def pair(self):
        return randomize(nn.LSTM(3, 4, **self.options)), torch_nn.LSTM(3, 4, **self.options)

    def test_layer(self):
        theirs, ours = self.pair()
        assert_same(theirs, ours, torch.randn(5, 2, 3), (torch.randn(4, 2, 2), torch.randn(4, 2, 4)))
        assert repr(ours) == repr(theirs)

    def test_with_a_backend_asked_for(self, own_calls):
        ours = self.pair()[1]
        with fastrcn.use_backend("cpu"):
            ours(torch.zeros(5, 2, 3))
        assert own_calls == ["LSTM"]

    def test_against_a_loop(self):
        _, ours = self.pair()
        ours, given = randomize(ours).double(), torch.randn(5, 3).double()
        x = given
        weights = ours.state_dict()
        for layer in range(2):
            sides = []
            for end in (f"l{layer}", f"l{layer}_reverse"):
                h, c, outputs = torch.zeros(2).double(), torch.zeros(4).double(), []
                for row in x if end == f"l{layer}" else x.flip(0):
                    a = weights[f"weight_ih_{end}"] @ row + weights[f"bias_ih_{end}"] + weights[f"bias_hh_{end}"]
                    i, f, g, o = (a + weights[f"weight_hh_{end}"] @ h).chunk(4)
                    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
                    h = weights[f"weight_hr_{end}"] @ (o.sigmoid() * c.tanh())
                    outputs.append(h)
                sides.append(torch.stack(outputs if end == f"l{layer}" else outputs[::-1]))
            x = torch.cat(sides, 1)
        assert_close(ours(given)[0], x)
