"""3D-fused two-stream network: Carreira and Zisserman 2017, https://arxiv.org/abs/1705.07750, section 2.3, figure 2d.

After Feichtenhofer et al. 2016, arXiv 1604.06573: the streams meet at their last maps, not at their scores.
"""

import torch
from torch import nn

from fastrcn.layers import ConvReLUPool3d
from fastrcn.models.inception import InceptionV1
from fastrcn.models.registry import register

STREAMS = ("concatenate", "separate")


@register(
    "two_stream_3d_fused", paper="Carreira and Zisserman 2017, arXiv 1705.07750", kernels="conv3d_relu_maxpool3d",
    small={"num_classes": 5, "width": 8, "channels": 6, "flow_length": 1, "size": 143},
)  # fmt: skip
@register(
    "two_stream_3d_fused_separate", paper="Carreira and Zisserman 2017, arXiv 1705.07750", stream="separate",
    kernels="conv3d_relu_maxpool3d", small={"num_classes": 5, "width": 8, "channels": 6, "flow_length": 1, "size": 143},
)  # fmt: skip
class TwoStream3DFused(nn.Module):
    """Inception-v1 on 5 frames and on the flow of each; 3x3x3 convolution, ReLU and 3x3x3 max-pooling; a classifier.

    Args:
        num_classes: outputs.
        stream: "concatenate", the maps of both streams go through one convolution, or "separate", those of each through
            one of its own, and the classifier sees both.
        flow_length: fields of flow at each frame, as channels dx_1, dy_1, dx_2, dy_2, ... (``stack_flow``).
        channels: of the convolution.
        width: of both Inception-v1.
        size: height and width of ``example_inputs``; images of any size from 143 run.
        backend: of the convolution.
    Shapes: rgb (N,3,T,224,224), flow (N,T,2*flow_length,224,224) -> scores before softmax (N,num_classes). T is 5 in
        training, frames 10 apart, and 25 in tests; of longer clips and larger images the scores' mean over all places.
    Raises: ValueError naming the argument.

    The paper's "512x3x3x3" is the convolution. It and the pooling have no padding, so 5x7x7 maps become 3x5x5 and one
    cell; the convolution has a bias and no batch normalisation: with both the parameters are 39,770,384, the paper's
    39 million. "separate" has 39,975,696, which the paper does not exclude. The new layers start from Gaussian noise,
    as there; its deviation, 0.01, is ours.
    """

    heads = ("classifier",)

    def __init__(
        self, num_classes=400, *, stream="concatenate", flow_length=10, channels=512, width=64, size=224, backend=None
    ):  # fmt: skip
        super().__init__()
        if stream not in STREAMS:
            raise ValueError(f"stream: expected one of {', '.join(STREAMS)}, got {stream!r}")
        if size < 143:
            raise ValueError(f"size: expected at least 143, which give maps of 5x5, got {size}")
        self.stream, self.size = stream, size
        self.spatial = InceptionV1(None, 3, width=width)
        self.temporal = InceptionV1(None, 2 * flow_length, width=width)
        depth, heads = self.spatial.out_channels, 2
        if stream == "concatenate":
            depth, heads = 2 * depth, 1
        self.fusion = nn.ModuleList(
            ConvReLUPool3d(depth, channels, 3, pool_kernel_size=3, backend=backend) for _ in range(heads)
        )
        self.classifier = nn.Linear(heads * channels, num_classes)
        for name, parameter in [*self.fusion.named_parameters(), *self.classifier.named_parameters()]:
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            else:
                nn.init.normal_(parameter, std=0.01)

    def _maps(self, name, net, frames):
        """(N,T,C,H,W) -> the last maps (N,1024,T,h,w)."""
        maps = net.features(frames.flatten(0, 1))
        if min(maps.shape[-2:]) < 5:
            came = tuple(frames.shape[-2:])
            raise ValueError(f"{name}: expected images of at least 143x143, which give maps of 5x5, got {came}")
        return maps.unflatten(0, frames.shape[:2]).transpose(1, 2)

    def forward(self, rgb, flow):
        """Class scores before softmax."""
        channels = (self.spatial.in_channels, self.temporal.in_channels)
        if rgb.dim() != 5 or rgb.shape[1] != channels[0] or rgb.shape[2] < 5:
            raise ValueError(f"rgb: expected (N,{channels[0]},T,H,W) with at least 5 frames, got {tuple(rgb.shape)}")
        n, _, steps, height, width = rgb.shape
        if tuple(flow.shape) != (n, steps, channels[1], height, width):
            expected = (n, steps, channels[1], height, width)
            raise ValueError(f"flow: expected shape {expected} with rgb {tuple(rgb.shape)}, got {tuple(flow.shape)}")
        maps = [self._maps("rgb", self.spatial, rgb.transpose(1, 2)), self._maps("flow", self.temporal, flow)]
        if self.stream == "concatenate":
            maps = [torch.cat(maps, 1)]
        pooled = [fuse(x) for fuse, x in zip(self.fusion, maps, strict=True)]
        return self.classifier(torch.cat(pooled, 1).mean((2, 3, 4)))

    def example_inputs(self, batch=1):
        """Arguments of a forward pass."""
        flow = torch.randn(batch, 5, self.temporal.in_channels, self.size, self.size)
        return torch.randn(batch, 3, 5, self.size, self.size), flow
