"""``python -m benchmarks``: fastrcn against what people have, on the cases of ``benchmarks/cases.py``."""

import argparse
import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import torch

import fastrcn
from benchmarks import cases, report
from benchmarks.case import NAMES, backend_on
from benchmarks.runner import measure_ceilings, run_case
from fastrcn.ops.conv_recurrent import cuda_method, triton_time_loop

_GROUPS = {"a": ("a",), "b": ("b",), "c": ("ca", "cb"), "d": ("d",), "nn": ("nn",), "own": ("stages", "plain")}


def _commit():
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
        cwd=Path(__file__).parent, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.stdout.strip() or "unknown"


def _device_name(device):
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []:
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip() + f" ({torch.backends.cpu.get_cpu_capability()})"
    return "cpu"


def _attempt(case, names, dtype, args, ceilings):
    """(results, "") or (None, what went wrong): the run goes on, and ends with status 1."""
    try:
        return run_case(case, names, dtype, args.device, ceilings, args.rounds, not args.no_memory), ""
    except Exception as error:
        return None, f"{case.name}: {type(error).__name__}: {error}"


def _facts(dtype, device, ceilings):
    flops, bandwidth = ceilings
    return {
        "fastrcn": fastrcn.__version__, "commit": _commit(), "torch": torch.__version__, "dtype": dtype,
        "device": _device_name(device), "threads": torch.get_num_threads(), "backend": backend_on(device),
        "flops": flops, "bandwidth": bandwidth,
    }  # fmt: skip


def main(argv=None):
    """Run; returns 1 where a contestant failed or disagreed. ``aot``, ``c3d``, ``dispatch``, ``host``, ``models``,
    ``trained`` or ``vectors`` as first argument: see ``benchmarks.aot``, ``c3d_training``, ``dispatch``, ``host``,
    ``models``, ``trained_net``, ``vectors``."""
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["aot"]:
        from benchmarks import aot

        return aot.main(argv[1:])
    if argv[:1] == ["c3d"]:
        from benchmarks import c3d_training

        return c3d_training.main(argv[1:])
    if argv[:1] == ["dispatch"]:
        from benchmarks import dispatch

        return dispatch.main(argv[1:], _facts)
    if argv[:1] == ["host"]:
        from benchmarks import host

        return host.main(argv[1:], _facts)
    if argv[:1] == ["models"]:
        from benchmarks import models

        return models.main(argv[1:], _facts)
    if argv[:1] == ["trained"]:
        from benchmarks import trained_net

        return trained_net.main(argv[1:], _facts)
    if argv[:1] == ["vectors"]:
        from benchmarks import vectors

        return vectors.main(argv[1:], _facts)
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        epilog="python -m benchmarks aot: what the Triton kernels compile to, without a GPU. "
        "python -m benchmarks c3d: a small C3D trained fused and unfused. "
        "python -m benchmarks dispatch: the backends on this GPU, for the automatic choice between them. "
        "python -m benchmarks host: what a training step takes the processor that starts a GPU's work. "
        "python -m benchmarks models: every model, fused and plain. "
        "python -m benchmarks trained: a net with published weights, as it is and fused. "
        "python -m benchmarks vectors: LSTM, GRU and RNN of vectors against torch.nn's own code",
    )
    parser.add_argument("--quick", action="store_true", help="the quick cases, without (c)")
    parser.add_argument("--cases", default="*", metavar="PATTERN", help="names or shell patterns, with commas between")
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--backend", choices=fastrcn.backends.NAMES, help="of fastrcn's layers (default: automatic, on a GPU triton)"
    )
    parser.add_argument(
        "--cuda-method", choices=cuda_method.NAMES, help="of the cuda backend, for all shapes; without memory"
    )
    parser.add_argument(
        "--time-loop", choices=triton_time_loop.NAMES, help="of the triton backend, for all shapes; without memory"
    )
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--baselines", default=None, metavar="LIST", help=f"of {','.join(_GROUPS)} (default: all)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"), metavar="DIR")
    parser.add_argument("--name", help="stem of the files (default: device and dtype)")
    args = parser.parse_args(argv)
    groups = (args.baselines or ("a,b,d,nn,own" if args.quick else "a,b,c,d,nn,own")).split(",")
    unknown = [g for g in groups if g not in _GROUPS]
    if unknown:
        parser.error(f"--baselines: expected some of {','.join(_GROUPS)}, got {unknown[0]!r}")
    chosen = cases.find(args.cases, args.quick, args.device)
    if not chosen:
        parser.error(f"--cases: no case matches {args.cases!r}; there are {', '.join(c.name for c in cases.CASES)}")
    if args.backend:
        os.environ["FASTRCN_BACKEND"] = args.backend  # memory is measured in processes of their own
    with ExitStack() as asked:
        for use, name in ((fastrcn.use_cuda_method, args.cuda_method), (fastrcn.use_time_loop, args.time_loop)):
            if name:
                args.no_memory = True  # which is measured in processes of their own
                asked.enter_context(use(name))
        return _compare(args, chosen, groups)


def _compare(args, chosen, groups):
    """Run the chosen cases and write the tables, after each case what there is; 1 where a contestant failed or
    disagreed."""
    dtype = getattr(torch, args.dtype)
    names = ["fastrcn", "recompute", "last", *(n for g in groups for n in _GROUPS[g])]
    ceilings = measure_ceilings(dtype, args.device)
    facts = _facts(args.dtype, args.device, ceilings)
    try:
        from tqdm import tqdm

        progress = tqdm(chosen, unit="case")
    except ModuleNotFoundError:
        progress = chosen
    results, failed = [], False
    stem = args.name or f"{torch.device(args.device).type}-{args.dtype}{'-quick' if args.quick else ''}"
    for case in progress:
        found, error = _attempt(case, names, dtype, args, ceilings)
        errors = [error] if error else []
        if found:
            results.append(found)
            parts = found["contestants"].items()
            errors += [f"{case.name}, {NAMES[n]}: {c['error']}" for n, c in parts if "error" in c]
        for line in errors:
            print(f"failed: {line}", file=sys.stderr)
        failed |= bool(errors)
        report.write_tables(results, facts, args.out, stem)
    print(report.table(results, facts))
    for case, label, ratio in report.losing(results):
        print(f"slower than {label} in {case}: ratio {ratio:.2f}")
    print("files: " + ", ".join(map(str, report.write(results, facts, args.out, stem))))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
