"""How a Triton time loop is started: the rule, what was asked for, and which loops share a graph; without Triton."""

from types import SimpleNamespace

import pytest
import torch

import fastrcn
from fastrcn.ops.conv_recurrent import triton_time_loop
from fastrcn.ops.conv_recurrent.triton_time_loop import Loop


class Launch:
    """Notes how it is started."""

    def __init__(self, resident=True, walks=True, identity: object = "one", device="cuda", warps=4, directions=1):
        self.resident, self.walks, self.identity = resident, walks, identity
        self.options, self.directions = {"num_warps": warps}, directions
        self.tensors = [SimpleNamespace(device=torch.device(device), is_cuda=device == "cuda")]
        self.calls, self.walked, self.added = [], [], 0

    def __call__(self, *arguments):
        self.calls.append(arguments)

    def add_parameter_sums(self):
        self.added += 1


class Graph:
    """What a fake capture makes."""

    def __init__(self):
        self.replays = 0

    def replay(self):
        self.replays += 1


def loop_of(*launches, count=6, times=("forward", 0, 1, True)):
    return Loop(list(launches), count, lambda n: [(launch, (n, n, False, False)) for launch in launches], times)


@pytest.fixture(autouse=True)
def graphs(monkeypatch):
    """The graphs that are captured, on a GPU that is made up."""
    made = []

    def capture(loop):
        made.append(Graph())
        return made[-1]

    def walk(calls, following, turns):
        for (launch, times), (_, later) in zip(calls, following, strict=True):
            launch.walked.append((times, later, turns))

    monkeypatch.setattr(triton_time_loop, "walk", walk)
    monkeypatch.setattr(triton_time_loop, "_capture", capture)
    monkeypatch.setattr(triton_time_loop, "_graphs", triton_time_loop._Graphs())
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(torch.cuda, "device", lambda device: torch.no_grad())
    return made


def started(loop):
    """How a loop is started, at the third time."""
    for launch in loop.launches:
        launch.calls.clear()
        launch.walked.clear()
    triton_time_loop.run(loop)
    if loop.launches[0].walked:
        return "persistent"
    return "launched" if loop.launches[0].calls else "captured"


def at_last(loop):
    return [started(loop) for _ in range(3)][-1]


@pytest.mark.parametrize(
    ("loop", "expected"),
    [
        (loop_of(Launch()), "persistent"),
        (loop_of(Launch(), Launch()), "persistent"),
        (loop_of(Launch(walks=False)), "launched"),
        (loop_of(Launch(), Launch(walks=False)), "launched"),
        (loop_of(Launch(), Launch(resident=False)), "launched"),
        (loop_of(Launch(warps=4), Launch(warps=8)), "launched"),
        (loop_of(Launch(directions=2), Launch(directions=2)), "persistent"),
        (loop_of(Launch(directions=2), Launch(directions=1)), "launched"),
        (loop_of(Launch(), count=3), "launched"),
        (loop_of(Launch(device="cpu")), "launched"),
    ],
)
def test_the_rule(loop, expected):
    assert at_last(loop) == expected


@pytest.mark.parametrize(
    ("asked", "loop", "expected"),
    [
        ("launched", loop_of(Launch()), "launched"),
        ("captured", loop_of(Launch()), "captured"),
        ("captured", loop_of(Launch(resident=False), count=1), "captured"),
        ("captured", loop_of(Launch(device="cpu")), "launched"),
        ("persistent", loop_of(Launch()), "persistent"),
        ("persistent", loop_of(Launch(device="cpu")), "persistent"),
        ("persistent", loop_of(Launch(), Launch(), Launch()), "persistent"),
        ("persistent", loop_of(Launch(resident=False)), "launched"),
        ("persistent", loop_of(Launch(warps=8), Launch(warps=4)), "launched"),
        ("persistent", loop_of(Launch(), count=3), "launched"),
    ],
)
def test_what_is_asked_for(asked, loop, expected):
    with fastrcn.use_time_loop(asked):
        assert at_last(loop) == expected
    assert all(launch.added == 3 for launch in loop.launches)


def test_unknown_name():
    with (
        pytest.raises(ValueError, match="time_loop: expected one of launched, captured, persistent, got 'graph'"),
        fastrcn.use_time_loop("graph"),
    ):
        pass


def test_a_walk_leaves_the_first_and_the_last_step():
    loop = loop_of(Launch(), Launch())
    triton_time_loop.run(loop)
    for launch in loop.launches:
        assert [time for _, time, *_ in launch.calls] == [0, 5]
        assert launch.walked == [((1, 1, False, False), (2, 2, False, False), 4)]


@pytest.fixture
def captured():
    with fastrcn.use_time_loop("captured"):
        yield


def test_no_capture_within_a_capture(monkeypatch, graphs, captured):
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    assert at_last(loop_of(Launch(), Launch())) == "launched"
    assert not graphs


def test_loops_that_come_again_are_captured_once(graphs, captured):
    loop = loop_of(Launch(), Launch())
    assert [started(loop) for _ in range(4)] == ["launched", "captured", "captured", "captured"]
    assert [graph.replays for graph in graphs] == [3]
    others = [
        loop_of(Launch(), Launch(identity="other")),
        loop_of(Launch(), Launch(), count=5),
        loop_of(Launch(), Launch(), times=("forward", 0, -1, True)),
    ]
    assert [started(other) for other in others] == ["launched"] * 3
    assert len(graphs) == 1


def test_graphs_have_a_limit(monkeypatch, graphs, captured):
    """What is in use stays; what nobody has used for long makes room."""
    monkeypatch.setattr(triton_time_loop, "_MOST_KERNELS", 30)
    monkeypatch.setattr(triton_time_loop, "_IN_USE", 8)
    one, two, three = (loop_of(Launch(identity=k), Launch()) for k in range(3))
    for loop in (one, two):
        assert at_last(loop) == "captured"
    assert [started(loop) for loop in (one, two, three) * 3] == ["captured", "captured", "launched"] * 3
    assert len(graphs) == 2
    assert [started(two) for _ in range(9)] == ["captured"] * 9
    assert started(three) == "captured"
    assert started(one) == "launched"
    assert len(graphs) == 3
    assert triton_time_loop._graphs.kernels == 24
