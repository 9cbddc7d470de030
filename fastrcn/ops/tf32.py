"""Whether float32 may be multiplied in TF32."""

from typing import Any

import torch


def allows_tf32() -> bool:
    """Whether PyTorch's own convolutions of float32 may be done in TF32 on CUDA."""
    conv = getattr(torch.backends.cudnn, "conv", None)
    # The older switch raises where the newer ones differ between convolutions and recurrences.
    return torch.backends.cudnn.allow_tf32 if conv is None else conv.fp32_precision == "tf32"


def allows_tf32_products() -> bool:
    """Whether PyTorch's own products of matrices of float32 may be done in TF32 on CUDA."""
    matmul: Any = torch.backends.cuda.matmul
    precision = getattr(matmul, "fp32_precision", None)
    return matmul.allow_tf32 if precision is None else precision == "tf32"


def is_exact(dtype, product=False) -> bool:
    """Whether convolutions, or products of matrices, are exact float32, which tensor cores do not have."""
    return dtype == torch.float32 and not (allows_tf32_products() if product else allows_tf32())


def as_tf32(values):
    """Float32 values rounded to TF32, ties away from zero: products that read no more than TF32 then lose nothing."""
    rounded = ((values.view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)
    return torch.where(values.isfinite(), rounded, values)
