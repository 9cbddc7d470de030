"""The Triton kernels compiled ahead of time for three generations of GPUs: what their machine code must have.

They are compiled in a process of its own: in one whose kernels are interpreted nothing can be compiled.
"""

import re
from itertools import takewhile

import pytest
import torch

from benchmarks import aot
from fastrcn.ops.conv_recurrent.triton_config import Config
from tests.helpers.ahead_of_time import compiler

pytest.importorskip("triton")
SHARED = {80: 163 * 1024, 90: 227 * 1024, 100: 227 * 1024}
TENSOR_CORE = {80: "HMMA", 90: "HGMMA", 100: "UTCHMMA"}
SCALAR = {80: "FFMA", 90: "FFMA", 100: "FFMA2"}
WALKS = {f"lstm.{way}": (1, 1) for way in ("fwd", "bwd")}
WALKS |= {f"{cell}.{way}": (2, 2) for cell in ("gru", "stacked_candidate") for way in ("fwd", "bwd")}
WALKS |= {"gru_after.fwd": (1, 1), "gru_after.bwd": (1, 2)}
"""Of the kernels that walk over time: how many phases a step has, and loops with products."""
FIRST, LATER = ("--phase", "fwd0"), ("--phase", "fwd1", "fwd3")
EVERY_STEP = ("--phase", "fwd0", "fwd1", "bwd0", "bwd1")


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """A function: what ``python -m benchmarks aot --json`` finds, compiled afresh."""
    with compiler(tmp_path_factory.mktemp("triton")) as found:
        yield found


def check(row, exact=False):
    what, mix = f"{row['kernel']} sm_{row['arch']} {row['dtype']} {row['config']}", row["mix"]
    assert mix.get("fp32" if exact else "tensor"), f"{what}: no products in the main loop"
    assert row["instruction"] == (SCALAR if exact else TENSOR_CORE)[row["arch"]], f"{what}: {row['instruction']}"
    assert "local" not in mix, f"{what}: {mix['local']} accesses to local memory in the main loop"
    assert row["spills"] == 0, f"{what}: {row['spills']} bytes of registers spilled"
    assert row["shared"] <= SHARED[row["arch"]], f"{what}: {row['shared']} bytes of shared memory"
    if row["kernel"] == "lstm.bwd0" and row["arch"] == 90 and row["dtype"] == "bfloat16":
        # Two blocks of 256 threads per processor; with peepholes it is one. Whole, the stage would spill.
        assert row["registers"] <= 128, f"{what}: {row['registers']} registers"
    assert {"tma", "async.128", "load.128"} & mix.keys(), f"{what}: no 16-byte loads in the main loop"
    if row["persistent"]:
        phases, loops = WALKS[row["kernel"]]
        # After each phase all programs meet, and no load may find what was in a cache before.
        assert row["grid_barriers"] == phases, f"{what}: {row['grid_barriers']} grid barriers, expected {phases}"
        assert not row["read_only_loads"], f"{what}: {row['read_only_loads']} loads by the read-only cache"
        assert row["main_loops"] == loops, f"{what}: {row['main_loops']} loops with products, expected {loops}"
    else:
        assert not row["grid_barriers"], f"{what}: {row['grid_barriers']} grid barriers"


@pytest.mark.triton
@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        ("--cells", "lstm", *EVERY_STEP),
        ("--cells", "lstm", "--dtype", "float32", *FIRST),
        ("--cells", "lstm", "--dtype", "float32", "--largest", "--phase", "bwd0"),
        ("--cells", "rnn_tanh", "lstm_peephole", "--largest", *EVERY_STEP),
        ("--cells", "gru", "gru_after", "--largest", *EVERY_STEP),
        ("--cells", "lstm", "gru", "stacked_candidate", "--schedule", "in_loop", "--largest", *FIRST),
        ("--cells", "lstm", "--arch", "90", "--dtype", "float16", "--channels", "48", *FIRST),
        ("--cells", "lstm", "--arch", "90", "--persistent"),
        ("--cells", "gru", "--arch", "90", "--persistent", "--largest"),
        ("--cells", "gru", "--arch", "80", "100", "--persistent", "--both", "--largest"),
        ("--cells", "gru_after", "--arch", "100", "--persistent", "--largest"),
        ("--cells", "stacked_candidate", "--dtype", "float32", "--arch", "90", "--persistent", "--largest"),
        ("--cells", "lstm_peephole", "--both", "--arch", "90", "--largest", *EVERY_STEP),
        ("--cells", "two_lstms", "--largest", *FIRST),
        ("--cells", "two_lstms", "--dtype", "float32", "--largest", *FIRST),
        ("--cells", "two_lstms", "--dtype", "float32", "--exact", "--largest", *FIRST),
        ("--cells", "four_lstms", *FIRST),
        ("--cells", "four_lstms", "--dtype", "float32", *FIRST),
        ("--cells", "four_lstms", "--dtype", "float32", "--exact", *FIRST),
        ("--cells", "highway_lstm", "st_lstm", "two_levels", "--arch", "90", "--largest", *FIRST),
        ("--cells", "gru_after_layer_norm", "--arch", "80", "--largest", *FIRST),
        ("--cells", "lstm", "--kernel", "3", "3", "3", "--largest", *FIRST),
        ("--cells", "rnn_relu", "--dtype", "float32", "--exact", "--largest", *FIRST),
        ("--cells", "lstm", "--dtype", "float32", "--exact", "--no-lengths", *FIRST),
        ("--cells", "lstm", "--dtype", "float32", "--exact", "--arch", "90", "100", "--largest", "--phase", "bwd0"),
        ("--cells", "gru", "--save", "states", "--arch", "80", "--largest", "--phase", "again0", "again1", "end0"),
        ("--cells", "lstm_peephole", "--full", "--no-lengths", "--kernel", "1", "5", "--arch", "80", "--largest"),
        ("--cells", "lstm_zoneout", "lstm_hard_sigmoid", "--arch", "100", "--phase", "bwd0", "--largest"),
        ("--cells", "gru_layer_norm", "gru_dropout", "lstm_conv_peephole", "--arch", "90", "--largest", *LATER),
    ],
    ids=" ".join,
)
def test_shipped_configurations(arguments, rows):
    """Each configuration for a compute capability and a type at least once; the largest with most sums and maps."""
    found = rows(*arguments)
    assert {row["kernel"].split(".")[0] for row in found} == {*takewhile(lambda word: word[0] != "-", arguments[1:])}
    for row in found:
        check(row, "--exact" in arguments)
        check_loads(row)


@pytest.mark.triton
@pytest.mark.slow
@pytest.mark.parametrize(
    ("kernel", "lstm", "gru"), [((1, 1), 80, 100), ((5, 5), 90, 80), ((7, 7), 100, 90), ((5, 1), 90, 100)], ids=str
)
def test_kernel_sizes(kernel, lstm, gru, rows):
    """Forward and backward, each size on the GPUs of two generations."""
    options = ("--kernel", *map(str, kernel), "--largest", "--phase", "fwd0", "bwd0")
    for cell, arch in (("lstm", lstm), ("gru", gru)):
        found = rows("--cells", cell, "--arch", str(arch), *options)
        assert sorted(row["kernel"] for row in found) == [f"{cell}.bwd0", f"{cell}.fwd0"]
        for row in found:
            check(row)
            check_loads(row)


def check_loads(row):
    """Every row of channels begins at a multiple of 16 bytes."""
    narrow = [kind for kind in row["mix"] if re.fullmatch(r"(async|load)\.(8|16|32|64)", kind)]
    if not has_less_than_16_bytes_a_thread(row):
        assert not narrow, f"{row['kernel']} sm_{row['arch']} {row['config']}: narrow loads {narrow}"


def has_less_than_16_bytes_a_thread(row):
    """Whether the tile of the weight is smaller than all threads' loads together."""
    _, channels, inputs, warps = map(int, re.match(r"(\d+)/(\d+)/(\d+) w(\d+) ", row["config"]).groups())
    return channels * inputs * (4 if row["dtype"] == "float32" else 2) < 16 * 32 * warps


@pytest.mark.triton
@pytest.mark.parametrize("name", ["stacked", "stacked_candidate"])
def test_stacked_grus_have_the_kernels_of_a_gru(name):
    """Where the inputs are convolved before the loop: so they are compiled above."""
    tile = Config(128, 64, 64, 8, 3, 16)
    one, other = (aot.launches(aot.CELLS[cell], aot.Call(torch.bfloat16), tile) for cell in ("gru", name))
    assert [*one] == [*other] == ["fwd0", "fwd1", "bwd0", "bwd1", "end0"]
    for step, launch in one.items():
        assert launch.phase == other[step].phase
        assert launch.constants == other[step].constants


@pytest.mark.triton
@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        ("--arch", "80", "90", "100"),
        ("--arch", "80", "90", "100", "--dtype", "float32", "--largest"),
        ("--arch", "90", "--dtype", "float16", "--channels", "40", "--window", "1", "2", "2", "--largest"),
        ("--arch", "80", "90", "100", "--window", "1", "1", "1", "--largest"),
    ],
    ids=" ".join,
)
def test_shipped_configurations_of_conv3d(arguments, rows):
    found = rows("--operation", "conv3d_relu_maxpool3d", *arguments)
    assert {row["kernel"] for row in found} == {"conv3d.fwd", "conv3d.bwd"}
    for row in found:
        check(row)


@pytest.mark.triton
@pytest.mark.slow
@pytest.mark.parametrize(
    ("dtype", "cells"),
    [("bfloat16", ["lstm_layer_norm", "lstm_peephole_layer_norm"]), ("float32", ["lstm_peephole_layer_norm"])],
    ids=str,
)
def test_stages_of_many_maps(dtype, cells, rows):
    """Those of normalised LSTMs in backward, which are phases of their own. Where convolutions of float32 are exact
    they are the same."""
    found = rows("--cells", *cells, "--phase", "bwd0", "--dtype", dtype)
    assert len(found) == len(cells) * 3
    for row in found:
        what = f"{row['kernel']} sm_{row['arch']} {row['dtype']} {row['config']}"
        assert row["spills"] == 0, f"{what}: {row['spills']} bytes of registers spilled"
        # Three blocks of 128 threads per processor.
        assert row["registers"] <= 168, f"{what}: {row['registers']} registers"


@pytest.mark.triton
@pytest.mark.slow
def test_normalisation(rows):
    found = rows("--operation", "normalize")
    # Forward and backward of small images, and of large ones each in two launches.
    assert len(found) == 6 * 3
    for row in found:
        what = f"{row['kernel']} sm_{row['arch']} {row['dtype']} {row['config']}"
        assert row["spills"] == 0, f"{what}: {row['spills']} bytes of registers spilled"
        # Sixteen values of two bytes in each thread, backward of two maps; without a first launch loaded twice.
        maps = 1 if row["kernel"].startswith(("normalize_kernel", "moments")) else 2
        loads = maps * (2 if row["kernel"].endswith("whole") else 1) * 2
        assert row["wide_loads"] == loads, f"{what}: {row['wide_loads']} 16-byte loads, expected {loads}"


@pytest.mark.triton
@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments", [("--arch", "90"), ("--arch", "80", "--dtype", "float32", "--largest")], ids=" ".join
)
def test_passes_of_pooling(arguments, rows):
    found = rows("--operation", "batch_norm_relu_maxpool3d", *arguments)
    assert found
    for row in found:
        what = f"{row['kernel']} sm_{row['arch']} {row['dtype']} {row['config']}"
        assert row["spills"] == 0, f"{what}: {row['spills']} bytes of registers spilled"
        # Contiguous, the cells of neighbouring windows do not lie side by side.
        assert row["wide_loads"] or row["kernel"] == "pass.fwd.contiguous", f"{what}: no 16-byte loads"


@pytest.mark.triton
@pytest.mark.parametrize("operation", [name for name in aot.OPERATIONS if name != "conv_recurrent"])
def test_an_option_of_another_operation_is_refused(operation, capsys):
    with pytest.raises(SystemExit):
        aot.main(["--operation", operation, "--dtype", "float32", "--exact"])
    assert f"--exact: expected --operation conv_recurrent, got {operation}" in capsys.readouterr().err
