"""Run by test_cuda_stages_on_host.py: kernels of a cell of one's own, compiled for the host into another library.

Last of the files of its process: the cell stays compiled there.
"""

import os
from contextlib import nullcontext

import pytest
import torch

import fastrcn
from fastrcn import backends
from fastrcn.cells import Cell, conv, peephole, tanh
from fastrcn.compiler.schedule import schedule_of
from fastrcn.ops.conv_recurrent import cuda, cuda_method
from tests.helpers.cells import CASES, MGU, Case, compare_with_loop
from tests.helpers.tolerances import assert_draws_close, draws
from tests.ops.cuda_on_host import stage_cases
from tests.ops.cuda_on_host.stages import build_library, load


class ManyPeepholes(Cell):
    """Seven, whose gradients are summed over pixels at once."""

    def step(self, x, h):
        y = conv(x) + conv(h)
        for _ in range(7):
            y = tanh(y + peephole(h))
        return y


KERNELS = load(os.environ["FASTRCN_HOST_STAGES"])
LIBRARY = KERNELS.TorchLibrary(torch._C.__file__, "cpu")
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
SCHEDULE = schedule_of(MGU().key)
PEEPHOLES = ManyPeepholes()
PACKS = Case(steps=3, channels=16, lengths=(3, 2), scale=0.1)


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """Its file, and whether the cell had kernels before and after it was loaded."""
    file = build_library(tmp_path_factory.mktemp("library"), [MGU(), PEEPHOLES])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cuda, "_kernels", lambda: KERNELS)
        before = cuda.has_kernels(SCHEDULE)
        KERNELS.register_cuda_kernels(str(file))
        return file, before, cuda.has_kernels(SCHEDULE)


@pytest.fixture(autouse=True)
def on_the_host(monkeypatch, poisoned_memory, library):
    monkeypatch.setattr(cuda, "_kernels", lambda: KERNELS)
    monkeypatch.setattr(cuda, "_torch_library", lambda device: (LIBRARY, ""))
    monkeypatch.setattr(cuda, "_current_stream", lambda device: nullcontext(56))
    monkeypatch.setattr(cuda_method, "_capability", lambda device: 9)
    monkeypatch.setitem(backends._CAN_RUN["conv_recurrent"], "cuda", lambda *a: (True, "its kernels run on the host"))


def test_it_is_found_after_the_built_in_cells(library):
    _, before, after = library
    assert (before, after) == (False, True)
    numbers = [KERNELS.cuda_stage(SCHEDULE.fingerprint, k, backward) for backward in (False, True) for k in (0, 1)]
    first = len(stage_cases.STAGES)
    assert sorted(numbers) == [*range(first, first + 4)]
    assert cuda.has_kernels(schedule_of(PEEPHOLES.key))
    with pytest.raises(ValueError, match="takes 3 buffers"):
        KERNELS.launch_cuda_stage(0, 0, [0], [0], [], 1, 1, 1, 0, 0, [], 1, 0)
    with pytest.raises(ValueError, match=f"there is no stage kernel {max(numbers) + 3}"):
        KERNELS.launch_cuda_stage(max(numbers) + 3, 0, [], [], [], 1, 1, 1, 0, 0, [], 1, 0)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", [CASES["reverse_lengths"], PACKS], ids=["single", "packs"])
def test_equals_hand_written_loop(case, dtype, monkeypatch):
    """With the time loop in C++: nothing of a step is Python."""
    monkeypatch.setattr(cuda.Program, "_in_python", None)
    with cuda_method.use_method("library"):
        compare_with_loop("mgu", case, "cuda", dtype, seeds=draws(dtype))


def test_sums_of_which_packs_have_no_room():
    """In bfloat16 a thread then has fewer channels side by side."""
    layer = fastrcn.ConvRecurrent(PEEPHOLES, 3, 8, peephole="channel").bfloat16()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape).mul(0.1))
    x, found = torch.randn(4, 3, 3, 6, 5).bfloat16(), {}
    for backend, dtype in (("cuda", torch.bfloat16), ("reference", torch.bfloat16), ("reference", torch.float64)):
        layer.backend, inputs = backend, x.to(dtype).requires_grad_()
        with cuda_method.use_method("library"):
            output, _ = layer.to(dtype)(inputs, lengths=[4, 2, 0])
            grads = torch.autograd.grad(output.square().sum(), [inputs, *layer.parameters()])
        found[backend, dtype] = {str(n): t for n, t in enumerate((output.detach(), *grads))}
    own, plain, exact = found.values()
    assert_draws_close([(own, exact, plain)], torch.bfloat16)


def test_python_loop(monkeypatch):
    monkeypatch.setattr(cuda, "_torch_library", lambda device: (None, "this PyTorch has no function"))
    compare_with_loop("mgu", CASES["reverse_lengths"], "cuda", torch.float64)


def test_built_in_cells_have_their_own_kernels(monkeypatch):
    monkeypatch.setattr(cuda.Program, "_in_python", None)
    compare_with_loop("gru_before", CASES["reverse_lengths"], "cuda", torch.float64)


def test_convolutions_in_its_kernels(monkeypatch):
    monkeypatch.setattr(cuda.Program, "_in_python", None)
    fused, plain = [], cuda.fused_stages
    monkeypatch.setattr(cuda, "fused_stages", lambda *a: fused.append(plain(*a)) or fused[-1])
    with cuda_method.use_method("fused"):
        compare_with_loop("mgu", PACKS, "cuda", torch.bfloat16, seeds=draws(torch.bfloat16))
    assert fused
    assert all(fused)
