"""What every convention's class must hold to, against a loop written from it."""

import torch
from torch.utils import _pytree as pytree

from tests.helpers.tolerances import assert_close


def results(module, inputs, dtype):
    """Outputs and gradients (of parameters and inputs) by name, and the structure of the outputs."""
    module = module.to(dtype)
    leaves, spec = pytree.tree_flatten(inputs)
    leaves = [v.detach().to(dtype).requires_grad_() if isinstance(v, torch.Tensor) else v for v in leaves]
    outputs, structure = pytree.tree_flatten(module(*pytree.tree_unflatten(leaves, spec)))
    loss = sum((o * torch.linspace(-1, 2, o.numel(), dtype=dtype).view(o.shape)).sum() for o in outputs)
    sources = {f"input {k}": v for k, v in enumerate(leaves) if isinstance(v, torch.Tensor)}
    sources |= dict(module.named_parameters())
    gradients = torch.autograd.grad(loss, list(sources.values()), allow_unused=True)
    named = {f"gradient of {n}": g for n, g in zip(sources, gradients, strict=True)}
    return {f"output {k}": o for k, o in enumerate(outputs)} | named, structure


def losses(module, inputs, steps=3):
    """Losses of a few training steps."""
    parameters = list(module.parameters())
    optimizer = torch.optim.SGD(parameters, lr=0.05, momentum=0.9)
    found = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = sum((o - 0.3).square().mean() for o in pytree.tree_leaves(module(*inputs)))
        loss.backward()
        optimizer.step()
        found.append(loss.detach())
    return torch.stack(found)


def assert_same(theirs, ours, *inputs):
    """State dicts load strictly both ways; the same outputs, gradients and training, in float64 and float32."""
    before = {n: v.clone() for n, v in theirs.state_dict().items()}
    ours.load_state_dict(theirs.state_dict())
    for name, value in ours.state_dict().items():
        assert value.shape == before[name].shape
        assert torch.equal(value, before[name])
    theirs.load_state_dict(ours.state_dict())
    truth, structure = results(theirs, inputs, torch.float64)
    for dtype in (torch.float64, torch.float32):
        found, same = results(ours, inputs, dtype)
        assert same == structure
        assert found.keys() == truth.keys()
        for name, value in truth.items():
            assert (value is None) == (found[name] is None), name
            if value is not None:
                assert found[name].dtype == dtype
                # .view of an output works where it did
                assert found[name].is_contiguous() or not (name.startswith("output") and value.is_contiguous()), name
                assert_close(found[name], value, name)
    leaves, spec = pytree.tree_flatten(inputs)
    double = pytree.tree_unflatten([v.double() if isinstance(v, torch.Tensor) else v for v in leaves], spec)
    ours.double().load_state_dict(before)
    theirs.load_state_dict(before)
    assert_close(losses(ours, double), losses(theirs, double))
    ours.load_state_dict(before)
    theirs.load_state_dict(before)


def randomize(module):
    """Weights large enough that each gate matters."""
    for p in module.parameters():
        torch.nn.init.uniform_(p, -0.5, 0.5)
    return module
