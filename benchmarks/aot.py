"""The Triton kernels compiled ahead of time, without a GPU, and what the machine code says about them.

``python -m benchmarks aot`` prints a table; the tests assert on the same rows. Needs Triton, and TRITON_INTERPRET
unset.
"""

import argparse
import itertools
import json
from dataclasses import asdict, fields, replace

import torch

from benchmarks.machine_code import POINTERS, Row, analyse, compile_kernel
from benchmarks.many_gates import MANY_GATES
from fastrcn import cells
from fastrcn.compiler.emit_triton import kernel_of
from fastrcn.compiler.emit_triton_walk import walk_kernel_of
from fastrcn.compiler.phase import Walk, by_phase
from fastrcn.compiler.schedule import schedule_of
from fastrcn.ops.conv_recurrent import fused
from fastrcn.ops.conv_recurrent.geometry import Geometry
from fastrcn.ops.conv_recurrent.input_schedule import NAMES, use_schedule
from fastrcn.ops.conv_recurrent.triton_config import has_many_maps, power, shipped, use_config
from fastrcn.ops.conv_recurrent.triton_launch import PhaseLaunch
from fastrcn.ops.conv_recurrent.triton_normalize import NormLaunch
from fastrcn.ops.conv_recurrent.triton_program import TritonProgram

ARCHITECTURES = (80, 90, 100)
OPERATIONS = ("conv_recurrent", "normalize", "conv3d_relu_maxpool3d", "batch_norm_relu_maxpool3d")
CELLS = {
    "rnn_tanh": cells.ConvRNN("tanh"),
    "rnn_relu": cells.ConvRNN("relu"),
    "lstm": cells.ConvLSTM(),
    "lstm_peephole": cells.ConvLSTM(True),
    "gru": cells.ConvGRU("before"),
    "gru_after": cells.ConvGRU("after"),
    "stacked": cells.StackedConvGRU(False),
    "stacked_candidate": cells.StackedConvGRU(True),
    "lstm_layer_norm": cells.LayerNorm(cells.ConvLSTM()),
    "lstm_peephole_layer_norm": cells.LayerNorm(cells.ConvLSTM(True)),
} | MANY_GATES


class _Recorder(TritonProgram):
    """Notes the launches that a program would make and makes none."""

    found: list[PhaseLaunch | NormLaunch]

    def run(self, start, count, at_start):
        self.found += [self.launch(work) for work in self.works]

    def run_backward(self, start, count, last_is_first):
        loop, _ = self.joined() or ([self.launch(work) for work in self.works], None)
        self.found += loop


def launches(cell, dtype, channels, kernel, config, schedule_name="hoisted"):
    """The launches of one step of a cell's forward and backward, by name."""
    schedule, size = schedule_of(cell.key), (4,) * len(kernel)
    blocks, one = schedule.blocks, (1,) * len(kernel)
    factors = blocks["peephole"] + blocks["scale"]
    inputs = [torch.zeros(2, 1, channels, *size, dtype=dtype) for _ in schedule.inputs]
    weight_ih = [torch.zeros(blocks[n] * channels, channels, *kernel, dtype=dtype) for n in schedule.inputs]
    weight_hh = torch.zeros(blocks["h"] * channels, channels, *kernel, dtype=dtype)
    bias = torch.zeros(blocks["bias"] * channels, dtype=dtype)
    weight_ch = torch.zeros(factors * channels, dtype=dtype) if factors else None
    hx = [torch.zeros(1, channels, *size, dtype=dtype) for _ in schedule.states]
    geometry = Geometry.of(schedule, inputs, weight_ih, weight_hh, one, one, None, False)
    arguments = (inputs, weight_ih, weight_hh, bias, weight_ch, hx, [], torch.full((1,), 2))
    named = {}
    with use_config(config), use_schedule(schedule_name):
        _Recorder.found = []
        output, finals, saved = fused.in_turn(fused.forward(_Recorder, geometry, *arguments, fused.Save.ALL))
        named |= {f"fwd{n}": launch for n, launch in enumerate(_Recorder.found)}
        _Recorder.found = []
        needs = dict.fromkeys(("weight_hh", "bias", "weight_ch", "hx"), False) | {
            "inputs": [False] * len(inputs),
            "weight_ih": [False] * len(inputs),
        }
        grads = [None] * (1 + len(finals))
        fused.in_turn(fused.backward(_Recorder, geometry, grads, *arguments, output, saved, needs))
        named |= {f"bwd{n}": launch for n, launch in enumerate(_Recorder.found)}
    return named


def _types(launch):
    """Types of a launch's pointers by name, also of a second direction's."""
    found = {"p_lengths": "*i64"}
    for k, (buffer, _) in enumerate(launch.pointers):
        found[f"p_{k}"] = POINTERS[buffer.data.dtype]
    for j, product in enumerate(launch.products):
        found[f"p_weight_{j}"] = POINTERS[product.weight.dtype]
    return found | {f"{name}_other": kind for name, kind in found.items()}


def _compile(kernel, what, types, constants, arch, options):
    """The kernel of a phase or a walk, compiled."""
    signature = {n: types.get(n, "i32") for n in what.arguments}
    constants = {n: constants[n] for n in what.constants}
    aligned = [k for k, n in enumerate(what.arguments) if n.startswith("p_")]
    return compile_kernel(kernel, signature, constants, aligned, arch, options)


def compile_launch(launch, arch, both=False):
    """A launch of the time loop, compiled; ``both``: the kernel of two directions."""
    phase = replace(launch.phase, both=both)
    kernel = kernel_of(launch.program.geometry.schedule.fingerprint, phase)
    return _compile(kernel, phase, _types(launch), launch.constants, arch, launch.options)


def compile_walk(launches, arch, both=False):
    """The kernel that walks over time with these phases, compiled; ``both``: in two directions."""
    walk, one = Walk(tuple(replace(launch.phase, both=both) for launch in launches)), launches[0]
    types = {"p_counter": "*i32"} | by_phase(map(_types, launches))
    constants = by_phase(launch.constants for launch in launches)
    kernel = walk_kernel_of(one.program.geometry.schedule.fingerprint, walk)
    return _compile(kernel, walk, types, constants, arch, one.options | {"launch_cooperative_grid": True})


_KINDS = ((2, 0), (4, 0), (8, 0), (16, 0), (1, 64))
"""Of phases for which other configurations are shipped, as (accumulators, maps of the stage)."""


def _kind_of(phase):
    if has_many_maps(len(phase.places)):
        return _KINDS[-1]
    return next(kind for kind in _KINDS if len(phase.accumulators) <= kind[0])


def analyse_all(
    names=tuple(CELLS),
    dtypes=(torch.bfloat16,),
    archs=ARCHITECTURES,
    channels=64,
    kernel=(3, 3),
    only="",
    persistent=False,
    schedule="hoisted",
    largest=False,
    both=False,
):
    """Rows for every shipped configuration, or the ``largest``, of every phase of the named cells, or of the phase
    ``only``; ``persistent``: of the kernels that take all phases of a step, forward and backward."""
    for name, dtype, arch in itertools.product(names, dtypes, archs):
        count = 1 if largest else None
        kinds = {kind: shipped(arch, dtype.itemsize, kind[0], maps=kind[1])[:count] for kind in _KINDS}
        for config in dict.fromkeys(itertools.chain(*kinds.values())):
            if config.block_c > power(channels):
                continue

            def fits(launch, config=config, kinds=kinds):
                return isinstance(launch, PhaseLaunch) and config in kinds[_kind_of(launch.phase)]

            found = launches(CELLS[name], dtype, channels, kernel, config, schedule)
            steps = {phase: [launch] for phase, launch in found.items()}
            if persistent:
                steps = {way: [found[n] for n in found if n.startswith(way)] for way in ("fwd", "bwd")}
            for step, taken in steps.items():
                if only in ("", step) and all(map(fits, taken)):
                    compiled = compile_walk(taken, arch, both) if persistent else compile_launch(taken[0], arch, both)
                    yield analyse(f"{name}.{step}", compiled, config, arch, dtype, persistent)


def main(argv=None):
    """Print the table, a row as soon as it is there."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks aot", description=__doc__)
    parser.add_argument("--operation", default="conv_recurrent", choices=OPERATIONS)
    parser.add_argument("--cells", nargs="+", default=list(CELLS), choices=CELLS)
    parser.add_argument("--arch", nargs="+", type=int, default=list(ARCHITECTURES))
    parser.add_argument("--dtype", nargs="+", default=["bfloat16"])
    parser.add_argument("--channels", type=int, default=64)
    parser.add_argument("--kernel", nargs="+", type=int, default=(3, 3), help="two sizes, or three: of volumes")
    parser.add_argument("--phase", default="", help="only this one, as fwd0 or bwd1; with --persistent fwd or bwd")
    parser.add_argument(
        "--persistent", action="store_true", help="the kernels that walk over time, of all phases of a step"
    )
    parser.add_argument("--both", action="store_true", help="the kernels of two directions")
    parser.add_argument("--schedule", default="hoisted", choices=NAMES, help="where the inputs are convolved")
    parser.add_argument("--window", nargs=3, type=int, default=(2, 2, 2), help="of the pooling")
    parser.add_argument("--largest", action="store_true", help="the first configuration of each table only")
    parser.add_argument("--json", action="store_true", help="one row per line as JSON")
    a = parser.parse_args(argv)
    if len(a.kernel) not in (2, 3):
        parser.error(f"--kernel: expected two sizes, or three, got {len(a.kernel)}")
    if not a.json:
        print(*(f.name for f in fields(Row)), sep="\t")
    dtypes = [getattr(torch, name) for name in a.dtype]
    if a.operation == "conv_recurrent":
        options = (a.channels, tuple(a.kernel), a.phase, a.persistent, a.schedule, a.largest, a.both)
        rows = analyse_all(a.cells, dtypes, a.arch, *options)
    elif a.operation == "normalize":
        from benchmarks import aot_normalize

        rows = aot_normalize.analyse_all(dtypes, a.arch, a.channels)
    else:
        from benchmarks import aot_conv3d

        rows = aot_conv3d.analyse_all(a.operation, dtypes, a.arch, a.channels, tuple(a.window), a.largest)
    for row in rows:
        c = row.config
        values = asdict(row) | {"config": f"{c.block_m}/{c.block_c}/{c.block_k} w{c.warps} s{c.stages} x{c.parts}"}
        print(json.dumps(values) if a.json else "\t".join(map(str, values.values())), flush=True)
    return 0
