"""Frames of video files, by PyAV (FFmpeg): ``pip install "fastrcn[demo]"`` has it."""

import itertools
import re
from contextlib import contextmanager
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from fastrcn.data.checks import height_and_width, numbers_within


def _av() -> Any:
    try:
        import av
        import av.error
    except ImportError as error:
        raise ImportError('videos are read by PyAV, which is not installed: pip install "fastrcn[demo]"') from error
    return av


class VideoReader:
    """A video file: how many frames it has, of what size, and any of them.

    Frames are counted and found by the times that the file gives for each, without decoding; only where a file gives
    none (a bare stream) or ambiguous ones are they decoded for that. They come in the order in which they are shown, as
    they are stored: a rotation in the file's metadata is not applied. Where frames lie behind a key frame, only those
    from there on are decoded.

    Damage raises, and so does an end that was cut off. Only in MPEG streams, and in a Matroska or WebM file that does
    not tell its duration, it cannot be told from a shorter video.

    Args:
        path: the file.
    Attributes: path, height, width (pixels), rate (frames per second as a Fraction, None if the file does not tell),
        frames (how many).
    Raises: ImportError without PyAV; FileNotFoundError, or ValueError where it is no video that can be decoded, which
        name the file.
    """

    def __init__(self, path):
        self.path = Path(path)
        if not self.path.is_file():
            raise FileNotFoundError(f"video: there is no file {self.path}")
        with self._opened() as (_, stream):
            self.height, self.width = stream.codec_context.height, stream.codec_context.width
            self.rate = stream.average_rate or stream.guessed_rate
        if not self.height or not self.width:
            raise ValueError(f"video: {self.path} does not tell the size of its frames")

    @contextmanager
    def _opened(self):
        """The file and its video stream; what FFmpeg cannot do raises ValueError with the name of the file."""
        av = _av()
        try:
            with av.open(str(self.path)) as container:
                if not container.streams.video:
                    raise ValueError(f"video: {self.path} has no video stream")
                yield container, container.streams.video[0]
        except av.error.FFmpegError as error:
            why = "the file is empty" if not self.path.stat().st_size else error
            raise ValueError(f"video: {self.path} cannot be decoded: {why}") from error

    @cached_property
    def _times(self) -> list[int] | None:
        """When each frame is shown, in the stream's units; None where the file does not tell for every one."""
        with self._opened() as (container, stream):
            packets = [packet for packet in container.demux(stream) if packet.size]
            if any(packet.is_corrupt for packet in packets):
                raise ValueError(f"video: {self.path} cannot be decoded: it is damaged or cut off")
            times = [packet.pts for packet in packets if not packet.is_discard]
            if None in times or len(set(times)) < len(times):
                return None
            times.sort()
            if self._ends_early(container, stream, times):
                raise ValueError(f"video: {self.path} cannot be decoded: it is cut off, or damaged at its end")
        return times

    @staticmethod
    def _ends_early(container, stream, times):
        """Matroska and WebM may end anywhere without a fault, but most tell in a tag how long the stream should be."""
        tag = re.fullmatch(r"(\d+):(\d+):(\d+\.?\d*)", stream.metadata.get("DURATION", ""))
        if "matroska" not in container.format.name or tag is None or len(times) < 2:
            return False
        hours, minutes, seconds = map(Fraction, tag.groups())
        end = (3600 * hours + 60 * minutes + seconds) / stream.time_base
        longest = max(b - a for a, b in itertools.pairwise(times))
        return end - times[-1] > 2 * longest  # the last frame's own time may be a little longer than the others'

    @cached_property
    def frames(self) -> int:
        """How many there are. Raises ValueError where there is none."""
        count = len(self._times) if self._times is not None else sum(1 for _ in self._decoded(0))
        if not count:
            raise ValueError(f"video: {self.path} has no frames")
        return count

    def _decoded(self, first):
        """Pairs (index, frame) from ``first`` or from before it, to the end."""
        if first and self._times is not None:
            # Seeking may miss in some containers, and frames before the first key frame lack what they refer to.
            with self._opened() as (container, stream):
                container.seek(self._times[first], stream=stream, backward=True)
                found = itertools.dropwhile(lambda frame: not frame.key_frame, container.decode(stream))
                start = next(found, None)
                if start is not None and start.pts is not None and start.pts <= self._times[first]:
                    yield from self._numbered(itertools.chain([start], found))
                    return
        with self._opened() as (container, stream):
            yield from self._numbered(container.decode(stream))

    def _numbered(self, decoded):
        places = None if self._times is None else {time: index for index, time in enumerate(self._times)}
        for count, frame in enumerate(decoded):
            index = count if places is None else places.get(frame.pts)
            if index is None:
                raise ValueError(f"video: {self.path} cannot be decoded: a frame at a time that it does not list")
            if frame.is_corrupt:
                raise ValueError(f"video: {self.path} cannot be decoded: frame {index} is damaged")
            yield index, frame

    def check(self):
        """Decodes every frame. Raises ValueError, which names the file, where one cannot be."""
        there = {index for index, _ in self._decoded(0)}
        if len(there) < self.frames:
            raise ValueError(f"video: {self.path} cannot be decoded: {self.frames - len(there)} frames are missing")

    def read(self, indices=None, *, size=None, gray=False):
        """Frames, uint8.

        Args:
            indices: (T,) of frames, in any order and any number of times; None for all.
            size: height and width that they are resized to, or one number for both, each pixel the mean of its area;
                None: as they are.
            gray: luma instead of red, green and blue.
        Returns: (T,3,H,W) or (T,1,H,W).
        Raises: ValueError naming the argument and the file, or the file where it cannot be decoded.
        """
        name = f"indices of frames of {self.path}"
        wanted = numbers_within(name, range(self.frames) if indices is None else indices, self.frames)
        height, width = (self.height, self.width) if size is None else height_and_width("size", size)
        left, images = set(wanted), {}
        for index, frame in self._decoded(min(wanted)):
            if index in left:
                if size is None and (frame.height, frame.width) != (height, width):
                    came = f"{frame.height}x{frame.width}, others {height}x{width}: name a size"
                    raise ValueError(f"video: {self.path} changes its size: frame {index} is {came}")
                frame = frame.reformat(
                    width=width, height=height, format="gray" if gray else "rgb24", interpolation="AREA"
                )
                images[index] = torch.from_numpy(frame.to_ndarray().reshape(height, width, -1)).permute(2, 0, 1).clone()
                left.discard(index)
            if not left:
                break
        if left:
            raise ValueError(f"video: {self.path} cannot be decoded: frame {min(left)} is missing")
        return torch.stack([images[index] for index in wanted]).contiguous()


def read_clip(path, height, multiple, fewest, color=False) -> torch.Tensor:
    """All frames of a video, gray (T,1,H,W), float32 from 0 to 1, at a height with the video's proportions.

    With ``color`` RGB (T,3,H,W). H and W are rounded to ``multiple``. Raises as ``VideoReader``, and ValueError where
    the video has less than ``fewest`` frames.
    """
    video = VideoReader(path)
    if video.frames < fewest:
        raise ValueError(f"video: {video.path} has {video.frames} frames, at least {fewest} are needed")
    sides = height, height * video.width / video.height
    size = tuple(max(multiple, round(side / multiple) * multiple) for side in sides)
    return video.read(size=size, gray=not color).float() / 255
