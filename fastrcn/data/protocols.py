"""How each paper samples and crops its videos, for training and for testing.

Simonyan and Zisserman 2014, arXiv 1406.2199; Donahue et al. 2015, arXiv 1411.4389; Tran et al. 2015, arXiv 1412.0767;
Wang et al. 2015, arXiv 1507.02159; Ballas et al. 2016, arXiv 1511.06432; Carreira and Zisserman 2017, arXiv 1705.07750;
Feichtenhofer et al. 2019, arXiv 1812.03982.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch

from fastrcn.data.crops import (
    SIDES,
    center_crop,
    multi_scale_crop,
    random_crop,
    random_flip,
    short_side_size,
    ten_crops,
    three_crops,
)
from fastrcn.data.sampling import dense_clips, random_clip, uniform_clips, whole_video


def middle_only(frame, size):
    """The middle of the frames, as a list of one crop."""
    return [center_crop(frame, size)]


def _keyword(function, name, wanted):
    """What a protocol's function is given under a name; ValueError where it cannot be given something else."""
    if wanted < 1:
        raise ValueError(f"{name}: expected a positive int, got {wanted}")
    value = getattr(function, "keywords", {}).get(name)
    if value is None:
        raise ValueError(f"{name}: expected None for a protocol whose functions do not name it, got {wanted}")
    return value


class Protocol(NamedTuple):
    """One way to make clips of a video. With others: ``PROTOCOLS["i3d"]._replace(rate=None)``.

    train_clip: (frames, generator=) -> indices (T,). test_clips: (frames) -> (K,T), whose scores are averaged.
    resize: the frames' short side, or their height and width, before they are cropped.
    train_crop: ((height, width), generator=) -> ``Crop``, which is then mirrored with probability one half.
    test_crops: ((height, width)) -> a list of ``Crop``. average: "prob" or "logit", of clips and crops.
    rate: frames per second that clips are made of; None: all that the video has.
    largest_side: if not None, the short side is drawn in training from ``resize`` to this. color_jitter: in training.
    """

    train_clip: Callable[..., Any]
    test_clips: Callable[..., Any]
    resize: int | tuple[int, int]
    train_crop: Callable[..., Any]
    test_crops: Callable[..., Any]
    average: str = "prob"
    rate: float | None = None
    largest_side: int | None = None
    color_jitter: bool = False

    def scaled(self, size=None, frames=None):
        """The same with crops of ``size`` pixels in training, all other sizes in proportion, and clips of ``frames``.

        Raises: ValueError naming what is not positive, or is not known of a protocol's own functions.
        """
        found = self
        if size is not None:
            old = _keyword(self.train_crop, "size", size)

            def to(value):
                if isinstance(value, int):
                    return max(1, round(value * size / old))
                return tuple(to(each) for each in value)

            crops = {}
            for name in ("train_crop", "test_crops"):
                function = getattr(self, name)
                if function.func is multi_scale_crop:
                    function = partial(function, sides=function.keywords.get("sides", SIDES))
                sizes = {key: to(value) for key, value in function.keywords.items() if key in ("size", "sides")}
                crops[name] = partial(function, **sizes)
            largest = None if self.largest_side is None else to(self.largest_side)
            found = found._replace(resize=to(self.resize), largest_side=largest, **crops)
        if frames is not None:
            _keyword(self.train_clip, "length", frames)
            clips = {}
            for name in ("train_clip", "test_clips"):
                function = getattr(self, name)
                clips[name] = partial(function, **{"fewest" if function.func is whole_video else "length": frames})
            found = found._replace(**clips)
        return found

    def frame_size(self, frame, *, side=None):
        """Height and width that frames of this size are resized to; ``side``: another short side, of training."""
        if isinstance(self.resize, tuple):
            return self.resize
        height, width = frame
        return short_side_size(height, width, side or self.resize)

    def random_side(self, *, generator=None):
        """The short side of a clip's frames in training; None where it is not drawn."""
        if self.largest_side is None:
            return None
        if isinstance(self.resize, tuple) or self.largest_side < self.resize:
            expected = f"None, or at least resize, a short side of {self.resize}"
            raise ValueError(f"largest_side: expected {expected}, got {self.largest_side}")
        return int(torch.randint(self.resize, self.largest_side + 1, (), generator=generator))

    def random_crop(self, frame, *, generator=None):
        """The crop of a clip in training, mirrored or not, of resized frames of this height and width."""
        return random_flip(self.train_crop(frame, generator=generator), generator=generator)


_ANY = partial(random_crop, size=224)
_CORNERS = partial(multi_scale_crop, size=224, corners=True)


def _two_stream(length, train_crop, **options):
    return Protocol(
        partial(random_clip, length=length), partial(uniform_clips, length=length, count=25),
        256, train_crop, partial(ten_crops, size=224), **options,
    )  # fmt: skip


def _kinetics(train_clip, test_clips):
    """Carreira and Zisserman: 25 frames per second, short videos looped."""
    return Protocol(train_clip, test_clips, 256, _ANY, partial(middle_only, size=224), rate=25.0)


PROTOCOLS = {
    "two_stream": _two_stream(1, _ANY, color_jitter=True),
    "two_stream_flow": _two_stream(10, _ANY),
    "very_deep_two_stream": _two_stream(1, _CORNERS),
    "very_deep_two_stream_flow": _two_stream(10, _CORNERS),
    "gru_rcn": _two_stream(10, partial(multi_scale_crop, size=224)),
    "lrcn": Protocol(
        partial(random_clip, length=16), partial(dense_clips, length=16, step=8),
        (240, 320), partial(random_crop, size=227), partial(ten_crops, size=227),
    ),
    "c3d": Protocol(
        partial(random_clip, length=16), partial(uniform_clips, length=16, count=10),
        (128, 171), partial(random_crop, size=112), partial(middle_only, size=112),
    ),
    "i3d": _kinetics(partial(random_clip, length=64, loop=True), partial(whole_video, fewest=64)),
    "convnet_lstm": _kinetics(
        partial(random_clip, length=25, stride=5, loop=True), partial(whole_video, stride=5, fewest=25)
    ),
    "two_stream_inception": _kinetics(partial(random_clip, length=1), partial(uniform_clips, length=1, count=25)),
    "two_stream_inception_flow": _kinetics(
        partial(random_clip, length=10, loop=True), partial(uniform_clips, length=10, count=25, loop=True)
    ),
    "slowfast": Protocol(
        partial(random_clip, length=32, stride=2), partial(uniform_clips, length=32, count=10, stride=2),
        256, partial(random_crop, size=224), partial(three_crops, size=256), largest_side=320,
    ),
}  # fmt: skip
"""By name. What ends in ``_flow`` counts fields of flow, the others frames. "slowfast" is also non-local nets'."""
