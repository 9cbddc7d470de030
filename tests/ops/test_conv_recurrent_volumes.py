"""Sequences of volumes (T,B,C,D,H,W): backends against hand-written float64 loops, all gradients, and their choice."""

from dataclasses import replace

import pytest
import torch

import fastrcn
from fastrcn import backends, cells, native, use_schedule
from fastrcn.functional import conv_gru, conv_lstm, conv_recurrent
from fastrcn.ops.conv_recurrent import input_schedule
from fastrcn.ops.conv_recurrent.program import Program
from tests.helpers.cells import SUBJECTS, Case, compare_with_loop, make_tensors, run_loop, run_package
from tests.helpers.noise import NOISY, compare_noisy
from tests.helpers.tolerances import assert_close, draws

pytestmark = pytest.mark.usefixtures("poisoned_memory", "one_thread")

PLAIN = Case(depth=3, height=4, width=5, kernel=(3, 3, 3), scale=0.2)
OPTIONS = Case(
    depth=5, height=7, width=6, kernel=(2, 3, 4), recurrent_kernel=(3, 1, 3), stride=(1, 2, 1), dilation=(2, 1, 1),
    padding=(1, 0, 2), lengths=(4, 2), reverse=True, scale=0.2,
)  # fmt: skip
SHAPES = {
    "stride": replace(PLAIN, stride=(2, 1, 3), dilation=(1, 2, 1)),
    "valid": replace(PLAIN, padding="valid", kernel=(2, 3, 2), recurrent_kernel=(3, 3, 3)),
    "one_pixel": replace(PLAIN, depth=1, height=1, width=1),
    "smaller_than_kernel": replace(PLAIN, depth=2, height=1, kernel=(5, 3, 3)),
    "product": replace(PLAIN, kernel=(1, 1, 1), channels=8),
    "of_frames": replace(PLAIN, kernel=(3, 1, 1), bias=False, states=False),
    "channels": replace(PLAIN, steps=2, channels=17, inputs=1, height=9, width=13),
    "channels_last": replace(PLAIN, layout="channels_last"),
    "batch_first_view": replace(PLAIN, layout="batch_first"),
}


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", SUBJECTS)
def test_equals_hand_written_loop(name, dtype, backend):
    compare_with_loop(name, OPTIONS, backend, dtype, seeds=draws(dtype))


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("case", SHAPES)
def test_shapes(case, backend):
    compare_with_loop("lstm_full", SHAPES[case], backend)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_no_input(backend):
    case = replace(PLAIN, inputs=0)
    tensors = make_tensors(SUBJECTS["gru_after"], case)
    output, _ = run_package(SUBJECTS["gru_after"], case, tensors, backend)
    assert_close(output, run_loop(SUBJECTS["gru_after"], case, tensors)[0])
    assert all(g is not None for g in torch.autograd.grad(output.sum(), list(tensors.values())))


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("schedule", input_schedule.NAMES)
@pytest.mark.parametrize("name", ["lstm_full", "gru_before"])
def test_both_schedules_over_many_chunks(name, schedule, recompute, monkeypatch):
    monkeypatch.setattr(Program, "chunk_pixels", (1, 1 << 62))
    with use_schedule(schedule):
        compare_with_loop(name, replace(PLAIN, steps=9, batch=1), "cpu", torch.float64, recompute=recompute)
        compare_with_loop(name, OPTIONS, "cpu", torch.float64, recompute=recompute)


@pytest.mark.parametrize("isa", native.module().usable_isas() if native.module() else [])
@pytest.mark.parametrize("threads", [1, 3])
def test_every_instruction_set_and_some_threads(isa, threads, monkeypatch):
    monkeypatch.setattr(native, "isa", lambda: isa)
    torch.set_num_threads(threads)  # one_thread resets it
    native.has_cell.cache_clear()
    case = replace(PLAIN, steps=2, channels=19, depth=4, height=9, width=8, scale=0.1)
    compare_with_loop("lstm_full", case, "cpu")
    compare_with_loop("gru_before", case, "cpu", torch.float64)


@pytest.mark.parametrize("name", NOISY)
def test_masks(name):
    case = Case(steps=5, batch=3, depth=2, height=3, width=4, kernel=(3, 3, 3), lengths=(5, 2, 0), scale=0.2)
    compare_noisy(name, case, "cpu", torch.float64)
    compare_noisy(name, case, "cpu", torch.float64, recompute=True)


def test_one_frame_is_a_map():
    """Volumes of one frame, with kernels of one, are computed as maps are: bit for bit."""
    case = Case(channels=17, lengths=(4, 2))
    flat = make_tensors(SUBJECTS["lstm_full"], case, torch.float32)
    deep = {n: t.detach().unsqueeze(t.dim() - 2) if t.dim() > 2 else t.detach() for n, t in flat.items()}
    deep = {n: t.requires_grad_() for n, t in deep.items()}
    results = []
    for tensors in (flat, deep):
        output, states = run_package(SUBJECTS["lstm_full"], case, tensors, "cpu")
        grads = torch.autograd.grad(output.sin().sum() + states[1].cos().sum(), list(tensors.values()))
        results.append([output, *states, *grads])
    for found, truth in zip(*reversed(results), strict=True):
        assert torch.equal(found.flatten(), truth.flatten())


def test_kernels_beyond_the_only_frame_meet_zeros():
    """Of a kernel of three frames only the middle one counts where there is one frame."""
    x, w, u = torch.randn(3, 2, 2, 1, 4, 5), torch.randn(9, 2, 3, 3, 3), torch.randn(9, 3, 3, 3, 3)
    found = conv_gru(x, w, u)[0]
    assert_close(found[:, :, :, 0], conv_gru(x[:, :, :, 0], w[:, :, 1], u[:, :, 1])[0])


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_no_sequences(backend):
    case = replace(PLAIN, batch=0)
    tensors = make_tensors(SUBJECTS["lstm_full"], case)
    output, states = run_package(SUBJECTS["lstm_full"], case, tensors, backend)
    assert output.shape == (4, 0, 5, 3, 4, 5)
    assert states[1].shape == (0, 5, 3, 4, 5)
    grads = torch.autograd.grad(output.sum(), list(tensors.values()))
    assert [g.shape for g in grads] == [t.shape for t in tensors.values()]
    assert not any(g.any() for g in grads)


def test_output_is_channels_last():
    tensors = make_tensors(SUBJECTS["lstm"], PLAIN, torch.float32)
    output, states = run_package(SUBJECTS["lstm"], PLAIN, tensors, "cpu")
    assert output.movedim(2, -1).is_contiguous()
    assert all(s.is_contiguous(memory_format=torch.channels_last_3d) for s in states)


def test_opcheck():
    t = {n: v.detach() for n, v in make_tensors(SUBJECTS["lstm_full"], OPTIONS).items()}
    common = ([t["x"]], [t["weight_ih"]], t["weight_hh"], t["bias"], t["weight_ch"], [t["h0"], t["c0"]], [])
    lengths, options = torch.tensor([3, 1]), (OPTIONS.stride, OPTIONS.dilation, OPTIONS.padding, False)
    cell = SUBJECTS["lstm_full"].cell.key
    forward = ("cpu", cell, *common, lengths, *options, 2)
    assert set(torch.library.opcheck(torch.ops.fastrcn.conv_recurrent_fwd.default, forward).values()) == {"SUCCESS"}
    output, *rest = torch.ops.fastrcn.conv_recurrent_fwd(*forward)
    grads = [torch.ones_like(output), None, None]
    backward = ("cpu", cell, grads, *common, lengths, output, rest[2:], *options, [True] * 7)
    assert set(torch.library.opcheck(torch.ops.fastrcn.conv_recurrent_bwd.default, backward).values()) == {"SUCCESS"}


def test_triton_takes_volumes(monkeypatch):
    key = cells.ConvGRU().key
    for axes in (2, 3):
        assert backends.can_run("conv_recurrent", "triton", (key, axes), torch.float32, "cuda")[0]
    monkeypatch.setattr(backends, "_UNTRIED", {})
    assert backends.select("conv_recurrent", (key, 3), torch.float32, "cuda") == "triton"
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    x, w, u = torch.randn(2, 1, 2, 1, 4, 5), torch.randn(9, 2, 1, 3, 3), torch.randn(9, 3, 1, 3, 3)
    assert "triton: runs: one kernel launch per phase" in str(
        backends.explain("conv_recurrent", cells.ConvGRU(), x, w, u)
    )


VIEWS = {
    "frames": lambda x: x[:, :, :, ::2],
    "rows": lambda x: x[:, :, :, :, 1:3],
    "columns": lambda x: x[..., :4],
    "turned": lambda x: x.transpose(3, 5),
    "spread": lambda x: x[:, :1].expand(-1, 2, -1, -1, -1, -1),
}


@pytest.mark.parametrize("view", VIEWS)
def test_maps_that_are_not_dense(view):
    x = VIEWS[view](torch.randn(3, 2, 2, 5, 4, 6))
    assert torch.equal(conv_gru(x, W[:9], U[:9])[0], conv_gru(x.contiguous(), W[:9], U[:9])[0])


X, W, U = torch.randn(3, 2, 2, 3, 4, 5), torch.randn(12, 2, 3, 3, 3), torch.randn(12, 3, 3, 3, 3)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"input": X[:, :, :, 0]}, r"input: expected 6 dimensions \(T,B,C,D,H,W\), got shape \(3, 2, 2, 4, 5\)"),
        ({"weight_ih": W[:, :, 0]}, r"weight_ih of input: expected shape \(4\*3,Cin,kd,kh,kw\), got \(12, 2, 3, 3\)"),
        (
            {"weight_hh": U[..., None]},
            r"weight_hh: expected 4 dimensions .*kh,kw\), or for maps \(D,H,W\) 5 .*kd,kh,kw",
        ),
        ({"weight_hh": U[:, :, :2]}, r"weight_hh: expected odd kernel sizes.*\(2, 3, 3\)"),
        ({"stride": (1, 2)}, r"stride: expected a positive int or three of them, got \(1, 2\)"),
        ({"dilation": 0}, r"dilation: expected a positive int or three of them, got 0"),
        ({"padding": (1, 1)}, r"padding: expected .*an int of at least 0 or three of them, got \(1, 1\)"),
        (
            {"input": X[:, :, :, :1], "padding": "valid"},
            r"input: expected a map that the kernel \(3, 3, 3\).*\(1, 4, 5\)",
        ),
        ({"input": X[:, :, :, :0]}, r"input: expected at least one step and a map of at least one pixel"),
        ({"hx": (torch.zeros(2, 3, 4, 5),) * 2}, r"hx \(h\): expected shape \(2, 3, 3, 4, 5\), got \(2, 3, 4, 5\)"),
        ({"weight_ch": torch.zeros(9, 4, 5)}, r"weight_ch: expected shape \(9,\) or \(9,3,4,5\), got \(9, 4, 5\)"),
    ],
)
def test_errors(change, words):
    with pytest.raises(ValueError, match=words):
        conv_lstm(**({"input": X, "weight_ih": W, "weight_hh": U} | change))


def test_masks_of_another_shape():
    with pytest.raises(ValueError, match=r"masks \(0\): .*\(1, 1, 3, 1, 1, 1\)\], got \(1, 1, 3, 1, 1\)"):
        conv_recurrent(cells.Zoneout(cells.ConvGRU()), X, W[:9], U[:9], masks=[torch.zeros(1, 1, 3, 1, 1)])


def test_both_directions_as_two_calls():
    w, u = W[:9], U[:9]
    (one, (h,)), (other, (k,)) = fastrcn.functional.conv_recurrent_both(
        cells.ConvGRU(), X, (w, u, None, None, None), (w / 2, u, None, None, None), lengths=[3, 2]
    )
    truth, (h_n,) = conv_gru(X, w, u, lengths=[3, 2])
    assert torch.equal(one, truth)
    assert torch.equal(h, h_n)
    truth, (k_n,) = conv_gru(X, w / 2, u, lengths=[3, 2], reverse=True)
    assert torch.equal(other, truth)
    assert torch.equal(k, k_n)
