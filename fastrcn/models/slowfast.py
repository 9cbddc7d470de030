"""SlowFast networks: Feichtenhofer, Fan, Malik and He 2019, https://arxiv.org/abs/1812.03982."""

import torch
from torch import nn

from fastrcn import backends
from fastrcn.layers.conv3d import run_conv_batch_norm
from fastrcn.models.registry import register
from fastrcn.models.video_resnet import BLOCKS, EXPANSION, TEMPORAL_KERNELS, Head, Stage, Stem, initialise

SAMPLINGS = ("linspace", "stride")
BETA_INVERSE = 8
"""Channels of the Slow pathway for one of the Fast one."""
FUSION_RATIO = 2
"""Channels of a lateral connection for one of the Fast pathway."""


def slow_frames(num_frames, alpha=8, sampling="linspace"):
    """Indices of the Fast pathway's frames that the Slow one sees, ``num_frames / alpha``.

    Args:
        sampling: "linspace", from the first frame to the last and cut to whole numbers (0, 10, 20, 31 of 32), as the
            published weights were trained; "stride", every alpha-th, as the paper says.
    Raises: ValueError naming the argument.
    """
    if alpha < 1 or num_frames < alpha or num_frames % alpha:
        raise ValueError(f"num_frames: expected a positive multiple of alpha={alpha}, got {num_frames}")
    if sampling == "linspace":
        places = torch.linspace(0, num_frames - 1, num_frames // alpha, device="cpu")
        return places.long().tolist()
    if sampling == "stride":
        return list(range(0, num_frames, alpha))
    raise ValueError(f"sampling: expected one of {', '.join(SAMPLINGS)}, got {sampling!r}")


class Lateral(nn.Module):
    """Fast maps, through a convolution over time with stride alpha, beside the Slow ones."""

    def __init__(self, fast_channels, kernel, alpha, backend=None):
        super().__init__()
        channels = FUSION_RATIO * fast_channels
        self.conv_f2s = nn.Conv3d(
            fast_channels, channels, (kernel, 1, 1), (alpha, 1, 1), (kernel // 2, 0, 0), bias=False
        )  # fmt: skip
        self.bn = nn.BatchNorm3d(channels)
        self.backend = backend

    def forward(self, maps):
        """[slow (N,C,T,H,W), fast (N,c,alpha*T,H,W)] -> [(N,C+2*c,T,H,W), fast]."""
        slow, fast = maps
        return [torch.cat([slow, run_conv_batch_norm(self.conv_f2s, self.bn, fast, backend=self.backend)], 1), fast]


_PAPER = "Feichtenhofer et al. 2019, arXiv 1812.03982"
_KERNELS = ("conv3d_relu_maxpool3d", "batch_norm_relu_maxpool3d")
_SMALL = {"num_classes": 5, "width": 16, "blocks": (2, 1, 1, 1), "num_frames": 16, "size": 48, "zero_init": False}


@register("slowfast_4x16_r50", paper=_PAPER, kernels=_KERNELS, small=_SMALL, alpha=8, fusion_kernel=5)
@register("slowfast_8x8_r50", paper=_PAPER, kernels=_KERNELS, small=_SMALL, alpha=4, fusion_kernel=7)
class SlowFast(nn.Module):
    """Two ResNets: a Slow one of few frames and many channels, a Fast one of many frames and few channels.

    ========  =======================  =====================  ==========================
    layer     Slow: kernel, channels   Fast: kernel, channels  Slow, with the lateral ones
    ========  =======================  =====================  ==========================
    conv1     1x7x7, 64                5x7x7, 8               80
    res2 x3   1x1x1, 256               3x1x1, 32              320
    res3 x4   1x1x1, 512               3x1x1, 64              640
    res4 x6   3x1x1, 1024              3x1x1, 128             1280
    res5 x3   3x1x1, 2048              3x1x1, 256
    ========  =======================  =====================  ==========================

    After all but the last a convolution over ``fusion_kernel`` Fast frames, every ``alpha``, gives maps to the Slow
    pathway. The kernels are those of the blocks' first convolutions; conv1 has a 1x3x3 max-pooling after it. Keys are
    PySlowFast's, whose weights have these names and shapes.

    Args:
        num_classes: outputs; None leaves the last layer out.
        alpha: Fast frames for each Slow one: 8 for 4x16 (4 frames, 16 apart), 4 for 8x8.
        fusion_kernel: 5 for 4x16, 7 for 8x8.
        in_channels: of the frames.
        width: channels of the Slow conv1, 64 in the paper, a multiple of 8; all others in proportion.
        blocks: of res2 to res5; (3, 4, 23, 3) makes ResNet-101.
        res5_stride: 2, or 1 with convolutions dilated by 2, for detection.
        sampling: of ``pathways``, see ``slow_frames``.
        zero_init: blocks let their inputs through at first.
        dropout: before the last layer.
        num_frames, size: of ``example_inputs``; clips of any length and size run.
        backend: of the convolutions with their normalisation, ReLU and pooling; None for the best that can run.
    Shapes: slow (N,in_channels,T,H,W), fast (N,in_channels,alpha*T,H,W) -> scores before softmax (N,num_classes), or
        (N,2304) without the last layer.
    Raises: ValueError naming the argument.

    The scores are of the mean over the whole clip, in evaluation too; PySlowFast there averages the probabilities of
    all windows of the training size.
    """

    heads = ("head.projection",)

    def __init__(
        self, num_classes: int | None = 400, *, alpha=8, fusion_kernel=5, in_channels=3, width=64, blocks=BLOCKS,
        res5_stride=2, sampling="linspace", zero_init=True, dropout=0.5, num_frames=32, size=224, backend=None,
    ):  # fmt: skip
        super().__init__()
        if width < BETA_INVERSE or width % BETA_INVERSE:
            raise ValueError(f"width: expected a multiple of {BETA_INVERSE}, got {width}")
        if len(blocks) != len(BLOCKS) or min(blocks) < 1:
            raise ValueError(f"blocks: expected {len(BLOCKS)} positive ints, got {blocks}")
        if fusion_kernel < 1 or fusion_kernel % 2 == 0:
            raise ValueError(f"fusion_kernel: expected an odd number, got {fusion_kernel}")
        if res5_stride not in (1, 2):
            raise ValueError(f"res5_stride: expected 1 or 2, got {res5_stride}")
        backends.check_choice(backend)
        slow_frames(num_frames, alpha, sampling)
        self.alpha, self.sampling, self.in_channels = alpha, sampling, in_channels
        self.num_frames, self.size = num_frames, size
        (slow_first, *slow_kernels), (fast_first, *fast_kernels) = TEMPORAL_KERNELS["slow"], TEMPORAL_KERNELS["fast"]
        slow, fast = width, width // BETA_INVERSE
        self.s1 = nn.ModuleDict({
            "pathway0_stem": Stem(in_channels, slow, slow_first, backend=backend),
            "pathway1_stem": Stem(in_channels, fast, fast_first, backend=backend),
        })  # fmt: skip
        for k, times in enumerate(zip(slow_kernels, fast_kernels, strict=True)):
            self.add_module(f"s{k + 1}_fuse", Lateral(fast, fusion_kernel, alpha, backend))
            inner = (width << k, (width << k) // BETA_INVERSE)
            stride = (1, 2, 2, res5_stride)[k]
            dilation = 2 if k == 3 and res5_stride == 1 else 1
            joined = slow + FUSION_RATIO * fast
            stage = Stage((joined, fast), inner, times, blocks[k], stride, dilation, backend=backend)
            self.add_module(f"s{k + 2}", stage)
            slow, fast = (EXPANSION * c for c in inner)
        self.out_channels = slow + fast
        self.head = Head(self.out_channels, num_classes, dropout)
        initialise(self, zero_init)

    def pathways(self, clip):
        """The two inputs of a clip (N,C,T,H,W) whose T is a multiple of alpha: (slow, fast)."""
        self._check(clip, "clip")
        return clip[:, :, slow_frames(clip.shape[2], self.alpha, self.sampling)], clip

    def _check(self, clip, name):
        if clip.dim() != 5 or clip.shape[1] != self.in_channels:
            raise ValueError(f"{name}: expected (N,{self.in_channels},T,H,W), got shape {tuple(clip.shape)}")

    def features(self, slow, fast):
        """The last maps of both pathways: [(N,2048,T,H/32,W/32), (N,256,alpha*T,H/32,W/32)]."""
        self._check(slow, "slow")
        batch, channels, frames, *size = slow.shape
        expected = (batch, channels, self.alpha * frames, *size)
        if tuple(fast.shape) != expected:
            raise ValueError(f"fast: expected {expected}, alpha={self.alpha} times slow's frames, "
                             f"got shape {tuple(fast.shape)}")  # fmt: skip
        maps = [self.s1["pathway0_stem"](slow), self.s1["pathway1_stem"](fast)]
        for k in range(len(BLOCKS)):
            maps = self.get_submodule(f"s{k + 1}_fuse")(maps)
            maps = self.get_submodule(f"s{k + 2}")(maps)
        return maps

    def forward(self, slow, fast):
        """Class scores before softmax."""
        return self.head(self.features(slow, fast))

    def example_inputs(self, batch=1):
        """Arguments of a forward pass."""
        return self.pathways(torch.randn(batch, self.in_channels, self.num_frames, self.size, self.size))
