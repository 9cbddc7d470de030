"""LRCN for captions: Donahue et al. 2015, https://arxiv.org/abs/1411.4389, section 4.2 and 4.3.

A stack of LSTM layers reads the word that came last and what is seen, at every step, and gives the next word.
"""

import torch
from torch import nn

from fastrcn.layers import LSTM
from fastrcn.models.decoding import CaptionDecoder
from fastrcn.models.registry import register

VARIANTS = {"1u": (True,), "2u": (True, False), "2f": (False, True)}
"""Which layers, from the lowest, see the image: in 1u and 2u the first one, in 2f (factored) the second one only."""
VIDEO = ("fixed", "encoder")
PAPER = "Donahue et al. 2015, arXiv 1411.4389"
SMALL = {"vocabulary": 11, "features": 5, "embedding": 4, "hidden": 6}


@register("lrcn_caption_1u", paper=PAPER, kernels="LSTM", small=SMALL, variant="1u")
@register("lrcn_caption_2u", paper=PAPER, kernels="LSTM", small=SMALL, variant="2u")
@register("lrcn_caption_2f", paper=PAPER, kernels="LSTM", small=SMALL, variant="2f")
class LRCNCaption(CaptionDecoder):
    """Captions of images, by the features of one image, and of videos, by those of their frames.

    Args:
        vocabulary: words, BOS and EOS among them; 8945 in the released nets.
        features: width of the features, fc7's 4096. (The released nets map fc7 to 1000 units by a linear layer first.)
        embedding, hidden: widths of the word vectors and of every LSTM layer.
        variant: "1u", "2u" or "2f", see ``VARIANTS``.
        video: what a video is to the decoder: "fixed", the mean of its frames in the place of an image, or "encoder",
            the last output of an LSTM that has read them, likewise at every step (the sources do not say how the
            encoder's result enters). With "encoder" only videos are taken.
        bos, eos: tokens before and at the end of a caption; the released nets have 0 for both.
        backend: as the layers'.
    Shapes: features (N,D), or (N,T,D) of a video; tokens (N,L) without BOS -> log-probabilities (N,L,vocabulary) of
        each token given those before it.
    Raises: ValueError naming the argument.

    ``generate(features)`` gives captions. The layers that run over whole captions are those that make single steps
    there, with their states carried on.
    """

    def __init__(
        self, vocabulary=8945, features=4096, embedding=1000, hidden=1000, *, variant="2f", video="fixed", bos=0, eos=0,
        backend=None,
    ):  # fmt: skip
        super().__init__(vocabulary, bos, eos)
        if variant not in VARIANTS:
            raise ValueError(f"variant: expected one of {', '.join(VARIANTS)}, got {variant!r}")
        if video not in VIDEO:
            raise ValueError(f"video: expected one of {', '.join(VIDEO)}, got {video!r}")
        self.features, self.hidden, self.variant, self.video = features, hidden, variant, video
        self.encoder = LSTM(features, hidden, batch_first=True, backend=backend) if video == "encoder" else None
        visual = features if self.encoder is None else hidden
        self.embedding = nn.Embedding(vocabulary, embedding)
        self.sees = VARIANTS[variant]
        inputs = (embedding, hidden)
        self.layers = nn.ModuleList(
            LSTM(inputs[k] + visual * sees, hidden, batch_first=True, backend=backend)
            for k, sees in enumerate(self.sees)
        )
        self.head = nn.Linear(hidden, vocabulary)

    def start(self, features):
        """What is seen (N,D), and zeros (N,hidden) as h and c of every layer."""
        ranks = (3,) if self.encoder is not None else (2, 3)
        if features.dim() not in ranks or features.shape[-1] != self.features or not features.shape[-2]:
            expected = f"(N,T,{self.features})" + (f" or (N,{self.features})" if 2 in ranks else "")
            raise ValueError(f"features: expected {expected}, got shape {tuple(features.shape)}")
        if self.encoder is not None:
            _, (h, _) = self.encoder(features)
            seen = h[0]
        else:
            seen = features.mean(1) if features.dim() == 3 else features
        zeros = seen.new_zeros(len(seen), self.hidden)
        return seen, tuple((zeros, zeros) for _ in self.layers)

    def _run(self, tokens, state):
        """Log-probabilities (N,L,V) after each of the tokens (N,L), and the state."""
        seen, states = state
        x, last = self.embedding(tokens), []
        repeated = seen[:, None].expand(-1, tokens.shape[1], -1)
        for layer, sees, (h, c) in zip(self.layers, self.sees, states, strict=True):
            x, (h, c) = layer(torch.cat([x, repeated], 2) if sees else x, (h[None], c[None]))
            last.append((h[0], c[0]))
        return self.head(x).log_softmax(-1), (seen, tuple(last))

    def step(self, tokens, state):
        """One token each (N,) -> log-probabilities (N,V) of the next, and the state."""
        log_probs, state = self._run(tokens[:, None], state)
        return log_probs[:, 0], state

    def forward(self, features, tokens):
        """Log-probabilities (N,L,V) of given captions, in one run over the sequence."""
        state = self.start(features)
        return self._run(self.shifted(tokens, len(features)), state)[0]

    def example_inputs(self, batch=1):
        """Arguments of a forward pass: three frames, and captions of four words and EOS."""
        words = torch.randint(self.vocabulary, (batch, 5))
        words[:, -1] = self.eos
        return torch.randn(batch, 3, self.features), words
