"""A layer on another backend against itself in float64 on the plain one."""

import torch

import fastrcn
from tests.helpers.tolerances import assert_close


def compare_layer(layer, x, lengths, backend):
    """Output, last states and all gradients of the weights; both directions in one launch, where the backend can."""
    results = []
    for name, dtype in ((backend, torch.float32), ("reference", torch.float64)):
        layer.to(dtype)
        with fastrcn.use_backend(name), fastrcn.use_directions("together"):
            output, states = layer(x.to(dtype), lengths=lengths)
        states = states if isinstance(states, tuple) else (states,)
        loss = output.square().sum() + sum(s.sin().sum() for s in states)
        results.append([output, *states, *torch.autograd.grad(loss, list(layer.parameters()))])
    for n, (found, truth) in enumerate(zip(*results, strict=True)):
        assert_close(found, truth, f"result {n}")
