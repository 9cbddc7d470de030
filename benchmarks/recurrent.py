"""conv_recurrent: the cases and, for each, the fused layer and everything it is compared with, with equal weights."""

from dataclasses import dataclass
from math import prod

import torch
from torch import nn

import fastrcn
from benchmarks.baselines import GraphedForward, HoistedLoop, PopularLoop
from benchmarks.case import Case, Unavailable, backend_on


class First(nn.Module):
    """A layer's output alone."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x)[0]


@dataclass(frozen=True)
class RecurrentCase(Case):
    """``kind``: lstm, gru or rnn; ``dense``: a layer of vectors. ``sizes``: (T, B, Cin, C), then those of the map;
    ``layers``: one upon the other.
    """

    kind: str = "lstm"
    sizes: tuple[int, ...] = ()
    kernel: tuple[int, ...] = (3, 3)
    dense: bool = False
    layers: int = 1

    @property
    def gates(self):
        return {"lstm": 4, "gru": 3, "rnn": 1}[self.kind]

    def flops(self):
        steps, batch, inputs, channels, *maps = self.sizes
        pixels = steps * batch * prod(maps)
        operands = inputs + channels + 2 * channels * (self.layers - 1)
        return 2 * pixels * self.gates * channels * operands * prod(self.kernel)

    def bytes(self, size):
        """Of every layer, input read, states written."""
        steps, batch, inputs, channels, *maps = self.sizes
        states = self.layers * channels * (2 if self.kind == "lstm" else 1)
        return steps * batch * prod(maps) * size * (inputs + channels * (self.layers - 1) + states)

    def passes(self):
        """A backward pass has twice the products of a forward pass, less without a gradient of the input."""
        inputs, channels = self.sizes[2:4]
        return 3 if self.input_gradient else 3 - inputs / (inputs + channels + 2 * channels * (self.layers - 1))

    def make_input(self, dtype, device):
        steps, batch, inputs, _, *maps = self.sizes
        generator = torch.Generator(device).manual_seed(0)
        shape = (steps, batch, inputs) + (() if self.dense else tuple(maps))
        x = torch.randn(shape, generator=generator, device=device).to(dtype)
        return x.requires_grad_(self.input_gradient and self.train)

    def _layer(self, dtype, device, recompute=False):
        """The fused layer; its weights depend on the case only."""
        torch.manual_seed(0)
        options = {"device": device, "dtype": dtype, "recompute": recompute, "backend": backend_on(device)}
        inputs, channels = self.sizes[2:4]
        if self.dense:
            if self.kind == "gru":
                return fastrcn.GRU(inputs, channels, reset="after", **options)
            return fastrcn.LSTM(inputs, channels, **options)
        kinds = {"lstm": fastrcn.ConvLSTM, "gru": fastrcn.ConvGRU, "rnn": fastrcn.ConvRNN}
        volumes = {"lstm": fastrcn.ConvLSTM3d, "gru": fastrcn.ConvGRU3d, "rnn": fastrcn.ConvRNN3d}
        kind = (volumes if len(self.kernel) == 3 else kinds)[self.kind]
        return kind(inputs, channels, self.kernel, self.layers, **options)

    def make(self, name, dtype, device):
        if name in ("stages", "plain"):
            raise Unavailable("of cells that are not built in")
        layer = self._layer(dtype, device, recompute=name == "recompute")
        if name in ("fastrcn", "recompute"):
            return First(layer)
        if name == "nn":
            if not self.dense:
                raise Unavailable("torch.nn has no such layer")
            theirs = {"lstm": nn.LSTM, "gru": nn.GRU}[self.kind](*self.sizes[2:4]).to(device, dtype)
            theirs.load_state_dict(_torch_state(self, layer))
            return First(theirs)
        if self.dense:
            raise Unavailable("this case compares with torch.nn")
        if name == "last":
            raise Unavailable("sequences are channels-last inside")
        loop = PopularLoop if name == "a" else HoistedLoop
        names = ([f"{n}_l{k}" for n in ("weight_ih", "weight_hh", "bias")] for k in range(self.layers))
        module = nn.Sequential(*(loop(self.kind, *(getattr(layer, n) for n in of_layer)) for of_layer in names))
        module = module.to(device, dtype)
        if name == "d":
            if torch.device(device).type != "cuda":
                raise Unavailable("not on this device: CUDA graphs are CUDA's")
            return GraphedForward(module, self.make_input(dtype, device))
        return module


def _torch_state(case, layer):
    c, state = case.sizes[3], dict(layer.state_dict())
    bias = state.pop("bias_l0")
    state["bias_ih_l0"], state["bias_hh_l0"] = bias[: 3 * c] if case.kind == "gru" else bias, torch.zeros_like(bias)
    if case.kind == "gru":
        state["bias_hh_l0"] = torch.cat([torch.zeros_like(bias[: 2 * c]), bias[3 * c :]])
    return state


def _case(name, kind, sizes, kernel, note, full=None, layers=1, **options):
    kernel = (kernel,) * len(sizes[4:]) if isinstance(kernel, int) else kernel
    if full:
        size = f"T {full[0]}, B {full[1]}, maps {'x'.join(map(str, full[4:]))}, layers {layers}"
        options["full"] = {"sizes": full, "layers": layers, "note": f"{note.split(';')[0]}; full size: {size}"}
    return RecurrentCase(name, note, kind=kind, sizes=sizes, kernel=kernel, **options)


CASES = [
    # name, kind, (T, B, Cin, C, map), kernel, source; full: the source's size
    _case("small-c8", "lstm", (10, 4, 8, 8, 64, 64), 3, "gates weigh: C = 8", quick=True),
    _case("small-c16", "lstm", (10, 4, 16, 16, 64, 64), 3, "gates weigh: C = 16", quick=True),
    _case("small-c32", "lstm", (10, 4, 32, 32, 64, 64), 3, "gates weigh: C = 32"),
    _case("first-c16", "lstm", (10, 4, 1, 16, 64, 64), 3, "first layer on gray frames: no input gradient",
          quick=True, input_gradient=False),
    _case("gru-c16", "gru", (10, 4, 16, 16, 64, 64), 3, "gates weigh: ConvGRU, C = 16", quick=True),
    _case("k1-c64", "lstm", (8, 8, 64, 64, 32, 32), 1, "1x1 kernels", quick=True),
    _case("nowcast-128", "lstm", (10, 1, 32, 32, 128, 128), 3, "nowcaster on 128x128 maps, B 1"),
    _case("moving-mnist", "lstm", (10, 4, 16, 128, 16, 16), 5, "Shi 2015, first layer, patches 4x4; B 4 of 16",
          full=(10, 16, 16, 128, 16, 16)),
    _case("moving-mnist-top", "lstm", (10, 4, 64, 64, 16, 16), 5, "Shi 2015, third layer; B 4 of 16",
          full=(10, 16, 64, 64, 16, 16)),
    _case("radar", "lstm", (5, 4, 64, 64, 50, 50), 3, "Shi 2015 radar, second layer; B 4, T 5",
          full=(20, 16, 64, 64, 50, 50)),
    _case("openstl-s", "lstm", (10, 4, 128, 128, 16, 16), 5, "OpenSTL ConvLSTM-S layer; B 4 of 16, T 10 of 20",
          full=(20, 16, 128, 128, 16, 16), layers=4),
    _case("gru-rcn-1", "gru", (10, 1, 128, 64, 56, 56), 3, "GRU-RCN level 1", full=(10, 64, 128, 64, 56, 56)),
    _case("gru-rcn-2", "gru", (10, 1, 256, 128, 28, 28), 3, "GRU-RCN level 2", full=(10, 64, 256, 128, 28, 28)),
    _case("gru-rcn-3", "gru", (10, 1, 512, 256, 14, 14), 3, "GRU-RCN level 3", full=(10, 64, 512, 256, 14, 14)),
    _case("gru-rcn-4", "gru", (10, 1, 512, 256, 7, 7), 3, "GRU-RCN level 4", full=(10, 64, 512, 256, 7, 7)),
    _case("gru-rcn-5", "gru", (10, 1, 4096, 512, 1, 1), 1, "GRU-RCN level 5, vectors as 1x1 maps",
          full=(10, 64, 4096, 512, 1, 1)),
    _case("rvm-stream", "gru", (1, 1, 20, 20, 72, 128), 3, "RobustVideoMatting, one frame, inference", train=False,
          quick=True),
    _case("raft-1x5", "gru", (12, 1, 256, 128, 28, 64), (1, 5), "RAFT SepConvGRU; map 28x64 of 55x128",
          full=(12, 1, 256, 128, 55, 128)),
    _case("raft-5x1", "gru", (12, 1, 256, 128, 28, 64), (5, 1), "RAFT SepConvGRU; map 28x64 of 55x128",
          full=(12, 1, 256, 128, 55, 128)),
    _case("hurricane", "lstm", (5, 1, 16, 32, 128, 257), 3, "hurricane tracking, 128x257 maps; T 5",
          full=(10, 1, 16, 32, 128, 257)),
    _case("volume-c8", "lstm", (6, 1, 8, 8, 8, 32, 32), 3, "radar volumes, C = 8", quick=True),
    _case("volume-c32", "lstm", (5, 1, 32, 32, 8, 32, 32), 3, "radar volumes, C = 32"),
    _case("tiny", "lstm", (20, 1, 16, 16, 8, 8), 3, "launch-bound: 8x8 maps", quick=True),
    _case("dense-lstm", "lstm", (64, 16, 256, 256, 1, 1), 1, "vectors, against torch.nn.LSTM", dense=True),
    _case("dense-gru", "gru", (64, 16, 256, 256, 1, 1), 1, "vectors, against torch.nn.GRU", dense=True),
]  # fmt: skip
