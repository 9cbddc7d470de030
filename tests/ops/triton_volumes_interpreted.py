"""Run by test_triton_interpreter.py with TRITON_INTERPRET=1: volumes (T,B,C,D,H,W) in the Triton program, against
hand-written float64 loops."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

import fastrcn
from fastrcn import backends, cells
from fastrcn.compiler.schedule import schedule_of
from fastrcn.functional import conv_gru
from fastrcn.ops import autotune
from fastrcn.ops.conv_recurrent import triton_time_loop
from fastrcn.ops.conv_recurrent.geometry import Geometry
from fastrcn.ops.conv_recurrent.program import Buffer, Convolution
from fastrcn.ops.conv_recurrent.triton_config import Config, use_config
from fastrcn.ops.conv_recurrent.triton_program import TritonProgram
from fastrcn.ops.convolution.weight import Weight
from tests.helpers.cells import SUBJECTS, Case, compare_with_loop, make_tensors, run_package
from tests.helpers.layers import compare_layer
from tests.helpers.tolerances import assert_close

pytestmark = pytest.mark.usefixtures("one_thread")

PLAIN = Case(steps=2, inputs=2, channels=3, depth=3, height=2, width=4, kernel=(3, 3, 3), scale=0.2)
OPTIONS = Case(
    steps=3, channels=3, depth=5, height=7, width=6, kernel=(2, 3, 4), recurrent_kernel=(3, 1, 3), stride=(1, 2, 1),
    dilation=(2, 1, 1), padding=(1, 0, 2), lengths=(3, 1), reverse=True, scale=0.2,
)  # fmt: skip
SHAPES = {
    "kernel_7": replace(PLAIN, kernel=(7, 1, 5), recurrent_kernel=(5, 7, 1), bias=False, states=False),
    "stride": replace(PLAIN, depth=4, stride=(3, 1, 2), dilation=(1, 2, 1)),
    "one_pixel": replace(PLAIN, depth=1, height=1, width=1),
    "kernel_1": replace(PLAIN, kernel=(1, 1, 1), channels=17),
}


@pytest.mark.parametrize("name", ["lstm_channel", "lstm_full", "gru_before", "stacked"])
def test_equals_hand_written_loop(name, poisoned_memory):
    with fastrcn.use_schedule("in_loop"):
        compare_with_loop(name, OPTIONS, "triton")


@pytest.mark.parametrize("case", SHAPES)
def test_shapes(case, poisoned_memory):
    with fastrcn.use_schedule("in_loop"):
        compare_with_loop("lstm_full", SHAPES[case], "triton")


def test_low_precision_and_inputs_before_the_loop(poisoned_memory):
    with fastrcn.use_schedule("hoisted"):
        compare_with_loop("gru_before", OPTIONS, "triton", torch.bfloat16)


def test_many_tiles(poisoned_memory):
    case = replace(PLAIN, channels=17, height=3, kernel=(3, 1, 3), lengths=(2, 1))
    with use_config(Config(32, 16, 32, 4, 1)):
        compare_with_loop("lstm_channel", case, "triton")


@pytest.mark.parametrize("name", ["lstm_full", "gru_before"])
def test_one_launch_for_many_steps(name, monkeypatch, poisoned_memory):
    walks, plain = [], triton_time_loop.walk
    monkeypatch.setattr(triton_time_loop, "walk", lambda *a: walks.append(a) or plain(*a))
    with fastrcn.use_time_loop("persistent"):
        compare_with_loop(name, replace(PLAIN, steps=5, lengths=(5, 3), reverse=True), "triton")
    assert [turns for *_, turns in walks] == [3, 3]


def test_both_directions_in_one_launch(poisoned_memory):
    layer = fastrcn.ConvGRU3d(2, 3, (3, 1, 3), bidirectional=True)
    compare_layer(layer, torch.randn(3, 2, 2, 2, 3, 4), [3, 2], "triton")


def test_one_frame_is_a_map():
    """Volumes of one frame are computed as maps are: bit for bit, for the frames beyond it are zeros."""
    flat = make_tensors(SUBJECTS["lstm_full"], replace(PLAIN, depth=None, kernel=(3, 3)), torch.float32)
    deep = {n: t.detach().unsqueeze(-3) if t.dim() > 2 else t.detach() for n, t in flat.items()}
    for name in ("weight_ih", "weight_hh"):
        deep[name] = F.pad(deep[name], (0, 0, 0, 0, 1, 1))
    results = []
    for tensors in (flat, {n: t.requires_grad_() for n, t in deep.items()}):
        with fastrcn.use_schedule("in_loop"):
            output, states = run_package(SUBJECTS["lstm_full"], replace(PLAIN, lengths=(2, 1)), tensors, "triton")
        grads = torch.autograd.grad(output.sin().sum() + states[1].cos().sum(), [tensors["h0"], tensors["c0"]])
        results.append([output, *states, *grads])
    for found, truth in zip(*reversed(results), strict=True):
        assert torch.equal(found.flatten(), truth.flatten())


FRAMES = 1 << 21


@pytest.mark.parametrize(("stride", "dilation"), [(FRAMES, 1), (1, FRAMES // 2)], ids=["stride", "dilation"])
def test_a_map_of_more_than_2_to_the_31_values(stride, dilation):
    """Its first and last frames are read, and the one in the middle; of the rest no memory is ever touched."""
    kernel, size, channels = (3, 3, 1), (FRAMES + 1, 4, 4), 64
    source = torch.empty(1, *size, channels, dtype=torch.float16)
    assert source.numel() > 1 << 31
    frames = [0, 1, FRAMES // 2, FRAMES - 1, FRAMES]
    source[:, frames] = torch.randn(1, len(frames), 4, 4, channels).half()
    weight = 0.05 * torch.randn(8, channels, *kernel).half()
    padding = (1, 1, 0) if stride > 1 else (0, 1, 0)
    target = torch.zeros(1, 2 if stride > 1 else 1, 4, 4, 8, dtype=torch.float16)
    geometry = Geometry(
        schedule_of(cells.ConvRNN().key), 1, 1, 8, tuple(target.shape[1:4]), (1, 1, 1), (1, 1, 1), None, False
    )
    step = Convolution(
        Buffer(source, width=channels), Buffer(target, width=8), Weight(weight), stride=(stride, 1, 1),
        dilation=(dilation, 1, 1), padding=padding,
    )  # fmt: skip
    TritonProgram(geometry, [step], torch.float16, 1, None, {}).run(0, 1, False)
    maps = source[:, frames].double().movedim(-1, 1)
    if stride > 1:  # the last two frames and the zeros after them, the first two and the zeros before them
        near = F.pad(maps, (0, 0, 0, 0, 1, 1))[:, :, [0, 1, 2, 4, 5, 6]]
        truth = F.conv3d(near, weight.double(), None, (3, 1, 1), (0, 1, 0))
    else:
        truth = F.conv3d(maps[:, :, [0, 2, 4]], weight.double(), None, 1, (0, 1, 0))
    truth = truth.movedim(1, -1)
    assert_close(target, truth, "maps", plain=truth.half())


def test_a_map_of_too_many_pixels():
    size = (1 << 11, 1 << 10, 1 << 10)
    geometry = Geometry(schedule_of(cells.ConvRNN().key), 1, 1, 1, (2, 1, 1), (1, 1, 1), (1, 1, 1), None, False)
    source = torch.empty(1, *size, 1, dtype=torch.float16)  # its memory is never touched
    step = Convolution(
        Buffer(source), Buffer(source.new_zeros(1, 2, 1, 1, 1), width=1), Weight(torch.ones(1, 1, 1, 1, 1)), stride=size
    )
    program = TritonProgram(geometry, [step], torch.float16, 1, None, {})
    with pytest.raises(ValueError, match=r"input's map: expected at most 2143289344 pixels.*got 2147483648"):
        program.run(0, 1, False)


def test_no_sequences():
    case = replace(PLAIN, batch=0)
    tensors = make_tensors(SUBJECTS["lstm_full"], case, torch.float32)
    output, _ = run_package(SUBJECTS["lstm_full"], case, tensors, "triton")
    grads = torch.autograd.grad(output.sum(), list(tensors.values()))
    assert output.shape == (2, 0, 3, 3, 2, 4)
    assert not any(g.any() for g in grads)


def test_a_volume_has_a_measurement_of_its_own(monkeypatch, tmp_path):
    gpu = SimpleNamespace(name="Made-Up", major=8, minor=0, multi_processor_count=132)
    monkeypatch.setattr(autotune, "_known", {})
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: gpu)
    monkeypatch.setenv("FASTRCN_CACHE", str(tmp_path))
    w, u = torch.randn(51, 2, 1, 1, 3), torch.randn(51, 17, 1, 1, 3)
    with fastrcn.use_autotune(timer=lambda launch: launch() or 1.0), torch.no_grad():
        conv_gru(torch.randn(1, 1, 2, 2, 3, 4), w, u, backend="triton")
        conv_gru(torch.randn(1, 1, 2, 3, 2, 4), w, u, backend="triton")
    words = [key.split() for key in json.loads(autotune.file_of("cuda").read_text())]
    assert {w for key in words for w in key if w.startswith("map=")} == {"map=2x3x4", "map=3x2x4"}


def test_can_run():
    assert backends.can_run("conv_recurrent", "triton", (cells.ConvGRU().key, 3), torch.bfloat16, "cuda")[0]
