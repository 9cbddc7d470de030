"""Action recognition with visual attention: Sharma, Kiros and Salakhutdinov 2015, https://arxiv.org/abs/1511.04119.

Where the text leaves something open, the released code decides: kracwarlock/action-recognition-visual-attention.
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from fastrcn.layers import LSTMCell
from fastrcn.losses import doubly_stochastic_penalty, step_cross_entropy
from fastrcn.models.attention import Attention
from fastrcn.models.registry import register

SCORERS = ("location", "mlp")


@register(
    "visual_attention_lstm", paper="Sharma et al. 2015, arXiv 1511.04119", kernels="LSTMCell",
    small={"num_classes": 5, "features": 4, "grid": 3, "hidden": 6},
)  # fmt: skip
class VisualAttentionLSTM(nn.Module):
    """LSTM layers that choose, before each frame, where in its map of features to look.

    With h the top layer's state before the frame and X_i the features of its places::

        "location"  l = softmax_i(W_i h): the place is chosen before the frame is seen (the paper)
        "mlp"       l = softmax_i(u' tanh(W_c X_i + W_d h + b) + c): by what is there (the released code, and "query h
                    attends over the convolution's representation" in the lecture)
        x = sum_i l_i X_i  ->  the layers  ->  tanh(linear) -> linear

    h and c of all layers start from tanh of linear maps of the mean feature over time and places.

    Args:
        num_classes: outputs; 11 are those of UCF-11.
        features, grid: channels and side of the map, 1024 on 7x7 for GoogLeNet's last convolution.
        hidden, num_layers: of the LSTM, and of the tanh layer; the released net has one layer.
        scorer: "location" or "mlp".
        dropout: probability, between layers, and before and after the tanh layer.
        backend: as the cells'.
    Shapes: features (N,T,grid*grid,features) -> scores before softmax (N,T,num_classes), l as maps (N,T,grid,grid).
    Raises: ValueError naming the argument.

    The paper trains clips of 30 frames with Adam, and ``loss`` with a penalty of 0 on UCF-11, 1 on HMDB-51 and 10 on
    Hollywood2.
    """

    def __init__(
        self, num_classes=11, features=1024, grid=7, hidden=512, num_layers=3, *, scorer="location", dropout=0.5,
        backend=None,
    ):  # fmt: skip
        super().__init__()
        if scorer not in SCORERS:
            raise ValueError(f"scorer: expected one of {', '.join(SCORERS)}, got {scorer!r}")
        if num_layers < 1:
            raise ValueError(f"num_layers: expected at least 1, got {num_layers}")
        self.features, self.grid, self.hidden, self.num_layers = features, grid, hidden, num_layers
        self.init_h = nn.Linear(features, num_layers * hidden)
        self.init_c = nn.Linear(features, num_layers * hidden)
        self.location: Any = None
        self.attention: Attention | None = None
        if scorer == "location":
            self.location = nn.Linear(hidden, grid * grid, bias=False)
        else:
            self.attention = Attention("concat", query_size=hidden, key_size=features, hidden=features, bias=True)
        self.cells = nn.ModuleList(
            LSTMCell(hidden if layer else features, hidden, backend=backend) for layer in range(num_layers)
        )
        self.output = nn.Linear(hidden, hidden)
        self.head = nn.Linear(hidden, num_classes)
        self.dropout = nn.Dropout(dropout)

    def _look(self, h, frame, prepared):
        """The expected feature (N,D) and the weights (N,places) of a frame (N,places,D)."""
        if self.attention is not None:
            x, weights = self.attention.attend(h[:, None], prepared, frame)
            return x[:, 0], weights[:, 0]
        weights = self.location(h).softmax(-1)
        return (weights[:, None] @ frame)[:, 0], weights

    def _check(self, features):
        expected = (self.grid**2, self.features)
        if features.dim() != 4 or tuple(features.shape[2:]) != expected or not features.shape[1]:
            raise ValueError(f"features: expected (N,T,{expected[0]},{expected[1]}), got shape {tuple(features.shape)}")

    def forward(self, features):
        """Scores (N,T,num_classes) at each step, and where was looked (N,T,grid,grid)."""
        self._check(features)
        mean = features.mean((1, 2))
        h, c = (
            list(torch.tanh(init(mean)).unflatten(1, (self.num_layers, self.hidden)).unbind(1))
            for init in (self.init_h, self.init_c)
        )
        prepared = features  # which the location scorer does not read
        if self.attention is not None:
            prepared = self.attention.prepare(features.flatten(0, 1)).unflatten(0, features.shape[:2])
        top, maps = [], []
        for frame, keys in zip(features.unbind(1), prepared.unbind(1), strict=True):
            x, weights = self._look(h[-1], frame, keys)
            for k, cell in enumerate(self.cells):
                h[k], c[k] = cell(self.dropout(x) if k else x, (h[k], c[k]))
                x = h[k]
            top.append(x)
            maps.append(weights)
        output = torch.tanh(self.output(self.dropout(torch.stack(top, 1))))
        return self.head(self.dropout(output)), torch.stack(maps, 1).unflatten(2, (self.grid, self.grid))

    def loss(self, scores, maps, labels, *, penalty=0.0, decay=1e-5):
        """Mean over clips of -sum_t log p_t(label) + penalty * sum_i (1 - sum_t l_ti)^2, plus decay * sum of squares.

        ``labels``: (N,), of the clip. The squares are those of all parameters.
        """
        nll = scores.shape[1] * step_cross_entropy(scores, labels)
        squares = torch.stack([p.square().sum() for p in self.parameters()]).sum()
        return nll + penalty * doubly_stochastic_penalty(maps.flatten(2)) + decay * squares

    @torch.no_grad()
    def classify(self, features, block=30, stride=None):
        """Class (N,) of whole videos: ``majority_vote`` over blocks of frames, each read from the start.

        Blocks begin every ``stride`` frames (``block`` if None; the released code: 1) as long as a whole one fits; a
        video shorter than a block is filled up with its last frame.
        """
        self._check(features)
        missing = max(block - features.shape[1], 0)
        features = torch.cat([features, features[:, -1:].expand(-1, missing, -1, -1)], 1)
        blocks = features.unfold(1, block, stride or block).movedim(-1, 2)  # (N,blocks,block,places,D)
        scores, _ = self(blocks.flatten(0, 1))
        return majority_vote(scores.softmax(-1).unflatten(0, blocks.shape[:2]))

    def example_inputs(self, batch=1):
        """Arguments of a forward pass: a clip of thirty frames."""
        return (torch.randn(batch, 30, self.grid**2, self.features),)


def majority_vote(probabilities):
    """Class (N,) of probabilities (N,blocks,T,classes): each block votes for the largest sum over its steps.

    Of classes with as many votes the first one.
    """
    votes = probabilities.sum(2).argmax(2)
    return F.one_hot(votes, probabilities.shape[3]).sum(1).argmax(1)
