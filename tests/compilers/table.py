"""The table of README: which tool takes which layers. Run as a program it prints the table.

Each cell is a test, ``tests/compilers/FILE.py::TEST[COLUMN]``, which takes from here whether it has to find results or
an error.
"""

from dataclasses import dataclass, field

MARKER = "<!-- compilers -->"

COLUMNS = {
    "maps": "ConvLSTM, ConvGRU, ConvRNN",
    "steps": "cells",
    "vectors": "LSTM, GRU, RNN",
    "interop": "`interop`",
    "conv3d": "3-D convolution",
    "bidirectional": "bidirectional",
    "lengths": "`lengths`",
    "reset": "`reset`",
    "noise": "dropout, zoneout",
}


@dataclass(frozen=True)
class Row:
    """A tool; the file and the test of its cells, of which those in ``cells`` are not a plain "yes"."""

    title: str
    file: str
    test: str
    cells: dict[str, str] = field(default_factory=dict)

    def cell(self, column):
        return self.cells.get(column, "yes")


_ON_THE_HOST = {"reset": "no: read on the host"}
_FORWARD_MODE = dict.fromkeys(COLUMNS, "reference only")

_TRANSFORMS = "test_functional_transforms"

ROWS = (
    Row("`torch.compile(fullgraph=True)`, once for every T and B", "test_compile", "test_compile", _ON_THE_HOST),
    Row("`torch.export`, any T and B, for another process", "test_export", "test_export", _ON_THE_HOST),
    Row("AOTInductor, any T and B, for another process", "test_aot_inductor", "test_aot_inductor", _ON_THE_HOST),
    Row("ONNX Runtime, any B", "test_onnx", "test_onnx", _ON_THE_HOST),
    Row("`torch.func.grad`, `vjp`, `functional_call`", _TRANSFORMS, "test_gradients"),
    Row("`vmap` over inputs, parameters, each sample's `grad`", _TRANSFORMS, "test_vmap"),
    Row("`torch.func.jvp`, `jacfwd`, `hessian`", _TRANSFORMS, "test_forward_mode", _FORWARD_MODE),
    Row("`torch.autocast`", "test_autocast", "test_autocast"),
    Row("pickles, state_dicts of earlier versions", "test_pickles", "test_pickles"),
    Row("DDP", "test_distributed", "test_ddp"),
    Row("FSDP2", "test_distributed", "test_fsdp2"),
)


def columns_with(test, cell):
    """The columns in which the row of this test says so."""
    (row,) = (row for row in ROWS if row.test == test)
    return [column for column in COLUMNS if row.cell(column) == cell]


def render():
    """The table as markdown."""
    lines = ["| | " + " | ".join(COLUMNS.values()) + " |", "|---" * (1 + len(COLUMNS)) + "|"]
    lines += [f"| {row.title} | " + " | ".join(row.cell(c) for c in COLUMNS) + " |" for row in ROWS]
    return "\n".join(lines)


if __name__ == "__main__":
    print(f"{MARKER}\n{render()}\n{MARKER}")
