"""Actions of persons in a clip, as for AVA: Gu et al. 2018, https://arxiv.org/abs/1705.08421.

The head is that of Feichtenhofer et al. 2019, "SlowFast Networks", https://arxiv.org/abs/1812.03982, 5. The persons'
boxes are given: they come from a detector, on the clip's middle frame.
"""

import torch
from torch import nn

from fastrcn.models.i3d import I3D
from fastrcn.models.registry import register
from fastrcn.models.roi_align import roi_align
from fastrcn.models.slowfast import SlowFast


class RoIHead(nn.Module):
    """Classes of boxes: mean of the maps over time, RoIAlign, maximum over the bins, side by side for all pathways,
    dropout, linear layer.

    Args:
        in_channels: of the maps of all pathways together.
        num_classes: outputs, 80 for AVA; a person may do several things at once, so their probabilities are sigmoids.
        resolution: bins of a box over height and width.
        spatial_scale: from the boxes' pixels to the maps' cells.
        aligned: see ``roi_align``; False for weights that were converted from Caffe2.
        dropout: before the last layer.
    Shapes: a list of (N,C,T,H,W), one for each pathway; boxes (M,5): number of the clip, and x1, y1, x2, y2 in pixels
        -> scores before sigmoid (M,num_classes).
    Raises: ValueError naming the argument.
    """

    def __init__(
        self, in_channels, num_classes=80, *, resolution=7, spatial_scale=1 / 16, aligned=True, dropout=0.5
    ):  # fmt: skip
        super().__init__()
        self.in_channels, self.resolution = in_channels, resolution
        self.spatial_scale, self.aligned = spatial_scale, aligned
        self.dropout = nn.Dropout(dropout)
        self.projection = nn.Linear(in_channels, num_classes)
        nn.init.normal_(self.projection.weight, std=0.01)
        nn.init.zeros_(self.projection.bias)

    def forward(self, maps, boxes):
        """Scores before sigmoid."""
        channels = sum(m.shape[1] for m in maps)
        if channels != self.in_channels:
            raise ValueError(f"maps: expected {self.in_channels} channels in all pathways, got {channels}")
        regions = torch.cat([
            roi_align(m.mean(2), boxes, self.resolution, spatial_scale=self.spatial_scale, aligned=self.aligned)
            for m in maps
        ], 1)  # fmt: skip
        return self.projection(self.dropout(regions.amax((2, 3))))


def example_boxes(batch, size):
    """A box in the middle of each of ``batch`` clips (batch,5)."""
    box = torch.tensor([[0.0, size * 0.2, size * 0.1, size * 0.7, size * 0.9]]).repeat(batch, 1)
    box[:, 0] = torch.arange(batch)
    return box


_PAPERS = "Gu et al. 2018, arXiv 1705.08421; Feichtenhofer et al. 2019, arXiv 1812.03982"
_KERNELS = ("conv3d_relu_maxpool3d", "batch_norm_relu_maxpool3d")


@register(
    "slowfast_ava", paper=_PAPERS, kernels=_KERNELS,
    small={
        "num_classes": 5, "width": 16, "blocks": (2, 1, 1, 1), "num_frames": 8, "size": 48, "zero_init": False
    },
)  # fmt: skip
class SlowFastAVA(SlowFast):
    """SlowFast 8x8 that classifies boxes. Keys are PySlowFast's for detection.

    Its last stage has stride 1, so that its maps are a sixteenth of the frames' size.

    Args:
        num_classes: outputs, 80 for AVA.
        alpha, fusion_kernel: 4 and 7 for 8x8.
        resolution, aligned, dropout: of ``RoIHead``.
        options: the others of ``SlowFast``.
    Shapes: slow (N,3,T,H,W), fast (N,3,alpha*T,H,W), boxes (M,5) -> scores before sigmoid (M,num_classes).
    Raises: ValueError naming the argument.
    """

    def __init__(
        self, num_classes=80, *, alpha=4, fusion_kernel=7, resolution=7, aligned=True, dropout=0.5, **options
    ):  # fmt: skip
        super().__init__(None, alpha=alpha, fusion_kernel=fusion_kernel, res5_stride=1, **options)
        self.head = RoIHead(
            self.out_channels, num_classes, resolution=resolution, aligned=aligned, dropout=dropout
        )  # fmt: skip

    def forward(self, slow, fast, boxes):
        """Scores before sigmoid."""
        return self.head(self.features(slow, fast), boxes)

    def example_inputs(self, batch=1):
        """Arguments of a forward pass."""
        return (*super().example_inputs(batch), example_boxes(batch, self.size))


@register(
    "i3d_ava", paper="Gu et al. 2018, arXiv 1705.08421", kernels=_KERNELS,
    small={"num_classes": 5, "width": 16, "frames": 17, "size": 48},
)  # fmt: skip
class I3DAVA(I3D):
    """I3D up to Mixed_4e, that classifies boxes: the baseline of the data set's paper without its own person detector.

    Its trunk has the keys of pytorch-i3d. The paper adds optical flow by a second net of the same kind.

    Args:
        num_classes: outputs, 80 for AVA.
        in_channels: 3 for RGB, 2 for flow.
        resolution, aligned, dropout: of ``RoIHead``.
        frames, size: of ``example_inputs``; clips of any size run.
        options: the others of ``I3D``.
    Shapes: clip (N,in_channels,T,H,W), boxes (M,5) -> scores before sigmoid (M,num_classes).
    Raises: ValueError naming the argument.
    """

    heads = ("head.projection",)

    def __init__(
        self, num_classes=80, in_channels=3, *, frames=64, size=224, resolution=7, aligned=True, dropout=0.5, **options
    ):  # fmt: skip
        super().__init__(
            in_channels=in_channels, frames=frames, size=size, final_endpoint="Mixed_4e", **options
        )  # fmt: skip
        self.head = RoIHead(
            self.out_channels, num_classes, resolution=resolution, aligned=aligned, dropout=dropout
        )  # fmt: skip

    def forward(self, clip, boxes):
        """Scores before sigmoid."""
        return self.head([super().forward(clip)], boxes)

    def example_inputs(self, batch=1):
        """Arguments of a forward pass."""
        return (*super().example_inputs(batch), example_boxes(batch, self.size))
