"""Two-stream I3D, of RGB and of optical flow: Carreira and Zisserman 2017, https://arxiv.org/abs/1705.07750."""

from torch import nn

from fastrcn.models.i3d import I3D, KERNELS, PAPER, SMALL
from fastrcn.models.registry import register

FUSIONS = ("logits", "probabilities")


@register("i3d_two_stream", paper=PAPER, kernels=KERNELS, small=SMALL)
class I3DTwoStream(nn.Module):
    """An I3D of RGB and one of flow, ``rgb`` and ``flow``. They are trained apart; their predictions meet in tests.

    Args:
        num_classes: outputs, 400 for Kinetics.
        fuse: "logits": their sum, as in the authors' code; "probabilities": the mean of their softmaxes, as the paper
            says.
        options: of both ``I3D``.
    Shapes: rgb (N,3,T,size,size), flow (N,2,T,size,size) -> (N,num_classes): logits, or probabilities.
    Raises: ValueError naming the argument.
    """

    heads = ("rgb.logits.conv3d", "flow.logits.conv3d")

    def __init__(self, num_classes=400, fuse="logits", **options):
        super().__init__()
        if fuse not in FUSIONS:
            raise ValueError(f"fuse: expected one of {', '.join(FUSIONS)}, got {fuse!r}")
        self.fuse = fuse
        self.rgb = I3D(num_classes, 3, **options)
        self.flow = I3D(num_classes, 2, **options)

    def forward(self, rgb, flow):
        """What both streams say together."""
        if rgb.shape[0] != flow.shape[0]:
            raise ValueError(f"flow: expected {rgb.shape[0]} clips as of rgb, got {flow.shape[0]}")
        logits = self.rgb(rgb), self.flow(flow)
        if self.fuse == "logits":
            return logits[0] + logits[1]
        return (logits[0].softmax(1) + logits[1].softmax(1)) / 2

    def example_inputs(self, batch=1):
        """Arguments of a forward pass."""
        return (*self.rgb.example_inputs(batch), *self.flow.example_inputs(batch))
