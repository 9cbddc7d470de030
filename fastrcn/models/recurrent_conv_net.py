"""The recurrent convolutional network of Ballas et al. 2016, https://arxiv.org/abs/1511.06432, in its plainest form.

As lectures on video show it: layers of h_t^l = tanh(W_h^l * h_{t-1}^l + W_x^l * h_t^{l-1} + b^l), h_t^0 = x_t.
"""

from torch import nn, randn

from fastrcn.layers import ConvRNN
from fastrcn.models.registry import register


@register(
    "recurrent_conv_net", paper="Ballas et al. 2016, arXiv 1511.06432 (the form with a tanh)", kernels="ConvRNN",
    small={"num_classes": 4, "hidden_sizes": (5, 3), "size": 6},
)  # fmt: skip
class RecurrentConvNet(nn.Module):
    """Layers of ConvRNN on maps of one size; each map's mean at the last step gives the class scores.

    Args:
        num_classes: outputs.
        in_channels: of a frame.
        hidden_sizes: channels of the layers, the lowest first.
        kernel_size: of both convolutions of every layer, odd.
        bias: the source shows none.
        size: height and width of ``example_inputs``; maps of any size run.
        backend: as the layers'.
    Shapes: frames (N,T,in_channels,H,W) -> scores before softmax (N,num_classes).
    Raises: ValueError naming the argument.
    """

    def __init__(
        self, num_classes=101, in_channels=3, hidden_sizes=(64, 64), kernel_size=3, *, bias=True, size=32, backend=None
    ):  # fmt: skip
        super().__init__()
        hidden_sizes = tuple(hidden_sizes)
        if not hidden_sizes:
            raise ValueError("hidden_sizes: expected at least one layer, got none")
        self.in_channels, self.size = in_channels, size
        inputs = (in_channels, *hidden_sizes[:-1])
        self.layers = nn.ModuleList(
            ConvRNN(i, c, kernel_size, bias=bias, batch_first=True, backend=backend)
            for i, c in zip(inputs, hidden_sizes, strict=True)
        )
        self.classifier = nn.Linear(hidden_sizes[-1], num_classes)

    def maps(self, frames):
        """The maps of every layer at every step, the lowest layer's first: (N,T,C,H,W) each."""
        if frames.dim() != 5:
            raise ValueError(f"frames: expected (N,T,C,H,W), got shape {tuple(frames.shape)}")
        found = []
        for layer in self.layers:
            frames, _ = layer(frames)
            found.append(frames)
        return found

    def forward(self, frames):
        """Scores before softmax."""
        return self.classifier(self.maps(frames)[-1][:, -1].mean((2, 3)))

    def example_inputs(self, batch=1):
        """Arguments of a forward pass."""
        return (randn(batch, 4, self.in_channels, self.size, self.size),)
