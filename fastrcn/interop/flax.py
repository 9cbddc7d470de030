"""ConvLSTMCell of flax.linen: the nested dict of its parameters. flax is not needed.

``{"ih": {"kernel": (kh,kw,Cin,4F), "bias": (4F,)}, "hh": {...}}``, for example ``variables["params"]``; gates i, g, f,
o; 1 is added to f when it runs, which is in the bias here. Kernels over one dimension, (k,Cin,4F), or over three are
those of a ``fastrcn.ConvLSTM1d`` or ``ConvLSTM3d``.

The layer here is the one with ``padding="SAME"`` and ``strides=None``. Its sequences are (T,B,C,H,W) or (T,B,C,L) and
its states (h, c); flax' are (B,H,W,C) or (B,L,C) and (c, h).
"""

from fastrcn.interop import arrays, forget_bias

_PARTS = ("ih", "hh")


def from_state_dict(state, **options):
    """A ``fastrcn.ConvLSTM``, 1d or 3d with these parameters; options as for that.

    Without biases (``use_bias=False``) the layer here still has one, for the forget gate's 1.
    Raises: ValueError for missing entries or even kernels, TypeError for arrays that are not of floating point.
    """
    kernels = [arrays.entry(state, part, "kernel") for part in _PARTS]
    biases = [state[part].get("bias") for part in _PARTS]
    return forget_bias.plain_layer(kernels, biases, [f"{part} / kernel" for part in _PARTS], **options)


def to_state_dict(layer):
    """The parameters, as NumPy arrays, with the weights of a ``fastrcn.ConvLSTM``, 1d or 3d of one layer; hh's
    bias is zero.

    Raises: ValueError or TypeError for a layer that flax' cell cannot hold.
    """
    parts = forget_bias.arrays_of(layer)
    return {part: {"kernel": kernel, "bias": bias} for part, (kernel, bias) in zip(_PARTS, parts, strict=True)}
