"""Attention(Q, K, V) with the scores of the lecture (dot, bilinear, concat) and the multiplicative one of MultiLSTM.

A score says how well a query and a key go together: softmax over the keys, then the weighted sum of the values. (The
lecture's text calls the coefficient how *different* they are; it is similarity.)
"""

import torch
from torch import nn

SCORES = ("dot", "bilinear", "concat", "multiplicative")


class Attention(nn.Module):
    """Scores, softmax over the keys, weighted sum of the values; s is a query, h a key.

    Args:
        score: "dot", s·h, for equal sizes; "bilinear", s' W h (Luong et al. 2015, arXiv 1508.04025); "concat",
            u' tanh(W1 [s; h]) (Bahdanau et al. 2014, arXiv 1409.0473), whose W1 is kept as two halves, of the query and
            of the key; "multiplicative", u' [tanh(W_s s) * tanh(W_h h)] (Yeung et al. 2015, arXiv 1507.05738).
        query_size, key_size: widths d_s and d_h.
        hidden: width of u, for "concat" and "multiplicative".
        bias: "concat" only: u' tanh(W1 [s; h] + b) + c. Softmax cancels c, so that its gradient is rounding only: it is
            there for the parameters of published models, and not trained.
        scale: divide the scores by sqrt(d_s), as Vaswani et al. 2017 do with dot products.
    Shapes: query (N,Lq,d_s), keys (N,Lk,d_h), values (N,Lk,d_v) -> context (N,Lq,d_v), weights (N,Lq,Lk).
    Raises: ValueError naming the argument.
    """

    def __init__(self, score="dot", *, query_size, key_size, hidden=None, bias=False, scale=False):
        super().__init__()
        if score not in SCORES:
            raise ValueError(f"score: expected one of {', '.join(SCORES)}, got {score!r}")
        if score == "dot" and query_size != key_size:
            raise ValueError(f"key_size: expected that of the query, {query_size}, for the dot score, got {key_size}")
        if (hidden is None) != (score in ("dot", "bilinear")):
            raise ValueError(f"hidden: expected a width for concat and multiplicative scores only, got {hidden!r}")
        if bias and score != "concat":
            raise ValueError(f"bias: expected False for the {score} score, got {bias!r}")
        self.score, self.query_size, self.key_size = score, query_size, key_size
        self.factor = query_size**-0.5 if scale else 1.0
        if score == "bilinear":
            self.key = nn.Linear(key_size, query_size, bias=False)
        elif hidden is not None:
            self.query = nn.Linear(query_size, hidden, bias=False)
            self.key = nn.Linear(key_size, hidden, bias=bias)
            self.out = nn.Linear(hidden, 1, bias=bias)
            if bias:
                self.out.bias.requires_grad_(False)

    def prepare(self, keys):
        """The part of the scores that only the keys decide, (N,Lk,...): once for many queries."""
        if keys.dim() != 3 or keys.shape[2] != self.key_size:
            raise ValueError(f"keys: expected (N,Lk,{self.key_size}), got shape {tuple(keys.shape)}")
        if self.score == "dot":
            return keys
        return torch.tanh(self.key(keys)) if self.score == "multiplicative" else self.key(keys)

    def scores(self, query, prepared):
        """Before softmax: (N,Lq,Lk) of queries (N,Lq,d_s) and ``prepare(keys)``."""
        if query.dim() != 3 or query.shape[2] != self.query_size or len(query) != len(prepared):
            expected = f"({len(prepared)},Lq,{self.query_size})"
            raise ValueError(f"query: expected {expected}, got shape {tuple(query.shape)}")
        if self.score == "concat":
            found = self.out(torch.tanh(self.query(query)[:, :, None] + prepared[:, None]))[..., 0]
        elif self.score == "multiplicative":
            found = (torch.tanh(self.query(query)) * self.out.weight[0]) @ prepared.mT
        else:
            found = query @ prepared.mT
        return found * self.factor

    def attend(self, query, prepared, values, mask=None):
        """``forward`` with ``prepare(keys)`` in place of the keys."""
        scores = self.scores(query, prepared)
        if values.dim() != 3 or values.shape[:2] != prepared.shape[:2]:
            raise ValueError(f"values: expected {(*prepared.shape[:2], 'd_v')}, got shape {tuple(values.shape)}")
        if mask is None:
            weights = scores.softmax(-1)
        else:
            mask = mask[:, None] if mask.dim() == 2 else mask
            if mask.dtype != torch.bool or mask.shape not in (scores.shape, (len(scores), 1, scores.shape[2])):
                expected = f"booleans {(len(scores), scores.shape[2])} or {tuple(scores.shape)}"
                raise ValueError(f"mask: expected {expected}, got {mask.dtype} of shape {tuple(mask.shape)}")
            # The second fill is for a query without any key, whose weights would be equal and not zero.
            weights = scores.masked_fill(~mask, torch.finfo(scores.dtype).min).softmax(-1).masked_fill(~mask, 0)
        return weights @ values, weights

    def forward(self, query, keys, values=None, mask=None):
        """Context (N,Lq,d_v) and weights (N,Lq,Lk).

        ``values`` are the keys if None. ``mask``: (N,Lk) or (N,Lq,Lk), True where a key may be attended to; a query
        without any such key gets zeros.
        """
        return self.attend(query, self.prepare(keys), keys if values is None else values, mask)

    def extra_repr(self):
        return f"{self.score!r}, query_size={self.query_size}, key_size={self.key_size}"
