"""ConvGRU and SepConvGRU of RAFT, github.com/princeton-vl/RAFT (Teed and Deng 2020, arXiv 2003.12039).

Convolutions of [h, x] per gate, ``convz``, ``convr``, ``convq``; h' = (1 - z) h + z q. SepConvGRU takes two such steps,
with kernels of 1x5 and then 5x1, numbered 1 and 2. torchvision's form of them: ``fastrcn.interop.torchvision_raft``.
"""

from torch import nn

from fastrcn import layers
from fastrcn.functional import conv_gru
from fastrcn.interop import packing
from fastrcn.interop.structure import Convention, check_maps, skeleton


class StateFirst(Convention):
    """One step or several with the same x: (h (B,C,H,W), x (B,Cin,H,W)) -> h."""

    def _steps(self) -> list[list[nn.Conv2d]]:
        """The convolutions r, z, q of each step."""
        raise NotImplementedError

    def _sizes(self):
        conv = self._steps()[0][0]
        return conv.out_channels, conv.in_channels - conv.out_channels

    def example_inputs(self, draw):
        return tuple(draw(2, size, 4, 5) for size in self._sizes())

    def packed(self):
        """(weight_ih, weight_hh, bias) of each step as ``fastrcn.functional.conv_gru`` takes them."""
        _, input_size = self._sizes()
        return [packing.pack(convs, input_size, state_first=True) for convs in self._steps()]

    def unpack(self, packed):
        """Write such weights."""
        for convs, weights in zip(self._steps(), packed, strict=True):
            packing.unpack(convs, weights, state_first=True)

    def forward(self, h, x):
        hidden_size, input_size = self._sizes()
        check_maps(h, "h", "BCHW", hidden_size)
        check_maps(x, "x", "BCHW", input_size)
        for weights in self.packed():
            _, (h,) = conv_gru(x[None], *weights, hx=(h,))
        return h.contiguous()


class ConvGRU(StateFirst):
    """The project's ConvGRU with kernels of 3x3, of RAFT's small model; computed by ``fastrcn.functional.conv_gru``.

    Shapes: h (B,hidden_dim,H,W), x (B,input_dim,H,W); returns the new h.
    Raises: ValueError or TypeError naming the argument.
    """

    def __init__(self, hidden_dim=128, input_dim=192 + 128):
        super().__init__()
        for name in ("convz", "convr", "convq"):
            setattr(self, name, nn.Conv2d(hidden_dim + input_dim, hidden_dim, 3, padding=1))

    @classmethod
    def like(cls, module):
        hidden_dim = module.convz.out_channels
        return cls(hidden_dim, module.convz.in_channels - hidden_dim)

    def _steps(self):
        return [[self.convr, self.convz, self.convq]]


class SepConvGRU(StateFirst):
    """The project's SepConvGRU: a step along rows (1x5), one along columns (5x1); by ``fastrcn.functional.conv_gru``.

    Shapes: h (B,hidden_dim,H,W), x (B,input_dim,H,W); returns the new h.
    Raises: ValueError or TypeError naming the argument.
    """

    def __init__(self, hidden_dim=128, input_dim=192 + 128):
        super().__init__()
        for number, kernel, padding in ((1, (1, 5), (0, 2)), (2, (5, 1), (2, 0))):
            for name in ("convz", "convr", "convq"):
                conv = nn.Conv2d(hidden_dim + input_dim, hidden_dim, kernel, padding=padding)
                setattr(self, f"{name}{number}", conv)

    @classmethod
    def like(cls, module):
        hidden_dim = module.convz1.out_channels
        return cls(hidden_dim, module.convz1.in_channels - hidden_dim)

    def _steps(self):
        return [[self.convr1, self.convz1, self.convq1], [self.convr2, self.convz2, self.convq2]]


def plain_cells(module: StateFirst, **options):
    """A ``fastrcn.ConvGRUCell`` for each step: one, or an ``nn.ModuleList`` of several."""
    cells = [packing.plain_layer(layers.ConvGRUCell, [weights], **options) for weights in module.packed()]
    return cells[0] if len(cells) == 1 else nn.ModuleList(cells)


def packed_cells(cells):
    """Weights of one cell or of a list of cells, with biases, and their kernels; all of the same sizes."""
    cells = [cells] if isinstance(cells, layers.ConvGRUCell) else list(cells)
    packed = [packing.with_bias(packing.packed_of(cell, layers.ConvGRUCell)[0]) for cell in cells]
    sizes = {(cell.hidden_size, cell.input_size) for cell in cells}
    if len(sizes) != 1:
        raise ValueError(f"layer: expected cells of the same sizes, got (hidden_size, input_size) of {sorted(sizes)}")
    return packed, [cell.kernel_size for cell in cells], sizes.pop()


def _module(hidden_dim, input_dim, kernels):
    if kernels == [(3, 3)]:
        return ConvGRU(hidden_dim, input_dim)
    if kernels == [(1, 5), (5, 1)]:
        return SepConvGRU(hidden_dim, input_dim)
    raise ValueError(f"layer: expected one cell of 3x3, or a 1x5 and a 5x1, as the project has them, got {kernels}")


def from_state_dict(state, **options):
    """The cells with the weights of a state dict; options as for ``fastrcn.ConvGRUCell``.

    Of ``ConvGRU`` a ``fastrcn.ConvGRUCell``; of ``SepConvGRU`` an ``nn.ModuleList`` of two: h = first(x, h), then
    h = second(x, h).
    """
    separate = "convz1.weight" in state
    weight = packing.take(state, "convz1.weight" if separate else "convz.weight")
    kind = SepConvGRU if separate else ConvGRU
    module = kind(weight.shape[0], weight.shape[1] - weight.shape[0])
    return plain_cells(packing.loaded(module, state), **options)


def to_state_dict(layer):
    """The state dict of ``ConvGRU`` (of a ``fastrcn.ConvGRUCell`` of 3x3) or of ``SepConvGRU`` (of a 1x5 and a 5x1).

    Biases of zeros where a cell has none. Raises ValueError for other kernels.
    """
    packed, kernels, sizes = packed_cells(layer)
    module = packing.like_weights(_module(*sizes, kernels), packed)
    module.unpack(packed)
    return module.state_dict()


def from_module(module, **options):
    """The cells like a ``ConvGRU`` or ``SepConvGRU`` of the project or of this file."""
    skeleton(module, SepConvGRU if hasattr(module, "convz1") else ConvGRU)
    return from_state_dict(module.state_dict(), **options)
