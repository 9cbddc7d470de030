"""What holds for every model that has a name: fused equals plain with all gradients, and nothing is left untrained."""

import copy

import pytest
import torch

import fastrcn
from fastrcn import models
from tests.helpers.tolerances import assert_close

pytestmark = pytest.mark.usefixtures("one_thread")


def floats(value):
    """All floating-point tensors in nested tuples, lists and dictionaries."""
    if isinstance(value, torch.Tensor):
        return [value] if value.is_floating_point() else []
    if isinstance(value, dict):
        value = list(value.values())
    return [t for v in value for t in floats(v)] if isinstance(value, (tuple, list)) else []


def made_double(value):
    if isinstance(value, torch.Tensor):
        return value.double() if value.is_floating_point() else value
    return type(value)(map(made_double, value)) if isinstance(value, (tuple, list)) else value


def gradients(model, inputs):
    """Outputs and the gradients of a scalar that depends on all of them, by name; dropout is the same each time."""
    torch.manual_seed(1)
    outputs = floats(model(*inputs))
    assert outputs, "a model returns tensors"
    loss = sum((o * torch.linspace(-1, 1, o.numel(), dtype=o.dtype).view_as(o)).sum() for o in outputs)
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    found = torch.autograd.grad(loss, list(trained.values()), allow_unused=True)
    return outputs, dict(zip(trained, found, strict=True))


@pytest.mark.parametrize("name", models.list_models())
def test_fused_equals_reference_with_all_gradients(name):
    entry = models.describe(name)
    fused = models.create(name, small=True, **({"backend": "cpu"} if entry.kernels else {})).double().train()
    inputs = made_double(fused.example_inputs(2))
    outputs, grads = gradients(fused, inputs)
    assert all(torch.isfinite(o).all() for o in outputs)
    missing = [n for n, g in grads.items() if g is None]
    assert not missing, f"without a gradient: {missing}"
    if not entry.kernels:
        return
    plain = models.create(name, small=True, backend="reference").double().train()
    plain.load_state_dict(fused.state_dict())
    expected, expected_grads = gradients(plain, inputs)
    for k, (found, truth) in enumerate(zip(outputs, expected, strict=True)):
        assert_close(found, truth, f"output {k}")
    for n, truth in expected_grads.items():
        assert_close(grads[n], truth, n)


@pytest.mark.parametrize("name", models.list_models())
def test_state_is_complete(name):
    model = models.create(name, small=True).eval()
    inputs = model.example_inputs(1)
    other = models.create(name, small=True).eval()
    other.load_state_dict(model.state_dict(), strict=True)
    for a, b, c in zip(*(floats(m(*inputs)) for m in (model, other, copy.deepcopy(model))), strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a, c)


def test_names():
    assert models.list_models("encoder*") == ["encoder_forecaster"]
    assert models.list_models() == sorted(models.list_models())
    assert isinstance(models.create("encoder_forecaster", small=True), fastrcn.models.EncoderForecaster)
    with pytest.raises(ValueError, match=r"name: expected one of .*vgg16.*got 'vgg'"):
        models.create("vgg")


@pytest.mark.parametrize("name", [n for n in models.list_models() if models.describe(n).kernels])
def test_unknown_backend(name):
    with pytest.raises(ValueError, match="backend"):
        models.create(name, small=True, backend="nothing")
