"""Makes PyTorch operators of Python functions."""

import torch

from fastrcn.ops.autocast import without_autocast

_library = torch.library.Library("fastrcn", "DEF")


def register(name, arguments, body, fake, autograd=None):
    """The operator ``fastrcn::name(arguments) -> Tensor[]``, on the CPU and on CUDA. ``body`` runs it; ``fake`` gives
    the shapes, strides and types of what it returns; ``autograd``, where there is one, runs it under autograd. Both run
    without autocast: casts are done before an operator, and a backward operator runs wherever backward is called."""
    _library.define(f"{name}({arguments}) -> Tensor[]", tags=torch.Tag.pt2_compliant_tag)
    for key in ("CPU", "CUDA"):
        _library.impl(name, without_autocast(body, key.lower()), key)
    if autograd is not None:
        _library.impl(name, without_autocast(autograd, "cpu", "cuda"), "Autograd")
    torch.library.register_fake(f"fastrcn::{name}", fake, lib=_library)
    return getattr(torch.ops.fastrcn, name)
