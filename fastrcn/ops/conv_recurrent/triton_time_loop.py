"""How the kernels of a Triton time loop are started: "launched", one by one from Python; "captured", all at once as a
CUDA graph; "persistent", by one kernel that walks over time itself. Chosen by shape.

A step whose tiles all run at once is over in some microseconds, sooner than Python starts the next one: then one kernel
walks over time where a step is a single phase, and graphs start the others. Both are estimates, not measured yet.

A graph holds addresses, so it serves a loop whose every argument is as it was: those of training at constant sizes soon
are, for PyTorch's allocator gives the same memory again. A loop that comes a second time is captured, which runs
nothing, and its graph started then and later. Nothing is allocated meanwhile; while somebody else captures, kernels
are launched one by one, into that graph.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from fastrcn.ops.choice import Choice
from fastrcn.ops.triton_support import device_of

NAMES = ("launched", "captured", "persistent")

_FEWEST_STEPS = 4
"""Of a loop for which a graph, or a kernel of its own, is made unasked."""

_MOST_GRAPHS = 128
_MOST_SEEN = 1024

_time_loop = Choice("time_loop", NAMES)


def use_time_loop(name):
    """Within this context the ``triton`` backend's time loops are "launched", "captured" or "persistent", whatever
    their shape. "persistent" holds where a step is one phase whose tiles all run at once, "captured" where a loop comes
    again with the same memory and nobody else captures; the others are launched."""
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
    long_enough = loop.tensor.is_cuda and loop.count >= _FEWEST_STEPS
    if asked is None and long_enough and all(launch.resident for launch in loop.launches):
        asked = "persistent" if can_walk else "captured"
    if (asked == "persistent" and can_walk) or (asked == "captured" and can_capture):
        return asked
    return "launched"


def _can_walk(loop: Loop):
    """Whether one kernel can take the steps between the first and the last, which differ."""
    if loop.count < 4:
        return False
    (launch, _), *others = loop.step(1)
    return not others and launch.walks and launch.resident


def _walk(loop: Loop):
    ((launch, (convolution_time, time, *_)),) = loop.step(1)
    ((_, (_, following, *_)),) = loop.step(2)
    loop.launch(0, 1)
    launch.walk(convolution_time, time, loop.count - 2, following - time)
    loop.launch(loop.count - 1)


def _can_capture(tensor):
    return tensor.is_cuda and not torch.cuda.is_current_stream_capturing()


def _capture(loop: Loop):
    """The loop as a graph. A mode of capturing that leaves other work of this thread alone, such as the end of what is
    garbage."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.stream(torch.cuda.Stream(loop.tensor.device)):
        graph.capture_begin(capture_error_mode="relaxed")
        try:
            loop.launch()
        finally:
            graph.capture_end()
    return graph


class _Graphs:
    """The graphs of loops that came more than once; what was used longest ago goes first."""

    def __init__(self):
        self.lock = threading.Lock()
        self.found: OrderedDict[tuple, Any] = OrderedDict()
        self.seen: OrderedDict[tuple, None] = OrderedDict()

    def run(self, loop: Loop):
        """Start the loop's graph, or where it comes for the first time its kernels."""
        key = loop.key
        with self.lock:
            graph = self.found.pop(key, None)
            if graph is None and key in self.seen:
                graph = _capture(loop)
            if graph is not None:
                self._put(self.found, key, graph, _MOST_GRAPHS)
            else:
                self._put(self.seen, key, None, _MOST_SEEN)
        if graph is not None:
            graph.replay()
        else:
            loop.launch()

    @staticmethod
    def _put(entries, key, value, most):
        entries[key] = value
        if len(entries) > most:
            entries.popitem(last=False)


_graphs = _Graphs()
