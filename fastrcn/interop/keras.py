"""ConvLSTM1D, 2D and 3D of Keras: what a layer's ``get_config()`` and ``get_weights()`` give. Keras is not needed.

The weights are a list of arrays: kernel (kh,kw,Cin,4F), recurrent_kernel (kh,kw,F,4F) and bias (4F,), without it if
``use_bias=False``; gates i, f, c, o; the forget gate's 1 is in the bias. The kernels of the
others, (k,Cin,4F) and (kd,kh,kw,Cin,4F), are those of a ``fastrcn.ConvLSTM1d`` and ``ConvLSTM3d``.

The layer here takes sequences (T,B,C,H,W), (T,B,C,L) or (T,B,C,D,H,W), or with B first, whatever Keras'
``data_format``. Its options ``padding``, ``dilation`` and ``stride`` are Keras' ``padding`` ("same" or "valid"),
``dilation_rate`` and ``strides``; above stride 1 only "valid" is the same, as Keras pads unevenly for "same".
"""

from collections.abc import Mapping
from typing import Any

from fastrcn.cells import HardSigmoidConvLSTM
from fastrcn.checks import per_axis
from fastrcn.interop import arrays, packing
from fastrcn.layers import ConvRecurrent

_NAMES = ("kernel", "recurrent_kernel")
_FREE = ("padding", "stride", "dilation")

_CELL = "a fastrcn.cells.Cell of your own may have another"
_USUAL = {
    "activation": ("tanh", _CELL),
    "go_backwards": (False, "flip the input along time instead"),
    "stateful": (False, "hand the last states to the next call as hx instead"),
    "zero_output_for_mask": (False, "call the layer with lengths instead"),
    "dropout": (0, "drop units of the input before the layer, or set 0 where it only predicts"),
    "recurrent_dropout": (0, "Keras has a mask per gate, the layer here one for all; set 0 where it only predicts"),
} | {
    f"{name}_{kind}": (None, "set None where it only predicts")
    for kind, names in {
        "regularizer": ("kernel", "recurrent", "bias", "activity"), "constraint": ("kernel", "recurrent", "bias")
    }.items()
    for name in names
}  # fmt: skip
"""Options whose other values are missing here: (the usual value, which Keras takes where there is none; what to do)."""

_HARD_SIGMOID_SLOPES: Any = {2: 0.2, 3: 1 / 6}
"""By the version of Keras."""
_NEEDED = ("filters", "kernel_size", "recurrent_activation")
_READ = frozenset((*_NEEDED, "use_bias", "strides", "padding", "dilation_rate", "trainable"))
_WITHOUT_EFFECT = frozenset(
    (
        "name", "dtype", "batch_input_shape", "batch_shape", "return_sequences", "return_state", "unroll",
        "time_major", "data_format", "kernel_initializer", "recurrent_initializer", "bias_initializer",
        "unit_forget_bias", "seed",
    )
)  # fmt: skip
"""Names, types, where weights begin, and which of the results are returned and in which layout."""


def from_state_dict(state, **options):
    """A ``fastrcn.ConvLSTM``, 1d or 3d with the weights of a ConvLSTM2D, 1D or 3D; options as for that.

    Args:
        state: the list [kernel, recurrent_kernel, bias] or [kernel, recurrent_kernel], for example
            ``keras_layer.get_weights()``.
    Raises: ValueError for another list or even kernels, TypeError for arrays that are not of floating point.
    """
    return arrays.plain_layer(_packed(state), **options)


def _packed(state):
    """The packed weights of Keras' list."""
    if not isinstance(state, (list, tuple)) or len(state) not in (2, 3):
        came = f"{len(state)}" if isinstance(state, (list, tuple)) else type(state).__name__
        raise ValueError(f"state: expected a list of kernel, recurrent_kernel and, if any, bias, got {came}")
    weight_ih, weight_hh = (arrays.weight_of(array, name) for array, name in zip(state, _NAMES, strict=False))
    bias = arrays.tensor(state[2], "bias") if len(state) == 3 else None
    return weight_ih, weight_hh, bias


def from_layer(config, weights, *, keras_version=None):
    """A ``fastrcn.ConvLSTM``, 1d or 3d, with ``batch_first``, like a layer of Keras; for ``hard_sigmoid``, the
    usual ``recurrent_activation`` of Keras 2, a ``fastrcn.ConvRecurrent`` of ``cells.HardSigmoidConvLSTM``.

    It always returns the outputs of all steps and the last states, and has the weights that are given, so
    ``return_sequences``, ``return_state``, ``unit_forget_bias`` and initializers have no effect; its maps are channels
    first whatever ``data_format``.

    Args:
        config: ``keras_layer.get_config()``, or the "config" of a layer in a saved model's. What is missing has Keras'
            default; ``kernel_size``, ``strides`` and ``dilation_rate`` may be ints, as Keras' constructor takes them.
        weights: ``keras_layer.get_weights()``.
        keras_version: 2 or 3, needed for ``hard_sigmoid``, which they define differently.
    Raises:
        ValueError for an option that would not compute the same (it names the option and what to do), for one that is
        unknown, and where config and weights do not fit each other; else as ``from_state_dict``.
    """
    if not isinstance(config, Mapping):
        raise TypeError(f"config: expected a dict, as get_config gives it, got {type(config).__name__}")
    missing = [name for name in _NEEDED if name not in config]
    if missing:
        raise ValueError(f"config: expected {' and '.join(missing)}, got {sorted(config)}")
    unknown = sorted(set(config) - set(_USUAL) - _READ - _WITHOUT_EFFECT)
    if unknown:
        raise ValueError(f"config: expected the options of ConvLSTM1D, 2D or 3D, got {', '.join(unknown)} too")
    for name, (usual, advice) in _USUAL.items():
        if config.get(name, usual) != usual:
            raise ValueError(f"{name}: expected {usual!r}, got {config[name]!r}; {advice}")
    gates, slope = config["recurrent_activation"], _HARD_SIGMOID_SLOPES.get(keras_version)
    if gates not in ("sigmoid", "hard_sigmoid"):
        raise ValueError(f"recurrent_activation: expected 'sigmoid' or 'hard_sigmoid', got {gates!r}; {_CELL}")
    if gates == "hard_sigmoid" and slope is None:
        raise ValueError(
            f"keras_version: expected 2 or 3 for recurrent_activation='hard_sigmoid', which they define differently, "
            f"got {keras_version!r}"
        )
    packed, padding = _packed(weights), config.get("padding", "valid")
    rank = packed[0].dim() - 2
    sizes = ("kernel_size", "strides", "dilation_rate")
    kernel_size, stride, dilation = (per_axis(config.get(name, 1), name, rank) for name in sizes)
    if padding == "same" and any(s > 1 for s in stride):
        raise ValueError(f'padding: expected "valid" with strides {stride}, got "same", for which Keras pads unevenly')
    layer = arrays.plain_layer(
        packed, padding=padding, stride=stride if rank > 1 else stride[0],
        dilation=dilation if rank > 1 else dilation[0], batch_first=True,
    )  # fmt: skip
    given = (config["filters"], kernel_size, config.get("use_bias", True))
    found = (layer.hidden_size, layer._of_caller(layer.kernel_size), layer.has_bias)
    if found != given:
        raise ValueError(f"weights: expected filters, kernel_size, use_bias {given}, as in config, got {found}")
    if gates == "hard_sigmoid":
        layer = _of_cell(HardSigmoidConvLSTM(slope), layer)
    return layer.requires_grad_(config.get("trainable", True))


def _of_cell(cell, layer):
    """A layer of another cell with the weights and options of one."""
    found = ConvRecurrent(
        cell, layer.input_size, layer.hidden_size, layer.kernel_size, bias=layer.has_bias,
        batch_first=layer.batch_first, stride=layer.stride, dilation=layer.dilation, padding=layer.padding,
        dtype=layer.weight_ih_l0.dtype, _axes=layer.axes,
    )  # fmt: skip
    found.load_state_dict(layer.state_dict())
    return found


def to_state_dict(layer):
    """The list for ``keras_layer.set_weights``, with the weights of a ``fastrcn.ConvLSTM``, 1d or 3d of one layer, or
    of the ``fastrcn.ConvRecurrent`` that ``from_layer`` makes for ``hard_sigmoid``.

    The list does not tell the padding "same" or "valid", strides and dilation: Keras' layer must have the same.
    Raises: ValueError or TypeError for a layer that Keras' cannot hold.
    """
    is_hard = type(layer) is ConvRecurrent and type(layer.cell) is HardSigmoidConvLSTM
    packed = packing.packed_one(layer, ConvRecurrent, _FREE) if is_hard else arrays.packed_of(layer, _FREE)
    if layer.padding != "same" and any(layer.padding):
        raise ValueError(f'layer: expected padding "same" or "valid", Keras has no other, got {layer.padding}')
    if layer.padding == "same" and any(s > 1 for s in layer.stride):
        stride = layer._of_caller(layer.stride)
        raise ValueError(f'layer: expected padding "valid" with stride {stride}, as Keras pads unevenly, got "same"')
    weight_ih, weight_hh, bias = packed
    kernels = [arrays.kernel_of(weight) for weight in (weight_ih, weight_hh)]
    return kernels if bias is None else [*kernels, bias.cpu().numpy().copy()]
