"""ConvLSTMCell of flax.linen: the nested dict of its parameters. flax is not needed.

``{"ih": {"kernel": (kh,kw,Cin,4F), "bias": (4F,)}, "hh": {...}}``, for example ``variables["params"]``; gates i, g, f,
o; 1 is added to f when it runs, which is in the bias here. Kernels over one dimension (k,...) are those of maps of
height 1.

The layer here is the one with ``padding="SAME"`` and ``strides=None``. Its sequences are (T,B,C,H,W) and its states
(h, c); flax' are (B,H,W,C) and (c, h).
"""

from fastrcn.interop import arrays, forget_bias

_PARTS = ("ih", "hh")


def from_state_dict(state, **options):
    """A ``fastrcn.ConvLSTM`` with these parameters; options as for ``fastrcn.ConvLSTM``.

    Without biases (``use_bias=False``) the layer here still has one, for the forget gate's 1.
    Raises: ValueError for missing entries or even kernels, TypeError for arrays that are not of floating point.
    """
    kernels = [arrays.entry(state, part, "kernel") for part in _PARTS]
    biases = [state[part].get("bias") for part in _PARTS]
    return forget_bias.plain_layer(kernels, biases, [f"{part} / kernel" for part in _PARTS], **options)


def to_state_dict(layer, rank=2):
    """The parameters, as NumPy arrays, with the weights of a ``fastrcn.ConvLSTM`` of one layer; hh's bias is zero.

    Args: rank: dimensions of the maps, 2, or 1 for a layer with kernels of height 1.
    Raises: ValueError or TypeError for a layer that flax' cell cannot hold.
    """
    parts = forget_bias.arrays_of(layer, rank)
    return {part: {"kernel": kernel, "bias": bias} for part, (kernel, bias) in zip(_PARTS, parts, strict=True)}
