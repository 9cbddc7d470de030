"""``python -m fastrcn info``: what this installation can do, seen by running it."""

import json
import platform
from collections.abc import Callable
from importlib import metadata, util
from typing import Any, NamedTuple

import torch

from fastrcn import backends, cells, dispatch, measured, native
from fastrcn._version import __version__
from fastrcn.compiler.cuda_library import find_nvcc
from fastrcn.compiler.library import find_compiler
from fastrcn.compiler.schedule import schedule_of
from fastrcn.files import cache_folder
from fastrcn.functional import batch_norm_relu_maxpool3d, conv3d_relu_maxpool3d, conv_recurrent
from fastrcn.ops import autotune
from fastrcn.ops.conv3d_relu_maxpool3d.geometry import Conv
from fastrcn.ops.relu_maxpool3d.geometry import Pool

_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
_TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12, torch.bfloat16: 3e-2, torch.float16: 4e-3}


def collect() -> dict:
    """Versions, build and self-tests as plain data."""
    return {
        "fastrcn": __version__,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "torch": torch.__version__,
        "triton": _version("triton"),
        "threads": torch.get_num_threads(),
        "extension": _extension(),
        "compile_cell": _compile_cell(),
        "cuda": _cuda(),
        "autotune": _autotune(),
        "dispatch": _dispatch(),
        "self_test": [_self_test(o, name, dtype) for o in OPERATIONS for name in backends.NAMES for dtype in _DTYPES],
    }


def _version(package):
    return metadata.version(package) if util.find_spec(package) else None


def _extension():
    module = native.module()
    if module is None:
        return {"built": False, "reason": native.missing_reason()}
    return {
        "built": True,
        "build": json.loads(module.build_info),
        "usable_isas": module.usable_isas(),
        "isa": native.isa(),
        "openmp": "PyTorch's" if module.parallel_runtime_found() else "none found: one thread",
        "bfloat16_convolution": native.has_bfloat16_convolution(),
    }


def _compile_cell():
    """With what cells of one's own would be compiled."""
    folder = str(cache_folder())
    return {"folder": folder, "cpu": _compiler(find_compiler), "cuda": _compiler(find_nvcc)}


def _compiler(find):
    try:
        lines = find().version.splitlines()
    except RuntimeError as error:
        return {"compiler": None, "reason": str(error)}
    # nvcc's first line is its name alone.
    return {"compiler": next((line for line in lines if "release" in line), lines[0])}


def _cuda():
    """Whether the CUDA of PyTorch, of the build and of the machine go together."""
    built = json.loads(native.module().build_info) if native.module() else {}
    facts = {"torch": torch.version.cuda, "extension": built.get("cuda") or None, "devices": []}
    if not built.get("cuda"):
        facts["note"] = built.get("without_cuda") or native.missing_reason()
    elif torch.version.cuda is None:
        facts["note"] = "this PyTorch has no CUDA: the extension's kernels cannot be reached"
    elif torch.version.cuda.split(".")[0] != built["cuda"].split(".")[0]:
        facts["note"] = f"PyTorch has CUDA {torch.version.cuda}, the extension CUDA {built['cuda']}: versions differ"
    else:
        facts["note"] = "PyTorch and the extension have the same major version"
    if torch.cuda.is_available():
        for k in range(torch.cuda.device_count()):
            major, minor = torch.cuda.get_device_capability(k)
            facts["devices"].append(f"{torch.cuda.get_device_name(k)} (sm_{major}{minor})")
    return facts


def _autotune():
    """Whether Triton kernels are measured, and the files of the GPUs that are here."""
    gpus = range(torch.cuda.device_count()) if util.find_spec("triton") and torch.cuda.is_available() else ()
    files = sorted({str(autotune.file_of(k)) for k in gpus})
    return {"on": autotune.enabled(), "folder": str(cache_folder()), "files": files}


def _dispatch():
    """By what the backend of a call on a GPU is chosen, and the measurements for the GPUs that are here."""
    gpus = {dispatch.device_of(k) for k in range(torch.cuda.device_count())}
    known = {}
    for capability in sorted({gpu.capability for gpu in gpus if gpu}):
        file, cases = str(measured.file_of(capability)), len(measured.cases_of(capability))
        known[f"sm_{capability}"] = {"cases": cases, "file": file if cases else None}
    return {"order": "by name, autotune, measurements of this architecture, an estimate", "measured": known}


class _Test(NamedTuple):
    """A small call of an operation: what it is chosen by, the shapes of its tensors, the call, and whether the numbers
    are whole: then no rounding decides which cell of a window is the largest, and so gets the gradient."""

    what: Any
    shapes: tuple
    run: Callable[..., torch.Tensor]
    whole: bool


def _tests():
    cell, pool = cells.ConvLSTM(), Pool.of(2, padding=1)
    blocks = schedule_of(cell.key).blocks
    conv = Conv.of(1, 1, 1, 1)
    window: Any = {"pool_kernel_size": 2, "pool_padding": 1}

    def run_cell(*tensors, backend):
        return conv_recurrent(cell, *tensors, backend=backend)[0]

    def run_conv(*tensors, backend):
        return conv3d_relu_maxpool3d(*tensors, padding=1, backend=backend, **window)

    def run_norm(x, weight, bias, *, backend):
        return batch_norm_relu_maxpool3d(x, None, None, weight, bias, training=True, backend=backend, **window)

    gates = ((blocks["x"] * 8, 5, 3, 3), (blocks["h"] * 8, 8, 3, 3), (blocks["bias"] * 8,))
    return {
        "conv_recurrent": _Test((cell.key, 2), ((3, 2, 5, 6, 7), *gates), run_cell, False),
        "conv3d_relu_maxpool3d": _Test((conv, True, pool), ((2, 3, 4, 6, 7), (8, 3, 3, 3, 3), (8,)), run_conv, True),
        "batch_norm_relu_maxpool3d": _Test((True, pool), ((2, 8, 4, 6, 7), (8,), (8,)), run_norm, True),
    }


_TESTS = _tests()
OPERATIONS = tuple(_TESTS)


def can_run(operation, name, dtype, device):
    """(whether a backend runs a small call of an operation, why not or how)."""
    return backends.can_run(operation, name, _TESTS[operation].what, dtype, device)


def _self_test(operation, name, dtype):
    """Run a small call forward and backward on one backend and compare with float64 on the reference."""
    result = {"operation": operation, "backend": name, "dtype": str(dtype).removeprefix("torch.")}
    device = "cuda" if name in ("triton", "cuda") and torch.cuda.is_available() else "cpu"
    ok, reason = can_run(operation, name, dtype, device)
    if not ok:
        return result | {"ok": False, "reason": reason}
    _, shapes, call, whole = _TESTS[operation]
    generator = torch.Generator().manual_seed(0)
    exact = [0.3 * torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes]
    if whole:
        exact = [(4 * t).round() for t in exact]

    def run(backend, dtype, device):
        tensors = [t.to(device, dtype).requires_grad_() for t in exact]
        output = call(*tensors, backend=backend)
        weight = torch.linspace(-1, 1, output.numel(), dtype=torch.float64).view(output.shape).to(output)
        return [t.detach().cpu() for t in (output, *torch.autograd.grad((output * weight).sum(), tensors))]

    found, truth = run(name, dtype, device), run("reference", torch.float64, "cpu")
    error = max(float((a.double() - b).norm() / b.norm()) for a, b in zip(found, truth, strict=True))
    fine = error <= _TOLERANCE[dtype]
    return result | {"ok": fine, "error": error, "reason": reason if fine else f"relative error {error:.1e}; {reason}"}


def report(facts: dict) -> str:
    """The facts as text."""
    lines = [f"fastrcn {facts['fastrcn']}, PyTorch {facts['torch']}, Python {facts['python']}, {facts['platform']}"]
    lines.append(f"Triton: {facts['triton'] or 'not installed'}; threads: {facts['threads']}")
    extension = facts["extension"]
    if extension["built"]:
        build = extension["build"]
        lines.append(f"extension: built by {build['compiler']}, commit {build['commit'] or 'unknown'}")
        lines.append(f"  instruction sets: {', '.join(build['isas'])}; runs {extension['isa']}")
        lines.append(f"  OpenMP: {extension['openmp']}")
        lines.append(f"  bfloat16 convolution here: {'yes' if extension['bfloat16_convolution'] else 'no'}")
        if build["cuda"]:
            lines.append(f"  CUDA {build['cuda']} for {', '.join(build['cuda_archs'])}")
    else:
        lines.append(f"extension: {extension['reason']}")
    own = facts["compile_cell"]
    lines.append(f"compile_cell: cache: {own['folder']}")
    lines += [f"  {name}: {own[name]['compiler'] or own[name]['reason']}" for name in ("cpu", "cuda")]
    cuda = facts["cuda"]
    lines.append(f"CUDA: {cuda['note']}; devices: {', '.join(cuda['devices']) or 'none'}")
    tuning = facts["autotune"]
    files = ", ".join(tuning["files"]) or f"none without a GPU and Triton; they would be in {tuning['folder']}"
    lines.append(f"autotune: {'on' if tuning['on'] else 'off (FASTRCN_AUTOTUNE=1 turns it on)'}; cache: {files}")
    choice = facts["dispatch"]
    known = [f"{name}: {m['cases']} cases ({m['file'] or 'no file'})" for name, m in choice["measured"].items()]
    lines.append(f"backend on GPUs: {choice['order']}; measured: {', '.join(known) or 'no GPU is here'}")
    lines.append("self-test (small calls forward and backward, against float64):")
    for test in facts["self_test"]:
        error = f" error {test['error']:.1e}" if "error" in test else ""
        mark = "ok  " if test["ok"] else "FAIL" if "error" in test else "no  "
        lines.append(f"  {mark} {test['operation']:25} {test['backend']:9} {test['dtype']:8}{error}  {test['reason']}")
    return "\n".join(lines)


def run(args) -> int:
    """The command; 1 where a backend that should run gave wrong numbers."""
    facts = collect()
    print(json.dumps(facts, indent=2) if args.json else report(facts))
    return int(any(not t["ok"] and "error" in t for t in facts["self_test"]))


def add_arguments(parser):
    """Options of the command."""
    parser.add_argument("--json", action="store_true", help="print the facts as JSON")
