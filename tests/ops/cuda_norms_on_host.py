"""Run by test_cuda_stages_on_host.py: normalised cells on the ``cuda`` backend, its kernels compiled for the host."""

import os
from contextlib import nullcontext

import pytest
import torch

from fastrcn import backends
from fastrcn.cells import BUILT_IN
from fastrcn.compiler.schedule import schedule_of
from fastrcn.functional import conv_recurrent
from fastrcn.ops.conv_recurrent import cuda, input_schedule
from fastrcn.ops.conv_recurrent.cuda_addends import find_addends
from fastrcn.ops.conv_recurrent.program import Buffer, Convolution, Fill, Normalize
from fastrcn.ops.convolution.weight import Weight
from tests.helpers.normed import CELLS, compare, tensors_of
from tests.ops.cuda_on_host import normalize_cases
from tests.ops.cuda_on_host.normalize_cases import NormalizeCase
from tests.ops.cuda_on_host.stages import load

KERNELS = load(os.environ["FASTRCN_HOST_STAGES"])
LIBRARY = KERNELS.TorchLibrary(torch._C.__file__, "cpu")
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
STREAM = 56
NORMS_OF_A_STEP = {"lstm": 1, "peephole_lstm": 1, "gru": 2, "gru_after": 1, "rnn": 1}
"""Built-in cells, and how many groups of convolutions of states are normalised."""


@pytest.fixture(autouse=True)
def on_the_host(monkeypatch, poisoned_memory):
    monkeypatch.setattr(cuda, "_kernels", lambda: KERNELS)
    monkeypatch.setattr(cuda, "_torch_library", lambda device: (LIBRARY, ""))
    monkeypatch.setattr(cuda, "_current_stream", lambda device: nullcontext(STREAM))
    monkeypatch.setattr(cuda, "_PARTS", 3)
    monkeypatch.setitem(backends._CAN_RUN["conv_recurrent"], "cuda", lambda *a: (True, "its kernels run on the host"))
    KERNELS.forget_launches()
    yield
    KERNELS.fail_with("")


@pytest.fixture(params=["c++", "python"])
def loop(request, monkeypatch):
    """Both time loops; in C++ nothing of a step is Python."""
    if request.param == "python":
        monkeypatch.setattr(cuda, "_torch_library", lambda device: (None, "this PyTorch has no function"))
    else:
        monkeypatch.setattr(cuda.Program, "_in_python", None)
    return request.param


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", normalize_cases.CASES)
def test_kernels(case, dtype):
    normalize_cases.check_forward(KERNELS, normalize_cases.CASES[case], dtype)
    if normalize_cases.CASES[case].source != "none":
        normalize_cases.check_backward(KERNELS, normalize_cases.CASES[case], dtype)


@pytest.mark.parametrize("slices", [1, 3])
@pytest.mark.parametrize("skip", [0, 1])
def test_values_far_from_zero(slices, skip):
    """A difference of mean squares would be all rounding. The mean, some 1000, is a float32: its last place is
    2^-14."""
    case = NormalizeCase(2, 12288, slices, "other", skip, mean=1000)
    given, made, scale = normalize_cases.run_forward(KERNELS, case, torch.float32)
    deviation = (given.var(1, keepdim=True, correction=0) + normalize_cases.EPS).sqrt()
    assert (made - (given - given.mean(1, keepdim=True)) / deviation).abs().max() <= 2**-14
    assert (scale * deviation[:, 0] - 1).abs().max() <= 1e-5


def test_slices():
    """Of few large images; about as many blocks as are asked for, each with enough to do."""
    expected = {
        (1, 1 << 15, 512): 1,
        (1, (1 << 15) + 1, 512): 4,
        (1, 1 << 22, 512): 512,
        (16, 1 << 22, 512): 32,
        (600, 1 << 22, 512): 1,
        (0, 1 << 22, 512): 512,
    }
    assert {key: KERNELS.cuda_normalize_slices(*key) for key in expected} == expected


def test_launch_checks_its_arguments():
    for images, slices in ((1 << 31, 1), (1, 0), (1, 1 << 16), (1, 2)):
        with pytest.raises(ValueError, match="expects fewer, and room for their sums"):
            KERNELS.launch_cuda_normalize(0, False, 0, 0, 0, images, 1, slices, 0, 1e-5, 0)


def test_every_normalised_cell_is_compared():
    normalised = {schedule_of(c.key).fingerprint for c in BUILT_IN if schedule_of(c.key).normalizes}
    assert normalised == {schedule_of(CELLS[name][0].key).fingerprint for name in NORMS_OF_A_STEP}


@pytest.mark.parametrize("schedule", input_schedule.NAMES)
@pytest.mark.parametrize("name", CELLS)
def test_equals_hand_written_loop(name, schedule):
    with input_schedule.use_schedule(schedule):
        compare(name, "cuda", torch.float64, lengths=(4, 2, 0), maps=True)
        compare(name, "cuda", torch.float64, reverse=True, recompute=True, states=False)


@pytest.mark.parametrize("name", NORMS_OF_A_STEP)
def test_shapes(name):
    compare(name, "cuda", torch.float32, size=(1, 1), steps=1, batch=1)
    compare(name, "cuda", torch.float64, size=(2, 3), kernel=(5, 7), channels=17, lengths=(1, 3, 4), maps=True)
    compare(name, "cuda", torch.float64, kernel=(1, 1), recompute=True)
    compare(name, "cuda", torch.float64, size=(2, 3, 4), kernel=(3, 1, 3), steps=2, maps=True)
    compare(name, "cuda", torch.float32, size=(5, 4), channels=16, batch=2, lengths=(4, 2), states=False)


@pytest.mark.parametrize("name", NORMS_OF_A_STEP)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_low_precision_is_no_worse_than_twice_the_plain_loop(name, dtype):
    compare(name, "cuda", dtype, lengths=(4, 2, 0))
    compare(name, "cuda", dtype, channels=16, batch=2, recompute=True)


@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_many_chunks(name, monkeypatch):
    monkeypatch.setattr(cuda.Program, "chunk_pixels", (1, 1 << 62))
    compare(name, "cuda", torch.float64, steps=17, batch=1)


@pytest.mark.parametrize("name", ["gru", "peephole_lstm"])
def test_large_images(name, loop):
    """Several blocks share them out."""
    compare(name, "cuda", torch.float32, steps=2, batch=1, size=(48, 41), channels=9)
    assert 3 in {slices for _, slices, _ in KERNELS.normalizations()}


@pytest.mark.parametrize("name", NORMS_OF_A_STEP)
@pytest.mark.parametrize("schedule", input_schedule.NAMES)
def test_normalisations_take_what_convolutions_give(name, schedule, loop, monkeypatch):
    """One kernel each, forward and backward; no pass over memory only adds, and none is PyTorch's."""
    for function in ("_normalize", "_normalize_backward"):
        monkeypatch.setattr(f"fastrcn.ops.conv_recurrent.program.{function}", None)
    monkeypatch.setattr(cuda, "add_convolution", None)
    calls, find = [], cuda.find_addends
    monkeypatch.setattr(cuda, "find_addends", lambda *given: calls.append(find(*given)) or calls[-1])
    with input_schedule.use_schedule(schedule):
        compare(name, "cuda", torch.float64)
    # Those of the inputs are of all steps at once where they come before the loop, and always in the backward.
    inputs = 1 if schedule == "hoisted" else 4
    assert len(KERNELS.normalizations()) == 8 * NORMS_OF_A_STEP[name] + inputs + 1
    assert {stream for *_, stream in KERNELS.normalizations()} == {STREAM}
    addends, steps = next((a, s) for a, s in calls if a)
    assert sum(a.norm is not None for a in addends.values()) == NORMS_OF_A_STEP[name] + (schedule == "in_loop")
    assert not [step for step in steps if type(step).__name__ == "Fill"]


def test_a_cell_of_ones_own_runs_as_pytorch_code():
    compare("one_norm", "cuda", torch.float64, lengths=(4, 2, 0))
    assert not KERNELS.launches()
    assert not KERNELS.normalizations()


def test_inference_equals_training():
    t = {n: v.detach().float() for n, v in tensors_of(CELLS["gru"][0]).items()}
    given = [t[n] for n in ("x", "weight_ih", "weight_hh", "bias", "weight_ch")]
    with torch.no_grad():
        lean, _ = conv_recurrent(CELLS["gru"][0], *given, (t["h"],), backend="cuda")
    t["x"].requires_grad_()
    assert torch.equal(conv_recurrent(CELLS["gru"][0], *given, (t["h"],), backend="cuda")[0], lean)


@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_no_sequences(name):
    cell = CELLS[name][0]
    t = {n: v.detach().float().requires_grad_() for n, v in tensors_of(cell, batch=0).items()}
    given = [t[n] for n in ("x", "weight_ih", "weight_hh", "bias", "weight_ch")]
    output, _ = conv_recurrent(cell, *given, tuple(t[s] for s in cell.states), backend="cuda")
    assert output.shape[1] == 0
    assert not any(g.any() for g in torch.autograd.grad(output.sum(), given))
    assert not KERNELS.normalizations()


def test_a_failing_launch(loop):
    KERNELS.fail_with("too many resources requested for launch")
    with pytest.raises(RuntimeError, match="a normalisation's kernel: too many resources requested for launch"):
        compare("lstm", "cuda", torch.float32)


def test_whose_result_a_normalisation_takes():
    """Of one convolution alone, whose target is zero before."""
    maps, source, scale = (Buffer(torch.zeros(1, 2, 2, 3), width=3) for _ in range(3))
    weight = Weight(torch.zeros(3, 3, 3, 3))
    fill, one, other = Fill(maps), Convolution(source, maps, weight), Convolution(source, maps, weight)
    norm = Normalize(maps, scale, 1e-5)
    addends, steps = find_addends([fill, one, norm], 3, True)
    assert [addends[id(one)].norm, *steps] == [norm, one, norm]
    slot = Convolution(source, Buffer(maps.data, width=1), weight)
    for wrong in ([one, norm], [Fill(maps, torch.ones(3)), one, norm], [fill, one, other, norm], [fill, slot, norm]):
        assert find_addends(wrong, 3, True) == ({}, wrong)


def test_what_a_normalisation_takes():
    program = KERNELS.CudaProgram(LIBRARY, 0, 0, (1, 1, 1), 0, 1)
    maps = (0, 0, 0), ((1, 1, 1, 1), (1, 1, 1, 1))
    addend = program.add_addend(maps, False)
    with pytest.raises(ValueError, match="takes an addend that is alone"):
        program.add_normalize(maps, (0, 0, 0), 1e-5, addend)
    with pytest.raises(IndexError):
        program.add_normalize(maps, (0, 0, 0), 1e-5, addend + 1)
