"""The compiled extension: whether it is there, what it can do on this machine, and why not."""

import importlib
import json
import os
from functools import cache
from typing import Any

import torch

from fastrcn.compiler.schedule import Schedule
from fastrcn.compiler.signature import backward_signatures, forward_signatures

CUDA_TYPE_NUMBERS = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}


@cache
def _load():
    """(module, "") or (None, why not). Only absence is accepted; a broken extension says what is wrong with it."""
    try:
        return importlib.import_module("fastrcn._C"), ""
    except ModuleNotFoundError as error:
        if error.name != "fastrcn._C":
            raise
        reason = "the native extension fastrcn._C was not built"
    except ImportError as error:
        reason = f"the native extension does not load: {error}"
    if os.environ.get("FASTRCN_REQUIRE_EXT") == "1":
        raise ImportError(f"FASTRCN_REQUIRE_EXT=1, but {reason}")
    return None, reason


def module() -> Any:
    """The extension module; None where it is missing."""
    return _load()[0]


def missing_reason() -> str:
    """Why there is no extension; empty if there is one."""
    return _load()[1]


def cuda_missing_reason(function) -> str:
    """Why there is no such function of the CUDA kernels; empty if there is."""
    if module() is None:
        return missing_reason()
    if not hasattr(module(), function):
        return f"the extension was built without CUDA: {json.loads(module().build_info)['without_cuda']}"
    return ""


def cuda_problem(function, dtype, device) -> str:
    """Why a function of the CUDA kernels cannot take tensors of a data type and device type; empty if it can."""
    if device != "cuda":
        return f"it runs on cuda tensors, these are on {device}"
    problem = cuda_missing_reason(function)
    if problem:
        return problem
    if dtype not in CUDA_TYPE_NUMBERS:
        return f"it has float32, float64, bfloat16 and float16, these are {str(dtype).removeprefix('torch.')}"
    return ""


def address(tensor) -> int:
    """Where a tensor's values begin; 0 for None."""
    return 0 if tensor is None else tensor.data_ptr()


@cache
def isa() -> str:
    """The instruction set whose kernels run; ``FASTRCN_ISA`` asks for a lower one, to test it."""
    usable = module().usable_isas()
    wanted = os.environ.get("FASTRCN_ISA") or usable[-1]
    if wanted not in usable:
        raise RuntimeError(f"FASTRCN_ISA: expected one of {usable}, got {wanted!r}")
    return wanted


@cache
def _has_amx() -> bool:
    return torch.cpu._is_amx_tile_supported()


@cache
def has_bfloat16_convolution() -> bool:
    """Whether oneDNN has bfloat16 convolutions on this processor."""
    return bool(torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def convolves_bfloat16() -> bool:
    """Whether the extension convolves bfloat16: by instructions for it, except where oneDNN has AMX's tiles."""
    return module() is not None and module().convolves_bfloat16(isa()) and not _has_amx()


def register_stages(path) -> None:
    """Load a library of stages: from now on every layer of the cells in it has them.

    Raises RuntimeError where the library does not load, or was made for another version of the extension.
    """
    module().register_stages(str(path))
    has_cell.cache_clear()


@cache
def has_cell(schedule: Schedule, type_number: int) -> bool:
    """Whether every stage of a cell is compiled, from the same equations, for the chosen instruction set."""
    if module() is None:
        return False
    signatures = (*forward_signatures(schedule), *backward_signatures(schedule))
    return all(module().has_stage(isa(), schedule.fingerprint, s.stage, s.backward, type_number) for s in signatures)
