"""Late fusion: one CNN for every frame, time only in the head. Karpathy et al. 2014 (CVPR), section 3.1."""

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


def frame_maps(features, clip):
    """The maps (N,T,C,h,w) that a CNN makes of each frame of a clip (N,3,T,H,W)."""
    frames = clip.transpose(1, 2)
    return features(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])


@register(
    "late_fusion", paper=PAPER, small={"num_classes": 5, "width": 6, "hidden": 8, "size": 40},
    num_frames=16, distance=15,
)  # fmt: skip
@register(
    "late_fusion_fc_toy", paper=TOY, small={"num_classes": 5, "hidden": 8, "size": 12, "num_frames": 4},
    net="toy", hidden=128, num_frames=20, distance=1,
)  # fmt: skip
class LateFusion(nn.Module):
    """One CNN with shared weights on some frames of a clip; its maps side by side go into fully connected layers.

    Karpathy's has two towers, on frames 15 apart; the small net one for every frame.

    Args:
        num_classes, net, width, size, dropout: as in ``SingleFrame``.
        hidden: units of both fully connected layers; for the small net, whose source does not give them, 128 by name.
        num_frames: of a clip, which the first fully connected layer is made for.
        distance: the towers see frames 0, distance, 2 * distance, ...
    Shapes: clip (N,3,num_frames,size,size) -> scores before softmax (N,num_classes).
    Raises: ValueError naming the argument.
    """

    heads = ("classifier.6",)

    def __init__(
        self, num_classes=487, net="karpathy", *, num_frames=16, distance=15, width=None, hidden=4096, size=None,
        dropout=0.5,
    ):  # fmt: skip
        super().__init__()
        if num_frames < 1 or distance < 1:
            raise ValueError(f"num_frames, distance: expected positive ints, got {num_frames}, {distance}")
        self.num_frames, self.distance, self.size = num_frames, distance, size or SIZES[check_net(net)]
        self.features = make_features(net, width=width)
        channels, height, width = maps_shape(self.features, 3, self.size)
        towers = len(range(0, num_frames, distance))
        self.classifier = make_head(towers * channels * height * width, hidden, num_classes, dropout)

    def forward(self, clip):
        """Class scores before softmax."""
        check_clip(clip, self.size, self.num_frames)
        return self.classifier(frame_maps(self.features, clip[:, :, :: self.distance]).flatten(1))

    def example_inputs(self, batch=1):
        """Arguments of a forward pass."""
        return (torch.randn(batch, 3, self.num_frames, self.size, self.size),)


@register("late_fusion_pool_toy", paper=TOY, small={"num_classes": 5, "size": 12, "num_frames": 3})
class LateFusionPool(nn.Module):
    """One CNN for every frame; its maps are averaged over time and place and go into a linear layer.

    Without a nonlinearity after the average this is the average of the frames' scores, ``SingleFrame`` with "logit".

    Args:
        num_classes, net, width, size, num_frames: as in ``SingleFrame``.
    Shapes: clip (N,3,T,size,size) -> scores before softmax (N,num_classes).
    Raises: ValueError naming the argument.
    """

    heads = ("classifier",)

    def __init__(self, num_classes=487, net="toy", *, width=None, size=None, num_frames=None):
        super().__init__()
        self.size, self.num_frames = size or SIZES[check_net(net)], num_frames or FRAMES[net]
        self.features = make_features(net, width=width)
        self.classifier = nn.Linear(maps_shape(self.features, 3, self.size)[0], num_classes)

    def forward(self, clip):
        """Class scores before softmax."""
        check_clip(clip, self.size)
        return self.classifier(frame_maps(self.features, clip).mean((1, 3, 4)))

    def example_inputs(self, batch=1):
        """Arguments of a forward pass."""
        return (torch.randn(batch, 3, self.num_frames, self.size, self.size),)
