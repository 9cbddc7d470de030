"""Run by test_cuda_stages_on_host.py: kernels of the ``cuda`` backend that walk over time, compiled for the host."""

from dataclasses import replace

import pytest
import torch

from fastrcn.ops.conv_recurrent import cuda, cuda_method
from tests.helpers.cells import SUBJECTS, Case, gradients, make_tensors, run_package
from tests.ops.cuda_program_on_host import KERNELS, on_the_host  # noqa: F401

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
MEDIUM_TILE, SMALL_TILE = 1, 2
NO_ROOM, ALL_ROOM = 40_000, 227_000
"""Of a block, in bytes: not for weights that stay; as much as they may need."""
CASE = Case(batch=1, channels=16, height=9, width=10, kernel=(5, 1), scale=0.1)
"""Of 90 pixels, two tiles of 64, which read rows of each other."""
TALL = replace(CASE, height=13)
"""Of three tiles."""
WALKS = {"rnn_tanh": 2, "rnn_relu": 2, "lstm": 2, "lstm_channel": 1, "lstm_full": 1, "gru_after": 1}
"""How many walks a sequence takes: forward, and backward where each step is one kernel there too."""
CASES = {
    "parts": ("lstm", replace(CASE, channels=32)),
    "no_states": ("lstm", replace(CASE, states=False)),
    "lengths": ("lstm", replace(CASE, batch=2, lengths=(4, 2))),
    "reverse": ("lstm", replace(CASE, batch=2, lengths=(4, 2), reverse=True)),
    "reverse_no_states": ("lstm", replace(CASE, reverse=True, states=False)),
    "volumes": ("lstm", replace(CASE, depth=3, height=5, width=7, kernel=(3, 1, 3))),
    "recompute": ("lstm", CASE),
    "two_chunks": ("rnn_tanh", replace(CASE, steps=7)),
    "channels": ("rnn_tanh", replace(CASE, kernel=(3, 1), channels=72)),
}


@pytest.fixture(autouse=True)
def allow_tf32(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)


def run(method, name, case, dtype, recompute=False):
    """Outputs, states and gradients."""
    tensors = make_tensors(SUBJECTS[name], case, dtype)
    with cuda_method.use_method(method):
        return gradients(*run_package(SUBJECTS[name], case, tensors, "cuda", recompute), tensors)


def compare(name, case, dtype, recompute=False, rooms=(ALL_ROOM,), blocks=100):
    """A kernel for many steps and one for each give the same bits; the walks."""
    expected = run("fused", name, case, dtype, recompute)
    launches, walks = len(KERNELS.steps()), []
    assert launches
    for seed, room in enumerate(rooms):
        KERNELS.forget_launches()
        KERNELS.set_walks(room, blocks, seed)
        found = run("persistent", name, case, dtype, recompute)
        for part, value in expected.items():
            assert torch.equal(found[part], value), part
        assert len(KERNELS.steps()) + sum(times for *_, times in KERNELS.walks()) == launches
        walks += KERNELS.walks()
    return walks


@pytest.fixture(autouse=True)
def small_tiles():
    """And copies, and other blocks' writes, that are there as late as they may be."""
    KERNELS.set_steps(1000, False)
    KERNELS.set_products(False)


@pytest.fixture(params=["warps", "warpgroups"])
def products(request, small_tiles):
    """Each way of multiplying."""
    KERNELS.set_products(request.param == "warpgroups")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", WALKS)
def test_every_cell(name, dtype, products):
    """The first step has the states that were given; in the backward nothing is convolved before it, and the sequence's
    first step is apart."""
    times = [CASE.steps - 1, CASE.steps - 2][: WALKS[name]]
    expected = [(SMALL_TILE, 2, kept, n) for kept in (False, True) for n in times]
    assert compare(name, CASE, dtype, rooms=(NO_ROOM, ALL_ROOM)) == expected


@pytest.mark.parametrize("case", CASES)
def test_cases(case, monkeypatch):
    if case == "two_chunks":
        monkeypatch.setattr(cuda.Program, "chunk_pixels", (4 * 90, 1 << 62))
    name, sizes = CASES[case]
    walks = compare(name, sizes, torch.bfloat16, recompute=case == "recompute")
    assert len(walks) == (4 if case == "two_chunks" else 2)
    assert all(blocks > 1 and kept for _, blocks, kept, _ in walks)


@pytest.mark.parametrize("early", [False, True], ids=["late", "early"])
def test_order_of_blocks(early, products):
    """Whichever goes on first, and sees what others wrote at once or as late as it may."""
    KERNELS.set_steps(1000, early)
    walks = compare("lstm", replace(TALL, channels=32, kernel=(3, 1)), torch.bfloat16, rooms=[ALL_ROOM] * 3)
    assert [blocks for _, blocks, *_ in walks] == [6, 3] * 3


def test_without_gradients():
    """What is completed is not written then."""
    KERNELS.set_walks(ALL_ROOM, 100, 1)
    tensors = make_tensors(SUBJECTS["lstm"], CASE, torch.bfloat16)
    found = []
    for method in ("fused", "persistent"):
        with torch.no_grad(), cuda_method.use_method(method):
            found.append(run_package(SUBJECTS["lstm"], CASE, tensors, "cuda")[0])
    assert torch.equal(*found)
    assert [times for *_, times in KERNELS.walks()] == [CASE.steps - 1]


@pytest.mark.parametrize(("blocks", "tiles"), [(3, [SMALL_TILE] * 2), (2, [MEDIUM_TILE] * 2), (1, [])])
def test_tiles(blocks, tiles, products):
    """Fewer, larger ones where not all small ones run at once; no walk where these do not either."""
    assert [tile for tile, *_ in compare("rnn_tanh", TALL, torch.bfloat16, blocks=blocks)] == tiles


def test_steps_of_two_kernels_are_launched_one_by_one():
    assert not compare("gru_before", CASE, torch.bfloat16)


def test_fewer_steps_are_launched_one_by_one(monkeypatch):
    """Forward there are three together, backward two."""
    fewest = cuda.fewest_persistent
    monkeypatch.setattr(cuda, "fewest_persistent", lambda *a: fewest(*a) and 3)
    assert [times for *_, times in compare("rnn_tanh", CASE, torch.bfloat16)] == [3]
