"""A CNN for every frame or clip and a recurrent layer over its features: the plain CNN-RNN net.

Baccouche et al. 2011 (HBU); Donahue et al. 2015, arXiv 1411.4389.
"""

from torch import nn

from fastrcn.layers import GRU, LSTM
from fastrcn.models.caffenet import AlexNet
from fastrcn.models.registry import register

RECURRENT = {"lstm": LSTM, "gru": GRU}
OUTPUTS = ("many_to_one", "many_to_many")


@register(
    "cnn_rnn", paper="Baccouche et al. 2011; Donahue et al. 2015, arXiv 1411.4389", kernels=("LSTM", "GRU"),
    small={"cnn_options": {"width": 2, "hidden": 8, "size": 64}, "hidden_size": 5, "num_classes": 3},
)  # fmt: skip
class CNNRNN(nn.Module):
    """Class scores of a sequence, or of each of its steps.

    Args:
        num_classes: outputs of the classifier.
        cnn: a module that maps (M, ...) frames or clips to (M,feature_size); None for ``AlexNet`` to fc7.
        feature_size: of a ``cnn`` that is given.
        cnn_options: of that AlexNet.
        rnn: "lstm" or "gru" (Cho et al. 2014). hidden_size, num_layers: of it.
        output: "many_to_one" (from the last state) or "many_to_many" (at every step).
        freeze_cnn: train the rest only; the CNN stays in evaluation mode, so its batch normalisation and dropout too.
        backend: as the layers'.
    Shapes: frames (N,T,C,H,W) for a CNN of images or (N,T,C,D,H,W) for one of clips, with their ``lengths`` (N,) of at
        least 1 -> (N,num_classes), or (N,T,num_classes), past a sequence's length the classifier's bias.
    Raises: ValueError naming the argument.
    """

    def __init__(
        self, num_classes=101, cnn=None, feature_size=None, *, cnn_options=None, rnn="lstm", hidden_size=256,
        num_layers=1, output="many_to_one", freeze_cnn=False, backend=None,
    ):  # fmt: skip
        super().__init__()
        if rnn not in RECURRENT:
            raise ValueError(f"rnn: expected one of {', '.join(RECURRENT)}, got {rnn!r}")
        if output not in OUTPUTS:
            raise ValueError(f"output: expected one of {', '.join(OUTPUTS)}, got {output!r}")
        if cnn is None:
            if feature_size is not None:
                raise ValueError(f"feature_size: expected None without a cnn, got {feature_size}")
            cnn = AlexNet(None, **(cnn_options or {}))
            feature_size = cnn.hidden
        elif feature_size is None or cnn_options is not None:
            raise ValueError(f"feature_size, cnn_options: expected an int and None with a cnn, got {feature_size}, "
                             f"{cnn_options}")  # fmt: skip
        self.cnn, self.feature_size, self.output, self.freeze_cnn = cnn, feature_size, output, bool(freeze_cnn)
        self.rnn = RECURRENT[rnn](feature_size, hidden_size, num_layers, batch_first=True, backend=backend)
        self.classifier = nn.Linear(hidden_size, num_classes)
        if freeze_cnn:
            self.cnn.requires_grad_(False).eval()

    def train(self, mode=True):
        """As ``nn.Module.train``; a frozen CNN stays in evaluation mode."""
        super().train(mode)
        if self.freeze_cnn:
            self.cnn.eval()
        return self

    def forward(self, frames, lengths=None):
        """Scores before softmax."""
        if frames.dim() not in (5, 6):
            raise ValueError(f"frames: expected (N,T,C,H,W) or (N,T,C,D,H,W), got shape {tuple(frames.shape)}")
        features = self.cnn(frames.flatten(0, 1))
        if features.dim() != 2 or features.shape[1] != self.feature_size:
            came = tuple(features.shape)
            raise ValueError(f"cnn: expected it to give (M,{self.feature_size}), got shape {came}")
        hidden, last = self.rnn(features.unflatten(0, frames.shape[:2]), lengths=lengths)
        if self.output == "many_to_many":
            return self.classifier(hidden)
        h = last[0] if isinstance(last, tuple) else last
        return self.classifier(h[-1])

    def example_inputs(self, batch=1):
        """Arguments of a forward pass with the default CNN."""
        if not isinstance(self.cnn, AlexNet):
            raise ValueError("cnn: only the default one's input is known")
        return (self.cnn.example_inputs(batch * 4)[0].unflatten(0, (batch, 4)),)
