"""Feature pooling over long videos: Ng et al. 2015, "Beyond Short Snippets", https://arxiv.org/abs/1503.08909, 3.1."""

from typing import Any

import torch
from torch import nn

from fastrcn import backends
from fastrcn.functional import conv3d_relu_maxpool3d
from fastrcn.models.caffenet import AlexNet
from fastrcn.models.registry import register

FRAME_SIZE = 220
POOLINGS = ("conv", "late", "slow", "local", "time_domain")
WINDOW, STRIDE = 10, 5
"""Frames of a window and between windows, of slow and local pooling."""


def max_over_time(x, dim=1):
    """The largest value at each place. Its gradient reaches one frame only, the one that was chosen."""
    return x.max(dim).values


def windowed_max(maps):
    """Max over windows of 10 frames, every 5: (N,T,...) -> (N,(T-10)//5+1,...); frames that fill no window are left."""
    return maps.unfold(1, WINDOW, STRIDE).max(-1).values


def sampled_frames(num_frames, fps, *, length=300, rate=1.0):
    """Indices of the frames that a long clip is made of: ``rate`` a second from the start, at most ``length``.

    A video with fewer is repeated from its start, so there are always ``length`` indices.

    Args:
        num_frames, fps: of the video.
    Raises: ValueError naming the argument.
    """
    if num_frames < 1 or length < 1:
        raise ValueError(f"num_frames, length: expected positive ints, got {num_frames}, {length}")
    if not 0 < rate <= fps:
        raise ValueError(f"rate: expected a positive number of at most fps={fps}, got {rate}")
    distance = fps / rate
    known = []
    while len(known) < length and int(len(known) * distance) < num_frames:
        known.append(int(len(known) * distance))
    return [known[k % len(known)] for k in range(length)]


def flow_pairs(num_frames, fps, frames, *, rate=15.0):
    """For each of ``frames`` the two frames that its optical flow is computed of, 1/15 s apart.

    The frame and the next at ``rate`` a second; at the video's end the one before and the frame.

    Raises: ValueError where the video is shorter than that distance, or a frame is not in it.
    """
    distance = max(1, round(fps / rate))
    pairs = []
    for frame in frames:
        if not 0 <= frame < num_frames or num_frames <= distance:
            raise ValueError(f"frames: expected frames of a video of more than {distance}, "
                             f"got {frame} of {num_frames}")  # fmt: skip
        first = frame if frame + distance < num_frames else frame - distance
        if first < 0:
            raise ValueError(f"frames: expected a neighbour {distance} frames away, got {frame} of {num_frames}")
        pairs.append((first, first + distance))
    return pairs


_PAPER = "Ng et al. 2015, arXiv 1503.08909"
_SMALL = {
    "num_classes": 5, "hidden": 12, "num_frames": 20, "feature_shape": (8, 1, 1), "channels": 6,
    "cnn_options": {"width": 2, "size": 64},
}  # fmt: skip


@register("short_snippets_conv", paper=_PAPER, small=_SMALL, pooling="conv")
@register("short_snippets_late", paper=_PAPER, small=_SMALL, pooling="late")
@register("short_snippets_slow", paper=_PAPER, small=_SMALL, pooling="slow")
@register("short_snippets_local", paper=_PAPER, small=_SMALL, pooling="local")
@register(
    "short_snippets_time_domain", paper=_PAPER, kernels="conv3d_relu_maxpool3d", small=_SMALL, pooling="time_domain"
)
@register(
    "short_snippets_time_domain_1x1", paper=_PAPER, kernels="conv3d_relu_maxpool3d", small=_SMALL,
    pooling="time_domain", kernel_size=(1, 1, 1), stride=(1, 1, 1),
)  # fmt: skip
class ShortSnippetsPooling(nn.Module):
    """A CNN for every frame, its last maps pooled over time, and fully connected layers.

    ==============  =====================================================================================
    pooling         net
    ==============  =====================================================================================
    "conv"          max over all frames - fc6 - fc7 - classifier
    "late"          fc6 - fc7 for each frame, max over all frames - classifier
    "slow"          max over windows of 10 frames, every 5 - fc6 for each, max over windows - fc7 - classifier
    "local"         max over the same windows - fc6 - fc7 for each, side by side - classifier
    "time_domain"   convolution over 10 frames, every 5, and 3x3 places, 256 maps, ReLU, max over time - fc6 - fc7 -
                    classifier
    ==============  =====================================================================================

    Args:
        num_classes: outputs, 487 for Sports-1M.
        pooling: one of the above.
        num_frames: of a clip: 120, 30 or 1; "local" is made for it, the others take any number that fills a window.
        cnn: "alexnet" (without its fully connected layers, 220x220 frames), a module that maps frames (M,...) to
            ``feature_shape``, or None: the input is such maps.
        feature_shape: (C,h,w) of the maps.
        cnn_options: of the AlexNet.
        hidden: units of fc6 and fc7. dropout: after each of them.
        kernel_size, stride, channels: of the convolution over time, (frames, height, width). Summaries of the paper
            speak of a 1x1 convolution that reduces dimensions; that is ``short_snippets_time_domain_1x1``.
        backend: of the convolution over time.
    Shapes: frames (N,T,3,220,220), or maps (N,T,C,h,w) without a CNN -> scores before softmax (N,num_classes).
    Raises: ValueError naming the argument.

    Apart from the convolution over time all variants have the same parameters but for "local"'s classifier, and fc6 of
    "time_domain" where ``channels`` differs from the maps': one can start from another, or from fewer frames.
    """

    def __init__(
        self, num_classes=487, pooling="conv", *, num_frames=120, cnn: Any = "alexnet", feature_shape=(256, 5, 5),
        cnn_options=None, hidden=4096, dropout=0.6, kernel_size=(10, 3, 3), stride=(5, 1, 1), channels=256,
        backend=None,
    ):  # fmt: skip
        super().__init__()
        if pooling not in POOLINGS:
            raise ValueError(f"pooling: expected one of {', '.join(POOLINGS)}, got {pooling!r}")
        if isinstance(cnn, str) and cnn != "alexnet":
            raise ValueError(f'cnn: expected "alexnet", a module or None, got {cnn!r}')
        if cnn_options is not None and cnn != "alexnet":
            raise ValueError(f"cnn_options: expected None unless the cnn is alexnet, got {cnn_options}")
        self.pooling, self.num_frames, self.feature_shape = pooling, num_frames, tuple(feature_shape)
        self.backend = backends.check_choice(backend)
        self.frame_size: int | None = None
        if cnn == "alexnet":
            alexnet = AlexNet(None, **{"size": FRAME_SIZE, **(cnn_options or {})})
            self.cnn, self.frame_size = alexnet.features, alexnet.size
        else:
            self.cnn = cnn
        depth, height, width = self.feature_shape
        self.window = {"slow": WINDOW, "local": WINDOW, "time_domain": kernel_size[0]}.get(pooling, 1)
        if num_frames < self.window:
            raise ValueError(f"num_frames: expected at least {self.window}, one window, got {num_frames}")
        if pooling == "time_domain":
            if any(k % 2 == 0 for k in kernel_size[1:]):
                raise ValueError(f"kernel_size: expected odd numbers over height and width, got {kernel_size}")
            around = (0, kernel_size[1] // 2, kernel_size[2] // 2)
            self.conv = nn.Conv3d(depth, channels, kernel_size, stride, around)
            depth, height, width = channels, (height - 1) // stride[1] + 1, (width - 1) // stride[2] + 1
        self.fc6 = nn.Sequential(nn.Linear(depth * height * width, hidden), nn.ReLU(), nn.Dropout(dropout))
        self.fc7 = nn.Sequential(nn.Linear(hidden, hidden), nn.ReLU(), nn.Dropout(dropout))
        windows = (num_frames - WINDOW) // STRIDE + 1 if pooling == "local" else 1
        self.classifier = nn.Linear(windows * hidden, num_classes)

    def _maps(self, frames):
        if frames.dim() != 5:
            raise ValueError(f"frames: expected 5 dimensions (N,T,...), got shape {tuple(frames.shape)}")
        if self.frame_size and tuple(frames.shape[2:]) != (3, self.frame_size, self.frame_size):
            expected = f"(N,T,3,{self.frame_size},{self.frame_size})"
            raise ValueError(f"frames: expected {expected}, got shape {tuple(frames.shape)}")
        steps = frames.shape[1]
        if steps < self.window or (self.pooling == "local" and steps != self.num_frames):
            expected = f"{self.num_frames}" if self.pooling == "local" else f"at least {self.window}"
            raise ValueError(f"frames: expected {expected} of them, got {steps}")
        maps = frames if self.cnn is None else self.cnn(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])
        if tuple(maps.shape[2:]) != self.feature_shape:
            raise ValueError(f"feature_shape: expected maps {self.feature_shape}, got {tuple(maps.shape[2:])}")
        return maps

    def _max_of_convolution(self, maps):
        """Convolution over time, ReLU and the max over all its steps, as one operation: (N,C,h,w)."""
        conv: Any = self.conv
        steps = (maps.shape[1] - conv.kernel_size[0]) // conv.stride[0] + 1
        pooled = conv3d_relu_maxpool3d(
            maps.transpose(1, 2), conv.weight, conv.bias, stride=conv.stride, padding=conv.padding,
            pool_kernel_size=(steps, 1, 1), backend=self.backend,
        )  # fmt: skip
        return pooled[:, :, 0]

    def forward(self, frames):
        """Scores before softmax."""
        maps = self._maps(frames)
        if self.pooling == "conv":
            x = self.fc7(self.fc6(max_over_time(maps).flatten(1)))
        elif self.pooling == "late":
            x = max_over_time(self.fc7(self.fc6(maps.flatten(2))))
        elif self.pooling == "slow":
            x = self.fc7(max_over_time(self.fc6(windowed_max(maps).flatten(2))))
        elif self.pooling == "local":
            x = self.fc7(self.fc6(windowed_max(maps).flatten(2))).flatten(1)
        else:
            x = self.fc7(self.fc6(self._max_of_convolution(maps).flatten(1)))
        return self.classifier(x)

    def example_inputs(self, batch=1):
        """Arguments of a forward pass."""
        if self.cnn is not None and self.frame_size is None:
            raise ValueError("cnn: only the default one's input is known")
        shape: Any = self.feature_shape if self.cnn is None else (3, self.frame_size, self.frame_size)
        return (torch.randn(batch, self.num_frames, *shape),)
