"""ConvLSTMs that pack i, g, f, o, convolve input and state each with a bias, and add 1 to f when they run."""

import torch

from fastrcn.interop import arrays, packing
from fastrcn.ops.conv_recurrent.geometry import blocks_of

_ORDER = (0, 2, 1, 3)  # from i, g, f, o to i, f, g, o and from that to this


def _added(bias, amount):
    """With an amount added to the forget gate's, the second of i, f, g, o."""
    i, f, rest = bias.tensor_split((len(bias) // 4, len(bias) // 2))
    return torch.cat([i, f + amount, rest])


def plain_layer(kernels, biases, names, **options):
    """A ``fastrcn.ConvLSTM``, 1d or 3d; kernels, biases (None: zeros) of the input's and the state's."""
    weights = [arrays.weight_of(kernel, name) for kernel, name in zip(kernels, names, strict=True)]
    hidden_size = weights[1].shape[1]
    bias = weights[0].new_zeros(4 * hidden_size)
    for name, given in zip(names, biases, strict=True):
        if given is not None:
            part = arrays.tensor(given, f"bias beside {name}")
            if part.shape != bias.shape:
                raise ValueError(f"bias beside {name}: expected {tuple(bias.shape)}, got shape {tuple(part.shape)}")
            bias = bias + part
    weight_ih, weight_hh, bias = (blocks_of(v, _ORDER, hidden_size) for v in (*weights, bias))
    return arrays.plain_layer((weight_ih, weight_hh, _added(bias, 1)), **options)


def arrays_of(layer):
    """((kernel, bias) of the input's convolution, those of the state's, whose bias is zero) as arrays."""
    weight_ih, weight_hh, bias = packing.with_bias(arrays.packed_of(layer))
    c = layer.hidden_size
    ih, hh = (arrays.kernel_of(blocks_of(weight, _ORDER, c)) for weight in (weight_ih, weight_hh))
    bias = blocks_of(_added(bias, -1), _ORDER, c).cpu()
    return (ih, bias.numpy()), (hh, torch.zeros_like(bias).numpy())
