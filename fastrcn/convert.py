"""``fastrcn.convert``: recurrent layers of torch.nn, torchvision and other projects become this package's, in place."""

import copy
import inspect
import math
from itertools import islice
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from fastrcn import backends, cells
from fastrcn.fuse import FuseReport, Left, Replaced
from fastrcn.interop import (
    automan000,
    happyjin,
    jacobkimmel,
    ndrplz,
    openstl,
    raft,
    rvm,
    torch_choice,
    torch_nn,
    torchvision_raft,
)
from fastrcn.interop.structure import HOOKS, Convention, OtherAttributes, OtherStructure, skeleton

_TORCH = {
    nn.LSTM: (torch_nn.LSTM, cells.ConvLSTM()),
    nn.GRU: (torch_nn.GRU, cells.ConvGRU("after")),
    nn.RNN: (torch_nn.RNN, cells.ConvRNN()),
    nn.LSTMCell: (torch_nn.LSTMCell, cells.ConvLSTM()),
    nn.GRUCell: (torch_nn.GRUCell, cells.ConvGRU("after")),
    nn.RNNCell: (torch_nn.RNNCell, cells.ConvRNN()),
}
_PROJECTS = (
    ndrplz.ConvLSTM, ndrplz.ConvLSTMCell, automan000.ConvLSTM, automan000.ConvLSTMCell, happyjin.ConvGRU,
    happyjin.ConvGRUCell, jacobkimmel.ConvGRU, jacobkimmel.ConvGRUCell, rvm.ConvGRU, torchvision_raft.RecurrentBlock,
    torchvision_raft.ConvGRU, raft.ConvGRU, raft.SepConvGRU, openstl.ConvLSTMCell,
)  # fmt: skip


class ConvertReport(FuseReport):
    """What ``convert`` did. Its length is the number of layers that were converted."""

    def _summary(self):
        return f"converted {len(self.replaced)} layers"


def _torch_kind(module):
    """The class here for a layer or cell of torch.nn."""
    if type(module) not in _TORCH:
        raise OtherStructure(f"a {type(module).__name__}, not exactly a torch.nn.LSTM, GRU or RNN, or one's cell")
    kind, cell = _TORCH[type(module)]
    if getattr(module, "proj_size", 0):
        raise OtherStructure(
            f"proj_size={module.proj_size}: torch.nn's own code would run, projections are missing here"
        )
    if "forward" in vars(module):
        raise OtherStructure("it has a forward of its own")
    weight = next(module.parameters())
    if torch_choice.is_asked_for():
        weights = [p[..., None, None] for p in islice(module.parameters(), 2)]  # of inputs and states, as of 1x1 maps
        x = weight.new_empty(1, 1, weight.shape[1], 1, 1)
        explanation = backends.explain("conv_recurrent", cell, x, *weights)
        if explanation.chosen in (None, "reference"):
            raise OtherStructure(
                f"only the plain backend would run it, and torch.nn's is faster ({explanation.because})"
            )
    elif isinstance(module, nn.RNNCellBase):
        raise OtherStructure("a single step, for which torch.nn's own code is faster")
    elif never := torch_choice.why_never(type(module), module.hidden_size, weight):
        raise OtherStructure(never)
    return kind


def _check_class(found, ours):
    """A class may be exchanged where it is nothing but a module with ours' methods."""
    name = found.__qualname__
    if found.__bases__ != (nn.Module,):
        raise OtherStructure(f"{name} is derived from {', '.join(base.__qualname__ for base in found.__bases__)}")
    more = {attribute for attribute in vars(found) if not attribute.startswith("_")} - set(dir(ours))
    if more:
        raise OtherStructure(f"{name} also has {', '.join(sorted(more))}, which would be lost")
    theirs, expected = (inspect.signature(kind.forward).parameters.values() for kind in (found, ours))
    if [(p.name, p.default) for p in theirs] != [(p.name, p.default) for p in expected]:
        names = [[str(p) for p in parameters] for parameters in (expected, theirs)]
        raise OtherStructure(f"{name}.forward: expected the arguments {names[0]}, got {names[1]}")


def _check_results(module, ours: Convention):
    """Copies of both, with the same random weights in float64, give the same on random inputs."""
    device = next(module.parameters()).device
    if device.type == "meta":
        raise OtherStructure("its weights are on the meta device, so what it computes cannot be compared")
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(device)

    try:
        theirs = copy.deepcopy(module).double()
        for hooks in HOOKS:
            getattr(theirs, hooks).clear()
        with torch.no_grad(), backends.use_backend("reference"):
            for parameter in theirs.parameters():  # so that no gate is saturated
                parameter.copy_(draw(*parameter.shape) / math.sqrt(parameter[0].numel()))
            ours = ours.to_empty(device=device).double()
            ours.load_state_dict(theirs.state_dict())
            arguments = ours.example_inputs(draw)
            truth, expected = pytree.tree_flatten(theirs(*arguments))
            found, structure = pytree.tree_flatten(ours(*arguments))
        same = expected == structure and all(
            a.shape == b.shape and torch.allclose(a, b, rtol=1e-9, atol=1e-9) for a, b in zip(found, truth, strict=True)
        )
    except Exception as error:  # of another project's code
        line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise OtherStructure(f"it could not be run to compare results: {line}") from error
    if not same:
        raise OtherStructure("it has the structure, but computes something else")


def _proven(module, kind) -> tuple[Convention | None, str]:
    """(an object of the class here that stands for a module, or None; why not, where the module resembles it)."""
    try:
        ours = skeleton(module, kind)
        for name, part in ours.named_modules():
            if isinstance(part, Convention):
                _check_class(type(module.get_submodule(name)), type(part))
        _check_results(module, ours)
    except OtherAttributes:
        return None, ""
    except OtherStructure as reason:
        return None, f"{_label(kind)}: {reason}"
    return ours, ""


def _label(kind):
    return kind.__module__.rpartition(".")[2]


def _project_kind(module, kinds) -> Convention:
    reasons = []
    for kind in kinds:
        ours, reason = _proven(module, kind)
        if ours is not None:
            return ours
        reasons += [reason] if reason else []
    raise OtherStructure("; ".join(reasons) or f"a {kinds[0].__name__} of none of {', '.join(map(_label, kinds))}")


def _become(module, ours: Convention):
    for name, part in ours.named_modules():
        if isinstance(part, Convention):
            module.get_submodule(name).__class__ = type(part)


def _convert(module) -> str | None:
    """What a module became; None where it is no recurrent layer of others."""
    if isinstance(module, (nn.RNNBase, nn.RNNCellBase)):
        if isinstance(module, tuple(kind for kind, _ in _TORCH.values())):
            return None
        module.__class__ = kind = _torch_kind(module)
        return f"{kind.__module__}.{kind.__name__}"
    kinds = [kind for kind in _PROJECTS if kind.__name__ == type(module).__name__]
    if not kinds or type(module).__module__.startswith("fastrcn."):
        return None
    ours = _project_kind(module, kinds)
    if isinstance(ours, openstl.ConvLSTMCell) and not torch_choice.is_asked_for():
        raise OtherStructure("openstl: a single step, for which the project's own code is faster")
    _become(module, ours)
    return f"{type(ours).__module__}.{type(ours).__name__}"


def convert(model) -> ConvertReport:
    """Exchange the recurrent layers of others that a model holds for this package's, in place.

    Known are ``torch.nn.LSTM``, GRU and RNN, torchvision's RAFT, and the projects of ``fastrcn.interop``. A layer
    becomes the class there that stands for it: the object stays, and with it all parameter objects, the state_dict's
    keys, hooks around it, and whoever holds it; so do the arguments and the structure of the results. Outputs and
    gradients are equal but for rounding; dropout draws other random numbers. Packed sequences work.

    A layer of another project must have the known class name, no other base or public method, the attributes,
    submodules and parameters' shapes of that project, and give the same results on random inputs; else it is left, and
    the report says why. So are subclasses of torch.nn's layers, and layers with ``proj_size`` or with hooks inside.

    torch.nn's layers are exchanged where the fused operation is the faster one for some number of steps; each call then
    goes to it or stays with torch.nn's own code by the rule that ``fastrcn.interop.torch_nn`` documents. Left are
    therefore LSTMs of fewer than 512 units, which oneDNN computes, all cells of one step, other data types than
    float32, and layers on GPUs so far; and OpenSTL's cell, called for single steps. Where a backend is asked for by
    name (``fastrcn.use_backend``, ``FASTRCN_BACKEND``), all that it runs are exchanged.

    Args:
        model: any ``nn.Module``.
    Returns:
        What was converted, and what was left and why: print it.
    Raises:
        TypeError for anything but a module.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    names: dict[nn.Module, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        names.setdefault(module, []).append(name or type(module).__name__)
    report: Any = ConvertReport()
    for module, called in names.items():
        if isinstance(module, Convention):
            continue
        try:
            became = _convert(module)
        except OtherStructure as reason:
            report.left.append(Left(tuple(called), str(reason)))
        else:
            if became is not None:
                report.replaced.append(Replaced(tuple(called), became))
    return report
