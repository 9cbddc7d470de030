"""The cases, written once for the command line and for pytest-benchmark. A size below its source's says so."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Case:
    """One recurrent layer on one input. ``kind``: lstm, gru or rnn; ``dense``: a layer of vectors."""

    name: str
    kind: str
    steps: int
    batch: int
    inputs: int
    channels: int
    height: int
    width: int
    kernel: tuple[int, int]
    note: str
    quick: bool = False
    input_gradient: bool = True
    train: bool = True
    dense: bool = False

    @property
    def gates(self):
        return {"lstm": 4, "gru": 3, "rnn": 1}[self.kind]

    def flops(self):
        """Multiply-adds of the convolutions, twice, in a forward pass."""
        pixels = self.steps * self.batch * self.height * self.width
        return 2 * pixels * self.gates * self.channels * (self.inputs + self.channels) * self.kernel[0] * self.kernel[1]

    def bytes(self, size):
        """Fewest bytes of a forward pass: input read, states written."""
        pixels = self.steps * self.batch * self.height * self.width
        return pixels * size * (self.inputs + self.channels * (2 if self.kind == "lstm" else 1))


def _case(name, kind, sizes, kernel, note, **options):
    kernel = (kernel, kernel) if isinstance(kernel, int) else kernel
    steps, batch, inputs, channels, height, width = sizes
    return Case(name, kind, steps, batch, inputs, channels, height, width, kernel, note, **options)


CASES = [
    # name, kind, (T, B, Cin, C, H, W), kernel
    _case("small-c8", "lstm", (10, 4, 8, 8, 64, 64), 3, "gates weigh: C = 8", quick=True),
    _case("small-c16", "lstm", (10, 4, 16, 16, 64, 64), 3, "gates weigh: C = 16", quick=True),
    _case("small-c32", "lstm", (10, 4, 32, 32, 64, 64), 3, "gates weigh: C = 32"),
    _case("first-c16", "lstm", (10, 4, 1, 16, 64, 64), 3, "first layer on gray frames: no input gradient",
          quick=True, input_gradient=False),
    _case("gru-c16", "gru", (10, 4, 16, 16, 64, 64), 3, "gates weigh: ConvGRU, C = 16", quick=True),
    _case("k1-c64", "lstm", (8, 8, 64, 64, 32, 32), 1, "1x1 kernels", quick=True),
    _case("nowcast-128", "lstm", (10, 1, 32, 32, 128, 128), 3, "nowcaster on 128x128 maps, B 1"),
    _case("moving-mnist", "lstm", (10, 4, 16, 128, 16, 16), 5, "Shi 2015, first layer, patches 4x4; B 4 of 16"),
    _case("moving-mnist-top", "lstm", (10, 4, 64, 64, 16, 16), 5, "Shi 2015, third layer; B 4 of 16"),
    _case("radar", "lstm", (5, 4, 64, 64, 50, 50), 3, "Shi 2015 radar, second layer; B 4, T 5"),
    _case("openstl-s", "lstm", (10, 4, 128, 128, 16, 16), 5, "OpenSTL ConvLSTM-S layer; B 4 of 16, T 10 of 20"),
    _case("gru-rcn-1", "gru", (10, 1, 128, 64, 56, 56), 3, "GRU-RCN level 1"),
    _case("gru-rcn-2", "gru", (10, 1, 256, 128, 28, 28), 3, "GRU-RCN level 2"),
    _case("gru-rcn-3", "gru", (10, 1, 512, 256, 14, 14), 3, "GRU-RCN level 3"),
    _case("gru-rcn-4", "gru", (10, 1, 512, 256, 7, 7), 3, "GRU-RCN level 4"),
    _case("gru-rcn-5", "gru", (10, 1, 4096, 512, 1, 1), 1, "GRU-RCN level 5, vectors as 1x1 maps"),
    _case("rvm-stream", "gru", (1, 1, 20, 20, 72, 128), 3, "RobustVideoMatting, one frame, inference", train=False,
          quick=True),
    _case("raft-1x5", "gru", (12, 1, 256, 128, 28, 64), (1, 5), "RAFT SepConvGRU; map 28x64 of 55x128"),
    _case("raft-5x1", "gru", (12, 1, 256, 128, 28, 64), (5, 1), "RAFT SepConvGRU; map 28x64 of 55x128"),
    _case("hurricane", "lstm", (5, 1, 16, 32, 128, 257), 3, "hurricane tracking, 128x257 maps; T 5"),
    _case("tiny", "lstm", (20, 1, 16, 16, 8, 8), 3, "launch-bound: 8x8 maps", quick=True),
    _case("dense-lstm", "lstm", (64, 16, 256, 256, 1, 1), 1, "vectors, against torch.nn.LSTM", dense=True),
    _case("dense-gru", "gru", (64, 16, 256, 256, 1, 1), 1, "vectors, against torch.nn.GRU", dense=True),
]  # fmt: skip


def find(pattern="*", quick=False):
    """Cases whose name matches a shell pattern."""
    from fnmatch import fnmatch

    return [c for c in CASES if fnmatch(c.name, pattern) and (c.quick or not quick)]
