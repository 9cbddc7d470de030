"""For a case: the fused layer and everything it is compared with, with equal weights."""

import time

import torch
from torch import nn

import fastrcn
from benchmarks.baselines import GraphedForward, HoistedLoop, PopularLoop

NAMES = {
    "fastrcn": "fastrcn",
    "recompute": "fastrcn, recompute=True",
    "a": "(a) the popular loop",
    "b": "(b) hoisted, channels-last",
    "ca": "(c) torch.compile of (a)",
    "cb": "(c) torch.compile of (b)",
    "d": "(d) CUDA graph of (b)",
    "nn": "torch.nn",
}


class Unavailable(Exception):
    """A contestant that cannot take part, and why."""


class First(nn.Module):
    """A layer's output alone."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x)[0]


def make_input(case, dtype, device):
    """The case's input; vectors for a dense case."""
    generator = torch.Generator().manual_seed(0)
    shape = (case.steps, case.batch, case.inputs) + (() if case.dense else (case.height, case.width))
    x = torch.randn(shape, generator=generator).to(device, dtype)
    return x.requires_grad_(case.input_gradient and case.train)


def make_layer(case, dtype, device, recompute=False):
    """The fused layer of a case; its weights depend on the case only."""
    torch.manual_seed(0)
    # On a GPU the choice is not automatic yet.
    backend = "triton" if torch.device(device).type == "cuda" else None
    options = {"device": device, "dtype": dtype, "recompute": recompute, "backend": backend}
    if case.dense:
        if case.kind == "gru":
            return fastrcn.GRU(case.inputs, case.channels, reset="after", **options)
        return fastrcn.LSTM(case.inputs, case.channels, **options)
    kind = {"lstm": fastrcn.ConvLSTM, "gru": fastrcn.ConvGRU, "rnn": fastrcn.ConvRNN}[case.kind]
    return kind(case.inputs, case.channels, case.kernel, **options)


def make(name, case, dtype, device):
    """(callable of the input, seconds spent compiling). Raises Unavailable with the reason."""
    layer = make_layer(case, dtype, device, recompute=name == "recompute")
    if name in ("fastrcn", "recompute"):
        return First(layer), 0.0
    if name == "nn":
        if not case.dense:
            raise Unavailable("torch.nn has no such layer")
        theirs = {"lstm": nn.LSTM, "gru": nn.GRU}[case.kind](case.inputs, case.channels).to(device, dtype)
        theirs.load_state_dict(_torch_state(case, layer))
        return First(theirs), 0.0
    if case.dense:
        raise Unavailable("this case compares with torch.nn")
    weights = (layer.weight_ih_l0, layer.weight_hh_l0, layer.bias_l0)
    module = (PopularLoop if name in ("a", "ca") else HoistedLoop)(case.kind, *weights).to(device, dtype)
    if name in ("a", "b"):
        return module, 0.0
    if name == "d":
        if torch.device(device).type != "cuda":
            raise Unavailable("not on this device: CUDA graphs are CUDA's")
        return GraphedForward(module, make_input(case, dtype, device)), 0.0
    torch._dynamo.reset()
    compiled = torch.compile(module)
    begin = time.perf_counter()
    training_step(compiled, make_input(case, dtype, device), case.train)
    return compiled, time.perf_counter() - begin


def _torch_state(case, layer):
    c, state = case.channels, dict(layer.state_dict())
    bias = state.pop("bias_l0")
    state["bias_ih_l0"], state["bias_hh_l0"] = bias[: 3 * c] if case.kind == "gru" else bias, torch.zeros_like(bias)
    if case.kind == "gru":
        state["bias_hh_l0"] = torch.cat([torch.zeros_like(bias[: 2 * c]), bias[3 * c :]])
    return state


def training_step(module, x, train=True):
    """Forward and, in training, backward; returns (output, seconds forward)."""
    x.grad = None
    begin = time.perf_counter()
    if not train:
        with torch.no_grad():
            output = module(x)
        _wait(x)
        return output, time.perf_counter() - begin
    output = module(x)
    _wait(x)
    forward = time.perf_counter() - begin
    output.backward(torch.ones_like(output))
    _wait(x)
    return output, forward


def _wait(x):
    if x.is_cuda:
        torch.cuda.synchronize()
