"""The backend chosen by timing a call, with a timer and a GPU that are made up: it is the `cpu` backend that is timed
against plain PyTorch."""

import json
from types import SimpleNamespace

import pytest
import torch
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

import fastrcn
from fastrcn import native, trial
from fastrcn.functional import batch_norm_relu_maxpool3d, conv3d_relu_maxpool3d
from fastrcn.ops import autotune
from tests.helpers.tolerances import assert_close

pytestmark = pytest.mark.skipif(native.module() is None, reason=native.missing_reason() or "there is an extension")
GPU = SimpleNamespace(name="Made Up", major=9, minor=0, multi_processor_count=132)


@pytest.fixture(autouse=True)
def timed(monkeypatch, tmp_path):
    """The backends that ran in trials; nothing is known, and tensors count as a GPU's."""
    ran, plain = [], trial.Trial.run

    def noted(self, backend):
        ran.append(backend)
        return plain(self, backend)

    monkeypatch.setattr(trial.Trial, "run", noted)
    monkeypatch.setattr(trial, "_is_on_gpu", lambda tensor: True)
    for name in ("_known", "_told"):
        monkeypatch.setattr(autotune, name, type(getattr(autotune, name))())
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: GPU)
    monkeypatch.setenv("FASTRCN_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("FASTRCN_BACKEND", raising=False)
    return ran


@pytest.fixture
def used(monkeypatch):
    """The backends that calls ran on."""
    names, plain = [], fastrcn.backends.select

    def noted(*arguments):
        names.append(plain(*arguments))
        return names[-1]

    monkeypatch.setattr(fastrcn.backends, "select", noted)
    return names


def times(reference, cpu):
    """A timer, for plain PyTorch and the other backend in turn."""
    left = iter((reference, cpu))
    return fastrcn.use_autotune(timer=lambda run: next(left))


def known():
    return json.loads(autotune.file_of("cuda").read_text())


def conv3d(x):
    return conv3d_relu_maxpool3d(x, torch.randn(4, 3, 3, 3, 3), pool_kernel_size=2)


def batch_norm(x):
    return batch_norm_relu_maxpool3d(x, torch.zeros(3), torch.ones(3), training=True, pool_kernel_size=2)


CALLS = {
    "conv_recurrent": (fastrcn.ConvLSTM(3, 4), (5, 2, 3, 6, 6)),
    "conv_recurrent both": (fastrcn.ConvGRU(3, 4, bidirectional=True), (5, 2, 3, 6, 6)),
    "conv3d_relu_maxpool3d": (conv3d, (2, 3, 4, 6, 6)),
    "batch_norm_relu_maxpool3d": (batch_norm, (2, 3, 4, 6, 6)),
}


@pytest.mark.parametrize(("reference", "cpu", "best"), [(2, 1, "cpu"), (1, 2, "reference")])
@pytest.mark.parametrize("name", CALLS)
def test_the_faster_one_is_chosen_and_remembered(name, reference, cpu, best, timed, used):
    call, shape = CALLS[name]
    with times(reference, cpu):
        call(torch.randn(shape))
    assert timed == ["reference", "cpu"]
    assert set(used) == {best}
    ((key, found),) = known().items()
    assert key.startswith(f"backend {name.split()[0]} ")
    assert found == [best]
    autotune._known.clear()  # as a new process
    with times(None, None):
        call(torch.randn(shape))
    assert len(timed) == 2


def test_batch_and_time_are_not_in_the_key_and_all_else_is(timed):
    layer, x = fastrcn.ConvGRU(3, 4), torch.randn(5, 2, 3, 6, 6)
    with torch.no_grad(), times(2, 1):
        layer(x)
        layer(torch.randn(7, 1, 3, 6, 6))
    assert len(timed) == 2
    others = [
        lambda: layer(x),  # in training
        lambda: fastrcn.ConvGRU(3, 4, recompute=True)(x),
        lambda: fastrcn.ConvGRU(3, 4, reset="after")(x),
        lambda: fastrcn.ConvGRU(3, 4, stride=2)(x),
        lambda: layer(x[..., 1:]),
        lambda: layer(x, torch.zeros(1, 2, 4, 6, 6)),
        lambda: layer(x, lengths=[5, 3]),
        lambda: layer(x.requires_grad_()),
        lambda: layer.double()(x.double()),
    ]
    for n, other in enumerate(others, 2):
        with times(2, 1):
            other()
        assert len(timed) == 2 * n
    assert len(known()) == 1 + len(others)


def test_a_trial_leaves_no_trace():
    """No gradients, the same random numbers, the same running statistics."""
    layer, x = fastrcn.ConvLSTM(3, 4), torch.randn(5, 2, 3, 6, 6, requires_grad=True)
    state = torch.get_rng_state()
    with times(2, 1):
        output, _ = layer(x)
    assert torch.equal(torch.get_rng_state(), state)
    assert x.grad is None
    assert all(p.grad is None for p in layer.parameters())
    assert_close(output, layer(x)[0])
    running = torch.zeros(3), torch.ones(3)
    with times(2, 1):
        batch_norm_relu_maxpool3d(x[0].unsqueeze(2).detach(), *running, training=True, momentum=1.0)
    assert_close(running[0], x[0].mean((0, 2, 3)).double())


def changed(monkeypatch, change, backend="cpu"):
    """Make trials of a backend return or do something else."""
    plain = trial.Trial.run
    monkeypatch.setattr(
        trial.Trial, "run", lambda self, name: change(plain(self, name)) if name == backend else plain(self, name)
    )


@pytest.mark.parametrize("wrong", [lambda t: 1.3 * t, lambda t: t * float("nan")], ids=["scaled", "nan"])
@pytest.mark.parametrize("part", [0, -1], ids=["output", "gradient"])
def test_wrong_results_are_told_and_not_chosen(wrong, part, monkeypatch, used):
    def change(results):
        results[part] = wrong(results[part])
        return results

    changed(monkeypatch, change)
    with pytest.warns(UserWarning, match="backend 'cpu' is not chosen for conv_recurrent: in a trial"), times(2, 1):
        fastrcn.ConvLSTM(3, 4)(torch.randn(5, 2, 3, 6, 6))
    assert used == ["reference"]


@pytest.mark.parametrize(("fails", "left"), [("cpu", "reference"), ("reference", "cpu")])
def test_a_backend_that_fails_is_told_and_not_chosen(fails, left, monkeypatch, used):
    """Nor is another where plain PyTorch fails: what nothing is compared with is as if it had not been timed."""

    def change(results):
        raise RuntimeError("no memory")

    changed(monkeypatch, change, fails)
    message = f"backend '{fails}' failed in a trial of conv_recurrent: no memory"
    with pytest.warns(UserWarning, match=message), times(2, 1):
        fastrcn.ConvLSTM(3, 4)(torch.randn(5, 2, 3, 6, 6))
    assert used == [left]
    assert not autotune.file_of("cuda").exists() or fails == "cpu"


def test_a_name_is_asked_for_without_trial(timed):
    with times(None, None):
        fastrcn.ConvLSTM(3, 4, backend="reference")(torch.randn(5, 2, 3, 6, 6))
    assert not timed


class Subclass(torch.Tensor):
    pass


def mapped(layer, x):
    torch.func.vmap(layer)(torch.stack([x, x]))


def within_a_transform(layer, x):
    torch.func.grad(lambda s: s * layer(x)[0].sum())(torch.tensor(1.0))


def compiled(layer, x):
    torch.compile(layer, backend="eager", fullgraph=True)(x)


def looked_at(layer, x):
    with FlopCounterMode(display=False):
        layer(x)


OTHERS = {
    "vmap": mapped,
    "grad": within_a_transform,
    "compile": compiled,
    "dispatch mode": looked_at,
    "subclass": lambda layer, x: layer(x.as_subclass(Subclass)),
    "empty": lambda layer, x: layer(x[:, :0]),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_not_timed(name, timed):
    with fastrcn.use_autotune(timer=lambda run: pytest.fail("timed")):
        OTHERS[name](fastrcn.ConvLSTM(3, 4), torch.randn(5, 2, 3, 6, 6))
    assert not timed


def test_tensors_of_other_devices_are_not_timed(monkeypatch, timed):
    monkeypatch.undo()
    with fastrcn.use_autotune(timer=lambda run: pytest.fail("timed")):
        fastrcn.ConvLSTM(3, 4)(torch.randn(5, 2, 3, 6, 6))
    assert not timed


def test_checkpoints():
    """A trial's tensors are none that the caller saves."""
    layer, x = fastrcn.ConvLSTM(3, 4), torch.randn(5, 2, 3, 6, 6, requires_grad=True)
    found = []
    for timer in (times(2, 1), fastrcn.use_autotune(False)):
        with timer:
            output = checkpoint(lambda x: layer(x)[0], x, use_reentrant=False)
            found.append(torch.autograd.grad(output.square().sum(), [x, *layer.parameters()]))
    for a, b in zip(*found, strict=True):
        assert_close(a, b)


def test_autocast_is_off_in_a_trial(monkeypatch):
    layer, x, seen = fastrcn.ConvLSTM(3, 4), torch.randn(5, 2, 3, 6, 6), []
    plain = trial.Trial._run
    monkeypatch.setattr(
        trial.Trial, "_run", lambda self, name: seen.append(torch.is_autocast_enabled("cpu")) or plain(self, name)
    )
    with times(2, 1), torch.autocast("cpu", torch.bfloat16):
        layer(x)
    assert seen == [False, False]


def test_where_memory_is_short_other_processes_try_again(monkeypatch, timed):
    def change(results):
        raise torch.OutOfMemoryError("of 80 GiB")

    changed(monkeypatch, change)
    layer, x = fastrcn.ConvLSTM(3, 4), torch.randn(5, 2, 3, 6, 6)
    with pytest.warns(UserWarning, match="of 80 GiB"), times(2, 1):
        layer(x)
    assert not autotune.file_of("cuda").exists()
    tried = len(timed)
    with times(None, None):
        layer(x)
    assert len(timed) == tried
