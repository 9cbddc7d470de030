"""The ``cpu`` backend: compiled convolutions and stages, the time loop in C++."""

import torch

from fastrcn import native
from fastrcn.compiler.schedule import schedule_of
from fastrcn.ops.conv_recurrent.program import Program as Program
from fastrcn.ops.conv_recurrent.subject import Subject

_TYPES = (torch.float32, torch.float64, torch.bfloat16)
_MOST_NARROW = 8
"""With so few channels stages do not fill vectors of bfloat16, and float32 is faster."""


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
        library = dtype == torch.bfloat16 and not native.convolves_bfloat16() and native.has_bfloat16_convolution()
        notes.append(
            "oneDNN's convolution, time loop in Python" if library else "compiled convolution, time loop in C++"
        )
    if dtype == torch.bfloat16:
        notes.append(
            f"up to {_MOST_NARROW} channels in float32"
            if _computes_bfloat16()
            else "computed in float32: this processor has no bfloat16 convolution"
        )
    return True, "; ".join(notes)


def compute_type(dtype, channels):
    """Type in which a call of ``dtype`` is computed and its intermediates are kept; ``channels``: the most that a map
    has, of the states or an input. The type of what forward saves follows it, so it must not depend on T and B."""
    if dtype == torch.bfloat16 and (channels <= _MOST_NARROW or not _computes_bfloat16()):
        return torch.float32
    return dtype


def _computes_bfloat16():
    return native.convolves_bfloat16() or native.has_bfloat16_convolution()
