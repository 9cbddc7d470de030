"""Makes PyTorch operators of Python functions."""

import torch

_library = torch.library.Library("fastrcn", "DEF")


def register(name, arguments, body, fake):
    """The operator ``fastrcn::name(arguments) -> Tensor[]``, on the CPU and on CUDA. ``body`` runs it; ``fake`` gives
    the shapes, strides and types of what it returns."""
    _library.define(f"{name}({arguments}) -> Tensor[]", tags=torch.Tag.pt2_compliant_tag)
    for key in ("CPU", "CUDA"):
        _library.impl(name, body, key)
    torch.library.register_fake(f"fastrcn::{name}", fake, lib=_library)
    return getattr(torch.ops.fastrcn, name)
