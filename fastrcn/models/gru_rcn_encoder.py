"""GRU-RCN as the encoder of a video captioner: Ballas et al. 2016, https://arxiv.org/abs/1511.06432, section 5.2.

A video is K equally spaced segments of T frames; each becomes a context vector for the decoder.
"""

import torch
from torch import nn

from fastrcn.models.gru_rcn import HIDDEN_SIZES, PAPER, SMALL, FrameTaps, RecurrentLevels
from fastrcn.models.registry import register


@register(
    "gru_rcn_encoder", paper=PAPER, kernels="ConvGRU", small={n: v for n, v in SMALL.items() if n != "num_classes"}
)
class GRURCNEncoder(nn.Module):
    """Contexts for a caption decoder: fc7 of a segment beside the last states of GRU-RCN run on it.

    Args:
        in_channels: 3 for RGB, 20 for flow.
        concat_final: one context for the whole video instead, made from all segments' frames one after another.
        fc7_only: the baseline, fc7 alone; no recurrent levels.
        hidden_sizes, kernel_size, mode, bottom_up_in_candidate, bidirectional, bias, train_cnn, width, fc, size,
        backend, recompute: as in ``GRURCN``; ``bidirectional`` is on by default.
    Shapes: segments (N,K,T,in_channels,size,size), K = T = 10 in the paper, or five tap maps (N,K,T,c,h,w) that were
        computed before -> contexts (N,K,D), D = ``context_size`` = fc + features of the levels; (N,1,D) with
        ``concat_final``.
    Raises: ValueError naming the argument.

    The paper says that at the last step features are concatenated and handed to the decoder, which can mean a vector
    for each segment or one in all: both are here. Of a segment's fc7 it is the mean over the frames.
    """

    def __init__(
        self, in_channels=3, *, concat_final=False, fc7_only=False, hidden_sizes=HIDDEN_SIZES, kernel_size=3,
        mode="independent", bottom_up_in_candidate=False, bidirectional=True, bias=False, train_cnn=False, width=64,
        fc=4096, size=224, backend=None, recompute=False,
    ):  # fmt: skip
        super().__init__()
        self.concat_final = bool(concat_final)
        self.trunk = FrameTaps(in_channels, width=width, fc=fc, size=size, train_cnn=train_cnn)
        self.recurrent = None if fc7_only else RecurrentLevels(
            list(self.trunk.tap_channels.values())[1:], hidden_sizes, kernel_size, mode=mode,
            bottom_up_in_candidate=bottom_up_in_candidate, bidirectional=bidirectional, bias=bias, backend=backend,
            recompute=recompute,
        )  # fmt: skip
        self.context_size = fc + (sum(self.recurrent.features) if self.recurrent else 0)

    def taps(self, segments):
        """What the levels read of the segments, to keep: a list of five maps (N,K,T,c,h,w)."""
        if segments.dim() != 6 or segments.shape[1] == 0:
            came = tuple(segments.shape)
            raise ValueError(f"segments: expected (N,K,T,C,H,W) with at least one segment, got shape {came}")
        return [tap.unflatten(0, segments.shape[:2]) for tap in self.trunk.frame_taps(segments.flatten(0, 1))]

    def forward(self, segments):
        """Contexts of the video."""
        taps = self.taps(segments) if isinstance(segments, torch.Tensor) else list(segments)
        if any(tap.dim() != 6 for tap in taps):
            raise ValueError(f"taps: expected maps (N,K,T,c,h,w), got shapes {[tuple(tap.shape) for tap in taps]}")
        n, k = taps[0].shape[:2]
        if self.concat_final:  # (N,K,T,...) -> clips of K*T frames
            clips, k = [tap.flatten(1, 2) for tap in taps], 1
        else:
            clips = [tap.flatten(0, 1) for tap in taps]
        clips = self.trunk.check_taps(clips)
        parts = [clips[-1].mean((1, 3, 4))]
        if self.recurrent is not None:
            parts += self.recurrent(clips)
        return torch.cat(parts, 1).unflatten(0, (n, k))

    def example_inputs(self, batch=1):
        """Arguments of a forward pass: ten segments of ten frames; two of three where VGG-16 is not the paper's."""
        k, t = (10, 10) if self.trunk.size == 224 else (2, 3)
        return (torch.randn(batch, k, t, self.trunk.in_channels, self.trunk.size, self.trunk.size),)
