"""Windows of sequences for forecasting: a number of frames that is seen, and those after them that are forecast."""

import copy
from typing import NamedTuple

import torch
from torch.utils.data import Dataset

from fastrcn.data.checks import check_counts, height_and_width
from fastrcn.data.entries import frames_of, leave_out, pick, read_videos
from fastrcn.data.video import VideoReader


class Window(NamedTuple):
    """A window of a dataset: the number of its sequence, and its first frame there."""

    sequence: int
    start: int


def windows_of(sequence, first, end, length, step, name):
    """The windows of a sequence's frames from ``first`` to before ``end``, one beginning at each ``step``-th of them.

    Raises: ValueError with ``name``, the sequence's, where there are too few.
    """
    if end - first < length:
        raise ValueError(f"source: {name} has {end - first} frames, at least {length} are needed for a window")
    return [Window(sequence, start) for start in range(first, end - length + 1, step)]


class Windows(Dataset):
    """What datasets of windows have in common. An item is (past, future, valid).

    Shapes: past (J,C,H,W), future (K,C,H,W), both float32; valid (K,C,H,W), bool, where the future is known.

    Attributes: inputs (J), targets (K), windows (a ``Window`` for each item).
    """

    def __init__(self, windows, inputs, targets):
        self.windows, self.inputs, self.targets = windows, inputs, targets

    def _read(self, window):
        """All frames of a window (J+K,C,H,W), and where they are known, of the same shape."""
        raise NotImplementedError

    def _past(self, frames, known):
        """What of the past a model is given: its frames alone, unless a dataset gives what is known of them too."""
        return frames

    def __len__(self):
        return len(self.windows)

    def __getitem__(self, index):
        frames, known = self._read(self.windows[range(len(self))[index]])
        past = self._past(frames[: self.inputs], known[: self.inputs])
        return past, frames[self.inputs :], known[self.inputs :]

    def select(self, indices):
        """A copy of the dataset with these of its windows only, in this order.

        Raises: ValueError naming the argument.
        """
        chosen = copy.copy(self)
        chosen.windows = pick(self.windows, indices)
        return chosen

    def split(self, share):
        """Two copies of the dataset: the earlier and the later windows of every sequence, which share no frame.

        Of the frames that a sequence's windows reach over, the later windows lie in the last ``share``, which is made
        longer where it has none; the earlier ones end before it. Windows across that moment are left out. A sequence
        that is too short for a window on both sides stays whole among the earlier. Sequences that were made of the same
        frames, by lines of a CSV file, are not told from others.

        Args:
            share: more than 0, less than 1.
        Returns: (earlier, later).
        Raises: ValueError naming the argument, or where no sequence is long enough to be divided.
        """
        if not 0 < share < 1:
            raise ValueError(f"share: expected more than 0 and less than 1, got {share}")
        length = self.inputs + self.targets
        starts: dict[int, list[int]] = {}
        for window in self.windows:
            starts.setdefault(window.sequence, []).append(window.start)
        cuts = {}
        for sequence, those in starts.items():
            first, last = min(those), max(those)
            cut = min(last + length - round(share * (last + length - first)), last)
            cuts[sequence] = cut if first + length <= cut else last + length
        parts = [[], []]
        for index, window in enumerate(self.windows):
            if window.start + length <= cuts[window.sequence]:
                parts[0].append(index)
            elif window.start >= cuts[window.sequence]:
                parts[1].append(index)
        if not parts[1]:
            raise ValueError(f"share: expected a sequence long enough for two windows of {length} frames, got none")
        return self.select(parts[0]), self.select(parts[1])


class VideoWindows(Windows):
    """Windows of videos. Items as those of ``Windows``, with values from 0 to 1, all of them known.

    An item depends on its index only. Its frames are decoded each time, from the key frame before them on.

    Args:
        source: a video file; a folder of videos, or with such folders in it; a CSV file (``read_csv``).
        inputs, targets: frames that are seen, and that are forecast.
        size: height and width that frames are resized to, or one number for both. Proportions are not kept.
        gray: luma, C = 1, instead of red, green and blue.
        step: frames from the beginning of a window to that of the next.
        skip_unreadable: leave out videos that are damaged or too short for a window; all are decoded for that.
            Otherwise those that cannot be opened or are too short raise at once, damaged ones when they are read.
    Attributes: those of ``Windows``; entries (one for each sequence), skipped (pairs of an entry and why it was left
        out).
    Raises: ValueError naming the argument, or the video; FileNotFoundError.
    """

    def __init__(self, source, inputs, targets, *, size, gray=False, step=1, skip_unreadable=False):
        check_counts(inputs=inputs, targets=targets, step=step)
        self.size, self.gray = height_and_width("size", size), gray
        length = inputs + targets
        self.entries, self.skipped = read_videos(source), []

        def check(entry):
            video = VideoReader(entry.path)
            windows_of(0, *frames_of(entry, video), length, step, entry.path)
            video.check()

        if skip_unreadable:
            self.entries, self.skipped = leave_out(self.entries, check)
        if not self.entries:
            raise ValueError(f"source: expected at least one video that can be read in {source}")
        self._videos = [VideoReader(entry.path) for entry in self.entries]
        windows = []
        for number, (entry, video) in enumerate(zip(self.entries, self._videos, strict=True)):
            windows += windows_of(number, *frames_of(entry, video), length, step, entry.path)
        super().__init__(windows, inputs, targets)

    def _read(self, window):
        numbers = range(window.start, window.start + self.inputs + self.targets)
        frames = self._videos[window.sequence].read(numbers, size=self.size, gray=self.gray).float() / 255
        return frames, torch.ones_like(frames, dtype=torch.bool)
