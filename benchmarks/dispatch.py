"""``python -m benchmarks dispatch``: each backend on every call of the cases, in training and without gradients, on the
GPU at hand.

The automatic choice of fastrcn reads what it writes, dispatch-sm<capability>.json, from benchmarks/results of a
checkout, and from the package where it is installed. The file is written after each case.
"""

import argparse
import json
import math
import os
import sys
from dataclasses import replace
from pathlib import Path
from unittest import mock

import torch

from benchmarks import conv3d, recurrent
from benchmarks.cases import matching
from benchmarks.runner import measure_ceilings
from fastrcn import backends, dispatch, measured
from fastrcn.ops import autotune
from fastrcn.trial import Trial, note_trials, start_of

_DTYPES = ("bfloat16", "float16", "float32")
_DEVICE = "cuda"


def calls_of(case, dtype, device) -> list[Trial]:
    """The calls for which a case's layer has its backend chosen."""
    with mock.patch.dict(os.environ, FASTRCN_BACKEND="reference"):
        module, x = case.make("fastrcn", dtype, device), case.make_input(dtype, device)
    with torch.set_grad_enabled(case.train), note_trials() as calls:
        module.train(case.train)(x)
    return calls


def measure(call: Trial):
    """({backend: seconds} of those whose results are right, [what failed])."""
    tensor, expected, seconds, failed = call.tensor, [], {}, []
    for name in reversed(backends.able_of(call.operation, call.what, tensor.dtype, tensor.device.type)):
        try:
            run = start_of(call, name, expected)
            time = math.inf if run is None else autotune.milliseconds(run) / 1e3
            why = "wrong results, or nothing to compare them with" if run is None else "too little memory"
        except Exception as error:  # another backend may run, and other cases
            time, why = math.inf, f"{type(error).__name__}: {error}".splitlines()[0]
        if time < math.inf:
            seconds[name] = time
        else:
            failed.append(f"{call.operation} on {name}: {why}")
    return seconds, failed


def _row(name, call: Trial, seconds):
    sizes = call.by("").sizes(call.tensors)
    work = dispatch.workload(call.operation, call.what, call.tensor.dtype, call.differentiated, sizes)
    return {"name": name, "group": measured.group_of(work), "sizes": measured.sizes_of(work), "seconds": seconds}


def main(argv, facts_of):
    """Run; 1 where there is no GPU, or a backend failed or was wrong. ``facts_of``: what the command says of the
    machine."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks dispatch", description=__doc__)
    parser.add_argument("--cases", default="*", metavar="PATTERN", help="names or shell patterns, with commas between")
    parser.add_argument("--dtypes", default=",".join(_DTYPES), metavar="LIST", help="of %(default)s")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"), metavar="DIR")
    args = parser.parse_args(argv)
    dtypes = args.dtypes.split(",")
    if unknown := [name for name in dtypes if name not in _DTYPES]:
        parser.error(f"--dtypes: expected some of {','.join(_DTYPES)}, got {unknown[0]!r}")
    cases = [case.on(_DEVICE) for case in matching([*recurrent.CASES, *conv3d.CASES], args.cases)]
    if not cases:
        parser.error(f"--cases: no recurrent or conv3d case matches {args.cases!r}")
    gpu = dispatch.device_of(0)
    if gpu is None:
        print("python -m benchmarks dispatch times backends on a GPU: PyTorch finds no CUDA device", file=sys.stderr)
        return 1
    facts = facts_of(args.dtypes, _DEVICE, measure_ceilings(torch.bfloat16, _DEVICE)) | {"backend": "each"}
    args.out.mkdir(parents=True, exist_ok=True)
    file = args.out / measured.file_of(gpu.capability).name
    rows, failures = [], 0
    # The quick cases first: where the time is short, these are there.
    for case in sorted(cases, key=lambda case: not case.quick):
        for dtype, train in ((d, t) for d in dtypes for t in (True, False)):
            name = f"{case.name} {dtype}"
            for call in calls_of(replace(case, train=train), getattr(torch, dtype), _DEVICE):
                seconds, failed = measure(call)
                rows += [_row(name, call, seconds)] if seconds else []
                failures += len(failed)
                print(f"{name} {'training' if train else 'inference'}: {call.operation} {seconds}", flush=True)
                for line in failed:
                    print(f"failed: {name}: {line}", file=sys.stderr)
        found = {"facts": facts, "capability": gpu.capability, "cases": rows}
        file.write_text(json.dumps(found, indent=1) + "\n")
    print(f"file: {file}")
    return int(failures > 0)
