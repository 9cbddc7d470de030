"""The two-stream bidirectional LSTM for YouTube-8M: Li et al. 2017, https://arxiv.org/abs/1707.04555."""

import torch
from torch import nn

from fastrcn.layers import GRU, LSTM
from fastrcn.models.registry import register


def dequantize(features):
    """The data set's bytes as numbers: 0..255 to about -2..2."""
    return features.to(torch.get_default_dtype()) * (4 / 255) + (4 / 512 - 2)


class AttentionStream(nn.Module):
    """One stream: features, a bidirectional recurrent layer, and the mean over time that attention weighs.

    Shapes: (N,T,input_size), lengths (N,) or None -> (N,2*hidden_size).
    """

    def __init__(self, input_size, embedding, hidden_size, dropout, rnn, peephole, backend):
        super().__init__()
        self.embedding = nn.Linear(input_size, embedding)
        options = {"batch_first": True, "bidirectional": True, "backend": backend}
        if rnn == "lstm":
            self.rnn = LSTM(embedding, hidden_size, peephole="channel" if peephole else None, **options)
        else:
            self.rnn = GRU(embedding, hidden_size, **options)
        self.dropout = nn.Dropout(dropout)
        self.score = nn.Linear(2 * hidden_size, 1, bias=False)

    def forward(self, x, lengths=None):
        """The summary of each sequence; steps past its length have no part in it."""
        hidden, _ = self.rnn(torch.tanh(self.embedding(x)), lengths=lengths)
        hidden = self.dropout(hidden)
        scores = self.score(hidden)[..., 0]  # (N,T)
        if lengths is not None:
            padding = torch.arange(x.shape[1], device=x.device) >= lengths[:, None]
            scores = scores.masked_fill(padding, float("-inf"))
        return torch.einsum("nt,nth->nh", scores.softmax(1), hidden)


_PAPER = "Li et al. 2017, arXiv 1707.04555"
_SMALL = {"num_classes": 7, "rgb_size": 5, "audio_size": 3, "embedding": 4, "hidden_size": 6, "fc_sizes": (10, 8)}


@register("youtube8m_lstm", paper=_PAPER, kernels="LSTM", small=_SMALL)
@register("youtube8m_gru", paper=_PAPER, kernels="GRU", small=_SMALL, rnn="gru")
class YouTube8M(nn.Module):
    """Labels of a video from the features of its frames and of its sound, one a second.

    Args:
        num_classes: outputs.
        rgb_size, audio_size: of the features.
        embedding: units of each stream's first layer.
        hidden_size: of the recurrent layer, in each direction.
        fc_sizes: units of the two layers (ReLU, tanh) between the streams and the classifier.
        dropout: probability after the recurrent layers.
        rnn: "lstm" or "gru", which scored best.
        peephole: of the LSTM; the framework of the authors' release is thought to have had them.
        backend: as the layers'.
    Shapes: rgb (N,T,rgb_size) and audio (N,T,audio_size), T up to 300; ``lengths`` (N,) of at least 1, or None where
        all are full -> scores before the sigmoid (N,num_classes). Features in bytes (uint8) are dequantised.
    Raises: ValueError naming the argument.

    Trained with the binary cross-entropy of every label (``fastrcn.losses.multi_label_loss``); judged by
    ``fastrcn.metrics.global_average_precision``.
    """

    def __init__(
        self, num_classes=4716, rgb_size=1024, audio_size=128, *, embedding=512, hidden_size=1024,
        fc_sizes=(8192, 4096), dropout=0.5, rnn="lstm", peephole=False, backend=None,
    ):  # fmt: skip
        super().__init__()
        if rnn not in ("lstm", "gru"):
            raise ValueError(f'rnn: expected "lstm" or "gru", got {rnn!r}')
        if peephole and rnn == "gru":
            raise ValueError("peephole: expected False with a GRU, which has none, got True")
        self.rgb_size, self.audio_size = rgb_size, audio_size
        self.rgb = AttentionStream(rgb_size, embedding, hidden_size, dropout, rnn, peephole, backend)
        self.audio = AttentionStream(audio_size, embedding, hidden_size, dropout, rnn, peephole, backend)
        first, second = fc_sizes
        self.fc1 = nn.Linear(4 * hidden_size, first)
        self.fc2 = nn.Linear(first, second)
        self.classifier = nn.Linear(second, num_classes)

    def forward(self, rgb, audio, lengths=None):
        """Scores before the sigmoid."""
        for name, x, size in (("rgb", rgb, self.rgb_size), ("audio", audio, self.audio_size)):
            if x.dim() != 3 or x.shape[2] != size or x.shape[:2] != rgb.shape[:2]:
                raise ValueError(f"{name}: expected (N,T,{size}), N and T as rgb's, got shape {tuple(x.shape)}")
        if lengths is not None:
            lengths = torch.as_tensor(lengths, device=rgb.device)
            if tuple(lengths.shape) != rgb.shape[:1] or bool((lengths < 1).any()):
                raise ValueError(f"lengths: expected {rgb.shape[0]} numbers of at least 1, got {lengths.tolist()}")
        rgb, audio = (dequantize(x) if x.dtype == torch.uint8 else x for x in (rgb, audio))
        x = torch.cat([self.rgb(rgb, lengths), self.audio(audio, lengths)], 1)
        return self.classifier(torch.tanh(self.fc2(torch.relu(self.fc1(x)))))

    def example_inputs(self, batch=1):
        """Arguments of a forward pass: five seconds, of which the first video has three."""
        lengths = torch.full((batch,), 5)
        lengths[0] = 3
        return torch.randn(batch, 5, self.rgb_size), torch.randn(batch, 5, self.audio_size), lengths
