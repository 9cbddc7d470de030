"""ConvGRU and RecurrentBlock of torchvision's RAFT (``torchvision.models.optical_flow.raft``; Teed and Deng 2020).

Convolutions of [h, x] per gate, ``convz``, ``convr``, ``convq``; h' = (1 - z) h + z q. A block holds one or two of
them, ``convgru1`` and ``convgru2``, with kernels of 1x5 and 5x1.
"""

from typing import Any

from torch import nn

from fastrcn.interop import packing
from fastrcn.interop.raft import StateFirst, packed_cells, plain_cells
from fastrcn.interop.structure import check_padding, skeleton


class ConvGRU(StateFirst):
    """torchvision's ConvGRU; computed by ``fastrcn.functional.conv_gru``.

    Args: input_size, hidden_size: channels. kernel_size: odd, a number or a pair. padding: half of it.
    Shapes: h (B,hidden_size,H,W), x (B,input_size,H,W); returns the new h.
    Raises: ValueError or TypeError naming the argument.
    """

    def __init__(self, *, input_size, hidden_size, kernel_size, padding):
        super().__init__()
        check_padding(kernel_size, padding)
        for name in ("convz", "convr", "convq"):
            setattr(self, name, nn.Conv2d(hidden_size + input_size, hidden_size, kernel_size, padding=padding))

    @classmethod
    def like(cls, module):
        conv, hidden_size = module.convz, module.convz.out_channels
        return cls(
            input_size=conv.in_channels - hidden_size, hidden_size=hidden_size, kernel_size=conv.kernel_size,
            padding=conv.padding,
        )  # fmt: skip

    def _steps(self):
        return [[self.convr, self.convz, self.convq]]


def _same(h, _):
    return h


class RecurrentBlock(StateFirst):
    """torchvision's RecurrentBlock: one or two steps with the same x; computed by ``fastrcn.functional.conv_gru``.

    Args: input_size, hidden_size: channels. kernel_size, padding: one or two of them, as for ``ConvGRU``.
    Shapes: h (B,hidden_size,H,W), x (B,input_size,H,W); returns the new h.
    Raises: ValueError or TypeError naming the argument.
    """

    def __init__(self, *, input_size, hidden_size, kernel_size=((1, 5), (5, 1)), padding=((0, 2), (2, 0))):
        super().__init__()
        if len(kernel_size) != len(padding) or len(kernel_size) not in (1, 2):
            raise ValueError(
                f"kernel_size, padding: expected one or two of each, got {len(kernel_size)} and {len(padding)}"
            )
        self.hidden_size = hidden_size
        grus = [
            ConvGRU(input_size=input_size, hidden_size=hidden_size, kernel_size=k, padding=p)
            for k, p in zip(kernel_size, padding, strict=True)
        ]
        self.convgru1 = grus[0]
        self.convgru2 = grus[1] if len(grus) > 1 else _same

    @classmethod
    def like(cls, module):
        convs: Any = [gru.convz for gru in (module.convgru1, module.convgru2) if isinstance(gru, nn.Module)]
        return cls(
            input_size=convs[0].in_channels - module.hidden_size, hidden_size=module.hidden_size,
            kernel_size=[conv.kernel_size for conv in convs], padding=[conv.padding for conv in convs],
        )  # fmt: skip

    def _steps(self):
        grus = [self.convgru1, self.convgru2]
        return [[gru.convr, gru.convz, gru.convq] for gru in grus if isinstance(gru, ConvGRU)]


def _made(hidden_size, input_size, kernels, block):
    paddings = [tuple(k // 2 for k in kernel) for kernel in kernels]
    if block:
        return RecurrentBlock(
            input_size=input_size, hidden_size=hidden_size, kernel_size=kernels, padding=paddings
        )  # fmt: skip
    return ConvGRU(input_size=input_size, hidden_size=hidden_size, kernel_size=kernels[0], padding=paddings[0])


def from_state_dict(state, **options):
    """The cells with the weights of a state dict; options as for ``fastrcn.ConvGRUCell``.

    Of ``ConvGRU``, or of a block with one, a ``fastrcn.ConvGRUCell``; of a block with two an ``nn.ModuleList``:
    h = first(x, h), h = second(x, h).
    """
    block = "convgru1.convz.weight" in state
    keys = ["convz.weight"]
    if block:
        keys = [key for key in ("convgru1.convz.weight", "convgru2.convz.weight") if key in state]
    weights = [packing.take(state, key) for key in keys]
    hidden_size, columns = weights[0].shape[:2]
    module = _made(hidden_size, columns - hidden_size, [tuple(w.shape[2:]) for w in weights], block)
    return plain_cells(packing.loaded(module, state), **options)


def to_state_dict(layer):
    """The state dict of ``ConvGRU`` for a ``fastrcn.ConvGRUCell``, of ``RecurrentBlock`` for a list of one or two.

    Biases of zeros where a cell has none.
    """
    packed, kernels, sizes = packed_cells(layer)
    module = packing.like_weights(_made(*sizes, kernels, isinstance(layer, (list, nn.ModuleList))), packed)
    module.unpack(packed)
    return module.state_dict()


def from_module(module, **options):
    """The cells like a ``ConvGRU`` or ``RecurrentBlock`` of torchvision or of this file."""
    skeleton(module, RecurrentBlock if hasattr(module, "convgru1") else ConvGRU)
    return from_state_dict(module.state_dict(), **options)
