"""The caption decoder with soft attention over time: Yao et al. 2015, https://arxiv.org/abs/1502.08029.

Ballas et al. 2016 put it on their video encoder. Details follow the released code, yaoli/arctic-capgen-vid.
"""

import torch
from torch import nn

from fastrcn.layers import LSTMCell
from fastrcn.losses import caption_nll, doubly_stochastic_penalty, within
from fastrcn.models.attention import Attention
from fastrcn.models.decoding import CaptionDecoder
from fastrcn.models.registry import register


@register(
    "soft_attention_caption", paper="Yao et al. 2015, arXiv 1502.08029", kernels="LSTMCell",
    small={"vocabulary": 11, "features": 5, "embedding": 4, "hidden": 6},
)  # fmt: skip
class SoftAttentionCaption(CaptionDecoder):
    """An LSTM that looks at all contexts anew before each word.

    At each step, of contexts v_k, the last word e and the states h, c before the step::

        alpha = softmax_k(u' tanh(W_a h + U_a v_k + b_a) + c_a),  phi = beta sum_k alpha_k v_k,  beta = sigmoid(w h + b)
        h, c  = LSTM([e; phi], h, c)
        p     = softmax(U_p tanh(W_p h + b + e + W_c phi + b') + b'')

    h and c start from tanh of linear maps of the mean context.

    Args:
        vocabulary: words, BOS and EOS among them.
        features: width of the contexts; 1024 is GoogLeNet's.
        embedding, hidden: widths of the word vectors and of the LSTM.
        selector: whether there is a beta; else it is 1.
        dropout: probability, of h and of the tanh in the readout. (The released code has dropout on the input, forget
            and output gates before their sigmoid too, which is left out: it would be another cell.)
        penalty: weight of the attention penalty in ``loss``.
        bos, eos: tokens before and at the end of a caption. BOS is read as a zero vector.
        backend: as the cell's.
    Shapes: contexts (N,K,features), tokens (N,L) without BOS -> log-probabilities (N,L,vocabulary) of each token given
        those before it, and attention (N,L,K).
    Raises: ValueError naming the argument.

    The sizes are the released configuration's, which has 28 contexts; Ballas et al. have 10. It trains by AdaDelta on
    batches of 64, with gradients clipped to norm 10 and an L2 weight of 1e-4.
    """

    def __init__(
        self, vocabulary=20000, features=1024, embedding=468, hidden=3518, *, selector=True, dropout=0.5,
        penalty=0.70602, bos=0, eos=0, backend=None,
    ):  # fmt: skip
        super().__init__(vocabulary, bos, eos)
        self.features, self.penalty = features, penalty
        self.embedding = nn.Embedding(vocabulary, embedding, padding_idx=bos)
        self.init_h = nn.Linear(features, hidden)
        self.init_c = nn.Linear(features, hidden)
        self.attention = Attention("concat", query_size=hidden, key_size=features, hidden=features, bias=True)
        self.selector = nn.Linear(hidden, 1) if selector else None
        self.cell = LSTMCell(embedding + features, hidden, backend=backend)
        self.readout_h = nn.Linear(hidden, embedding)
        self.readout_context = nn.Linear(features, embedding)
        self.head = nn.Linear(embedding, vocabulary)
        self.dropout = nn.Dropout(dropout)

    def start(self, contexts):
        """The contexts, their part of the attention, h and c."""
        if contexts.dim() != 3 or contexts.shape[2] != self.features or not contexts.shape[1]:
            raise ValueError(f"contexts: expected (N,K,{self.features}), got shape {tuple(contexts.shape)}")
        mean = contexts.mean(1)
        return contexts, self.attention.prepare(contexts), torch.tanh(self.init_h(mean)), torch.tanh(self.init_c(mean))

    def _run(self, tokens, state):
        """Log-probabilities (N,L,V) after each of the tokens (N,L), attention (N,L,K), and the state."""
        contexts, prepared, h, c = state
        words, steps = self.embedding(tokens), []
        for word in words.unbind(1):
            context, alpha = self.attention.attend(h[:, None], prepared, contexts)
            context = context[:, 0]
            if self.selector is not None:
                context = torch.sigmoid(self.selector(h)) * context
            h, c = self.cell(torch.cat([word, context], 1), (h, c))
            steps.append((h, context, alpha[:, 0]))
        hidden, seen, alphas = (torch.stack(values, 1) for values in zip(*steps, strict=True))
        readout = torch.tanh(self.readout_h(self.dropout(hidden)) + words + self.readout_context(seen))
        return self.head(self.dropout(readout)).log_softmax(-1), alphas, (contexts, prepared, h, c)

    def step(self, tokens, state):
        """One token each (N,) -> log-probabilities (N,V) of the next, and the state."""
        log_probs, _, state = self._run(tokens[:, None], state)
        return log_probs[:, 0], state

    def forward(self, contexts, tokens):
        """Log-probabilities (N,L,V) of given captions, and where was looked (N,L,K)."""
        state = self.start(contexts)
        log_probs, alphas, _ = self._run(self.shifted(tokens, len(contexts)), state)
        return log_probs, alphas

    def loss(self, log_probs, alphas, tokens, lengths=None):
        """``caption_nll`` + penalty * mean over captions of sum_k (1 - sum_t alpha_tk)^2.

        ``lengths``: (N,) tokens of each caption that count, in both terms; all if None.
        """
        if lengths is not None:
            alphas = alphas.masked_fill(~within(lengths, alphas.shape[1])[..., None], 0)
        return caption_nll(log_probs, tokens, lengths) + self.penalty * doubly_stochastic_penalty(alphas)

    def example_inputs(self, batch=1):
        """Arguments of a forward pass: ten contexts, and captions of four words and EOS."""
        words = torch.randint(self.vocabulary, (batch, 5))
        words[:, -1] = self.eos
        return torch.randn(batch, 10, self.features), words
