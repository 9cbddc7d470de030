"""Makes PyTorch operators of Python functions."""

from functools import wraps

import torch

_library = torch.library.Library("fastrcn", "DEF")


def _without_autocast(body, device):
    """``body`` without the autocast of who calls it: casts are done before an operator, and a backward operator runs
    wherever backward is called."""

    @wraps(body)
    def run(*arguments):
        if not torch.is_autocast_enabled(device):
            return body(*arguments)
        with torch.autocast(device, enabled=False):
            return body(*arguments)

    return run


def register(name, arguments, body, fake, autograd=None):
    """The operator ``fastrcn::name(arguments) -> Tensor[]``, on the CPU and on CUDA. ``body`` runs it; ``fake`` gives
    the shapes, strides and types of what it returns; ``autograd``, where there is one, runs it under autograd."""
    _library.define(f"{name}({arguments}) -> Tensor[]", tags=torch.Tag.pt2_compliant_tag)
    for key in ("CPU", "CUDA"):
        _library.impl(name, _without_autocast(body, key.lower()), key)
    if autograd is not None:
        _library.impl(name, autograd, "Autograd")
    torch.library.register_fake(f"fastrcn::{name}", fake, lib=_library)
    return getattr(torch.ops.fastrcn, name)
