"""Sequence to sequence with attention: Bahdanau et al. 2014 (https://arxiv.org/abs/1409.0473), Luong et al. 2015
(https://arxiv.org/abs/1508.04025).

The encoder's last state alone would have to hold all of a long source; attention lets each step look at all its states.
"""

from typing import Any

import torch
from torch import nn

from fastrcn.layers import GRU, LSTM, GRUCell, LSTMCell
from fastrcn.losses import within
from fastrcn.models.attention import Attention
from fastrcn.models.decoding import CaptionDecoder
from fastrcn.models.registry import register

LAYERS = {"lstm": (LSTM, LSTMCell), "gru": (GRU, GRUCell)}
ORDERS = ("luong", "bahdanau")


@register(
    "seq2seq_attention", paper="Luong et al. 2015, arXiv 1508.04025; Bahdanau et al. 2014, arXiv 1409.0473",
    kernels=("LSTM", "GRU", "LSTMCell", "GRUCell"),
    small={"source_vocabulary": 9, "vocabulary": 11, "embedding": 4, "hidden": 6},
)  # fmt: skip
class Seq2SeqAttention(CaptionDecoder):
    """An encoder reads a source; a decoder, started from its last state, attends to all its outputs.

    With the encoder's outputs K, s the decoder's state and e the last token's vector:

    - "luong": s_t = RNN(e_t, s_{t-1}), context_t = Attention(s_t, K, K); the decoder is one run over the sequence,
      and attention comes after it.
    - "bahdanau": context_t = Attention(s_{t-1}, K, K), s_t = RNN([e_t; context_t], s_{t-1}); step by step.

    The output layer reads [context_t; s_t] in both.

    Args:
        source_vocabulary, vocabulary: tokens of the source and of the target, with BOS and EOS in the latter.
        embedding, hidden: widths of the tokens' vectors and of encoder and decoder (those of Bahdanau et al.).
        cell: "lstm" or "gru" (the form of Cho et al. 2014, which resets before the product).
        order: "luong" or "bahdanau".
        score: as ``Attention``'s; "concat" is that of Bahdanau et al.
        bos, eos: tokens before and at the end of a target.
        backend: as the layers'.
    Shapes: source (N,S) tokens, lengths (N,) of the sources, tokens (N,L) without BOS -> log-probabilities
        (N,L,vocabulary) of each token given those before it, and attention (N,L,S).
    Raises: ValueError naming the argument.
    """

    def __init__(
        self, source_vocabulary=30000, vocabulary=30000, embedding=620, hidden=1000, *, cell="lstm", order="luong",
        score="dot", bos=0, eos=0, backend=None,
    ):  # fmt: skip
        super().__init__(vocabulary, bos, eos)
        if cell not in LAYERS:
            raise ValueError(f"cell: expected one of {', '.join(LAYERS)}, got {cell!r}")
        if order not in ORDERS:
            raise ValueError(f"order: expected one of {', '.join(ORDERS)}, got {order!r}")
        self.source_vocabulary, self.order = source_vocabulary, order
        layer, one_step = LAYERS[cell]
        self.source_embedding = nn.Embedding(source_vocabulary, embedding)
        self.encoder = layer(embedding, hidden, batch_first=True, backend=backend)
        self.attention = Attention(
            score, query_size=hidden, key_size=hidden, hidden=None if score in ("dot", "bilinear") else hidden
        )
        self.embedding = nn.Embedding(vocabulary, embedding)
        if order == "luong":
            self.decoder = layer(embedding, hidden, batch_first=True, backend=backend)
        else:
            self.decoder = one_step(embedding + hidden, hidden, backend=backend)
        self.head = nn.Linear(2 * hidden, vocabulary)

    def start(self, source, lengths=None):
        """The encoder's outputs (N,S,H), their part of the attention, where they are, and the states, a tuple."""
        if source.dim() != 2 or not source.shape[1]:
            raise ValueError(f"source: expected (N,S) with S at least 1, got shape {tuple(source.shape)}")
        if lengths is None:
            lengths = torch.full((len(source),), source.shape[1], device=source.device)
        keys, last = self.encoder(self.source_embedding(source), lengths=lengths)
        states = last if isinstance(last, tuple) else (last,)
        return keys, self.attention.prepare(keys), within(lengths, source.shape[1]), tuple(s[0] for s in states)

    def _run(self, tokens, state):
        """Log-probabilities (N,L,V) after each of the tokens (N,L), attention (N,L,S), and the state."""
        keys, prepared, mask, states = state
        x = self.embedding(tokens)
        if self.order == "luong":
            first: Any = tuple(s[None] for s in states)
            hidden, last = self.decoder(x, first if len(first) > 1 else first[0])
            states = tuple(s[0] for s in last) if isinstance(last, tuple) else (last[0],)
            context, weights = self.attention.attend(hidden, prepared, keys, mask)
        else:
            steps = []
            for x_t in x.unbind(1):
                context, weights = self.attention.attend(states[0][:, None], prepared, keys, mask)
                last = self.decoder(torch.cat([x_t, context[:, 0]], 1), states)
                states = last if isinstance(last, tuple) else (last,)
                steps.append((states[0], context[:, 0], weights[:, 0]))
            hidden, context, weights = (torch.stack(values, 1) for values in zip(*steps, strict=True))
        log_probs = self.head(torch.cat([context, hidden], 2)).log_softmax(-1)
        return log_probs, weights, (keys, prepared, mask, states)

    def step(self, tokens, state):
        """One token each (N,) -> log-probabilities (N,V) of the next, and the state."""
        log_probs, _, state = self._run(tokens[:, None], state)
        return log_probs[:, 0], state

    def forward(self, source, tokens, lengths=None):
        """Log-probabilities (N,L,V) of given targets, and where was looked (N,L,S)."""
        state = self.start(source, lengths)
        log_probs, weights, _ = self._run(self.shifted(tokens, len(source)), state)
        return log_probs, weights

    def example_inputs(self, batch=1):
        """Arguments of a forward pass: sources of up to six tokens, targets of four and EOS."""
        words = torch.randint(self.vocabulary, (batch, 5))
        words[:, -1] = self.eos
        return torch.randint(self.source_vocabulary, (batch, 6)), words, 6 - torch.arange(batch) % 3
