"""Run by test_cuda_stages_on_host.py: the ``cuda`` backend on CPU tensors, its kernels compiled for the host."""

import os
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
import torch

import fastrcn
from fastrcn import backends, functional
from fastrcn.cells import BUILT_IN
from fastrcn.compiler.schedule import schedule_of
from fastrcn.ops import tf32
from fastrcn.ops.conv_recurrent import cuda, cuda_method, input_schedule
from tests.helpers import normed
from tests.helpers.cells import CASES, PADDINGS, SUBJECTS, Case, compare_with_loop, gradients, make_tensors, run_package
from tests.helpers.cycles import no_cycles_found, noted_programs
from tests.helpers.layers import compare_layer
from tests.helpers.noise import CASE, NOISY, compare_noisy
from tests.helpers.other_cells import OTHER_CELLS, compare_with_reference
from tests.helpers.tolerances import relative_error
from tests.ops.cuda_on_host import stage_cases
from tests.ops.cuda_on_host.stages import load

KERNELS = load(os.environ["FASTRCN_HOST_STAGES"])
LIBRARY = KERNELS.TorchLibrary(torch._C.__file__, "cpu")
WITHOUT = lambda device: (None, "this PyTorch has no function")  # noqa: E731
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
# Products add to targets that begin at zero, beside convolutions.
PRODUCTS = {"products": Case(kernel=(3, 3), recurrent_kernel=(1, 1), bias=False)}
CURRENT_STREAM, STREAM = cuda._current_stream, 56
MANY_CHUNKS = Case(steps=17, batch=1, channels=3, scale=0.2)


@pytest.fixture(autouse=True)
def on_the_host(monkeypatch, poisoned_memory):
    monkeypatch.setattr(cuda, "_kernels", lambda: KERNELS)
    monkeypatch.setattr(cuda, "_torch_library", lambda device: (LIBRARY, ""))
    monkeypatch.setattr(cuda, "_current_stream", lambda device: nullcontext(STREAM))
    monkeypatch.setattr(cuda, "_PARTS", 3)
    monkeypatch.setitem(backends._CAN_RUN["conv_recurrent"], "cuda", lambda *a: (True, "its kernels run on the host"))
    monkeypatch.setattr(cuda_method, "_capability", lambda device: 9)
    KERNELS.forget_launches()
    with cuda_method.use_method("library"):
        yield
    KERNELS.fail_with("")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("stage", stage_cases.STAGES)
def test_stage(stage, dtype):
    for case in stage_cases.CASES.values():
        stage_cases.check_stage(KERNELS, stage, case, dtype)


@pytest.mark.parametrize("loop", ["c++", "python"])
@pytest.mark.parametrize("name", ["lstm_full", "mgu", "normed"])
def test_a_call_is_free_when_it_is_over(name, loop, monkeypatch):
    """Its memory does not wait for Python to look for cycles."""
    if loop == "python":
        monkeypatch.setattr(cuda, "_torch_library", WITHOUT)
    programs = noted_programs(monkeypatch, cuda.Program)
    with no_cycles_found():
        if name == "normed":
            normed.compare("gru", "cuda", torch.float64, lengths=(4, 2, 0))
        else:
            compare_with_loop(name, CASES["lengths"], "cuda", torch.float64)
        assert len(programs) >= 2
        assert not any(program() for program in programs)


def test_launch_checks_its_arguments():
    with pytest.raises(ValueError, match="no stage kernel -1"):
        KERNELS.launch_cuda_stage(-1, 0, [], [], [], 1, 1, 1, 0, 0, [], 1, 0)
    with pytest.raises(ValueError, match="takes 3 buffers, 0 of them sums; got 1, 0"):
        KERNELS.launch_cuda_stage(0, 0, [0], [0], [], 1, 1, 1, 0, 0, [], 1, 0)
    with pytest.raises(ValueError, match="got 2 buffers and 3 pitches"):
        KERNELS.launch_cuda_stage(0, 0, [0, 0], [0, 0, 0], [], 1, 1, 1, 0, 0, [], 1, 0)
    with pytest.raises(ValueError, match="a stage has no argument 3"):
        KERNELS.launch_cuda_stage(0, 0, [0, 0, 0], [0, 0, 0], [(3, 0, 0, 0, 0)], 1, 1, 1, 0, 0, [], 1, 0)


def test_every_cell_is_a_subject():
    """Normalised ones: ``cuda_norms_on_host``."""
    plain = {repr(c) for c in BUILT_IN if not schedule_of(c.key).normalizes}
    assert plain <= {repr(s.cell) for s in SUBJECTS.values()}


@pytest.mark.parametrize("name", SUBJECTS)
@pytest.mark.parametrize("case", ["plain", "reverse_lengths"])
def test_equals_hand_written_loop(name, case):
    compare_with_loop(name, CASES[case], "cuda", torch.float64)


@pytest.mark.parametrize("name", ["lstm_channel", "gru_before", "gru_after", "stacked"])
@pytest.mark.parametrize("case", ["no_bias_no_states", "stride", "padding_of_1x1", "products"])
def test_inputs_convolved_in_the_loop(name, case):
    with input_schedule.use_schedule("in_loop"):
        compare_with_loop(name, (CASES | PADDINGS | PRODUCTS)[case], "cuda", torch.float64)


SHAPES = [*sorted(set(CASES) - {"plain", "reverse_lengths", "many_chunks", "no_input"}), *PADDINGS]


@pytest.mark.parametrize("name", ["lstm_full", "gru_before"])
@pytest.mark.parametrize("case", SHAPES)
def test_shapes(name, case):
    compare_with_loop(name, (CASES | PADDINGS)[case], "cuda")


@pytest.mark.parametrize("name", ["lstm_full", "gru_before", "gru_after", "mgu"])
def test_volumes(name):
    case = Case(depth=3, height=4, width=5, kernel=(3, 3, 3), stride=(1, 2, 1), lengths=(4, 2), scale=0.2)
    compare_with_loop(name, case, "cuda", torch.float64)


@pytest.mark.parametrize("name", ["rnn_tanh", "lstm_channel", "lstm_full", "gru_before", "stacked", "mgu"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_low_precision_is_no_worse_than_twice_the_plain_loop(name, dtype):
    compare_with_loop(name, CASES["plain"], "cuda", dtype)


@pytest.mark.parametrize("name", ["lstm_full", "gru_before"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_low_precision_in_packs(name, dtype):
    """Eight channels at a time; without a ReLU, which a rounding may open."""
    compare_with_loop(name, Case(channels=16, lengths=(4, 2), scale=0.1), "cuda", dtype)


@pytest.mark.parametrize("name", NOISY)
@pytest.mark.parametrize("recompute", [False, True])
def test_masks(name, recompute):
    compare_noisy(name, CASE, "cuda", torch.float64, recompute)


@pytest.mark.parametrize("name", ["lstm_full", "gru_before", "gru_after", "mgu"])
@pytest.mark.parametrize("case", ["reverse_lengths", "kernel_1"])
def test_recompute(name, case):
    compare_with_loop(name, CASES[case], "cuda", torch.float64, recompute=True)


BIDIRECTIONAL = {
    "lstm_full": partial(fastrcn.ConvLSTM, peephole="full", map_size=(6, 5)),
    "lstm_full_recompute": partial(fastrcn.ConvLSTM, peephole="full", map_size=(6, 5), recompute=True),
    "gru_before": fastrcn.ConvGRU,
    "gru_after": partial(fastrcn.ConvGRU, reset="after"),
}


@pytest.mark.parametrize("name", BIDIRECTIONAL)
@pytest.mark.parametrize("lengths", [None, [4, 2, 0]], ids=["whole", "lengths"])
def test_bidirectional_layers(name, lengths):
    """Two, the second of both directions' outputs."""
    layer = BIDIRECTIONAL[name](3, 4, num_layers=2, bidirectional=True)
    compare_layer(layer, torch.randn(4, 3, 3, 6, 5), lengths, "cuda")
    # Forward and backward, of each layer, direction, step and stage.
    assert len(KERNELS.launches()) == 2 * 2 * 2 * 4 * (2 if name == "gru_before" else 1)


@pytest.mark.parametrize(("name", "recompute"), [("lstm_channel", False), ("lstm_full", True), ("gru_before", False)])
def test_many_chunks(name, recompute, monkeypatch):
    monkeypatch.setattr(cuda.Program, "chunk_pixels", (1, 1 << 62))
    compare_with_loop(name, MANY_CHUNKS, "cuda", torch.float64, recompute=recompute)


@pytest.mark.parametrize("name", ["lstm", "gru_before"])
def test_no_sequences(name):
    case = Case(batch=0)
    tensors = make_tensors(SUBJECTS[name], case)
    output, _ = run_package(SUBJECTS[name], case, tensors, "cuda")
    grads = torch.autograd.grad(output.sum(), list(tensors.values()))
    assert output.shape[1] == 0
    assert not any(g.any() for g in grads)
    assert not KERNELS.launches()


STAGES_OF_A_STEP = {"rnn_tanh": 1, "lstm": 1, "lstm_full": 1, "gru_before": 2, "gru_after": 1, "stacked": 2}


@pytest.mark.parametrize("name", STAGES_OF_A_STEP)
@pytest.mark.parametrize("loop", ["c++", "python"])
def test_stages_add_what_convolutions_give(name, loop, monkeypatch):
    """One kernel per stage and step, forward and backward, and no pass over memory that only adds."""
    if loop == "python":
        monkeypatch.setattr(cuda, "_torch_library", WITHOUT)
    monkeypatch.setattr(cuda, "add_convolution", None)
    case = CASES["plain"]
    compare_with_loop(name, case, "cuda", torch.float64)
    launches = KERNELS.launches()
    assert len(launches) == 2 * case.steps * STAGES_OF_A_STEP[name]
    forward = launches[: len(launches) // 2]
    slots = SUBJECTS[name].gates[1]
    assert sum(added for added, _, _ in forward) == case.steps * slots
    assert all(written == added for added, written, _ in forward)
    assert {stream for *_, stream in launches} == {STREAM}


def test_pre_activations_that_nobody_reads_are_not_written():
    tensors = make_tensors(SUBJECTS["lstm"], CASES["plain"])
    with torch.no_grad():
        run_package(SUBJECTS["lstm"], CASES["plain"], tensors, "cuda")
    assert KERNELS.launches()
    assert not any(written for _, written, _ in KERNELS.launches())


@pytest.mark.parametrize("name", ["mgu"])
def test_a_cell_of_ones_own_runs_as_pytorch_code(name):
    compare_with_loop(name, CASES["lengths"], "cuda", torch.float64)
    assert not KERNELS.launches()


@pytest.mark.parametrize("schedule", input_schedule.NAMES)
@pytest.mark.parametrize("name", OTHER_CELLS)
def test_other_cells(name, schedule):
    with input_schedule.use_schedule(schedule):
        compare_with_reference(OTHER_CELLS[name], "cuda", torch.float64)


@pytest.mark.parametrize("name", ["lstm_full", "gru_before", "gru_after", "stacked"])
@pytest.mark.parametrize("case", ["reverse_lengths", "two_kernels"])
def test_python_loop(name, case, monkeypatch):
    """Where PyTorch has not all of the interface that the loop in C++ needs."""
    monkeypatch.setattr(cuda, "_torch_library", WITHOUT)
    monkeypatch.setattr(KERNELS, "CudaProgram", None)
    compare_with_loop(name, CASES[case], "cuda", torch.float64)
    with input_schedule.use_schedule("in_loop"):
        compare_with_loop(name, CASES[case], "cuda", torch.float64)


@pytest.mark.parametrize(
    ("name", "case"), [("lstm_full", "plain"), ("gru_before", "kernel_1"), ("gru_after", "plain"), ("stacked", "plain")]
)
@pytest.mark.parametrize("schedule", input_schedule.NAMES)
def test_one_call_per_run(name, case, schedule, monkeypatch):
    """All steps of a chunk in one call, but for the sequence's first in the backward; nothing of a step in Python."""
    runs = []

    class Counted(KERNELS.CudaProgram):
        def run(self, *arguments):
            runs.append(arguments[1])
            super().run(*arguments)

    monkeypatch.setattr(KERNELS, "CudaProgram", Counted)
    monkeypatch.setattr(cuda.Program, "_in_python", None)
    with input_schedule.use_schedule(schedule):
        compare_with_loop(name, CASES[case], "cuda", torch.float64)
    assert runs == [CASES[case].steps, CASES[case].steps - 1, 1]


@pytest.mark.parametrize("backend", ["cuda", "reference"])
@pytest.mark.parametrize("name", ["lstm_full", "gru_before", "mgu"])
def test_no_value_is_read(name, backend, monkeypatch):
    """Of lengths neither: on a GPU nothing of a training step waits, so that a CUDA graph can hold it."""
    case, lengths = CASES["lengths"], torch.tensor(CASES["lengths"].lengths)
    tensors = make_tensors(SUBJECTS[name], case)
    monkeypatch.setattr(functional, "check_lengths", lambda given, input: lengths)
    for method in ("item", "tolist", "numpy", "nonzero", "__bool__", "__int__", "__index__", "__float__"):
        monkeypatch.setattr(torch.Tensor, method, None)
    gradients(*run_package(SUBJECTS[name], case, tensors, backend), tensors)


@pytest.mark.parametrize("loop", ["c++", "python"])
def test_the_tensors_device_is_the_current_one(loop, monkeypatch):
    """Of which the stream is then asked, forward and backward, until all is launched."""
    if loop == "python":
        monkeypatch.setattr(cuda, "_torch_library", WITHOUT)
    inside, devices, streams = [], [], []

    @contextmanager
    def device(which):
        inside.append(which)
        yield
        streams.extend(stream for *_, stream in KERNELS.launches()[len(streams) :])
        devices.append(inside.pop())

    def current_stream(which):
        assert inside == [which]
        return SimpleNamespace(cuda_stream=STREAM + 1)

    monkeypatch.setattr(torch.cuda, "device", device)
    monkeypatch.setattr(torch.cuda, "current_stream", current_stream)
    monkeypatch.setattr(cuda, "_current_stream", CURRENT_STREAM)
    compare_with_loop("lstm", CASES["plain"], "cuda", torch.float64)
    assert devices == [torch.device("cpu")] * 2
    assert streams == [STREAM + 1] * len(KERNELS.launches())


def test_a_failing_launch():
    tensors = make_tensors(SUBJECTS["lstm"], CASES["plain"])
    KERNELS.fail_with("too many resources requested for launch")
    with pytest.raises(RuntimeError, match="a stage's kernel: too many resources requested for launch"):
        run_package(SUBJECTS["lstm"], CASES["plain"], tensors, "cuda")


def test_backward_under_autocast():
    """Casts belong before the operators: inside, everything is of the type of their tensors."""
    subject, case = SUBJECTS["lstm"], CASES["plain"]
    tensors = make_tensors(subject, case, torch.float32)
    output, _ = run_package(subject, case, tensors, "cuda")
    loss = output.square().sum()
    expected = torch.autograd.grad(loss, list(tensors.values()), retain_graph=True)
    with torch.autocast("cpu", torch.bfloat16):
        found = torch.autograd.grad(loss, list(tensors.values()))
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a, b)


PACKED = Case(channels=16, lengths=(4, 2), scale=0.1)
PRODUCT = replace(PACKED, kernel=(1, 1))
ONE_PIXEL = replace(PRODUCT, height=1, width=1)
FUSED = {"rnn_tanh": 1, "lstm": 1, "lstm_channel": 1, "lstm_full": 1, "gru_before": 2, "gru_after": 1, "stacked": 2}
"""Kernels of a forward step; each is a convolution, of gru_after two, with a stage. Backward there are as many, of
gru_after a sum of two convolutions with the stage."""
FUSED_CASES = {
    "reverse": ("gru_before", Case(channels=8, reverse=True, states=False, scale=0.1), False),
    "recompute": ("lstm", Case(channels=24, kernel=(3, 5), lengths=(4, 2), scale=0.1), True),
    "volumes": ("gru_before", Case(channels=8, depth=3, height=4, width=3, kernel=(3, 1, 3), scale=0.1), False),
    "many_chunks": ("lstm", replace(MANY_CHUNKS, channels=8, height=4, width=3), False),
    "channel_reverse": ("lstm_channel", Case(channels=24, height=9, width=10, reverse=True, scale=0.1), False),
    "full_recompute": ("lstm_full", Case(channels=8, height=9, width=10, lengths=(4, 2), scale=0.1), True),
    "full_volumes": ("lstm_full", Case(channels=8, depth=3, height=4, width=3, kernel=(3, 1, 3), scale=0.1), False),
    "full_many_chunks": ("lstm_full", replace(MANY_CHUNKS, channels=8, height=4, width=3), False),
    "after_reverse": ("gru_after", Case(channels=24, reverse=True, states=False, scale=0.1), False),
    "after_recompute": ("gru_after", Case(channels=8, kernel=(3, 5), lengths=(4, 2), scale=0.1), True),
    "after_volumes": ("gru_after", Case(channels=16, depth=3, height=4, width=3, kernel=(3, 1, 3), scale=0.1), False),
    "after_many_chunks": ("gru_after", replace(MANY_CHUNKS, channels=8, height=4, width=3), False),
}


@pytest.mark.parametrize("name", FUSED)
@pytest.mark.parametrize("case", [PACKED, PRODUCT, ONE_PIXEL], ids=["3x3", "1x1", "one_pixel"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_convolutions_fused_with_stages(name, case, dtype):
    with cuda_method.use_method("fused"):
        compare_with_loop(name, case, "cuda", dtype)
    forward = PACKED.steps * FUSED[name]
    # Nothing is convolved before the first stage of the backward.
    assert len(KERNELS.steps()) == 2 * forward - 1
    assert len(KERNELS.launches()) == 1


@pytest.mark.parametrize("case", FUSED_CASES)
def test_cases_of_fused_convolutions(case, monkeypatch):
    if case.endswith("many_chunks"):
        monkeypatch.setattr(cuda.Program, "chunk_pixels", (1, 1 << 62))
    name, case, recompute = FUSED_CASES[case]
    with cuda_method.use_method("fused"):
        compare_with_loop(name, case, "cuda", torch.bfloat16, recompute=recompute)
    assert len(KERNELS.steps()) > case.steps


@pytest.mark.parametrize(
    ("name", "change", "is_one"),
    [
        ("lstm", {}, True),
        ("gru_before", {}, True),
        ("lstm", {"kernel": (1, 1)}, True),
        ("lstm", {"kernel": (3, 5), "recurrent_kernel": (3, 3)}, False),
        ("lstm", {"states": False}, False),
        ("gru_after", {}, False),
        ("stacked", {}, False),
    ],
)
def test_inputs_and_states_convolved_in_one_kernel(name, change, is_one):
    """Not with different kernels, or at different times; nor where slots are sums of other maps, or of three."""
    case = replace(PACKED, inputs=24, **change)
    with cuda_method.use_method("fused"), input_schedule.use_schedule("in_loop"):
        compare_with_loop(name, case, "cuda", torch.bfloat16)
    steps = case.steps * FUSED[name]
    assert len(KERNELS.steps()) == is_one * steps + steps - 1


@pytest.mark.parametrize("name", ["lstm", "gru_after"])
@pytest.mark.parametrize("case", [PACKED, ONE_PIXEL], ids=["3x3", "1x1"])
@pytest.mark.parametrize("allowed", [False, True])
def test_float32_is_fused_where_tf32_is_allowed(allowed, case, name, monkeypatch):
    """Convolutions and products of matrices have a switch each."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", allowed == (case is PACKED))
    monkeypatch.setattr(tf32, "allows_tf32_products", lambda: allowed == (case is ONE_PIXEL))
    tensors = make_tensors(SUBJECTS[name], case, torch.float32)
    with cuda_method.use_method("fused"):
        found = gradients(*run_package(SUBJECTS[name], case, tensors, "cuda"), tensors)
    assert len(KERNELS.steps()) == (2 * case.steps - 1 if allowed else 0)
    truth = gradients(*run_package(SUBJECTS[name], case, tensors, "reference"), tensors)
    for part, value in found.items():
        assert relative_error(value, truth[part]) < (1e-3 if allowed else 1e-6), part


@pytest.mark.parametrize("kernel", [(3, 3), (1, 1)], ids=["3x3", "1x1"])
def test_channels_that_are_no_whole_packs_are_not_fused(kernel):
    with cuda_method.use_method("fused"):
        compare_with_loop("lstm", replace(PACKED, channels=12, kernel=kernel), "cuda", torch.bfloat16)
    assert not KERNELS.steps()


@pytest.mark.parametrize("name", ["lstm", "gru_before"])
def test_a_product_beside_another_convolution_is_the_librarys(name):
    """It adds to the target that the fused kernel of the inputs' convolution takes; in the backward it is alone."""
    case = replace(PACKED, inputs=24, recurrent_kernel=(1, 1))
    with cuda_method.use_method("fused"), input_schedule.use_schedule("in_loop"):
        compare_with_loop(name, case, "cuda", torch.bfloat16)
    assert len(KERNELS.steps()) == 2 * case.steps * FUSED[name] - 1
