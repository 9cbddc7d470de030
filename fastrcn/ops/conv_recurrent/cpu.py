"""The ``cpu`` backend: compiled convolutions and stages, the time loop in C++."""

import torch

from fastrcn import native
from fastrcn.compiler.schedule import schedule_of
from fastrcn.ops.conv_recurrent.program import Program as Program
from fastrcn.ops.conv_recurrent.subject import Subject

_TYPES = (torch.float32, torch.float64, torch.bfloat16)


def can_run(subject: Subject, dtype, device):
    """(whether this backend runs the subject, why not or how)."""
    if device != "cpu":
        return False, f"it runs on cpu tensors, these are on {device}"
    if dtype not in _TYPES:
        return False, f"it has float32, float64 and bfloat16, these are {str(dtype).removeprefix('torch.')}"
    if native.module() is None:
        return False, native.missing_reason()
    notes = []
    if not native.has_cell(schedule_of(subject[0]), 0):
        notes.append("stages as generated PyTorch code: fastrcn.compile_cell compiles this cell")
    else:
        notes.append(f"compiled stages ({native.isa()})")
        if compute_type(dtype) == torch.bfloat16:
            notes.append("oneDNN's convolution, time loop in Python")
        else:
            notes.append("compiled convolution, time loop in C++")
    if dtype == torch.bfloat16 and compute_type(dtype) != dtype:
        notes.append("computed in float32: this processor has no bfloat16 convolution")
    return True, "; ".join(notes)


def compute_type(dtype):
    """Type in which a call of ``dtype`` is computed and its intermediates are kept."""
    return torch.float32 if dtype == torch.bfloat16 and not native.has_bfloat16_convolution() else dtype
