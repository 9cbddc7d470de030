"""Rung 4: what PyTorch does to a function: opcheck, compile, export, ONNX, func transforms, autocast, DDP, FSDP2."""

import os
from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

import fastrcn
from fastrcn.cells import Zoneout
from fastrcn.functional import conv_lstm
from tests.helpers.cells import SUBJECTS, Case, make_tensors, run_package
from tests.helpers.tolerances import assert_close

SMALL = Case(steps=3, batch=2, inputs=2, channels=3, height=4, width=3)


def flat_call(name, case=SMALL, **options):
    """A function of the subject's tensors, in the order of the second result."""
    subject = SUBJECTS[name]
    tensors = make_tensors(subject, case)

    def function(*values):
        output, states = run_package(subject, case, dict(zip(tensors, values, strict=True)), "cpu", **options)
        return (output, *states)

    return function, list(tensors.values())


@pytest.mark.parametrize("name", ["lstm_channel", "gru_before", "stacked"])
@pytest.mark.parametrize("save", [0, 1, 2])
def test_opcheck(name, save):
    subject = SUBJECTS[name]
    t = {n: v.detach() for n, v in make_tensors(subject, SMALL).items()}
    inputs = [t["x"], t["below"]] if subject.below else [t["x"]]
    weights = [t["weight_ih"], t["weight_bh"]] if subject.below else [t["weight_ih"]]
    hx = [t[n] for n in ("h0", "c0")[: subject.states]]
    common = (inputs, weights, t["weight_hh"], t["bias"], t.get("weight_ch"), hx, [], torch.tensor([3, 1]))
    options = ([1, 1], [1, 1], None, False)
    forward = ("cpu", subject.cell.key, *common, *options, save)
    assert set(torch.library.opcheck(torch.ops.fastrcn.conv_recurrent_fwd.default, forward).values()) == {"SUCCESS"}
    if not save:
        return
    output, *rest = torch.ops.fastrcn.conv_recurrent_fwd(*forward)
    grads = [torch.ones_like(output), *(None for _ in range(subject.states))]
    needs = [True] * len(inputs + weights) + [True, True, "weight_ch" in t] + [True] * len(hx)
    backward = ("cpu", subject.cell.key, grads, *common, output, rest[subject.states :], *options, needs)
    assert set(torch.library.opcheck(torch.ops.fastrcn.conv_recurrent_bwd.default, backward).values()) == {"SUCCESS"}


def test_opcheck_with_masks_and_padding():
    subject, cell = SUBJECTS["gru_before"], Zoneout(SUBJECTS["gru_before"].cell)
    case = replace(SMALL, padding=(0, 0))
    t = {n: v.detach() for n, v in make_tensors(subject, case).items()}
    masks = [torch.rand(case.steps, case.batch, case.channels, *case.map).double().round()]
    common = ([t["x"]], [t["weight_ih"]], t["weight_hh"], t["bias"], None, [t["h0"]], masks, None)
    options = ([1, 1], [1, 1], [0, 0], False)
    forward = ("cpu", cell.key, *common, *options, 2)
    assert set(torch.library.opcheck(torch.ops.fastrcn.conv_recurrent_fwd.default, forward).values()) == {"SUCCESS"}
    output, *rest = torch.ops.fastrcn.conv_recurrent_fwd(*forward)
    grads, needs = [torch.ones_like(output), None], [True] * 4 + [False, True, False]
    backward = ("cpu", cell.key, grads, *common, output, rest[1:], *options, needs)
    assert set(torch.library.opcheck(torch.ops.fastrcn.conv_recurrent_bwd.default, backward).values()) == {"SUCCESS"}


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
@pytest.mark.parametrize("make", [fastrcn.ConvLSTM, fastrcn.ConvGRU], ids=["lstm", "gru"])
def test_compile_once_for_all_lengths_and_batches(make, backend):
    from torch._dynamo.testing import CompileCounterWithBackend

    torch._dynamo.reset()
    layer = make(2, 3, num_layers=2, bidirectional=True)
    counter = CompileCounterWithBackend(backend)
    compiled = torch.compile(layer, backend=counter, fullgraph=True)
    for steps, batch in ((3, 2), (4, 3), (7, 5), (6, 2)):
        x = torch.randn(steps, batch, 2, 4, 3, requires_grad=True)
        torch._dynamo.mark_dynamic(x, 0)
        torch._dynamo.mark_dynamic(x, 1)
        leaves = [x, *layer.parameters()]
        found, truth = compiled(x)[0], layer(x)[0]
        assert_close(found, truth)
        for a, b in zip(
            torch.autograd.grad(found.sum(), leaves), torch.autograd.grad(truth.sum(), leaves), strict=True
        ):
            assert_close(a, b)
    assert counter.frame_count == 1


def test_compiled_inference_and_lengths():
    torch._dynamo.reset()
    layer = fastrcn.ConvLSTM(2, 3)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    x, lengths = torch.randn(4, 2, 2, 4, 3), torch.tensor([4, 2])
    with torch.no_grad():
        assert_close(compiled(x, lengths=lengths)[0], layer(x, lengths=lengths)[0])


def test_compiled_graph_holds_one_node_per_layer():
    torch._dynamo.reset()
    graphs = []

    def keep(graph, _):
        graphs.append(graph)
        return graph.forward

    with torch.no_grad():
        torch.compile(fastrcn.ConvLSTM(2, 3), backend=keep, fullgraph=True)(torch.randn(50, 1, 2, 4, 3))
    targets = [str(n.target) for n in graphs[0].graph.nodes if n.op == "call_function"]
    assert sum("conv_recurrent_fwd" in t for t in targets) == 1
    assert len(targets) < 40  # not unrolled over the 50 steps


def test_export():
    layer, x = fastrcn.ConvGRU(2, 3, num_layers=2), torch.randn(3, 2, 2, 4, 3)
    program = torch.export.export(layer, (x,))
    assert_close(program.module()(x)[0], layer(x)[0])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_onnx(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    layer, x = fastrcn.ConvLSTM(2, 3, peephole="channel").eval(), torch.randn(3, 2, 2, 4, 3)
    path = tmp_path / "layer.onnx"
    torch.onnx.export(layer, (x,), path, dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(path)
    output, h, c = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    truth, (h_n, c_n) = layer(x)
    for found, value in ((output, truth), (h, h_n), (c, c_n)):
        assert_close(torch.from_numpy(found), value, dtype=torch.float32)


@pytest.mark.parametrize("name", ["lstm_channel", "gru_before"])
def test_func_grad_equals_autograd(name):
    function, values = flat_call(name)
    argnums = tuple(range(len(values)))
    found = torch.func.grad(lambda *v: function(*v)[0].sin().sum(), argnums)(*values)
    for a, b in zip(found, torch.autograd.grad(function(*values)[0].sin().sum(), values), strict=True):
        assert_close(a, b)


def test_func_hessian_vector_product():
    function, values = flat_call("gru_before")

    def gradient(x):
        return torch.func.grad(lambda v: function(v, *values[1:])[0].sin().sum())(x)

    vector = torch.randn_like(values[0])
    found = torch.func.grad(lambda x: (gradient(x) * vector).sum())(values[0])
    (first,) = torch.autograd.grad(function(*values)[0].sin().sum(), values[0], create_graph=True)
    assert_close(found, torch.autograd.grad((first * vector).sum(), values[0])[0])


def test_vmap_over_sequences_and_per_sample_gradients():
    function, (x, *rest) = flat_call("lstm_channel")
    xs = torch.randn(3, *x.shape, dtype=x.dtype)
    outputs = torch.func.vmap(lambda v: function(v, *rest)[0])(xs)
    for k in range(3):
        assert_close(outputs[k], function(xs[k], *rest)[0])

    def loss(weight_ih, v):
        return function(v, weight_ih, *rest[1:])[0].sin().sum()

    found = torch.func.vmap(torch.func.grad(loss), (None, 0))(rest[0], xs)
    for k in range(3):
        assert_close(found[k], torch.func.grad(loss)(rest[0], xs[k]))


@pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")  # PyTorch's own
def test_forward_mode_on_the_reference():
    subject = SUBJECTS["gru_before"]
    tensors = {n: t.detach() for n, t in make_tensors(subject, SMALL).items()}
    direction = torch.randn_like(tensors["x"])

    def function(x):
        return run_package(subject, SMALL, tensors | {"x": x}, "reference")[0]

    _, found = torch.func.jvp(function, (tensors["x"],), (direction,))
    step = 1e-6
    difference = (function(tensors["x"] + step * direction) - function(tensors["x"] - step * direction)) / (2 * step)
    assert float((found - difference).norm() / difference.norm()) < 1e-8


def test_autocast():
    layer = fastrcn.ConvLSTM(2, 3)
    x = torch.randn(3, 2, 2, 4, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output, (h, c) = layer(x)
    assert output.dtype == h.dtype == c.dtype == torch.bfloat16
    output.float().sum().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in layer.parameters())


def test_activation_checkpointing():
    layer, x = fastrcn.ConvGRU(2, 3), torch.randn(3, 2, 2, 4, 3, requires_grad=True)
    output = torch.utils.checkpoint.checkpoint(lambda v: layer(v)[0], x, use_reentrant=False)
    found = torch.autograd.grad(output.sum(), x)[0]
    assert torch.equal(found, torch.autograd.grad(layer(x)[0].sum(), x)[0])


def test_higher_order_functional_call():
    layer = fastrcn.ConvLSTM(2, 3)
    doubled = {n: 2 * p.detach() for n, p in layer.named_parameters()}
    x = torch.randn(3, 2, 2, 4, 3)
    found = torch.func.functional_call(layer, doubled, (x,))[0]
    truth = conv_lstm(x, doubled["weight_ih_l0"], doubled["weight_hh_l0"], doubled["bias_l0"])[0]
    assert torch.equal(found, truth)


def _network():
    torch.manual_seed(0)
    return nn.ModuleDict({"layer": fastrcn.ConvLSTM(2, 4, num_layers=2), "head": nn.Conv2d(4, 1, 1)})


def _loss(network, x):
    output, _ = network["layer"](x)
    return network["head"](output.flatten(0, 1)).square().mean()


class _Loss(nn.Module):
    def __init__(self):
        super().__init__()
        self.network = _network()

    def forward(self, x):
        return _loss(self.network, x)


def _train_on(rank, folder, kind):
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    x = torch.load(f"{folder}/x.pt")[:, 2 * rank : 2 * rank + 2]
    model = _Loss()
    if kind == "ddp":
        model = nn.parallel.DistributedDataParallel(model)
    else:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh("cpu", (2,))
        fully_shard(model.network["layer"], mesh=mesh)
        fully_shard(model, mesh=mesh)
    model(x).backward()
    grads = {}
    for name, p in model.named_parameters():
        grad = p.grad.full_tensor() if hasattr(p.grad, "full_tensor") else p.grad
        grads[name.removeprefix("module.")] = grad
    if rank == 0:
        torch.save(grads, f"{folder}/{kind}.pt")
    dist.barrier()
    # Gloo's destructor joins, with Python's lock held, a thread that may be waiting for that lock: leave without it.
    os._exit(0)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_two_processes_give_the_gradients_of_one(kind, tmp_path):
    x = torch.randn(3, 4, 2, 5, 4)
    torch.save(x, tmp_path / "x.pt")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    mp.spawn(_train_on, args=(str(tmp_path), kind), nprocs=2)
    model = _Loss()
    model(x).backward()
    found = torch.load(tmp_path / f"{kind}.pt")
    for name, p in model.named_parameters():
        assert_close(found[name], p.grad, name)
