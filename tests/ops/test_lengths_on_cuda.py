"""Lengths on CUDA: no call waits for their values."""

import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

import fastrcn
from fastrcn.checks import check_lengths
from tests.helpers.cuda_graph import captured
from tests.helpers.tolerances import assert_close

INPUT = SimpleNamespace(shape=(4, 2, 3, 5, 5), device=torch.device("cuda"))
WAITING = {"_local_scalar_dense", "equal", "is_nonzero", "nonzero"}


class Called(TorchDispatchMode):
    """Notes the operators that are called; refuses those for which the host waits."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        self.names.append(func.overloadpacket.__name__)
        assert self.names[-1] not in WAITING
        result = func(*args, **kwargs)
        from_cuda = isinstance(result, torch.Tensor) and any(isinstance(a, torch.Tensor) and a.is_cuda for a in args)
        assert not (from_cuda and result.device.type == "cpu"), f"{func} copies to the CPU"
        return result


def test_lengths_on_cuda_are_not_read():
    """On tensors that have no values."""
    with FakeTensorMode(), Called() as called:
        x, lengths = torch.empty(4, 2, 3, 5, 5, device="cuda"), torch.empty(2, dtype=torch.int64, device="cuda")
        assert check_lengths(lengths, x) is lengths
        assert check_lengths(lengths.to(torch.int32), x).is_cuda
    assert called.names.count("_assert_async") == 2


class SaysCuda(torch.Tensor):
    """A tensor of the CPU that is treated as one on CUDA: there an assertion raises at once."""

    is_cuda = True


@pytest.mark.parametrize(("lengths", "right"), [((0, 4), True), ((4, 5), False), ((-1, 4), False)])
def test_lengths_on_cuda_are_asserted(lengths, right):
    given, x = torch.tensor(lengths).as_subclass(SaysCuda), torch.empty(4, 2, 3, 5, 5)
    if right:
        assert check_lengths(given, x).tolist() == [*lengths]
        return
    with pytest.raises(RuntimeError, match=r"lengths: expected values from 0 to 4, the number of steps$"):
        check_lengths(given, x)


@pytest.mark.parametrize("lengths", [[4, 2], torch.tensor([4, 2], dtype=torch.int32)], ids=["list", "tensor"])
def test_lengths_of_the_cpu_are_not_waited_for(lengths, monkeypatch):
    """They are checked, and copied from pinned memory."""
    sent = []
    pinned = SimpleNamespace(to=lambda device, non_blocking: sent.append((device, non_blocking)))
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda t: sent.append((t.dtype, t.tolist())) or pinned)
    check_lengths(lengths, INPUT)
    assert sent == [(torch.int64, [4, 2]), (INPUT.device, True)]
    with pytest.raises(ValueError, match=r"lengths: expected values from 0 to 4, the number of steps, got 2 to 5"):
        check_lengths([5, 2], INPUT)


def test_lengths_of_the_cpu_in_a_cuda_graph(monkeypatch):
    """A replay would copy them again, from memory that others have by then."""
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    with pytest.raises(RuntimeError, match="lengths: expected a tensor on CUDA while a CUDA graph is captured"):
        check_lengths([4, 2], INPUT)


@pytest.mark.gpu
@pytest.mark.parametrize("backend", ["reference", "cuda", "triton"])
def test_training_step_with_lengths_in_a_cuda_graph(backend):
    """A replay takes the lengths that are there by then."""
    layer = fastrcn.ConvLSTM(5, 24, peephole="channel", bidirectional=True, backend=backend, device="cuda")
    x, lengths = torch.randn(7, 3, 5, 19, 18, device="cuda"), torch.tensor([7, 7, 7], device="cuda")

    def step():
        output, _ = layer(x, lengths=lengths)
        return [output.detach(), *torch.autograd.grad(output.square().sum(), list(layer.parameters()))]

    graph, found = captured(step)
    lengths.copy_(torch.tensor([2, 7, 0]))
    expected = [t.clone() for t in step()]
    graph.replay()
    for a, b in zip(found, expected, strict=True):
        assert_close(a, b)


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype feature:UserWarning")
@pytest.mark.parametrize("backend", ["reference", "cuda", "triton"])
def test_no_call_waits(backend):
    layer = fastrcn.ConvLSTM(5, 24, backend=backend, device="cuda")
    x, lengths = torch.randn(4, 2, 5, 9, 8, device="cuda"), [4, 2]
    on_cuda = torch.tensor(lengths, device="cuda")
    expected = layer(x, lengths=lengths)[0]
    try:
        torch.cuda.set_sync_debug_mode("error")
        found = [layer(x, lengths=given)[0] for given in (lengths, torch.tensor(lengths), on_cuda)]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for output in found:
        assert_close(output, expected)


@pytest.mark.gpu
def test_wrong_lengths_on_cuda():
    """In a process of its own, which cannot use the device afterwards."""
    program = """
import torch, fastrcn
layer, lengths = fastrcn.ConvGRU(2, 3, device="cuda"), torch.tensor([5, 1], device="cuda")
layer(torch.zeros(4, 2, 2, 6, 6, device="cuda"), lengths=lengths)
torch.cuda.synchronize()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode
    assert "device-side assert" in done.stderr
