"""Conv1DLSTM, Conv2DLSTM and Conv3DLSTM of Haiku: the dict of parameters that ``init`` gives. Haiku is not needed.

``{"<name>/input_to_hidden": {"w": (kh,kw,Cin,4F), "b": (4F,)}, "<name>/hidden_to_hidden": {...}}``; gates i, g, f, o; 1
is added to f when it runs, which is in the bias here. The kernels of the others, (k,Cin,4F) and
(kd,kh,kw,Cin,4F), are those of a ``fastrcn.ConvLSTM1d`` and ``ConvLSTM3d``.

The layer here takes sequences (T,B,C,H,W) or (T,B,C,L) and states (h, c); Haiku's core takes maps (B,H,W,C) or (B,L,C).
"""

from collections.abc import Mapping

from fastrcn.interop import arrays, forget_bias

_PARTS = ("input_to_hidden", "hidden_to_hidden")


def _key(state, part):
    """The one key of a part, whatever the module's name."""
    keys = [key for key in state if key == part or key.endswith(f"/{part}")] if isinstance(state, Mapping) else []
    if len(keys) != 1:
        there = sorted(state) if isinstance(state, Mapping) else type(state).__name__
        raise ValueError(f"state: expected one key that ends with {part!r}, got {there}")
    return keys[0]


def from_state_dict(state, **options):
    """A ``fastrcn.ConvLSTM``, 1d or 3d with the parameters of one core, whatever its name; options as for that.

    Raises: ValueError for missing entries or even kernels, TypeError for arrays that are not of floating point.
    """
    keys = [_key(state, part) for part in _PARTS]
    kernels, biases = ([arrays.entry(state, key, name) for key in keys] for name in ("w", "b"))
    return forget_bias.plain_layer(kernels, biases, [f"{key} / w" for key in keys], **options)


def to_state_dict(layer, name=None):
    """The parameters, as NumPy arrays, with the weights of a ``fastrcn.ConvLSTM``, 1d or 3d of one layer.

    The bias of the state's convolution is zero.

    Args: name: of the core, as in the dict that ``init`` gives; None for the one that Haiku chooses.
    Raises: ValueError or TypeError for a layer that Haiku's core cannot hold.
    """
    parts = forget_bias.arrays_of(layer)
    name = f"conv{layer.axes}_dlstm" if name is None else name
    return {f"{name}/{part}": {"w": kernel, "b": bias} for part, (kernel, bias) in zip(_PARTS, parts, strict=True)}
