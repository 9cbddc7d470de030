"""torchvision's models, as outside oracles.

Its wheels are made for PyTorch with CUDA. Beside a CPU build their compiled operators do not load, and the import ends
at the first of two operators that torchvision describes whether they are there or not. Its models are plain PyTorch:
with those two declared, and never run, they do what they do everywhere.
"""

import warnings

import torch

_SIGNATURE = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


def _import():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the compiled part did not load
        import torchvision

    return torchvision


try:
    torchvision = _import()
except RuntimeError:
    library = torch.library.Library("torchvision", "DEF")  # its declarations live as long as it does
    for name in ("nms", "qnms"):
        library.define(name + _SIGNATURE)
    torchvision = _import()

models = torchvision.models
ops = torchvision.ops
