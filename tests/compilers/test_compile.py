"""torch.compile: one graph without breaks, compiled once for every number of steps and sequences."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

import fastrcn
from fastrcn.functional import conv_lstm
from tests.compilers.subjects import SUBJECTS, results, weighted
from tests.compilers.table import columns_with
from tests.helpers.tolerances import assert_close

pytestmark = pytest.mark.usefixtures("one_thread", "forgetful_compiler")

X = torch.randn(4, 2, 2, 6, 5, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def forgetful_compiler():
    torch._dynamo.reset()


def _compiled_equals_eager(module, compiled, arguments):
    """Outputs and gradients."""
    leaves = [a for a in arguments if a.requires_grad] + list(module.parameters())
    buffers = [b.clone() for b in module.buffers()]
    found = results(compiled, arguments)
    with torch.no_grad():
        for b, before in zip(module.buffers(), buffers, strict=True):
            b.copy_(before)
    truth = results(module, arguments)
    for a, b in zip(found, truth, strict=True):
        assert_close(a, b)
    for outputs in zip(
        torch.autograd.grad(weighted(found), leaves), torch.autograd.grad(weighted(truth), leaves), strict=True
    ):
        assert_close(*outputs)


def _check_sizes(module, compiled, subject, sizes):
    for steps, batch in sizes:
        arguments = subject.arguments(steps, batch)
        for argument, axes in zip(arguments, subject.axes(0, 0), strict=True):
            for axis in axes:
                torch._dynamo.mark_dynamic(argument, axis)
        _compiled_equals_eager(module, compiled, (arguments[0].requires_grad_(), *arguments[1:]))


@pytest.mark.parametrize("column", SUBJECTS)
def test_compile(column):
    subject = SUBJECTS[column]
    module, counter = subject.make(), CompileCounterWithBackend("aot_eager")
    if column not in columns_with("test_compile", "yes"):
        with pytest.raises(torch._dynamo.exc.Unsupported, match="are read on the host"):
            torch.compile(module, backend=counter, fullgraph=True)(*subject.arguments(4, 2))
        arguments = subject.arguments(4, 2)
        with torch.no_grad():  # in two graphs
            for a, b in zip(
                results(torch.compile(module, backend="eager"), arguments), results(module, arguments), strict=True
            ):
                assert_close(a, b)
        return
    _check_sizes(module, torch.compile(module, backend=counter, fullgraph=True), subject, ((4, 2), (7, 3), (5, 4)))
    assert counter.frame_count == 1


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
def test_generated_code(mode):
    """Inductor's; without CUDA graphs, as on a CPU, the second mode is the first."""
    subject = SUBJECTS["bidirectional"]
    module = subject.make()
    _check_sizes(module, torch.compile(module, mode=mode, fullgraph=True), subject, ((3, 2), (7, 5)))


def _nodes(steps):
    """What the graph of a layer and its backward hold."""
    torch._dynamo.reset()
    graphs = []

    def keep(graph, _):
        graphs.append(graph)
        return graph.forward

    layer = fastrcn.ConvLSTM(2, 3)
    torch.compile(layer, backend=keep, fullgraph=True)(torch.randn(steps, 1, 2, 4, 3))
    return [str(n.target) for graph in graphs for module in graph.modules() for n in module.graph.nodes]


def test_graph_of_1500_steps_is_that_of_three():
    found = _nodes(1500)
    assert len(found) == len(_nodes(3))
    assert sum("conv_recurrent_fwd" in target for target in found) == 1
    assert len(found) < 100


def test_inference_with_lengths():
    layer = fastrcn.ConvLSTM(2, 3)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    lengths = torch.tensor([4, 2])
    with torch.no_grad():
        assert_close(compiled(X, lengths=lengths)[0], layer(X, lengths=lengths)[0])


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))], ids=["copy", "pickle"]
)
def test_copies(copied):
    layer = copied(fastrcn.ConvLSTM(2, 3))
    assert_close(torch.compile(layer, backend="aot_eager", fullgraph=True)(X)[0], layer(X)[0])


@pytest.mark.parametrize("make", [fastrcn.ConvLSTM, fastrcn.ConvGRU, fastrcn.ConvRNN])
def test_reference_backend(make):
    """It is what runs where the extension is missing, and in float16."""
    layer = make(2, 3, backend="reference")
    assert_close(torch.compile(layer, backend="aot_eager", fullgraph=True)(X)[0], layer(X)[0])


def test_recomputation():
    layer = fastrcn.ConvGRU(2, 3, reset="after", recompute=True)
    _compiled_equals_eager(layer, torch.compile(layer, backend="aot_eager", fullgraph=True), (X,))


def test_function():
    weights = torch.randn(12, 2, 3, 3), torch.randn(12, 3, 3, 3)
    function = torch.compile(conv_lstm, backend="aot_eager", fullgraph=True)
    assert_close(function(X, *weights)[0], conv_lstm(X, *weights)[0])


class ClipModel(nn.Module):
    """A model of PyTorch's own layers."""

    def __init__(self):
        super().__init__()
        # Without the bias, whose gradient before the normalisation is zero but for rounding.
        conv = nn.Conv3d(2, 3, 3, padding=1, bias=False)
        self.maps = nn.Sequential(conv, nn.BatchNorm3d(3), nn.ReLU(), nn.MaxPool3d((1, 2, 2)))
        self.recurrent, self.head = nn.GRU(3, 4, bidirectional=True), nn.Linear(8, 2)

    def forward(self, clip):
        vectors = self.maps(clip).mean((3, 4)).permute(2, 0, 1)
        return self.head(self.recurrent(vectors)[0])


def test_converted_and_fused_model():
    module = ClipModel()
    fused, converted = fastrcn.fuse(module), fastrcn.convert(module)
    assert len(fused.replaced) == len(converted.replaced) == 1
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(module, backend=counter, fullgraph=True)
    _check_sizes(module, compiled, SUBJECTS["conv3d"], ((4, 2), (7, 3)))
    assert counter.frame_count == 1
