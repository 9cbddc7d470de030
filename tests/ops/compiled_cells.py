"""Run by tests/test_compile_cell.py, in a process of its own: what is compiled here stays compiled in the process."""

import pytest
import torch
from torch import nn

import fastrcn
from fastrcn import backends, cells
from fastrcn.ops.conv_recurrent import cpu, input_schedule
from fastrcn.ops.conv_recurrent.program import Program
from tests.cells.test_conv_peephole import compare as compare_conv_peephole
from tests.compiler.test_compiler import Everything
from tests.helpers.cells import CASES, MGU, Case, compare_with_loop
from tests.helpers.noise import CASE, REVERSED, compare_noisy
from tests.helpers.tolerances import assert_close, draws

LAYERS = {
    "mgu": fastrcn.ConvRecurrent(MGU(), 2, 5, num_layers=2),
    "peephole": fastrcn.ConvLSTM(2, 5, peephole="conv", bidirectional=True),
    "zoneout": fastrcn.ConvLSTM(2, 5, zoneout=0.3, zoneout_cell=0.4),
    "normed": fastrcn.ConvRNN(2, 5, nonlinearity="relu", layer_norm="channel"),
    "dropout": fastrcn.ConvGRU(2, 5, recurrent_dropout=0.2),
}
DTYPES = (torch.float64, torch.float32)


def run(layer, dtype, training):
    """(output, states and all gradients of a layer, how many parts the time loop of each of its programs has)."""
    layer.to(dtype).train(training)
    generator, parts, make_runs = torch.Generator().manual_seed(1), [], Program.make_runs
    x = torch.randn(4, 3, 2, 6, 5, generator=generator, dtype=dtype).requires_grad_()

    def counted(self, keep):
        runs = make_runs(self, keep)
        parts.append(len(runs))
        return runs

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Program, "make_runs", counted)
        torch.manual_seed(2)
        output, states = layer(x, lengths=[4, 2, 0])
        results = [output, *(states if isinstance(states, tuple) else (states,))]
        loss = sum((r * r.detach().cos()).sum() for r in results)
        return [*results, *torch.autograd.grad(loss, [x, *layer.parameters()])], parts


def run_all():
    return {(n, d, t): run(layer, d, t) for n, layer in LAYERS.items() for d in DTYPES for t in (True, False)}


def explanation(cell):
    return backends.can_run("conv_recurrent", "cpu", (cell.key, 2), torch.float32, "cpu")[1]


@pytest.fixture(scope="module", autouse=True)
def compiled():
    """(the results before and after, what explains the cpu backend before, the report)."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    before, explained = run_all(), explanation(MGU())
    report = fastrcn.compile_cell(nn.ModuleDict(LAYERS))
    after = run_all()
    torch.set_num_threads(threads)
    return before, after, explained, report


def test_same_results_before_and_after(compiled):
    before, after, _, _ = compiled
    for key, (truth, _) in before.items():
        for a, b in zip(after[key][0], truth, strict=True):
            assert_close(a, b, str(key))


def test_the_time_loop_is_in_cpp(compiled):
    before, after, _, _ = compiled
    for (name, dtype, training), (_, parts) in before.items():
        built_in = name == "dropout" and not training  # without dropout it is a ConvGRU
        assert (max(parts) == 1) == built_in
        assert set(after[name, dtype, training][1]) == {1}


def test_report_and_explanation(compiled):
    _, _, explained, report = compiled
    assert "generated PyTorch code: fastrcn.compile_cell compiles this cell" in explained
    assert explanation(MGU()).startswith("compiled stages")
    assert explanation(MGU()).endswith("time loop in C++")
    assert len(report) == 5
    assert "loaded the compiled stages of 5 of 6 cells" in str(report)
    *_, of_dropout, without = report.cells
    assert "RecurrentDropout" in of_dropout.cell
    assert of_dropout.file is not None
    assert (without.cell, without.file) == (repr(cells.ConvGRU()), None)
    assert "before" in without.became
    assert len(fastrcn.compile_cell(MGU())) == 0


@pytest.mark.parametrize("case", ["plain", "reverse_lengths", "odd_channels", "many_chunks"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_mgu_equals_the_loop(case, dtype, poisoned_memory, one_thread):
    compare_with_loop("mgu", CASES[case], "cpu", dtype, seeds=draws(dtype))
    compare_with_loop("mgu", CASES[case], "cpu", dtype, recompute=True, seeds=draws(dtype))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_conv_peephole_equals_the_loop(dtype, poisoned_memory, one_thread):
    compare_conv_peephole("cpu", dtype)
    compare_conv_peephole("cpu", dtype, reverse=True, recompute=True)


@pytest.mark.parametrize("name", ["zoned_lstm", "zoned_in_evaluation", "dropped_gru"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_masks_for_each_step_each_sequence_and_as_one_row(name, dtype, poisoned_memory, one_thread):
    for case in (CASE, REVERSED, Case(steps=19, batch=1, height=24, width=24, inputs=2, channels=3, scale=0.2)):
        for schedule in input_schedule.NAMES:
            with input_schedule.use_schedule(schedule):
                compare_noisy(name, case, "cpu", dtype)
                compare_noisy(name, case, "cpu", dtype, recompute=True)


def test_masks_where_threads_share_out_channels(one_thread):
    torch.set_num_threads(2)
    compare_noisy("zoned_lstm", Case(steps=3, batch=1, inputs=32, channels=64, height=2, width=3), "cpu", torch.float32)


@pytest.mark.parametrize("native_type", [False, True])
def test_bfloat16(native_type, monkeypatch, one_thread):
    """In the type that this processor computes in, and in bfloat16 itself, as where oneDNN convolves it."""
    if native_type:
        monkeypatch.setattr(cpu, "compute_type", lambda dtype, channels: dtype)
    compare_with_loop("mgu", CASES["reverse_lengths"], "cpu", torch.bfloat16, seeds=draws(torch.bfloat16))
    for name in ("zoned_lstm", "zoned_in_evaluation", "dropped_gru"):
        compare_noisy(name, CASE, "cpu", torch.bfloat16)


@pytest.mark.parametrize("peephole", ["channel", "full"])
def test_every_function_and_parameters_of_stages(peephole, one_thread):
    """A cell with all that equations may have, against the plain form."""
    assert "compiled" in str(fastrcn.compile_cell(Everything()))
    layer = fastrcn.ConvRecurrent(Everything(), 2, 5, peephole=peephole, map_size=(4, 3)).double()
    with torch.no_grad():
        layer.weight_ch_l0.normal_()
    x, found = torch.randn(3, 2, 2, 4, 3, dtype=torch.float64), []
    for layer.backend in ("cpu", "reference"):
        output, states = layer(x, lengths=[3, 1])
        loss = sum(s.square().sum() for s in (output, *states))
        found.append([output, *states, *torch.autograd.grad(loss, list(layer.parameters()))])
    for a, b in zip(*found, strict=True):
        assert_close(a, b)
