"""Run by test_triton_starts.py: how compiled kernels are started, on a driver that records it. What is started does
nothing, so results are not looked at."""

import re
from dataclasses import replace
from functools import partial
from itertools import chain

import pytest
import torch

import fastrcn
from benchmarks import cuda_driver
from fastrcn.ops.conv3d_relu_maxpool3d.method import use_method
from fastrcn.ops.conv_recurrent import triton_launch, triton_time_loop
from fastrcn.ops.conv_recurrent.triton_normalize import NormLaunch
from tests.helpers import normed
from tests.helpers.cells import SUBJECTS, Case, make_tensors, run_package
from tests.helpers.other_cells import OTHER_CELLS, random_leaves, results

CASE = Case(steps=6, batch=2, inputs=16, channels=16, height=9, width=8, states=True)


@pytest.fixture(scope="module")
def starts(tmp_path_factory):
    with pytest.MonkeyPatch.context() as monkeypatch:
        yield cuda_driver.install(tmp_path_factory.mktemp("driver"), monkeypatch)


def calls_of(loop):
    """What its launches are made of: all that keep what their first start compiled."""
    for launch in loop.launches:
        if isinstance(launch, NormLaunch):
            yield from (call for call in (launch.first, launch.second) if call is not None)
        else:
            yield launch


def is_compiled(call):
    """Whether it starts a kernel by what an earlier start compiled."""
    return bool(call.plan.compiled) if isinstance(call, triton_launch.PhaseLaunch) else call.compiled is not None


def forget_compiled(call):
    """Let the next start be a first one."""
    if isinstance(call, triton_launch.PhaseLaunch):
        call.plan.compiled.clear()
    else:
        call.compiled = None


def check_sizes(starts, walk=None):
    """What a Hopper GPU runs; only a walk's programs run all at once."""
    for start in starts:
        assert all(start.grid)
        assert start.threads <= 1024
        assert start.shared <= 232448
        assert start.cooperative is (start is walk)


@pytest.fixture
def loops(starts, monkeypatch):
    """The time loops that come, each as (loop, what its steps start, one list for each)."""
    found = []

    def run(loop):
        steps = []
        for n in range(loop.count):
            for call in calls_of(loop):
                forget_compiled(call)
            del starts[:]
            loop.launch(n, n + 1)
            steps.append(starts[:])
        found.append((loop, steps))

    monkeypatch.setattr(triton_time_loop, "run", run)
    return found


def train(name, **changes):
    case = replace(CASE, **changes)
    tensors = make_tensors(SUBJECTS[name], case, torch.float32)
    output, states = run_package(SUBJECTS[name], case, tensors, "triton")
    sum(t.sum() for t in (output, *states)).backward()


def train_normed(name):
    normed.train(normed.CELLS[name][0], "triton", steps=6, size=(9, 8), channels=16)


def train_both():
    layer = fastrcn.ConvGRU(16, 16, bidirectional=True)
    with fastrcn.use_backend("triton"), fastrcn.use_directions("together"):
        layer(torch.randn(6, 2, 16, 9, 8))[0].sum().backward()


CASES = {
    "lstm": lambda: train("lstm"),
    "lstm_full": lambda: train("lstm_full", lengths=(6, 3)),
    "gru_before": lambda: train("gru_before", reverse=True),
    "gru_after": lambda: train("gru_after", states=False),
    "stacked": lambda: train("stacked"),
    "both": train_both,
}
NORMED = {f"normed_{name}": partial(train_normed, name) for name in normed.CELLS}


@pytest.mark.parametrize("name", [*CASES, *NORMED])
def test_later_starts_are_those_of_the_first_kind(name, loops, starts):
    """A kernel is started again by what its first start compiled, past Triton's look at the arguments."""
    (CASES | NORMED)[name]()
    assert len(loops) >= 2
    for loop, steps in loops:
        for _ in range(2):
            del starts[:]
            loop.launch()
            assert starts == list(chain(*steps))
        assert loop.count == 1 or all(map(is_compiled, calls_of(loop)))
        check_sizes(starts)


@pytest.mark.parametrize("name", CASES)
def test_a_walk_passes_what_its_steps_pass(name, loops, starts):
    CASES[name]()
    for loop, steps in loops:
        assert triton_time_loop._can_walk(loop)
        del starts[:]
        triton_time_loop._walk(loop)
        first = len(steps[0])
        assert [*starts[:first], *starts[first + 1 :]] == [*steps[0], *steps[-1]]
        walk, expected = starts[first], []
        for (launch, _), one, two in zip(loop.step(1), steps[1], steps[2], strict=True):
            names = launch.phase.arguments
            time = names.index("i_time")
            expected += [*one.parameters[: len(names)], two.parameters[time] - one.parameters[time]]
        *passed, turns, counter = walk.parameters[: len(expected) + 2]
        assert passed == expected
        assert turns == loop.count - 2
        assert counter != 0
        assert walk.cooperative
        assert walk.grid == max(start.grid for start in steps[1])
        assert {walk.threads} == {start.threads for start in steps[1]}
        check_sizes(starts, walk)


def test_each_phase_of_a_walk_is_a_function_of_its_own(loops, starts):
    """Triton knows a function by its name and the types of its arguments, which two phases may share."""
    # Three phases; as many channels in all maps as in a state, so that their constants are the same.
    leaves = [t.float().requires_grad_() for t in random_leaves(OTHER_CELLS["deep"], steps=6, channels=2)]
    results(OTHER_CELLS["deep"], leaves, "triton")
    walked = 0
    for loop, steps in loops:
        if triton_time_loop._can_walk(loop):
            del starts[:]
            triton_time_loop._walk(loop)
            walk = starts[len(steps[0])]
            calls = re.findall(r"tt\.call @\"?([^\s(\"]*conv_recurrent_\w+_kernel[^\s(\"]*)", walk.code)
            assert len(calls) == len(set(calls)) == len(loop.step(1)) > 1
            walked += 1
    assert walked == 2


@pytest.mark.parametrize("method", ["fused", "library"])
def test_pooled_convolutions_start(method, starts):
    """A convolution whose result is pooled at once, or by a pass; with a normalisation between; backward too."""
    layer = fastrcn.ConvBNReLUPool3d(16, 16, 3, padding=1, pool_kernel_size=2)
    x = torch.randn(2, 16, 4, 8, 8)
    del starts[:]
    with fastrcn.use_backend("triton"), use_method(method):
        for training in (True, False):
            layer.train(training)(x).sum().backward()
    names = {start.kernel for start in starts}
    assert ("conv3d_relu_maxpool3d_fwd_kernel" in names) is (method == "fused")
    assert names >= {"relu_maxpool3d_bwd_kernel", "relu_maxpool3d_statistics_kernel"}
    check_sizes(starts)
