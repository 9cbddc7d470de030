"""ConvLSTMCell of OpenSTL, github.com/chengtan9907/OpenSTL (Tan et al. 2023, arXiv 2306.11249), without layer norm.

``conv_x.0`` convolves x and ``conv_h.0`` h, gates i, f, g, o, no bias. Its ``conv_o`` and ``conv_last`` are never used.

A cell called for each step has little to gain: on a CPU it trains at 0.7 to 0.9 of the plain cell's speed. Where the
inputs are all known, a ``fastrcn.ConvLSTM`` with the cell's weights runs the whole sequence in one call.
"""

from torch import nn

from fastrcn import layers
from fastrcn.checks import check_kernel
from fastrcn.functional import conv_lstm
from fastrcn.interop import packing
from fastrcn.interop.structure import Convention, check_maps, skeleton


class ConvLSTMCell(Convention):
    """The project's ConvLSTMCell; computed by ``fastrcn.functional.conv_lstm``.

    Args:
        in_channel, num_hidden: channels of input and states. height, width: no effect without layer norm, as there.
        filter_size: odd. stride: 1; with another the state would not fit its own next step.
        layer_norm: false. With it the convolved input and state are normalised over channels and map before the gates,
            which the fused operation does not do.
    Shapes: x_t (B,Cin,H,W), h_t and c_t (B,C,H,W); returns (h, c).
    The unused ``conv_o`` and ``conv_last`` are parameters here too, so that checkpoints load; they get no gradient.
    Raises: ValueError or TypeError naming the argument.
    """

    def __init__(self, in_channel, num_hidden, height, width, filter_size, stride, layer_norm):
        super().__init__()
        if layer_norm:
            raise ValueError(
                f"layer_norm: expected False, the normalisation of the convolved input and state over (4C,H,W) is "
                f"missing here, got {layer_norm!r}"
            )
        if stride != 1:
            raise ValueError(f"stride: expected 1, with another the state does not fit its next step, got {stride!r}")
        check_kernel((filter_size,), "filter_size")
        self.num_hidden, self.padding, self._forget_bias = num_hidden, filter_size // 2, 1.0

        def conv(inputs, outputs):
            return nn.Sequential(nn.Conv2d(inputs, outputs, filter_size, stride, self.padding, bias=False))

        self.conv_x, self.conv_h = conv(in_channel, 4 * num_hidden), conv(num_hidden, 4 * num_hidden)
        self.conv_o = conv(2 * num_hidden, num_hidden)
        self.conv_last = nn.Conv2d(2 * num_hidden, num_hidden, 1, bias=False)

    @classmethod
    def like(cls, module):
        conv = module.conv_x[0]
        return cls(conv.in_channels, module.num_hidden, None, None, conv.kernel_size[0], 1, len(module.conv_x) > 1)

    def example_inputs(self, draw):
        size = 4, 5
        return draw(2, self.conv_x[0].in_channels, *size), *(draw(2, self.num_hidden, *size) for _ in range(2))

    def packed(self):
        """(weight_ih, weight_hh, None) as ``fastrcn.functional.conv_lstm`` takes them."""
        return packing.pack_apart([self.conv_x[0]], [self.conv_h[0]])

    def unpack(self, packed):
        """Write such weights."""
        packing.unpack_apart([self.conv_x[0]], [self.conv_h[0]], packed)

    def forward(self, x_t, h_t, c_t):
        check_maps(x_t, "x_t", "BCHW", self.conv_x[0].in_channels)
        _, (h, c) = conv_lstm(x_t[None], *self.packed(), hx=(h_t, c_t))
        return h.contiguous(), c.contiguous()


def from_state_dict(state, **options):
    """A ``fastrcn.ConvLSTMCell`` with the weights of a state dict of ``ConvLSTMCell``; the unused ones are left out.

    Raises ValueError for a state dict with layer norm.
    """
    norms = [key for key in state if key.startswith("conv_x.1")]
    if norms:
        raise ValueError(f"state: expected no layer norm, which the fused operation does not do, got {norms}")
    weight_x, weight_h = packing.take(state, "conv_x.0.weight"), packing.take(state, "conv_h.0.weight")
    module = ConvLSTMCell(weight_x.shape[1], weight_h.shape[1], None, None, weight_x.shape[2], 1, False)
    return packing.plain_layer(layers.ConvLSTMCell, [packing.loaded(module, state).packed()], **options)


def to_state_dict(layer):
    """The state dict of ``ConvLSTMCell`` with the weights of a ``fastrcn.ConvLSTMCell``; unused weights are zeros.

    Raises ValueError for a bias or a kernel that is not square, which the project does not have.
    """
    packed = packing.packed_of(layer, layers.ConvLSTMCell)
    if layer.has_bias:
        raise ValueError("layer: expected bias=False, the other layout has none, got a layer with a bias")
    module = ConvLSTMCell(layer.input_size, layer.hidden_size, None, None, packing.square(layer), 1, False)
    for unused in (module.conv_o, module.conv_last):
        for weight in unused.parameters():
            nn.init.zeros_(weight)
    return packing.state_dict_with(module, [module], packed)


def from_module(module, **options):
    """A ``fastrcn.ConvLSTMCell`` like a ``ConvLSTMCell`` of the project or of this file."""
    skeleton(module, ConvLSTMCell)
    return from_state_dict(module.state_dict(), **options)
