"""What every operator with Triton kernels asks before it runs them. Importing this does not need Triton."""

import os
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

MOST_PIXELS = (1 << 31) - (1 << 22)
"""Pixels are counted in 32 bits, up to the end of the last tile; what lies in memory is addressed with 64."""

_OLDEST = (3, 6)
_LEAST_CAPABILITY = 8
_TYPES = (torch.float32, torch.float16, torch.bfloat16)


def _version(module):
    """(major, minor)."""
    return tuple(int(part) for part in module.__version__.split(".")[:2])


@cache
def _triton_problem():
    """Why Triton cannot be used, or None."""
    try:
        import triton
    except ImportError as error:
        return f"Triton cannot be imported ({error})"
    if _version(triton) < _OLDEST:
        return f"it needs Triton {'.'.join(map(str, _OLDEST))} or later, this is {triton.__version__}"
    return None


def _interpreter_problem():
    """Why Triton's interpreter cannot be used, or None."""
    import numpy
    import triton

    # It makes a number of an array of one, which NumPy took back.
    if _version(triton) < (3, 7) and _version(numpy) >= (2, 4):
        return f"the interpreter of Triton {triton.__version__} needs NumPy before 2.4, this is {numpy.__version__}"
    return None


def has_triton():
    """Whether there is a Triton that can be used."""
    return _triton_problem() is None


def interpreting():
    """Whether kernels run in Triton's interpreter, on CPU tensors."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def problem_of(dtype, device):
    """Why Triton kernels cannot run on tensors of a data type and device type, or None."""
    problem = _triton_problem()
    if problem:
        return problem
    if device != "cuda" and not (device == "cpu" and interpreting()):
        return f"it runs on cuda tensors, or with TRITON_INTERPRET=1 on cpu tensors; these are on {device}"
    if device == "cpu" and (problem := _interpreter_problem()):
        return problem
    if dtype not in _TYPES:
        return f"it has float32, float16 and bfloat16, these are {str(dtype).removeprefix('torch.')}"
    return None


def problem_of_products(device):
    """Why kernels that multiply matrices are not for the current GPU of a device type, or None. For earlier ones Triton
    compiles products without tensor cores, whose operands spill kilobytes of registers."""
    if device != "cuda" or not torch.cuda.is_available():
        return None
    gpu = torch.cuda.get_device_properties(None)
    if gpu.major >= _LEAST_CAPABILITY:
        return None
    return f"it needs a GPU of compute capability {_LEAST_CAPABILITY}.0 or later, this is {gpu.major}.{gpu.minor}"


def manner(how):
    """How kernels run, for ``can_run`` to say."""
    return how + (", in Triton's interpreter" if interpreting() else "")


def check_pixels(count, what):
    """Raise ValueError where there are too many pixels to count."""
    if count > MOST_PIXELS:
        raise ValueError(f"{what}: expected at most {MOST_PIXELS} pixels over the batch, got {count}")


def processors(device):
    """How many processors (SMs) a device has; the interpreter is one."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1


def capturing(tensor):
    """Whether work on a tensor's device is being captured as a CUDA graph."""
    return tensor.is_cuda and torch.cuda.is_current_stream_capturing()


def device_of(tensor):
    """A context in which a launch goes to the tensor's device."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()


@dataclass(frozen=True)
class Launch:
    """One launch of a kernel whose arguments are pointers, numbers and constants, in this order. A tensor may be None
    where the kernel does not touch it."""

    kernel: Any
    programs: int
    tensors: tuple[torch.Tensor | None, ...]
    numbers: tuple[int, ...]
    constants: dict[str, Any]
    warps: int = 4
    stages: int = 1

    @property
    def pointers(self) -> list[Any]:
        """The tensors; the first stands for those that are missing, as a kernel takes no null pointers."""
        return [self.tensors[0] if t is None else t for t in self.tensors]

    def run(self):
        """Start it on the device of its tensors."""
        options = {"num_warps": self.warps, "num_stages": self.stages}
        with device_of(self.tensors[0]):
            self.kernel[(self.programs,)](*self.pointers, *self.numbers, **self.constants, **options)
