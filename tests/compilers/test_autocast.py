"""torch.autocast: results as from modules and inputs in bfloat16, gradients in the parameters' type."""

import copy

import pytest
import torch

import fastrcn
from tests.compilers.subjects import SUBJECTS, results, weighted
from tests.compilers.table import columns_with

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("column", columns_with("test_autocast", "yes"))
def test_autocast(column):
    module, arguments = SUBJECTS[column].make(), SUBJECTS[column].arguments(4, 2)
    buffers = {name: b.clone() for name, b in module.named_buffers()}
    with torch.autocast("cpu", torch.bfloat16):
        low = results(module, arguments)
    # Max-pooling on a CPU gives float32, as PyTorch's own does there.
    assert {o.dtype for o in low} == {torch.float32 if column == "conv3d" else torch.bfloat16}
    with torch.no_grad():
        for name, b in module.named_buffers():
            b.copy_(buffers[name])
    full = results(module, arguments)
    for a, b in zip(low, full, strict=True):
        assert float(((a.float() - b).norm() / b.norm()).detach()) < 0.02
        assert not torch.equal(a.float(), b)
    gradients = torch.autograd.grad(weighted([o.float() for o in low]), list(module.parameters()))
    truth = torch.autograd.grad(weighted(full), list(module.parameters()))
    assert {g.dtype for g in gradients} == {torch.float32}
    if column == "conv3d":  # rounding changes which cells are the largest of their windows
        return
    found, expected = (torch.cat([g.flatten() for g in grads]) for grads in (gradients, truth))
    assert float((found - expected).norm() / expected.norm()) < 0.05


@pytest.mark.parametrize("recompute", [False, True])
def test_autocast_equals_a_bfloat16_layer(recompute):
    layer = fastrcn.ConvLSTM(2, 3, recompute=recompute)
    x = torch.randn(4, 2, 2, 6, 5, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        output, _ = layer(x)
    y = x.detach().bfloat16().requires_grad_()
    low = copy.deepcopy(layer).bfloat16()
    truth, _ = low(y)
    assert torch.equal(output, truth)
    weight = torch.randn(output.shape).bfloat16()
    (output * weight).sum().backward()
    (truth * weight).sum().backward()
    assert torch.equal(x.grad, y.grad.float())
    for a, b in zip(layer.parameters(), low.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad.float())
