"""Early fusion: the first convolution sees all frames. Karpathy et al. 2014 (CVPR), section 3.1."""

import torch
from torch import nn

from fastrcn.models.registry import register
from fastrcn.models.single_frame import (
    FRAMES,
    PAPER,
    SIZES,
    TOY,
    check_clip,
    check_net,
    make_features,
    make_head,
    maps_shape,
)


@register(
    "early_fusion", paper=PAPER, small={"num_classes": 5, "width": 6, "hidden": 8, "size": 40, "num_frames": 3}
)  # fmt: skip
@register("early_fusion_toy", paper=TOY, small={"num_classes": 5, "size": 12, "num_frames": 3}, net="toy")
class EarlyFusion(nn.Module):
    """The layers of ``SingleFrame`` on all frames of a clip stacked as channels: the first convolution ends time.

    Channels are in the order of time: red, green, blue of frame 0, then of frame 1. So the first convolution is a 3-D
    one whose kernel is as long as the clip (see ``filters_over_time``).

    Args:
        num_classes, net, width, hidden, size, dropout: as in ``SingleFrame``.
        num_frames: of a clip; None for 10, and 20 for the small net.
    Shapes: clip (N,3,num_frames,size,size) -> scores before softmax (N,num_classes).
    Raises: ValueError naming the argument.
    """

    def __init__(
        self, num_classes=487, net="karpathy", *, num_frames=None, width=None, hidden=4096, size=None, dropout=0.5
    ):  # fmt: skip
        super().__init__()
        self.net, self.size = check_net(net), size or SIZES[net]
        self.num_frames = num_frames or FRAMES[net]
        self.features = make_features(net, 3 * self.num_frames, width=width)
        channels, height, width = maps_shape(self.features, 3 * self.num_frames, self.size)
        self.heads = ("classifier",) if net == "toy" else ("classifier.6",)
        if net == "toy":
            self.classifier: nn.Module = nn.Linear(channels, num_classes)
        else:
            self.classifier = make_head(channels * height * width, hidden, num_classes, dropout)

    def stack(self, clip):
        """The frames of a clip as channels (N,num_frames*3,H,W)."""
        check_clip(clip, self.size, self.num_frames)
        return clip.transpose(1, 2).flatten(1, 2)

    def forward(self, clip):
        """Class scores before softmax."""
        maps = self.features(self.stack(clip))
        return self.classifier(maps.mean((2, 3)) if self.net == "toy" else maps.flatten(1))

    def example_inputs(self, batch=1):
        """Arguments of a forward pass."""
        return (torch.randn(batch, 3, self.num_frames, self.size, self.size),)
