"""ConvLSTM1D and ConvLSTM2D of Keras: the list of arrays that ``layer.get_weights()`` gives. Keras is not needed.

kernel (kh,kw,Cin,4F), recurrent_kernel (kh,kw,F,4F) and bias (4F,), without it if ``use_bias=False``; gates i, f, c, o;
the forget gate's 1 is in the bias. ConvLSTM1D's kernels (k,...) are those of maps of height 1.

The layer here is the one with the usual activations. Its options ``padding``, ``dilation`` and ``stride`` are Keras'
``padding`` ("same" or "valid"), ``dilation_rate`` and ``strides``; above stride 1 only "valid" is the same, as Keras
pads unevenly for "same". Its sequences are (T,B,C,H,W), Keras' (B,T,H,W,C).
"""

from fastrcn import layers
from fastrcn.interop import arrays, packing

_NAMES = ("kernel", "recurrent_kernel")


def from_state_dict(state, **options):
    """A ``fastrcn.ConvLSTM`` with the weights of a ConvLSTM1D or 2D; options as for ``fastrcn.ConvLSTM``.

    Args:
        state: the list [kernel, recurrent_kernel, bias] or [kernel, recurrent_kernel], for example
            ``keras_layer.get_weights()``.
    Raises: ValueError for another list or even kernels, TypeError for arrays that are not of floating point.
    """
    if not isinstance(state, (list, tuple)) or len(state) not in (2, 3):
        came = f"{len(state)}" if isinstance(state, (list, tuple)) else type(state).__name__
        raise ValueError(f"state: expected a list of kernel, recurrent_kernel and, if any, bias, got {came}")
    weight_ih, weight_hh = (arrays.weight_of(array, name) for array, name in zip(state, _NAMES, strict=False))
    bias = arrays.tensor(state[2], "bias") if len(state) == 3 else None
    return packing.plain_layer(layers.ConvLSTM, [(weight_ih, weight_hh, bias)], **options)


def to_state_dict(layer, rank=2):
    """The list for ``keras_layer.set_weights`` with the weights of a ``fastrcn.ConvLSTM`` of one layer.

    Args: rank: 2 for ConvLSTM2D, 1 for ConvLSTM1D (kernels of height 1).
    Raises: ValueError or TypeError for a layer that Keras' cannot hold.
    """
    weight_ih, weight_hh, bias = packing.packed_one(layer, layers.ConvLSTM)
    arrays.check_rank(layer, rank)
    kernels = [arrays.kernel_of(weight, rank) for weight in (weight_ih, weight_hh)]
    return kernels if bias is None else [*kernels, bias.cpu().numpy().copy()]
