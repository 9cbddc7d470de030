"""C3D with batch normalisation, "3D-ConvNet": Carreira and Zisserman 2017, https://arxiv.org/abs/1705.07750, 2.2."""

from typing import Any

from torch import nn

from fastrcn.layers.conv3d import run_conv_batch_norm
from fastrcn.models.c3d import C3D, CHANNELS
from fastrcn.models.registry import register


@register(
    "c3d_batch_norm", paper="Carreira and Zisserman 2017, arXiv 1705.07750",
    kernels=("conv3d_relu_maxpool3d", "batch_norm_relu_maxpool3d"),
    small={
        "num_classes": 5, "channels": ((4,), (4,), (6, 6), (8, 8), (8, 8)), "hidden": 12, "size": 48, "bias": False
    },
)  # fmt: skip
class C3DBatchNorm(C3D):
    """C3D with a normalisation after every convolution and every fully connected layer but the classifier.

    pool1 halves time too, so it goes 16, 8, 4, 2, 1, and pool5 leaves it alone. The normalisation of conv3a is bn3a,
    that of fc6 bn6.

    Args:
        num_classes: outputs of fc8, 400 for Kinetics.
        pool5, channels, hidden, frames, size, dropout, backend: as in ``C3D``.
        bias: False leaves out the biases before a normalisation, which have no effect but on its running mean. With
            them the net has 79.66 million parameters, without 79.65; the paper says 79.
    Shapes: clip (N,3,frames,size,size) -> scores before softmax (N,num_classes).
    Raises: ValueError naming the argument.

    The paper does not give dropout and the weights' start; they are C3D's.
    """

    pool_times = (2, 2, 2, 2, 1)

    def __init__(
        self, num_classes=400, *, pool5="ceil", channels=CHANNELS, hidden=4096, frames=16, size=112, dropout=0.5,
        bias=True, backend=None,
    ):  # fmt: skip
        super().__init__(
            num_classes, pool5=pool5, channels=channels, hidden=hidden, frames=frames, size=size, dropout=dropout,
            backend=backend,
        )  # fmt: skip
        for name, module in list(self.named_children()):
            if name == "fc8" or not isinstance(module, (nn.Conv3d, nn.Linear)):
                continue
            conv = isinstance(module, nn.Conv3d)
            norm = nn.BatchNorm3d(module.out_channels) if conv else nn.BatchNorm1d(module.out_features)
            self.add_module(_norm_of(name), norm)
            if not bias:
                module.register_parameter("bias", None)

    def _convolve(self, name, x, pool):
        conv: Any = self.get_submodule(name)
        norm = self.get_submodule(_norm_of(name))
        return run_conv_batch_norm(conv, norm, x, True, pool, self.backend)

    def _connect(self, name, x):
        return self.get_submodule(_norm_of(name))(self.get_submodule(name)(x)).relu()


def _norm_of(name):
    return f"bn{name.removeprefix('conv').removeprefix('fc')}"
