"""ConvGRU of github.com/jacobkimmel/pytorch_convgru: one step over a stack of layers.

Convolutions of [x, h] per gate, h' = (1 - z) h + z n; keys ``ConvGRUCell_{i:02d}.reset_gate``, ``.update_gate`` and
``.out_gate``.
"""

from torch import nn

from fastrcn import layers
from fastrcn.checks import check_kernel
from fastrcn.functional import conv_gru
from fastrcn.interop import packing
from fastrcn.interop.ndrplz import each_layer
from fastrcn.interop.structure import Convention, check_maps, check_states, skeleton


class ConvGRUCell(Convention):
    """One step: (input_ (B,Cin,H,W), prev_state (B,C,H,W) or None for zeros) -> new state."""

    def __init__(self, input_size, hidden_size, kernel_size):
        super().__init__()
        check_kernel((kernel_size,), "kernel_size")
        self.input_size, self.hidden_size = input_size, hidden_size
        for name in ("reset_gate", "update_gate", "out_gate"):
            setattr(self, name, nn.Conv2d(input_size + hidden_size, hidden_size, kernel_size, padding=kernel_size // 2))
        for conv in self._convs():
            nn.init.orthogonal_(conv.weight)
        for conv in self._convs():
            nn.init.zeros_(conv.bias)

    @classmethod
    def like(cls, module):
        return cls(module.input_size, module.hidden_size, module.out_gate.kernel_size[0])

    def example_inputs(self, draw):
        return draw(2, self.input_size, 4, 5), draw(2, self.hidden_size, 4, 5)

    def _convs(self):
        return [self.reset_gate, self.update_gate, self.out_gate]

    def packed(self):
        """(weight_ih, weight_hh, bias) as ``fastrcn.functional.conv_gru`` takes them."""
        return packing.pack(self._convs(), self.input_size)

    def unpack(self, packed):
        """Write such weights."""
        packing.unpack(self._convs(), packed)

    def forward(self, input_, prev_state):
        check_maps(input_, "input_", "BCHW", self.input_size)
        _, (h,) = conv_gru(input_[None], *self.packed(), hx=None if prev_state is None else (prev_state,))
        return h.contiguous()


class ConvGRU(Convention):
    """The project's ConvGRU; computed by ``fastrcn.functional.conv_gru``.

    Args:
        input_size: channels of the input. hidden_sizes, kernel_sizes (odd): a number, or a list for the layers.
        n_layers: how many.
    Shapes:
        x (B,Cin,H,W), one step. hidden: a list of (B,C,H,W), one for each layer, entries None for zeros, or None.
        Returns the list of the new states, the last of which is the output: give it to the next step.
    Differs: begins at zero where the project's class, with recent PyTorch, ends in a NameError.
    Raises: ValueError or TypeError naming the argument.
    """

    def __init__(self, input_size, hidden_sizes, kernel_sizes, n_layers):
        super().__init__()
        self.input_size = input_size
        self.hidden_sizes = each_layer(hidden_sizes, "hidden_sizes", n_layers)
        self.kernel_sizes = each_layer(kernel_sizes, "kernel_sizes", n_layers)
        self.n_layers = n_layers
        self.cells = []
        sizes = zip([input_size, *self.hidden_sizes], self.hidden_sizes, self.kernel_sizes, strict=False)
        for k, size in enumerate(sizes):
            self.cells.append(ConvGRUCell(*size))
            setattr(self, f"ConvGRUCell_{k:02d}", self.cells[-1])

    @classmethod
    def like(cls, module):
        return cls(module.input_size, module.hidden_sizes, module.kernel_sizes, module.n_layers)

    def example_inputs(self, draw):
        return draw(2, self.input_size, 4, 5), [draw(2, size, 4, 5) for size in self.hidden_sizes]

    def forward(self, x, hidden=None):
        # An empty list counts as none, as there.
        states = check_states(hidden, "hidden", self.n_layers) if hidden else [None] * self.n_layers
        found = []
        for k, state in enumerate(states):
            x = getattr(self, f"ConvGRUCell_{k:02d}")(x, state)
            found.append(x)
        return found


def from_state_dict(state, **options):
    """A ``fastrcn.ConvGRU`` with the weights of a state dict of ``ConvGRU``; options as for ``fastrcn.ConvGRU``.

    It reads a sequence in one call, where the project's class is called for each step.
    """
    n = packing.count_layers(state, "ConvGRUCell_")
    weights = [packing.take(state, f"ConvGRUCell_{k:02d}.out_gate.weight") for k in range(n)]
    hidden = [weight.shape[0] for weight in weights]
    module = ConvGRU(weights[0].shape[1] - hidden[0], hidden, [weight.shape[2] for weight in weights], n)
    cells = packing.loaded(module, state).cells
    return packing.plain_layer(layers.ConvGRU, [cell.packed() for cell in cells], **options)


def to_state_dict(layer):
    """The state dict of ``ConvGRU`` with the weights of a ``fastrcn.ConvGRU``; biases of zeros where it has none.

    Raises ValueError for a kernel that is not square, which the project does not have.
    """
    packed = [packing.with_bias(weights) for weights in packing.packed_of(layer, layers.ConvGRU)]
    module = ConvGRU(layer.input_size, layer.hidden_size, packing.square(layer), layer.num_layers)
    return packing.state_dict_with(module, module.cells, packed)


def from_module(module, **options):
    """A ``fastrcn.ConvGRU`` like a ``ConvGRU`` of the project or of this file."""
    skeleton(module, ConvGRU)
    return from_state_dict(module.state_dict(), **options)
