"""How the kernels of a Triton time loop are started: "launched", one by one from Python; "captured", all at once as a
CUDA graph; "persistent", by one kernel that walks over time itself. Chosen by shape.

A step whose tiles all run at once is over in some microseconds, sooner than Python starts the next one: then one kernel
walks over time, and its programs wait for each other after each phase of a step. That is an estimate, not measured yet.
Graphs are made where they are asked for: while one is captured PyTorch refuses random numbers to other threads that use
the same GPU.

A graph holds addresses, so it serves a loop whose every argument is as it was: those of training at constant sizes soon
are, for PyTorch's allocator gives the same memory again. A loop that comes a second time is captured, which runs
nothing, and its graph started then and later. Nothing is allocated meanwhile; while somebody else captures, kernels
are launched one by one, into that graph.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

import torch

from fastrcn.ops.choice import Choice
from fastrcn.ops.conv_recurrent.triton_walk import can_walk, walk
from fastrcn.ops.triton_support import capturing, device_of

NAMES = ("launched", "captured", "persistent")

_FEWEST_STEPS = 4
"""Of a loop that one kernel may walk; it does not take the first and the last."""

_MOST_KERNELS = 1 << 14
"""In all graphs: a graph takes about a kilobyte for each."""
_MOST_SEEN = 1024
_IN_USE = 4096
"""A graph that served one of so many last loops is not given up for another."""

_time_loop = Choice("time_loop", NAMES)


def use_time_loop(name):
    """Within this context the ``triton`` backend's time loops are "launched", "captured" or "persistent", whatever
    their shape. "persistent" holds where the tiles of each of a step's phases all run at once, with as many threads in
    every phase, and no step normalises; "captured" where a loop comes again with the same memory and nobody else
    captures; the others are launched."""
    return _time_loop.use(name)


class Loop(NamedTuple):
    """``count`` steps; ``step(n)`` gives the calls of the n-th, as (launch, its arguments). ``launches``: all that are
    called; ``times``: what their arguments follow from."""

    launches: list[Any]
    count: int
    step: Callable[[int], list[tuple[Any, tuple]]]
    times: tuple

    @property
    def tensor(self):
        """A tensor on the device on which the loop runs."""
        return self.launches[0].tensors[0]

    @property
    def key(self):
        """Equal for loops that launch the same kernels with the same arguments."""
        return self.tensor.device, self.count, self.times, tuple(launch.identity for launch in self.launches)

    def launch(self, first=0, end=None):
        """Start the kernels of the steps from ``first`` to before ``end``."""
        for n in range(first, self.count if end is None else end):
            for launch, arguments in self.step(n):
                launch(*arguments)


def run(loop: Loop):
    """Take all steps, and add up the parts of parameters' gradients."""
    with device_of(loop.tensor):
        name = _choose(loop)
        if name == "persistent":
            _walk(loop)
        elif name == "captured":
            _graphs.run(loop)
        else:
            loop.launch()
        for launch in loop.launches:
            launch.add_parameter_sums()


def _choose(loop: Loop):
    """What was asked for, as far as it can be, else what is estimated to be fastest."""
    asked, can_walk, can_capture = _time_loop.asked, _can_walk(loop), _can_capture(loop.tensor)
    if asked is None and loop.tensor.is_cuda:
        asked = "persistent"
    if (asked == "persistent" and can_walk) or (asked == "captured" and can_capture):
        return asked
    return "launched"


def _can_walk(loop: Loop):
    """Whether one kernel can take the steps between the first and the last, which differ."""
    return loop.count >= _FEWEST_STEPS and can_walk([launch for launch, _ in loop.step(1)])


def _walk(loop: Loop):
    loop.launch(0, 1)
    walk(loop.step(1), loop.step(2), loop.count - 2)
    loop.launch(loop.count - 1)


def _can_capture(tensor):
    return tensor.is_cuda and not capturing(tensor)


def _capture(loop: Loop):
    """The loop as a graph. A mode of capturing that leaves other work of this thread alone, such as the end of what is
    garbage."""
    graph, device = torch.cuda.CUDAGraph(), loop.tensor.device
    side, current = torch.cuda.Stream(device), torch.cuda.current_stream(device)
    # PyTorch prepares its random numbers on the stream that is captured: before and after what others do with them.
    side.wait_stream(current)
    with torch.cuda.stream(side):
        graph.capture_begin(capture_error_mode="relaxed")
        try:
            loop.launch()
        except BaseException:
            with suppress(RuntimeError):
                graph.capture_end()
            raise
        graph.capture_end()
    current.wait_stream(side)
    return graph


class _Entry(NamedTuple):
    graph: Any
    kernels: int
    used: int


class _Graphs:
    """The graphs of loops that came more than once."""

    def __init__(self):
        self.lock = threading.Lock()
        self.found: OrderedDict[tuple, _Entry] = OrderedDict()  # what was used longest ago comes first
        self.seen: OrderedDict[tuple, None] = OrderedDict()
        self.kernels = self.runs = 0

    def run(self, loop: Loop):
        """Start the loop's graph, or where it has none its kernels."""
        with self.lock:
            graph = self._graph_of(loop)
        if graph is not None:
            graph.replay()
        else:
            loop.launch()

    def _graph_of(self, loop: Loop):
        key, kernels = loop.key, loop.count * len(loop.launches)
        self.runs += 1
        if key in self.found:
            graph = self.found.pop(key).graph
        elif key not in self.seen:
            self.seen[key] = None
            if len(self.seen) > _MOST_SEEN:
                self.seen.popitem(last=False)
            return None
        elif self._has_room(kernels):
            graph = _capture(loop)
            self.kernels += kernels
        else:
            return None
        self.found[key] = _Entry(graph, kernels, self.runs)
        return graph

    def _has_room(self, kernels):
        """Whether a graph of so many kernels may be added, once those are given up that nobody uses any more."""
        while self.kernels + kernels > _MOST_KERNELS and self.found:
            key, oldest = next(iter(self.found.items()))
            if self.runs - oldest.used <= _IN_USE:
                break
            del self.found[key]
            self.kernels -= oldest.kernels
        return self.kernels + kernels <= _MOST_KERNELS


_graphs = _Graphs()
