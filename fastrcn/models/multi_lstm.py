"""MultiLSTM: Yeung et al. 2015, https://arxiv.org/abs/1507.05738 (spelt "MutiLSTM" in places).

Several actions at once in every frame: an LSTM whose input is a window of frames and whose output labels a window.
"""

import torch
from torch import nn
from torch.nn import functional as F

from fastrcn.layers import LSTMCell
from fastrcn.losses import multi_label_loss
from fastrcn.models.attention import Attention
from fastrcn.models.registry import register

BOUNDARIES = ("clamp", "fewer")


@register(
    "multi_lstm", paper="Yeung et al. 2015, arXiv 1507.05738", kernels="LSTMCell",
    small={"num_classes": 3, "features": 5, "hidden": 6, "n_in": 3, "n_out": 2},
)  # fmt: skip
class MultiLSTM(nn.Module):
    """Reads the last ``n_in`` frames by attention at each step, and votes on the last ``n_out`` frames.

    With v the features, h the state before step t::

        alpha = softmax_i(u' [tanh(W_h h) * tanh(W_v v_i)]),  i = t - n_in + 1 ... t
        h     = LSTM(sum_i alpha_i v_i, h);  p_t = W h + b, of frames t - n_out + 1 ... t

    A frame's score is the mean of the votes on it, of which frame j of T gets min(n_out, T - j), from the steps
    j ... j + n_out - 1; sigmoid comes after the mean.

    Args:
        num_classes: of MultiTHUMOS 65.
        features: width of the features, 4096 of VGG-16's fc7.
        hidden: of the LSTM and of the scores.
        n_in, n_out: frames that a step reads, and labels; the sources do not settle the numbers.
        score: as ``Attention``'s; the default is recalled to be the paper's. "dot" needs features of width ``hidden``.
        boundary: what the first steps read before the first frame: "clamp", the first frame again, or "fewer",
            nothing, with attention over the frames that are there.
        backend: as the cell's.
    Shapes: features (N,T,features) -> scores before the sigmoid (N,T,num_classes).
    Raises: ValueError naming the argument.
    """

    def __init__(
        self, num_classes=65, features=4096, hidden=512, n_in=15, n_out=15, *, score="multiplicative",
        boundary="clamp", backend=None,
    ):  # fmt: skip
        super().__init__()
        for name, n in (("n_in", n_in), ("n_out", n_out)):
            if n < 1:
                raise ValueError(f"{name}: expected at least 1, got {n}")
        if boundary not in BOUNDARIES:
            raise ValueError(f"boundary: expected one of {', '.join(BOUNDARIES)}, got {boundary!r}")
        self.features, self.n_in, self.n_out, self.boundary = features, n_in, n_out, boundary
        self.num_classes, self.hidden = num_classes, hidden
        self.attention = Attention(
            score, query_size=hidden, key_size=features, hidden=None if score in ("dot", "bilinear") else hidden
        )
        self.cell = LSTMCell(features, hidden, backend=backend)
        self.head = nn.Linear(hidden, n_out * num_classes)

    def votes(self, features):
        """(N,T,n_out,num_classes): entry k of step t is about frame t - n_out + 1 + k, which may be before the first.

        Also the attention (N,T,n_in), with the present frame last.
        """
        if features.dim() != 3 or features.shape[2] != self.features or not features.shape[1]:
            raise ValueError(f"features: expected (N,T,{self.features}), got shape {tuple(features.shape)}")
        n, steps = features.shape[:2]
        before = self.n_in - 1
        padded = torch.cat([features[:, :1].expand(-1, before, -1), features], 1)
        there = torch.arange(before + steps, device=features.device) >= (before if self.boundary == "fewer" else 0)
        prepared = self.attention.prepare(padded)
        h = c = features.new_zeros(n, self.hidden)
        hidden, attention = [], []
        for t in range(steps):
            window = slice(t, t + self.n_in)
            mask = there[window].expand(n, -1)
            x, weights = self.attention.attend(h[:, None], prepared[:, window], padded[:, window], mask)
            h, c = self.cell(x[:, 0], (h, c))
            hidden.append(h)
            attention.append(weights[:, 0])
        votes = self.head(torch.stack(hidden, 1)).unflatten(2, (self.n_out, self.num_classes))
        return votes, torch.stack(attention, 1)

    def forward(self, features):
        """Scores (N,T,num_classes) of every frame."""
        votes, _ = self.votes(features)
        return average_votes(votes)

    @staticmethod
    def loss(scores, labels):
        """Binary cross-entropy of scores (N,T,classes) with labels 0 or 1 of that shape, the mean over all."""
        return multi_label_loss(scores, labels)

    def example_inputs(self, batch=1):
        """Arguments of a forward pass: some more frames than a step reads."""
        return (torch.randn(batch, self.n_in + 3, self.features),)


def average_votes(votes):
    """Mean of the votes on each frame, (N,T,classes); votes (N,T,n_out,classes) as ``MultiLSTM.votes`` gives them."""
    steps, n_out = votes.shape[1:3]
    total = 0
    for k in range(n_out):
        later = n_out - 1 - k  # steps between a frame and its k-th vote
        if later < steps:
            total = total + F.pad(votes[:, later:, k], (0, 0, 0, later))
    count = (steps - torch.arange(steps, device=votes.device)).clamp(max=n_out)
    return total / count[:, None]
