"""Another data set's classes: Original, Fixed and Full-FT of Carreira and Zisserman 2017, arXiv 1705.07750, section 5.

=========  ======================================================================================
Original   trained on the target alone: a new model (or one with inflated weights of images), all of it
Fixed      trained elsewhere first, then the last layer alone on the target
Full-FT    trained elsewhere first, then all of it on the target
=========  ======================================================================================
"""

from functools import partial
from typing import Any

from torch import nn

PROTOCOLS = ("original", "fixed", "full_ft")
_NORMS = nn.modules.batchnorm._BatchNorm


def heads_of(model, heads=None):
    """Names of a model's last layers: ``heads``, or what its class says in ``heads``.

    Raises: ValueError where neither does, or a name is not a fully connected layer's or a convolution's.
    """
    names = getattr(model, "heads", None) if heads is None else heads
    if names is None:
        raise ValueError(f"heads: expected names of last layers, which {type(model).__name__} does not tell, got None")
    layers = dict(model.named_modules())
    for name in names:
        if not isinstance(layers.get(name), (nn.Linear, nn.Conv2d, nn.Conv3d)):
            raise ValueError(f"heads: expected names of linear layers or convolutions, got {name!r}")
    return tuple(names)


def replace_heads(model, num_classes, heads=None):
    """Exchange the last layers for new ones of so many classes, initialised as PyTorch does. Returns the model."""
    if num_classes < 1:
        raise ValueError(f"num_classes: expected a positive int, got {num_classes}")
    for name in heads_of(model, heads):
        old: Any = model.get_submodule(name)
        like: Any = {"bias": old.bias is not None, "device": old.weight.device, "dtype": old.weight.dtype}
        if isinstance(old, nn.Linear):
            new: nn.Module = nn.Linear(old.in_features, num_classes, **like)
        else:
            new = type(old)(old.in_channels, num_classes, old.kernel_size, old.stride, old.padding, **like)
        model.set_submodule(name, new.train(old.training))
    return model


def _stay(norm, mode=True):
    """``train`` of a frozen normalisation: evaluation whatever is asked for."""
    return type(norm).train(norm, False)


def freeze_all_but_heads(model, heads=None):
    """Leave the last layers alone to be trained. Returns the model.

    Normalisations go on using the statistics that they have, also after ``model.train()``; ``unfreeze`` undoes it.
    """
    names = heads_of(model, heads)
    unfreeze(model)
    trained = {id(p) for name in names for p in model.get_submodule(name).parameters()}
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in trained)
    for module in model.modules():
        if isinstance(module, _NORMS):
            module.train = partial(_stay, module)  # a partial can be copied and pickled with its module
            module.eval()
    return model


def unfreeze(model):
    """Let everything be trained. Returns the model."""
    model.requires_grad_(True)
    for module in model.modules():
        if isinstance(module, _NORMS) and module.__dict__.pop("train", None) is not None:
            module.train(model.training)
    return model


def prepare_transfer(model, protocol, num_classes=None, heads=None):
    """Make a model ready to be trained on the target.

    Args:
        model: of "original" a new one, of the others with the weights of what it was trained on.
        protocol: "original", "fixed" or "full_ft".
        num_classes: of the target, for which the last layers are made anew; None: they stay.
        heads: names of the last layers; None: those that the model's class tells.
    Returns: the model, changed in place.
    Raises: ValueError naming the argument.
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"protocol: expected one of {', '.join(PROTOCOLS)}, got {protocol!r}")
    heads = heads_of(model, heads)
    if num_classes is not None:
        replace_heads(model, num_classes, heads)
    return freeze_all_but_heads(model, heads) if protocol == "fixed" else unfreeze(model)


def parameter_groups(model, lr, head_lr=None, heads=None):
    """What of the model is to be trained, as groups for an optimiser: the last layers at ``head_lr``, the rest at
    ``lr``. Frozen parameters are in none; where all of the rest is frozen there is one group."""
    last = {id(p) for name in heads_of(model, heads) for p in model.get_submodule(name).parameters()}
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if id(p) in last], "lr": lr if head_lr is None else head_lr},
        {"params": [p for p in trained if id(p) not in last], "lr": lr},
    ]
    return [group for group in groups if group["params"]]
