"""Run by test_conv_recurrent_cuda.py on a GPU, in a process of its own: what is compiled here stays compiled in the
process."""

import pytest
import torch

import fastrcn
from fastrcn.ops.conv_recurrent import cuda, cuda_method
from tests.helpers.cells import CASES, MGU, Case, compare_in_tf32, compare_with_loop
from tests.helpers.other_cells import OTHER_CELLS, random_leaves, results
from tests.helpers.tolerances import assert_close, draws

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
LARGE = Case(steps=6, batch=3, inputs=20, channels=72, height=23, width=31, scale=0.05, lengths=(6, 1, 4))
OTHERS = ("two_maps", "new_state")


@pytest.fixture(scope="module", autouse=True)
def compiled():
    for cell in (MGU(), *(OTHER_CELLS[name] for name in OTHERS)):
        assert len(fastrcn.compile_cell(cell, "cuda")) == 1


@pytest.fixture(autouse=True)
def in_cpp(monkeypatch):
    """Nothing of a step is Python."""
    monkeypatch.setattr(cuda.Program, "_in_python", None)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@pytest.mark.gpu
@pytest.mark.parametrize("method", cuda_method.NAMES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_equals_hand_written_loop(dtype, method):
    with cuda_method.use_method(method):
        for case in (CASES["reverse_lengths"], LARGE):
            compare_with_loop("mgu", case, "cuda", dtype, "cuda", seeds=draws(dtype))


@pytest.mark.gpu
@pytest.mark.parametrize("method", cuda_method.NAMES)
def test_tf32(method, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    with cuda_method.use_method(method):
        compare_in_tf32("mgu", LARGE, "cuda")


@pytest.mark.gpu
@pytest.mark.parametrize("name", OTHERS)
def test_other_cells(name):
    leaves = [t.requires_grad_() for t in random_leaves(OTHER_CELLS[name])]
    found = results(OTHER_CELLS[name], [t.detach().cuda().requires_grad_() for t in leaves], "cuda")
    for a, b in zip(found, results(OTHER_CELLS[name], leaves, "reference"), strict=True):
        assert_close(a.cpu(), b)
