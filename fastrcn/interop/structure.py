"""Whether a module of another project is what a class here stands for; and the checks of arguments they share."""

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

_OF_ANY_MODULE = frozenset(vars(nn.Module()))
HOOKS = tuple(name for name in _OF_ANY_MODULE if "hooks" in name and "state_dict" not in name)
"""A module's lists of hooks around its forward and backward."""


class OtherStructure(ValueError):
    """Why a module is not what it was taken for."""


class OtherAttributes(OtherStructure):
    """A module has not even the attributes that its constructor's arguments are read from."""


class Convention(nn.Module):
    """Base of the classes that stand for those of other projects.

    They hold the same parameters in the same submodules under the same attributes, so that an object of the other
    class can become one of these.
    """

    if TYPE_CHECKING:  # attributes have many types

        def __getattr__(self, name) -> Any: ...

    @classmethod
    def like(cls, module) -> "Convention":
        """A new object, made with the arguments that the other module was made with, read from its attributes."""
        raise NotImplementedError

    def example_inputs(self, draw) -> tuple:
        """Arguments of ``forward``; ``draw(*shape)`` gives a random tensor."""
        raise NotImplementedError


def _attributes(module):
    """What the constructor has set beside submodules and parameters."""
    return {name: value for name, value in vars(module).items() if name not in _OF_ANY_MODULE}


def _is_plain(value):
    if isinstance(value, (tuple, list)):
        return all(_is_plain(v) for v in value)
    return value is None or isinstance(value, (bool, int, float, str))


def _compare(name, found, ours):
    """One submodule with the one of the object made anew."""
    if isinstance(ours, Convention):
        same = type(found).__name__ == type(ours).__name__
    else:
        same = type(found) is type(ours) and found.extra_repr() == ours.extra_repr()
    if not same:
        raise OtherStructure(f"{name}: expected {ours}, got {found}")
    theirs, expected = _attributes(found), _attributes(ours)
    if set(theirs) != set(expected):
        raise OtherStructure(f"{name}: expected the attributes {sorted(expected)}, got {sorted(theirs)}")
    for key, value in expected.items():
        if _is_plain(value) and _is_plain(theirs[key]) and theirs[key] != value:
            raise OtherStructure(f"{name}.{key}: expected {value!r}, got {theirs[key]!r}")


def skeleton(module, kind) -> Convention:
    """An object of ``kind`` on the meta device with the structure of a module of another project (or of ``kind``).

    The same attributes, submodules with the same options, and parameters of the same names and shapes.
    Raises OtherStructure, a ValueError, that says what differs.
    """
    try:
        with torch.device("meta"):
            ours = kind.like(module)
    except AttributeError as error:
        raise OtherAttributes(f"{kind.__module__}.{kind.__name__} cannot be made like it: {error}") from error
    except (TypeError, ValueError, IndexError) as error:
        raise OtherStructure(f"{kind.__module__}.{kind.__name__} cannot be made like it: {error}") from error
    found, expected = dict(module.named_modules()), dict(ours.named_modules())
    if set(found) != set(expected):
        raise OtherStructure(f"expected the submodules {sorted(expected)[1:]}, got {sorted(found)[1:]}")
    for name, part in expected.items():
        _compare(name or type(module).__name__, found[name], part)
        if name and any(getattr(found[name], hooks) for hooks in HOOKS):
            raise OtherStructure(f"{name} has hooks, which would no longer run")
    shapes = [{key: tuple(value.shape) for key, value in m.state_dict().items()} for m in (module, ours)]
    if shapes[0] != shapes[1]:
        raise OtherStructure(f"expected the parameters {shapes[1]}, got {shapes[0]}")
    return ours


def check_maps(tensor, name, axes, channels):
    """A tensor of maps: its dimensions, named by letters, and its channels (the third from the end)."""
    letters = f"({','.join(axes)})"
    if not isinstance(tensor, torch.Tensor):
        raise TypeError(f"{name}: expected a tensor {letters}, got {type(tensor).__name__}")
    if tensor.dim() != len(axes):
        raise ValueError(f"{name}: expected {letters}, got shape {tuple(tensor.shape)}")
    if tensor.shape[-3] != channels:
        raise ValueError(f"{name}: expected {channels} channels, got {tensor.shape[-3]} in shape {tuple(tensor.shape)}")


def check_states(states, name, count):
    """As many states as there are layers or parts."""
    if not isinstance(states, (tuple, list)) or len(states) != count:
        came = f"{len(states)}" if isinstance(states, (tuple, list)) else type(states).__name__
        raise ValueError(f"{name}: expected a list of {count}, got {came}")
    return states


def check_padding(kernel_size, padding):
    """The padding that keeps the map's size; without it a state would not fit its own next step."""
    kernel, given = ((v, v) if isinstance(v, int) else tuple(v) for v in (kernel_size, padding))
    if any(k % 2 == 0 for k in kernel) or given != tuple(k // 2 for k in kernel):
        raise ValueError(
            f"padding: expected an odd kernel and half of it, which keep the map's size, got "
            f"kernel_size={kernel_size!r} and padding={padding!r}"
        )
