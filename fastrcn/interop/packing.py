"""Weights of other projects as the packed ones of this package, and back; and the plain layers made of them.

Packed weights are (weight_ih, weight_hh, bias): rows are gates, i, f, g, o or r, z, n, of C channels each.
"""

from typing import Any

import torch

from fastrcn.layers import ConvGRU, ConvGRUCell, ConvLSTMCell
from fastrcn.ops.conv_recurrent.geometry import blocks_of

_CELLS = (ConvGRUCell, ConvLSTMCell)
_NAMES = ("weight_ih", "weight_hh", "bias")
_NOISES = ("zoneout", "zoneout_cell", "recurrent_dropout")


def pack(convs, input_size, *, order=None, state_first=False):
    """Packed weights of convolutions of the concatenated input and state; gradients reach the convolutions.

    Args:
        convs: ``nn.Conv2d``s, whose rows one after another are all gates.
        input_size: channels of the input.
        order: of which block of these rows each packed gate is made; None where they are in order.
        state_first: whether the state is concatenated before the input.
    """
    weight = convs[0].weight if len(convs) == 1 else torch.cat([conv.weight for conv in convs])
    bias = None if convs[0].bias is None else torch.cat([conv.bias for conv in convs])
    hidden_size = weight.shape[1] - input_size
    if order is not None:
        weight = blocks_of(weight, order, hidden_size)
        bias = None if bias is None else blocks_of(bias, order, hidden_size)
    if state_first:
        return weight[:, hidden_size:], weight[:, :hidden_size], bias
    return weight[:, :input_size], weight[:, input_size:], bias


def pack_apart(input_convs, state_convs):
    """Packed weights of convolutions of the input, which carry the biases, and of the state, one per gate."""
    weight_ih, weight_hh = (torch.cat([conv.weight for conv in convs]) for convs in (input_convs, state_convs))
    biases = [conv.bias for conv in input_convs]
    return weight_ih, weight_hh, None if biases[0] is None else torch.cat(biases)


def _write(convs, weight, bias):
    rows = [conv.out_channels for conv in convs]
    with torch.no_grad():
        for conv, part in zip(convs, weight.split(rows), strict=True):
            conv.weight.copy_(part)
        if bias is not None:
            for conv, part in zip(convs, bias.split(rows), strict=True):
                conv.bias.copy_(part)


def unpack(convs, packed, *, order=None, state_first=False):
    """Write packed weights into the convolutions that ``pack`` would read them from."""
    weight_ih, weight_hh, bias = packed
    weight = torch.cat([weight_hh, weight_ih] if state_first else [weight_ih, weight_hh], 1)
    if order is not None:
        hidden_size = weight_hh.shape[1]
        back = [order.index(k) for k in range(len(order))]
        weight = blocks_of(weight, back, hidden_size)
        bias = None if bias is None else blocks_of(bias, back, hidden_size)
    _write(convs, weight, bias)


def unpack_apart(input_convs, state_convs, packed):
    """Write packed weights into the convolutions that ``pack_apart`` would read them from."""
    weight_ih, weight_hh, bias = packed
    _write(input_convs, weight_ih, bias)
    _write(state_convs, weight_hh, None)


def plain_layer(kind: Any, packed, more=None, **options):
    """A plain layer or cell with these weights, one triple per layer. ``more``: what else its state dict has.

    Raises ValueError where the layers differ in size or kernel, which the plain layer cannot.
    """
    hidden_sizes = [weight_hh.shape[1] for _, weight_hh, _ in packed]
    kernels: Any = [tuple(weight_hh.shape[2:]) for _, weight_hh, _ in packed]
    if len(set(hidden_sizes)) > 1 or len(set(kernels)) > 1:
        raise ValueError(
            f"state: expected layers of one hidden size and kernel, as {kind.__name__} has them, got hidden sizes "
            f"{hidden_sizes} and kernels {kernels}; the class of this convention takes them"
        )
    first, _, bias = packed[0]
    depth = () if kind in _CELLS else (len(packed),)
    kernel = kernels[0] if len(kernels[0]) > 1 else kernels[0][0]
    layer = kind(
        first.shape[1], hidden_sizes[0], kernel, *depth, bias=bias is not None, device=first.device,
        dtype=first.dtype, **options,
    )  # fmt: skip
    state = {}
    for k, triple in enumerate(packed):
        suffix = f"_l{k}" if depth else ""
        state |= {name + suffix: value for name, value in zip(_NAMES, triple, strict=True) if value is not None}
    layer.load_state_dict(state | (more or {}))
    return layer


def check_plain_options(layer, usual):
    """ValueError where a layer differs from the ``usual`` options, is noisy, or has what only runs in this package."""
    usual = {"padding": "same", "forget_bias": 0.0, "layer_norm": None} | dict.fromkeys(_NOISES, 0.0) | usual
    for name, value in usual.items():
        found = getattr(layer._noise if name in _NOISES else layer, name, value)
        if found != value:
            raise ValueError(f"layer: expected {name}={value!r}, the other layout has no other, got {layer!r}")


def packed_of(layer, kind, norms=(), free=()):
    """The packed weights of a plain layer or cell, one triple per layer. ``norms``: names of the factors of its layer
    normalisation, where the other layout has it. ``free``: options of which it has other values than the usual too.

    Raises TypeError for anything else, ValueError for options that other projects' layers do not have.
    """
    if not isinstance(layer, kind):
        raise TypeError(f"layer: expected a fastrcn.{kind.__name__}, got {type(layer).__name__}")
    ones = (1,) * len(layer.stride)
    usual = {"stride": ones, "dilation": ones, "peephole": None, "recurrent_kernel_size": layer.kernel_size}
    if kind not in _CELLS:
        usual |= {"bidirectional": False, "dropout": 0.0}
    usual |= {"layer_norm": "full"} if norms else {}
    check_plain_options(layer, usual | {name: getattr(layer, name) for name in free})
    if kind in (ConvGRU, ConvGRUCell) and layer.cell.reset != "before":
        raise ValueError(f'layer: expected reset="before", the other layout has no other, got {layer.cell.reset!r}')
    suffixes = [""] if kind in _CELLS else [f"_l{k}" for k in range(layer.num_layers)]
    names = _NAMES if layer.has_bias else _NAMES[:2]
    expected = {name + suffix for name in (*names, *norms) for suffix in suffixes}
    if {name for name, _ in layer.named_parameters()} != expected:
        raise ValueError(f"layer: expected the parameters {sorted(expected)}, got {layer!r}")
    parameters: Any = {name: value.detach() for name, value in layer.named_parameters()}
    return [tuple(parameters.get(name + suffix) for name in _NAMES) for suffix in suffixes]


def packed_one(layer, kind, free=()):
    """As ``packed_of``, the one triple of a plain layer that is not stacked; else ValueError."""
    packed = packed_of(layer, kind, free=free)
    if len(packed) > 1:
        raise ValueError(f"layer: expected num_layers=1, the other layout is of one layer, got {len(packed)}")
    return packed[0]


def with_bias(packed):
    """The same weights, with a bias of zeros where there is none: for layouts that always have one."""
    weight_ih, weight_hh, bias = packed
    return weight_ih, weight_hh, weight_ih.new_zeros(weight_ih.shape[0]) if bias is None else bias


def square(layer):
    """The side of a plain layer's kernel. Raises ValueError where it is not square."""
    height, width = layer.kernel_size
    if height != width:
        raise ValueError(f"layer: expected a square kernel, the other layout has no other, got {layer.kernel_size}")
    return height


def take(state, key):
    """An entry of a state dict. Raises ValueError naming the key that is missing, and what there is."""
    if key not in state:
        raise ValueError(f"state: expected the key {key!r}, got {sorted(state)}")
    return state[key]


def count_layers(state, prefix):
    """How many of the keys' numbers after a prefix there are: the layers of a stack."""
    numbers = {key[len(prefix) :].split(".")[0] for key in state if key.startswith(prefix)}
    if not numbers:
        raise ValueError(f"state: expected keys that begin with {prefix!r}, got {sorted(state)}")
    return len(numbers)


def loaded(module, state) -> Any:
    """The module with these weights, strictly, in their type and on their device."""
    like = next(iter(state.values()))
    module = module.to(device=like.device, dtype=like.dtype)
    module.load_state_dict(state)
    return module


def like_weights(module, packed) -> Any:
    """The module in the type and on the device of packed weights."""
    return module.to(device=packed[0][0].device, dtype=packed[0][0].dtype)


def state_dict_with(module, parts, packed):
    """The state dict of a module after its ``parts`` have taken packed weights, one triple each."""
    like_weights(module, packed)
    for part, weights in zip(parts, packed, strict=True):
        part.unpack(weights)
    return module.state_dict()
