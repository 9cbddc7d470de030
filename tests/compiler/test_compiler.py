"""The compiler: schedules of the built-in cells, derivatives, emitted code, and what it refuses."""

import re

import pytest
import torch

from fastrcn import cells
from fastrcn.cells import Cell, bias, conv, exp, peephole, relu, sigmoid, tanh
from fastrcn.compiler.differentiate import backward_code, forward_code, stages_of
from fastrcn.compiler.emit_cpp import header_source
from fastrcn.compiler.emit_torch import torch_function, torch_source
from fastrcn.compiler.schedule import make_schedule, schedule_of
from fastrcn.compiler.signature import backward_signatures, can_be_fused, forward_signatures


def shape_of(cell):
    """Per group: (inputs, convolved operands, slots); and how many stages."""
    schedule = make_schedule(cell)
    return [(g.inputs, g.operands, len(g.slots)) for g in schedule.groups], len(stages_of(schedule))


def test_schedules_of_built_in_cells():
    assert shape_of(cells.ConvRNN()) == ([(("x",), (0,), 1)], 1)
    assert shape_of(cells.ConvLSTM()) == ([(("x",), (0,), 4)], 1)
    assert shape_of(cells.ConvLSTM(True)) == ([(("x",), (0,), 4)], 1)
    assert shape_of(cells.ConvGRU()) == ([(("x",), (0,), 2), (("x",), (1,), 1)], 2)
    assert shape_of(cells.ConvGRU("after")) == ([(("x",), (0,), 2), (("x",), (), 1), ((), (0,), 1)], 1)
    assert shape_of(cells.StackedConvGRU())[0] == [(("x", "below"), (0,), 2), (("x",), (1,), 1)]
    assert shape_of(cells.StackedConvGRU(True))[0][1] == (("below", "x"), (1,), 1)


def test_blocks_of_parameters():
    blocks = make_schedule(cells.ConvGRU("after")).blocks
    assert blocks == {"x": 3, "h": 3, "bias": 4, "peephole": 0, "scale": 0}
    assert make_schedule(cells.ConvLSTM(True)).blocks == {"x": 4, "h": 4, "bias": 4, "peephole": 3, "scale": 0}


def test_output_gate_waits_for_the_cell_state_inside_one_stage():
    schedule = make_schedule(cells.ConvLSTM(True))
    assert [len(s.outputs) for s in stages_of(schedule)] == [2]


class Everything(Cell):
    """Every function, division, powers, a lone bias, a convolved cell state and an expression before any slot."""

    def step(self, x, h, c):
        a = sigmoid(conv(x) + conv(h) + conv(c))
        b = relu(conv(x) + conv(1 - h) + peephole(c)) + exp(-((a + c) ** 2))
        c = a * c + b / (1 + a**2) + tanh(bias()) * bias()
        return tanh(c + conv(a * b)) - a**3, c


@pytest.mark.parametrize("cell", [*cells.BUILT_IN, Everything()], ids=repr)
def test_backward_is_autograd_of_forward(cell):
    generator = torch.Generator().manual_seed(3)
    for stage in stages_of(make_schedule(cell)):
        code = forward_code(stage)
        values = [torch.randn(50, generator=generator, dtype=torch.float64).requires_grad_() for _ in code.reads]
        outputs = torch_function(code)(*values)
        grads = [torch.randn(50, generator=generator, dtype=torch.float64) for _ in outputs]
        truth = torch.autograd.grad(outputs, values, grads, allow_unused=True)
        found = torch_function(backward_code(stage))(*(v.detach() for v in values), *grads)
        for a, b in zip(found[len(found) - len(values) :], truth, strict=True):
            b = torch.zeros(50, dtype=torch.float64) if b is None else b
            assert torch.allclose(torch.as_tensor(a, dtype=torch.float64).expand(50), b, rtol=1e-11, atol=1e-12)


def test_nonlinear_functions_are_computed_once():
    (stage,) = stages_of(make_schedule(cells.ConvLSTM()))
    source = torch_source(backward_code(stage))
    assert source.count("torch.sigmoid") == 3
    assert source.count("torch.tanh") == 2


def test_everything_cell_runs_and_differentiates():
    import fastrcn

    layer = fastrcn.ConvRecurrent(Everything(), 2, 3, peephole="channel").double()
    torch.nn.init.uniform_(layer.weight_ch_l0, -0.3, 0.3)
    x = torch.randn(3, 2, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    hx = tuple(torch.randn(1, 2, 3, 4, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    leaves, found = [x, *hx, *layer.parameters()], {}
    for name in ("reference", "cpu"):
        with fastrcn.use_backend(name):
            output, states = layer(x, hx, lengths=[3, 2])
        found[name] = [output, *torch.autograd.grad(output.sum() + states[1].sin().sum(), leaves)]
    for a, b in zip(*found.values(), strict=True):
        assert torch.allclose(a, b, rtol=1e-10, atol=1e-11)


def test_gradients_of_parameters_come_last():
    for signature in backward_signatures(make_schedule(cells.ConvLSTM(True))):
        roles = [a.role == "d_param" for a in signature.args]
        assert roles == sorted(roles)


def test_stages_that_are_not_fused_with_convolutions():
    """All that see what was normalised."""
    found, normalized = set(), set()
    for cell in cells.BUILT_IN:
        schedule = make_schedule(cell)
        for sig in (*forward_signatures(schedule), *backward_signatures(schedule)):
            name = repr(cell), sig.stage, sig.backward
            found |= set() if can_be_fused(schedule, sig) else {name}
            normalized |= {name} if schedule.normalizes else set()
    assert len(normalized) == 12
    assert found == normalized


def test_a_stage_whose_argument_three_convolutions_complete_is_not_fused():
    class TwoStates(Cell):
        def step(self, x, h, c):
            f = sigmoid(conv(x) + conv(h) + conv(c))
            return f * h, f * c

    class ThreeStates(Cell):
        def step(self, x, h, c, d):
            f = sigmoid(conv(x) + conv(h) + conv(c) + conv(d))
            return f * h, f * c, f * d

    for cell, can in ((TwoStates(), True), (ThreeStates(), False)):
        schedule = make_schedule(cell)
        assert all(can_be_fused(schedule, sig) is can for sig in forward_signatures(schedule))
        assert all(can_be_fused(schedule, sig) for sig in backward_signatures(schedule))


def test_emitted_header_has_every_stage_once():
    text = header_source(cells.BUILT_IN)
    names = re.findall(r"inline|FRCN_HD void (stage_\w+)\(", text)
    assert len(names) == len(set(names)) > 10
    assert text.split("#define FRCN_STAGES")[1].count("X(stage_") == len(names)
    assert len(set(re.findall(r"struct (stage_\w+)_lanes", text))) == len(names)
    assert header_source(cells.BUILT_IN) == text


def test_equal_equations_share_compiled_stages():
    plain = schedule_of(cells.ConvGRU().key).fingerprint
    assert schedule_of(cells.StackedConvGRU().key).fingerprint == plain

    class Mine(Cell):
        def step(self, x, h):
            return tanh(conv(x) + conv(h))

    assert schedule_of(Mine().key).fingerprint == schedule_of(cells.ConvRNN().key).fingerprint


def test_changed_equations_change_the_key():
    def make(sign):
        class Mine(Cell):
            def step(self, x, h):
                return sign * tanh(conv(x) + conv(h))

        return Mine()

    assert make(1).key != make(-1).key


@pytest.mark.parametrize(
    ("step", "error", "words"),
    [
        (lambda self, x, h: tanh(conv(x) + conv(h * x)), ValueError, "mixes in the input x"),
        (lambda self, x, h: tanh(conv(x) + conv(h)) + x, ValueError, "reads an input outside conv"),
        (lambda self, x, h: tanh(conv(h)), ValueError, "convolution of an input"),
        (lambda self, x, h: tanh(conv(x) + h), ValueError, "convolution of a state"),
        (lambda self, x, h: (tanh(conv(x) + conv(h)), h), ValueError, "expected 1 new states"),
        (lambda self, x: tanh(conv(x)), TypeError, "at least one state"),
        (lambda self, x, h: (conv(h), tanh(conv(x) + conv(h)))[1], ValueError, "no new state depends"),
        (lambda self, x, h: tanh(conv(x) + conv(h) + conv(h)), ValueError, "convolved twice"),
    ],
)
def test_equations_that_are_no_cell(step, error, words):
    wrong = type("Wrong", (Cell,), {"step": step})
    with pytest.raises(error, match=words):
        _ = wrong().key


def test_unknown_functions_and_powers():
    import sympy

    class Sine(Cell):
        def step(self, x, h):
            return sympy.sin(conv(x) + conv(h))

    class Root(Cell):
        def step(self, x, h):
            return sympy.sqrt(conv(x) + conv(h))

    with pytest.raises(ValueError, match=r"sigmoid, tanh.*got sin"):
        forward_code(stages_of(make_schedule(Sine()))[0])
    with pytest.raises(ValueError, match="whole powers"):
        torch_source(forward_code(stages_of(make_schedule(Root()))[0]))


def test_primitives_outside_a_cell():
    for call in (lambda: conv(1), lambda: peephole(1), bias):
        with pytest.raises(RuntimeError, match=r"expected a call inside Cell\.step"):
            call()


def test_unknown_key():
    with pytest.raises(RuntimeError, match="not known in this process"):
        schedule_of("nobody.Cell()#0")
