"""Run by test_triton_interpreter.py with TRITON_INTERPRET=1: what a graph of a time loop holds, addresses and numbers,
does again what the launches do, on other values in the same memory."""

import ctypes
from copy import copy
from dataclasses import replace
from functools import cache

import pytest
import torch

import fastrcn
from fastrcn.ops.conv_recurrent import (
    triton_launch,
    triton_normalize,
    triton_normalize_kernels,
    triton_plan,
    triton_time_loop,
    triton_together,
)
from fastrcn.ops.conv_recurrent.triton_program import TritonProgram
from tests.helpers import normed
from tests.helpers.cells import SUBJECTS, Case, gradients, make_tensors, run_package

KERNELS = ("moments_kernel", "products_kernel", "normalize_kernel", "normalize_backward_kernel")


class Graph:
    """The launches of a loop, which knows no tensors but their addresses."""

    def __init__(self):
        self.launches, self.replays = [], 0

    def replay(self):
        self.replays += 1
        for kernel, grid, arguments, options in self.launches:
            kernel[grid](*(at(*a) if isinstance(a, tuple) else a for a in arguments), **options)


def at(address, dtype, count):
    return torch.frombuffer((ctypes.c_char * (count * dtype.itemsize)).from_address(address), dtype=dtype)


@pytest.fixture
def graphs(monkeypatch):
    """The graphs that are made, as on a GPU."""
    made: list[Graph] = []
    recording = []

    class Kernel:
        def __init__(self, kernel):
            self.kernel = kernel

        def __getitem__(self, grid):
            def run(*arguments, **options):
                if not recording:
                    return self.kernel[grid](*arguments, **options)
                tensors = [(a.data_ptr(), a.dtype, a.numel()) if isinstance(a, torch.Tensor) else a for a in arguments]
                recording[0].launches.append((self.kernel, grid, tensors, options))

            return run

    def capture(loop):
        made.append(Graph())
        recording.append(made[-1])
        loop.launch()
        recording.clear()
        return made[-1]

    plain = triton_plan.kernel_of
    kernel_of = cache(lambda *key: Kernel(plain(*key)))
    monkeypatch.setattr(triton_plan, "kernel_of", kernel_of)
    monkeypatch.setattr(triton_plan, "_structures", {})
    monkeypatch.setattr(triton_together, "kernel_of", kernel_of)
    for name in KERNELS:
        monkeypatch.setattr(triton_normalize_kernels, name, Kernel(getattr(triton_normalize_kernels, name)))
    monkeypatch.setattr(triton_time_loop, "_can_capture", lambda tensor: True)
    monkeypatch.setattr(triton_time_loop, "_capture", capture)
    monkeypatch.setattr(triton_time_loop, "_graphs", triton_time_loop._Graphs())
    return made


def memory_of(loop):
    """All that a loop reads and writes, once each."""
    launches = []
    for launch in loop.launches:
        launches += [launch.launch, launch.other] if isinstance(launch, triton_together._Twins) else [launch]
    tensors = []
    for launch in launches:
        tensors += launch.tensors
        if isinstance(launch, triton_launch.PhaseLaunch):
            tensors += [b.first for b, _ in launch.pointers if b.first is not None]
            tensors += [b.data for b, _ in launch.sums]
    return list({t.data_ptr(): t.detach() for t in tensors if t.is_floating_point()}.values())


def noted(run):
    """The loops that a call runs."""
    loops = []
    with pytest.MonkeyPatch.context() as patch:
        plain = triton_time_loop.run
        patch.setattr(triton_time_loop, "run", lambda loop: loops.append(loop) or plain(loop))
        run()
    return loops


def train(name, case):
    tensors = make_tensors(SUBJECTS[name], case, torch.float32)
    gradients(*run_package(SUBJECTS[name], case, tensors, "triton"), tensors)


def train_normalised():
    """Images in two slices, so that each normalisation is two launches."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("_BLOCK", "_ONE_SLICE", "_SMALLEST_SLICE"):
            patch.setattr(triton_normalize, name, 16)
        normed.compare("one_norm", "triton", torch.float32, lengths=(4, 2), batch=2)


def train_both_directions():
    layer, x = fastrcn.ConvGRU(2, 3, bidirectional=True, backend="triton"), torch.randn(4, 2, 2, 3, 4)
    with fastrcn.use_directions("together"):
        layer(x, lengths=[4, 2])[0].square().sum().backward()


CALLS = {
    "lstm": lambda: train("lstm_channel", Case(steps=5, batch=2, lengths=(5, 3))),
    "gru": lambda: train("gru_before", Case(steps=5, batch=2, reverse=True)),
    "normalised": train_normalised,
    "both_directions": train_both_directions,
}


@pytest.mark.parametrize("name", CALLS)
def test_a_graph_does_what_launches_do(name, graphs):
    loops = noted(CALLS[name])
    assert len(loops) >= 2
    if name == "normalised":
        norms = [
            launch for loop in loops for launch in loop.launches if isinstance(launch, triton_normalize.NormLaunch)
        ]
        assert norms
        assert all(norm.first for norm in norms)
    for loop in loops:
        memory = memory_of(loop)
        start, found = [t.clone() for t in memory], []
        for turn in range(3):
            for way in ("launched", "captured"):
                for tensor, value in zip(memory, start, strict=True):
                    tensor.copy_(value.nan_to_num(0.0).clamp_(-2, 2) / (1 + turn))
                with fastrcn.use_time_loop(way):
                    triton_time_loop.run(loop)
                found.append([t.clone() for t in memory])
            truth, other = found[-2:]
            assert all(torch.equal(a, b) for a, b in zip(truth, other, strict=True)), turn
        assert not all(torch.equal(a, b) for a, b in zip(found[0], found[-1], strict=True))
    assert [graph.replays for graph in graphs] == [2] * len(loops)


@pytest.mark.parametrize("name", ["lstm", "both_directions"])
def test_all_that_a_launch_passes_makes_it_another(name, graphs):
    for loop in noted(CALLS[name]):
        for launch in loop.launches:
            if isinstance(launch, triton_together._Twins):
                others = [changed(launch, **{part: other}) for part in ("launch", "other")
                          for other in changes(getattr(launch, part))]  # fmt: skip
            else:
                others = changes(launch)
            identities = [launch.identity, *(other.identity for other in others)]
            assert len(set(identities)) == len(identities)


def changed(one, **parts):
    other = copy(one)
    vars(other).update(parts)
    return other


def changes(launch):
    """A launch with each of the things changed that it passes, or that choose the compiled kernel."""
    of_type = [launch.tensors[0].view(torch.int32), *launch.tensors[1:]]
    (buffer, clock), *rest = launch.pointers
    return [
        changed(launch, kernel=object()),
        changed(launch, tiles=launch.tiles + 1),
        changed(launch, addresses=[launch.addresses[0] + 16, *launch.addresses[1:]]),
        changed(launch, tensors=of_type),
        changed(launch, pointers=[(replace(buffer, shift=buffer.shift + 1), clock), *rest]),
        changed(launch, pointers=[(replace(buffer, first=torch.empty(1)), clock), *rest]),
        changed(launch, constants=launch.constants | {"C": 1000}),
        changed(launch, options=launch.options | {"num_warps": 1000}),
        changed(launch, sizes=(*launch.sizes[:-1], 1000)),
        *(
            changed(launch, products=[replace(launch.products[0], **part), *launch.products[1:]])
            for part in ({"steps": 1000}, {"map": (1000, 1)}, {"skip_first": not launch.products[0].skip_first})
            if launch.products
        ),
    ]


def test_a_loop_that_is_made_anew_is_the_same(graphs):
    """Its memory decides, and its times."""
    programs = []

    class Noted(TritonProgram):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            programs.append(arguments)

    case = Case(steps=5, batch=2)
    tensors = make_tensors(SUBJECTS["lstm"], case, torch.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fastrcn.ops.conv_recurrent.triton_program.Program", Noted)
        gradients(*run_package(SUBJECTS["lstm"], case, tensors, "triton"), tensors)
    for method, arguments in zip((TritonProgram.loop, TritonProgram.loop_backward), programs, strict=True):
        geometry, steps, dtype, images, lengths, packed, *_ = arguments
        key = method(TritonProgram(*arguments), 0, 4, True).key
        assert method(TritonProgram(*arguments), 0, 4, True).key == key
        others = [
            method(TritonProgram(*arguments), *times).key for times in ((1, 4, True), (0, 3, True), (0, 4, False))
        ]
        copied = {k: (weight.clone(), kept) for k, (weight, kept) in packed.items()}
        others.append(method(TritonProgram(geometry, steps, dtype, images, lengths, copied, *_), 0, 4, True).key)
        assert len({key, *others}) == 5
