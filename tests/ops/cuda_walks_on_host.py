"""Run by test_cuda_stages_on_host.py: kernels of the ``cuda`` backend that walk over time, compiled for the host."""

from dataclasses import replace

import pytest
import torch

import fastrcn
from fastrcn.ops import tf32
from fastrcn.ops.conv_recurrent import cuda, cuda_method
from tests.helpers.cells import SUBJECTS, Case, gradients, make_tensors, run_package
from tests.ops.cuda_program_on_host import KERNELS, on_the_host  # noqa: F401

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
MEDIUM_TILE, SMALL_TILE = 1, 2
NO_ROOM, ALL_ROOM = 40_000, 227_000
"""Of a block, in bytes: not for weights that stay; as much as they may need."""
ROOM_FOR_ONE = 60_000
"""For the weights of one of two kernels."""
CASE = Case(batch=1, channels=16, height=9, width=10, kernel=(5, 1), scale=0.1)
"""Of 90 pixels, two tiles of 64, which read rows of each other."""
PRODUCT = replace(CASE, kernel=(1, 1))
ONE_PIXEL = replace(PRODUCT, batch=70, height=1, width=1)
TALL = replace(CASE, height=13)
"""Of three tiles."""
WALKS = {
    "rnn_tanh": 2,
    "rnn_relu": 2,
    "lstm": 2,
    "lstm_channel": 2,
    "lstm_full": 2,
    "gru_after": 2,
    "gru_before": 2,
}
"""How many walks a sequence takes: forward, and backward where each step is fused kernels there too."""
CASES = {
    "parts": ("lstm", replace(CASE, channels=32)),
    "no_states": ("lstm", replace(CASE, states=False)),
    "lengths": ("lstm", replace(CASE, batch=2, lengths=(4, 2))),
    "reverse": ("lstm", replace(CASE, batch=2, lengths=(4, 2), reverse=True)),
    "reverse_no_states": ("lstm", replace(CASE, reverse=True, states=False)),
    "volumes": ("lstm", replace(CASE, depth=3, height=5, width=7, kernel=(3, 1, 3))),
    "recompute": ("lstm", CASE),
    "chunks": ("rnn_tanh", replace(CASE, steps=7)),
    "channels": ("rnn_tanh", replace(CASE, kernel=(3, 1), channels=72)),
    "of_1x1": ("lstm", PRODUCT),
    "one_pixel": ("lstm", replace(ONE_PIXEL, lengths=(4, 2) * 35)),
    "one_pixel_rnn": ("rnn_tanh", ONE_PIXEL),
    "gru_of_1x1": ("gru_before", replace(PRODUCT, channels=40)),
    "gru_one_pixel": ("gru_before", replace(ONE_PIXEL, channels=40)),
    "after_of_1x1": ("gru_after", PRODUCT),
    "after_one_pixel": ("gru_after", replace(ONE_PIXEL, channels=24, states=False)),
    "gru_apart": ("gru_before", replace(CASE, kernel=(3, 1), height=7, channels=72)),
    "gru_stacked": ("stacked", CASE),
    "gru_no_states": ("gru_before", replace(CASE, channels=40, states=False)),
    "gru_lengths": ("gru_before", replace(CASE, batch=2, height=5, lengths=(4, 2))),
    "gru_reverse": ("gru_before", replace(CASE, channels=40, batch=2, height=5, lengths=(4, 2), reverse=True)),
    "gru_volumes": ("gru_before", replace(CASE, depth=3, height=5, width=7, kernel=(3, 1, 3))),
    "gru_recompute": ("gru_before", replace(CASE, channels=40)),
    "gru_chunks": ("gru_before", replace(CASE, steps=7)),
    "after_parts": ("gru_after", replace(CASE, kernel=(3, 1), channels=72)),
    "after_no_states": ("gru_after", replace(CASE, states=False)),
    "after_lengths": ("gru_after", replace(CASE, batch=2, lengths=(4, 2))),
    "after_reverse": ("gru_after", replace(CASE, channels=24, batch=2, lengths=(4, 2), reverse=True)),
    "after_volumes": ("gru_after", replace(CASE, depth=3, height=5, width=7, kernel=(3, 1, 3))),
    "after_recompute": ("gru_after", CASE),
    "channel_parts": ("lstm_channel", replace(CASE, kernel=(3, 1), height=6, channels=72)),
    "channel_reverse": ("lstm_channel", replace(CASE, batch=2, lengths=(4, 2), reverse=True)),
    "full_one_pixel": ("lstm_full", replace(ONE_PIXEL, lengths=(4, 2) * 35)),
    "full_lengths": ("lstm_full", replace(CASE, batch=2, lengths=(4, 2))),
    "full_chunks": ("lstm_full", replace(CASE, steps=7)),
    "after_chunks": ("gru_after", replace(CASE, steps=7)),
}
"""With 40 or 72 channels the forward's two kernels of ConvGRU have different tiles: each reads what other blocks wrote,
and some blocks have no tile of the second."""


@pytest.fixture(autouse=True)
def allow_tf32(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    monkeypatch.setattr(tf32, "allows_tf32_products", lambda: True)


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
        assert len(KERNELS.steps()) + sum(len(kept) * times for *_, kept, times in KERNELS.walks()) == launches
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


# float16's kernels are bfloat16's but for the product's type and conversions.
@pytest.mark.parametrize(
    ("name", "dtype"), [(n, d) for n in WALKS for d in DTYPES if d != torch.float16 or n in ("lstm", "gru_before")]
)
def test_every_cell(name, dtype, products):
    """The first step has the states that were given; in the backward nothing is convolved before it, and the sequence's
    first step is apart."""
    times = [CASE.steps - 1, CASE.steps - 2][: WALKS[name]]
    kernels = 2 if name == "gru_before" else 1
    expected = [(SMALL_TILE, 2, [kept] * kernels, n) for kept in (False, True) for n in times]
    assert compare(name, CASE, dtype, rooms=(NO_ROOM, ALL_ROOM)) == expected


@pytest.mark.parametrize("case", CASES)
def test_cases(case, monkeypatch):
    if case.endswith("chunks"):
        monkeypatch.setattr(cuda.Program, "chunk_pixels", (4 * 90, 1 << 62))
    name, sizes = CASES[case]
    walks = compare(name, sizes, torch.bfloat16, recompute=case.endswith("recompute"))
    # The forward is one span of time, the backward may be two.
    assert len(walks) == (3 if case.endswith("chunks") else 2)
    assert all(blocks > 1 and all(kept) for _, blocks, kept, _ in walks)


@pytest.mark.parametrize(("dtype", "backward"), [(torch.bfloat16, [True, False]), (torch.float32, [False, True])])
def test_weights_of_one_kernel_stay(dtype, backward, products):
    """The first's, which in the backward has two slots to read, or the only ones that fit."""
    walks = compare("gru_before", CASE, dtype, rooms=[ROOM_FOR_ONE])
    assert [kept for _, _, kept, _ in walks] == [[True, False], backward]


@pytest.mark.parametrize(
    ("name", "case", "blocks"),
    [
        ("lstm", replace(TALL, channels=32), [6, 3]),
        ("lstm_channel", TALL, [3, 3]),
        ("lstm_full", replace(CASE, batch=2), [3, 3]),
        ("gru_before", replace(CASE, channels=40), [4, 2]),
        ("gru_after", replace(TALL, channels=24), [6, 3]),
    ],
    ids=["one", "sums", "maps", "two", "of_two_sources"],
)
@pytest.mark.parametrize("early", [False, True], ids=["late", "early"])
def test_order_of_blocks(early, name, case, blocks, products):
    """Whichever goes on first, and sees what others wrote at once or as late as it may."""
    KERNELS.set_steps(1000, early)
    walks = compare(name, replace(case, kernel=(3, 1)), torch.bfloat16, rooms=[ALL_ROOM] * 3)
    assert [n for _, n, *_ in walks] == blocks * 3


@pytest.mark.parametrize("name", ["lstm", "gru_before"])
def test_without_gradients(name):
    """What is completed is not written then, but for what another kernel needs."""
    KERNELS.set_walks(ALL_ROOM, 100, 1)
    tensors = make_tensors(SUBJECTS[name], CASE, torch.bfloat16)
    found = []
    for method in ("fused", "persistent"):
        with torch.no_grad(), cuda_method.use_method(method):
            found.append(run_package(SUBJECTS[name], CASE, tensors, "cuda")[0])
    assert torch.equal(*found)
    assert [times for *_, times in KERNELS.walks()] == [CASE.steps - 1]


@pytest.mark.parametrize("name", ["rnn_tanh", "gru_before"])
@pytest.mark.parametrize(("blocks", "tiles"), [(3, [SMALL_TILE] * 2), (2, [MEDIUM_TILE] * 2), (1, [])])
def test_tiles(name, blocks, tiles, products):
    """Fewer, larger ones where not all small ones run at once; no walk where these do not either."""
    assert [tile for tile, *_ in compare(name, TALL, torch.bfloat16, blocks=blocks)] == tiles


@pytest.mark.parametrize("name", ["rnn_tanh", "gru_before"])
def test_fewer_steps_are_launched_one_by_one(name, monkeypatch):
    """Forward there are three together, backward two."""
    fewest = cuda.fewest_persistent
    monkeypatch.setattr(cuda, "fewest_persistent", lambda *a: fewest(*a) and 3)
    assert [times for *_, times in compare(name, CASE, torch.bfloat16)] == [3]


def test_through_the_layer():
    KERNELS.set_walks(ALL_ROOM, 100, 1)
    layer, found = fastrcn.ConvGRU(3, 16, backend="cuda", dtype=torch.bfloat16), []
    x = torch.randn(4, 1, 3, 9, 10).to(torch.bfloat16).requires_grad_()
    for method in ("fused", "persistent"):
        with fastrcn.use_cuda_method(method):
            output = layer(x)[0]
            found.append([output, *torch.autograd.grad(output.float().square().sum(), [x, *layer.parameters()])])
    assert all(map(torch.equal, *found))
    assert [times for *_, times in KERNELS.walks()] == [3, 2]


def test_bidirectional_layers():
    """Two: each of the four directions has its walk forward and its walk backward."""
    KERNELS.set_walks(ALL_ROOM, 100, 1)
    layer = fastrcn.ConvLSTM(2, 8, num_layers=2, bidirectional=True, backend="cuda", dtype=torch.bfloat16)
    x, found = torch.randn(4, 2, 2, 3, 4).to(torch.bfloat16).requires_grad_(), []
    for method in ("fused", "persistent"):
        with fastrcn.use_cuda_method(method):
            output = layer(x, lengths=[4, 2])[0]
            found.append([output, *torch.autograd.grad(output.float().square().sum(), [x, *layer.parameters()])])
    assert all(map(torch.equal, *found))
    assert [times for *_, times in KERNELS.walks()] == 4 * [3] + 4 * [2]
