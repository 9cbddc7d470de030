"""GRU-RCN of Ballas et al. 2016, https://arxiv.org/abs/1511.06432: recurrent levels on the maps of VGG-16.

Five ConvGRU levels read pool2, pool3, pool4, pool5 and fc7 of every frame. Each level's last state is averaged over its
map and classified, and the five class distributions are averaged. Three forms: levels on their own, levels that also
see the level below (section 3.2), and levels that run in both directions.
"""

import torch
from torch import nn
from torch.nn import functional as F

from fastrcn.data.sampling import average_scores
from fastrcn.layers import ConvGRU, StackedConvGRU
from fastrcn.models.registry import register
from fastrcn.models.vgg import VGG16

HIDDEN_SIZES = (64, 128, 256, 256, 512)
"""Widths of the levels on pool2, pool3, pool4, pool5 and fc7."""
MODES = ("independent", "bottom_up", "replace")
AVERAGES = {"probabilities": "prob", "logits": "logit"}
PAPER = "Ballas et al. 2016, arXiv 1511.06432"
SMALL = {"num_classes": 5, "hidden_sizes": (3, 4, 5, 5, 6), "width": 4, "fc": 8, "size": 32}


def check_average(average):
    if average not in AVERAGES:
        raise ValueError(f"average: expected one of {', '.join(AVERAGES)}, got {average!r}")
    return average


def fuse_rgb_flow(rgb, flow, weights=(1.0, 2.0)):
    """Weighted mean of the predictions of an RGB and a flow model, of one shape; flow counts twice by default."""
    if rgb.shape != flow.shape:
        raise ValueError(f"flow: expected the shape of rgb, {tuple(rgb.shape)}, got {tuple(flow.shape)}")
    if len(weights) != 2 or min(weights) < 0 or sum(weights) == 0:
        raise ValueError(f"weights: expected two numbers, not negative and not both 0, got {weights!r}")
    return (weights[0] * rgb + weights[1] * flow) / sum(weights)


def gru_parameter_counts(map_size, input_channels, hidden_channels, kernel_size=3) -> dict[str, int]:
    """Weights of a GRU whose state is a map, without biases, for the comparison in section 3.1.

    "conv_gru": three convolutions of the input and three of the state. "fc_gru_as_printed": the paper's N1 N2 Ox Oh per
    matrix, which counts the pixels of one side only. "fc_gru": every pixel of the state reads every pixel.
    """
    pixels = map_size[0] * map_size[1]
    pairs = 3 * hidden_channels * (input_channels + hidden_channels)
    return {"conv_gru": kernel_size**2 * pairs, "fc_gru_as_printed": pixels * pairs, "fc_gru": pixels**2 * pairs}


class FrameTaps(VGG16):
    """VGG-16 up to fc7, run on every frame; without ``train_cnn`` it has no gradients and stays in evaluation mode.

    To start from a net that was tuned on frames, load its state dict without the entries ``classifier.6``.
    """

    def __init__(self, in_channels, *, width, fc, size, train_cnn):
        super().__init__(None, in_channels, width=width, hidden=fc, size=size)
        self.train_cnn = bool(train_cnn)
        self.requires_grad_(self.train_cnn)
        self.train()

    def train(self, mode=True):
        return super().train(mode and self.train_cnn)

    def frame_taps(self, frames):
        """(N,T,C,H,W) -> pool2, pool3, pool4, pool5 and fc7 of every frame, each (N,T,c,h,w)."""
        if frames.dim() != 5 or 0 in frames.shape[1:]:
            raise ValueError(f"frames: expected (N,T,C,H,W) with at least one frame, got shape {tuple(frames.shape)}")
        with torch.set_grad_enabled(self.train_cnn and torch.is_grad_enabled()):
            return [tap.unflatten(0, frames.shape[:2]) for tap in self.taps(frames.flatten(0, 1))]

    def check_taps(self, taps):
        """Tap maps that were computed before, as ``frame_taps`` gives them."""
        sides = [self.size // 4, self.size // 8, self.size // 16, self.size // 32, 1]
        channels = list(self.tap_channels.values())[1:]
        shapes = [tuple(tap.shape) for tap in taps]
        expected = [(c, s, s) for c, s in zip(channels, sides, strict=True)]
        if [s[2:] for s in shapes] != expected or len({s[:2] for s in shapes}) != 1 or shapes[0][1] == 0:
            raise ValueError(f"taps: expected maps (N,T,...) of {expected}, got shapes {shapes}")
        return list(taps)


class RecurrentLevels(nn.Module):
    """The recurrent levels: tap maps (N,T,c,h,w) -> the last state of each, averaged over its map, (N,features).

    A level needs of the one below only the state of the same step, so running level by level over the whole sequence,
    with all states of the level below, is the same as running all levels inside each step.
    """

    def __init__(
        self, channels, hidden_sizes, kernel_size, *, mode, bottom_up_in_candidate, bidirectional, bias, backend,
        recompute,
    ):  # fmt: skip
        super().__init__()
        if mode not in MODES:
            raise ValueError(f"mode: expected one of {', '.join(MODES)}, got {mode!r}")
        if len(hidden_sizes) != len(channels):
            raise ValueError(f"hidden_sizes: expected {len(channels)} widths, got {tuple(hidden_sizes)}")
        if bidirectional and mode != "independent":
            raise ValueError(f'mode: expected "independent" with bidirectional levels, got {mode!r}')
        if bottom_up_in_candidate and mode != "bottom_up":
            raise ValueError(f'bottom_up_in_candidate: expected False unless mode is "bottom_up", got mode {mode!r}')
        self.mode = mode
        self.features = [size * (2 if bidirectional else 1) for size in hidden_sizes]
        kernels = [*[kernel_size] * (len(channels) - 1), 1]  # fc7 is a map of one pixel
        options = {"bias": bias, "batch_first": True, "backend": backend, "recompute": recompute}
        self.levels = nn.ModuleList()
        for k, (size, kernel) in enumerate(zip(hidden_sizes, kernels, strict=True)):
            if k and mode == "bottom_up":
                sizes = (channels[k], hidden_sizes[k - 1])
                level = StackedConvGRU(
                    sizes, size, kernel, bottom_up_in_candidate=bottom_up_in_candidate, **options
                )  # fmt: skip
            else:
                source = hidden_sizes[k - 1] if k and mode == "replace" else channels[k]
                level = ConvGRU(source, size, kernel, bidirectional=bidirectional, **options)
            self.levels.append(level)

    def forward(self, taps):
        found, states = [], None
        for level, x in zip(self.levels, taps, strict=True):
            if states is not None and self.mode != "independent":
                below = F.adaptive_max_pool2d(states.flatten(0, 1), x.shape[3:]).unflatten(0, x.shape[:2])
                x = (x, below) if self.mode == "bottom_up" else below
            states, last = level(x)
            found.append(last.mean((3, 4)).transpose(0, 1).flatten(1))  # each direction ends at its own end
        return found


@register("gru_rcn", paper=PAPER, kernels=("ConvGRU",), small=SMALL)
@register("gru_rcn_stacked", paper=PAPER, kernels=("ConvGRU", "StackedConvGRU"), small=SMALL, mode="bottom_up")
@register("gru_rcn_bidirectional", paper=PAPER, kernels=("ConvGRU",), small=SMALL, bidirectional=True)
class GRURCN(nn.Module):
    """Classifies a clip by recurrent levels on the maps of VGG-16.

    Args:
        num_classes: 101 in the paper.
        in_channels: 3 for RGB, 20 for ten stacked flow fields per frame.
        hidden_sizes: widths of the levels on pool2, pool3, pool4, pool5 and fc7.
        kernel_size: of the levels, input and state; 1 on fc7, whose map is one pixel.
        mode: "independent" levels (section 3.1); "bottom_up": the gates also see the level below at the same step,
            max-pooled to the level's size (3.2, GRU-RCN "stacked"); "replace": the usual stack, where that level takes
            the tap's place.
        bottom_up_in_candidate: with "bottom_up", the level below enters the candidate too, which it does not in the
            paper. (Its reset gate prints the state's term outside the logistic function; here it is inside.)
        bidirectional: levels in both directions; the last states of each one's own end are concatenated.
        bias: of the levels; the paper's equations have none.
        dropout: probability of dropping a feature before the classifiers.
        average: how the five predictions become one: mean of "probabilities" or of "logits".
        train_cnn: train VGG-16 too; otherwise it is frozen, in evaluation mode whatever ``train()`` says.
        width, fc, size: of VGG-16: channels of its first convolution, units of fc6 and fc7, side of a frame.
        backend, recompute: as the layers'.
    Shapes: frames (N,T,in_channels,size,size), T = 10 in the paper, or the list of five tap maps that ``taps`` gives
        -> scores (N,num_classes), probabilities by default, and the levels' logits (N,5,num_classes), for
        ``gru_rcn_loss``.
    Raises: ValueError naming the argument.

    The paper's "pool2 (56x56x64)" names the level's width: pool2 of VGG-16 has 128 channels. Dropout "probability 0.7"
    is read as the probability of dropping.
    """

    def __init__(
        self, num_classes=101, in_channels=3, *, hidden_sizes=HIDDEN_SIZES, kernel_size=3, mode="independent",
        bottom_up_in_candidate=False, bidirectional=False, bias=False, dropout=0.7, average="probabilities",
        train_cnn=False, width=64, fc=4096, size=224, backend=None, recompute=False,
    ):  # fmt: skip
        super().__init__()
        self.average = check_average(average)
        self.trunk = FrameTaps(in_channels, width=width, fc=fc, size=size, train_cnn=train_cnn)
        self.recurrent = RecurrentLevels(
            list(self.trunk.tap_channels.values())[1:], hidden_sizes, kernel_size, mode=mode,
            bottom_up_in_candidate=bottom_up_in_candidate, bidirectional=bidirectional, bias=bias, backend=backend,
            recompute=recompute,
        )  # fmt: skip
        self.dropout = nn.Dropout(dropout)
        self.classifiers = nn.ModuleList(nn.Linear(n, num_classes) for n in self.recurrent.features)

    def taps(self, frames):
        """What the levels read of the frames, to keep: a list of five maps (N,T,c,h,w)."""
        return self.trunk.frame_taps(frames)

    def features(self, frames):
        """The averaged last state of each level: a list of five (N,features)."""
        taps = self.taps(frames) if isinstance(frames, torch.Tensor) else self.trunk.check_taps(frames)
        return self.recurrent(taps)

    def forward(self, frames):
        """Scores of the clip, and logits of each level."""
        pairs = zip(self.classifiers, self.features(frames), strict=True)
        logits = torch.stack([classify(self.dropout(v)) for classify, v in pairs], 1)
        return average_scores(logits, AVERAGES[self.average]), logits

    def example_inputs(self, batch=1):
        """Arguments of a forward pass: ten frames."""
        return (torch.randn(batch, 10, self.trunk.in_channels, self.trunk.size, self.trunk.size),)
