"""What surrounds a layer in real programs: other processes, copies, reference counts, threads."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.multiprocessing as mp

import fastrcn
from tests.helpers.tolerances import assert_close

X = torch.randn(4, 2, 2, 6, 5, generator=torch.Generator().manual_seed(0))

STRIDED_POINTWISE = """
import torch, fastrcn
torch.set_num_threads(1)
for channels, inputs, stride in ((33, 4, (2, 1)), (3, 3, (2, 1)), (5, 7, (2, 2)), (4, 4, (1, 3))):
    layer = fastrcn.ConvLSTM(inputs, channels, 1, stride=stride)
    x = torch.randn(3, 1, inputs, 20, 9)
    for _ in range(20):
        layer(x)[0].sum().backward()
print("done")
"""


def test_strided_pointwise_convolution_leaves_the_heap_alone():
    """oneDNN's channels-last weight gradient of a strided 1x1 convolution writes past its buffers on one thread."""
    done = subprocess.run(
        [sys.executable, "-c", STRIDED_POINTWISE],
        env=os.environ | {"LD_PRELOAD": "libc_malloc_debug.so.0", "GLIBC_TUNABLES": "glibc.malloc.check=3"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-500:]
    assert done.stdout.split()[-1] == "done"


def _send_outputs(queue, done):
    torch.set_num_threads(1)
    torch.manual_seed(0)
    layer = fastrcn.ConvLSTM(1, 16)
    with torch.no_grad():
        for k in range(4):
            output = layer(torch.full((4, 1, 1, 72, 72), float(k)))[0]  # more than a MB: a buffer that is kept
            queue.put((float(output.double().sum()), output))
            del output
    done.set()


@pytest.mark.slow
def test_outputs_sent_to_another_process_keep_their_values():
    """A queue moves a tensor's storage into shared memory: it must not be used again for the next output."""
    context = mp.get_context("spawn")
    queue, done, received = context.Queue(), context.Event(), context.Event()
    process = context.Process(target=_send_and_wait, args=(queue, done, received))
    process.start()
    try:
        assert done.wait(60)
        for total, output in [queue.get(timeout=60) for _ in range(4)]:
            assert float(output.double().sum()) == total
    finally:
        received.set()
        process.join(60)


def _send_and_wait(queue, done, received):
    _send_outputs(queue, done)
    received.wait(60)


def test_storage_that_outlives_its_tensor_keeps_its_values():
    layer = fastrcn.ConvLSTM(1, 16)
    with torch.no_grad():
        output = layer(torch.ones(4, 1, 1, 72, 72))[0]
        storage, copied, stride = output.untyped_storage(), output.clone(), output.stride()
        del output
        layer(torch.zeros(4, 1, 1, 72, 72))
        assert torch.equal(torch.empty(0).set_(storage, 0, copied.shape, stride), copied)


def test_arrays_that_outlive_their_tensor_keep_their_values():
    layer = fastrcn.ConvLSTM(1, 16)
    with torch.no_grad():
        output = layer(torch.ones(4, 1, 1, 72, 72))[0]
        array, other, copied = output.numpy(), torch.from_dlpack(output), output.clone()
        del output
        layer(torch.zeros(4, 1, 1, 72, 72))
    assert torch.equal(torch.from_numpy(array), copied)
    assert torch.equal(other, copied)


def test_threads_do_not_disturb_each_other():
    layer = fastrcn.ConvLSTM(4, 16, peephole="channel")

    def run(seed):
        x = torch.randn(8, 2, 4, 24, 24, generator=torch.Generator().manual_seed(seed), requires_grad=True)
        output = layer(x)[0]
        return output.detach().clone(), torch.autograd.grad(output.sin().sum(), x)[0]

    alone = [run(seed) for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(run, [0, 1, 2, 3] * 3))
    for k, found in enumerate(together):
        for a, b in zip(found, alone[k % 4], strict=True):
            assert torch.equal(a, b)


def test_activation_checkpointing():
    layer, x = fastrcn.ConvGRU(2, 3), X.clone().requires_grad_()
    output = torch.utils.checkpoint.checkpoint(lambda v: layer(v)[0], x, use_reentrant=False)
    found = torch.autograd.grad(output.sum(), x)[0]
    assert torch.equal(found, torch.autograd.grad(layer(x)[0].sum(), x)[0])


def test_backward_twice_gives_the_same():
    layer = fastrcn.ConvLSTM(2, 3, peephole="channel", bidirectional=True)
    x = X.clone().requires_grad_()
    output, (_, c) = layer(x)
    loss, leaves = output.sin().sum() + c.sum(), [x, *layer.parameters()]
    first = torch.autograd.grad(loss, leaves, retain_graph=True)
    second = torch.autograd.grad(loss, leaves)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("what", ["input", "weight", "output"])
def test_changes_in_place_are_noticed(what):
    layer, x = fastrcn.ConvGRU(2, 3), X.clone()
    output, _ = layer(x)

    def change():
        if what == "output":
            output.relu_()
        with torch.no_grad():
            (x if what == "input" else layer.weight_hh_l0).add_(1)
        output.sum().backward()

    with pytest.raises(RuntimeError, match=r"in-?place"):
        change()


@pytest.mark.parametrize("recompute", [False, True])
def test_double_backward_with_lengths_in_both_directions(recompute):
    layer = fastrcn.ConvLSTM(2, 2, bidirectional=True, recompute=recompute, peephole="channel").double()
    for p in layer.parameters():
        torch.nn.init.uniform_(p, -0.5, 0.5)
    start = torch.randn(4, 3, 2, 3, 3, dtype=torch.float64)
    found = {}
    for name in ("reference", "cpu"):
        x = start.clone().requires_grad_()
        leaves = [x, *layer.parameters()]
        with fastrcn.use_backend(name):
            output, (_, c) = layer(x, lengths=[4, 2, 0])
        first = torch.autograd.grad(output.sin().sum() + c.cos().sum(), leaves, create_graph=True)
        found[name] = torch.autograd.grad(sum(g.square().sum() for g in first), leaves)
    for a, b in zip(found["cpu"], found["reference"], strict=True):
        assert_close(a, b)


def test_lengths_of_an_empty_batch():
    output, _ = fastrcn.ConvLSTM(2, 3)(torch.randn(3, 0, 2, 4, 4), lengths=[])
    assert output.shape == (3, 0, 3, 4, 4)


def test_kinds_of_lengths():
    layer = fastrcn.ConvLSTM(2, 3)
    truth = layer(X, lengths=[4, 2])[0]
    for dtype in (torch.int32, torch.int64, torch.uint8):
        assert torch.equal(layer(X, lengths=torch.tensor([4, 2], dtype=dtype))[0], truth)
    assert torch.equal(layer(X, lengths=torch.tensor([4, 2]).numpy())[0], truth)


def test_reparametrised_weights_train():
    layer = fastrcn.ConvLSTM(2, 3)
    torch.nn.utils.parametrizations.weight_norm(layer, "weight_hh_l0")
    layer(X)[0].sum().backward()
    assert all(p.grad is not None for p in layer.parameters())
