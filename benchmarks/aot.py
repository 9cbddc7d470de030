"""The Triton kernels compiled ahead of time, without a GPU, and what the machine code says about them.

``python -m benchmarks aot`` prints a table; the tests assert on the same rows. Needs Triton, and TRITON_INTERPRET
unset.
"""

import argparse
import itertools
import json
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace

import torch

from benchmarks.machine_code import POINTERS, Row, analyse, compile_kernel
from benchmarks.many_gates import MANY_GATES
from fastrcn import cells
from fastrcn.compiler.emit_triton import kernel_of
from fastrcn.compiler.emit_triton_walk import walk_kernel_of
from fastrcn.compiler.phase import Walk, by_phase
from fastrcn.ops.conv_recurrent.dry_run import dry_run
from fastrcn.ops.conv_recurrent.fused import Save
from fastrcn.ops.conv_recurrent.input_schedule import NAMES, use_schedule
from fastrcn.ops.conv_recurrent.triton_config import has_many_maps, power, shipped, use_config
from fastrcn.ops.conv_recurrent.triton_launch import PhaseLaunch
from fastrcn.ops.conv_recurrent.triton_program import TritonProgram
from fastrcn.ops.conv_recurrent.triton_walk import walk_options

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
    "rnn_layer_norm": cells.LayerNorm(cells.ConvRNN("tanh")),
    "gru_layer_norm": cells.LayerNorm(cells.ConvGRU("before")),
    "gru_after_layer_norm": cells.LayerNorm(cells.ConvGRU("after")),
    "lstm_conv_peephole": cells.ConvLSTM("conv"),
    "lstm_hard_sigmoid": cells.HardSigmoidConvLSTM(0.2),
    "lstm_zoneout": cells.Zoneout(cells.ConvLSTM()),
    "gru_dropout": cells.RecurrentDropout(cells.ConvGRU("before")),
} | MANY_GATES


@dataclass(frozen=True)
class Call:
    """What a call of the operation is beside its cell. ``exact``: float32 without tf32; ``full``: peepholes with a
    weight for each pixel; ``schedule``: where the inputs are convolved."""

    dtype: torch.dtype
    channels: int = 64
    kernel: tuple[int, ...] = (3, 3)
    exact: bool = False
    full: bool = False
    lengths: bool = True
    save: Save = Save.ALL
    schedule: str = "hoisted"


def launches(cell, call: Call, config):
    """The launches of one step by name: ``fwd0`` and so on of the forward, ``again0`` of what the backward computes
    anew, ``bwd0`` of the backward and ``end0`` of its last step alone."""
    named = {}

    def note(way, found):
        named.update((f"{way}{n}", launch) for n, launch in enumerate(found))

    class Forward(TritonProgram):
        """Notes the launches that a program would make and makes none."""

        way = "fwd"

        def run(self, start, count, at_start):
            note(self.way, [self.launch(work) for work in self.works])

    class Backward(Forward):
        way = "again"

        def run_backward(self, start, count, last_is_first):
            loop, end = self.joined() or ([self.launch(work) for work in self.works], None)
            note("bwd", loop)
            note("end", [end] if end else [])

    with use_config(config), use_schedule(call.schedule), _tf32(not call.exact):
        dry_run(Forward, Backward, cell.key, call.dtype, call.channels, call.kernel, call.full, call.lengths, call.save)
    return named


@contextmanager
def _tf32(allowed):
    """Within this context convolutions of float32 may be done in TF32, or not."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


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
    kernel = kernel_of(launch.geometry.schedule.fingerprint, phase)
    return _compile(kernel, phase, _types(launch), launch.constants, arch, launch.options)


def compile_walk(launches, arch, both=False):
    """The kernel that walks over time with these phases, compiled; ``both``: in two directions."""
    walk, one = Walk(tuple(replace(launch.phase, both=both) for launch in launches)), launches[0]
    types = {"p_counter": "*i32"} | by_phase(map(_types, launches))
    constants = by_phase(launch.constants for launch in launches)
    kernel = walk_kernel_of(one.geometry.schedule.fingerprint, walk)
    return _compile(kernel, walk, types, constants, arch, walk_options(one.options))


_KINDS = ((2, 0), (4, 0), (8, 0), (16, 0), (1, 64))
"""Of phases for which other configurations are shipped, as (accumulators, maps of the stage)."""


def _kind_of(phase):
    if has_many_maps(len(phase.places)):
        return _KINDS[-1]
    return next(kind for kind in _KINDS if len(phase.accumulators) <= kind[0])


def analyse_all(cells, calls, archs=ARCHITECTURES, phases=(), persistent=False, largest=False, both=False):
    """Rows for every shipped configuration, or the ``largest``, of every phase of the named cells in calls, or of these
    ``phases``; ``persistent``: of the kernels that take all phases of a step, forward and backward."""
    for name, call, arch in itertools.product(cells, calls, archs):
        count, size = 1 if largest else None, call.dtype.itemsize
        kinds = {kind: shipped(arch, size, kind[0], call.exact, kind[1])[:count] for kind in _KINDS}
        for config in dict.fromkeys(itertools.chain(*kinds.values())):
            if config.block_c > power(call.channels):
                continue

            def fits(launch, config=config, kinds=kinds):
                return isinstance(launch, PhaseLaunch) and config in kinds[_kind_of(launch.phase)]

            found = launches(CELLS[name], call, config)
            steps = {phase: [launch] for phase, launch in found.items()}
            if persistent:
                steps = {way: [found[n] for n in found if n.startswith(way)] for way in ("fwd", "bwd")}
            for step, taken in steps.items():
                if (not phases or step in phases) and taken and all(map(fits, taken)):
                    compiled = compile_walk(taken, arch, both) if persistent else compile_launch(taken[0], arch, both)
                    yield analyse(f"{name}.{step}", compiled, config, arch, call.dtype, persistent)


def main(argv=None):
    """Print the table, a row as soon as it is there."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks aot", description=__doc__)
    parser.add_argument("--operation", default="conv_recurrent", choices=OPERATIONS)
    parser.add_argument("--cells", nargs="+", default=list(CELLS), choices=CELLS)
    parser.add_argument("--arch", nargs="+", type=int, default=list(ARCHITECTURES))
    parser.add_argument("--dtype", nargs="+", default=["bfloat16"])
    parser.add_argument("--channels", type=int, default=64)
    parser.add_argument("--kernel", nargs="+", type=int, default=(3, 3), help="two sizes, or three: of volumes")
    parser.add_argument(
        "--phase", nargs="+", default=(), help="only these, as fwd0, bwd1, again0 or end0; with --persistent fwd, bwd"
    )
    parser.add_argument(
        "--persistent", action="store_true", help="the kernels that walk over time, of all phases of a step"
    )
    parser.add_argument("--both", action="store_true", help="the kernels of two directions")
    parser.add_argument("--schedule", default="hoisted", choices=NAMES, help="where the inputs are convolved")
    parser.add_argument("--exact", action="store_true", help="float32 without tf32, of conv_recurrent")
    parser.add_argument("--full", action="store_true", help="peepholes with a weight for each pixel")
    parser.add_argument("--no-lengths", action="store_true", help="all sequences are as long")
    parser.add_argument("--save", default="all", choices=[s.name.lower() for s in Save], help="for the backward")
    parser.add_argument("--window", nargs=3, type=int, default=(2, 2, 2), help="of the pooling")
    parser.add_argument("--largest", action="store_true", help="the first configuration of each table only")
    parser.add_argument("--json", action="store_true", help="one row per line as JSON")
    a = parser.parse_args(argv)
    if len(a.kernel) not in (2, 3):
        parser.error(f"--kernel: expected two sizes, or three, got {len(a.kernel)}")
    if a.exact and a.dtype != ["float32"]:
        parser.error(f"--exact: expected --dtype float32, got {' '.join(a.dtype)}")
    if a.exact and a.operation != "conv_recurrent":
        parser.error(f"--exact: expected --operation conv_recurrent, got {a.operation}")
    if not a.json:
        print(*(f.name for f in fields(Row)), sep="\t")
    dtypes = [getattr(torch, name) for name in a.dtype]
    if a.operation == "conv_recurrent":
        of_call = (a.channels, tuple(a.kernel), a.exact, a.full, not a.no_lengths, Save[a.save.upper()], a.schedule)
        calls = [Call(dtype, *of_call) for dtype in dtypes]
        rows = analyse_all(a.cells, calls, a.arch, a.phase, a.persistent, a.largest, a.both)
    elif a.operation == "normalize":
        from benchmarks import aot_normalize

        rows = aot_normalize.analyse_all(dtypes, a.arch, a.channels)
    else:
        from benchmarks import aot_conv3d

        rows = aot_conv3d.analyse_all(a.operation, dtypes, a.arch, a.channels, tuple(a.window), a.largest)
    for row in rows:
        c = row.config
        values = asdict(row) | {"config": f"{c.block_m}/{c.block_c}/{c.block_k} w{c.warps} s{c.stages} x{c.parts}"}
        mix = {} if a.json else {"mix": ", ".join(f"{count} {kind}" for kind, count in row.mix.items())}
        print(json.dumps(values) if a.json else "\t".join(map(str, (values | mix).values())), flush=True)
    return 0
