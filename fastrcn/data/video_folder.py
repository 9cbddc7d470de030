"""Labelled videos as a torch Dataset: a folder with a folder per class, or a CSV file."""

import copy

import numpy as np
import torch
from torch.utils.data import Dataset

from fastrcn.data.checks import check_seed
from fastrcn.data.crops import color_jitter, resize, take_crop
from fastrcn.data.entries import Entry, frames_of, leave_out, pick, read_source
from fastrcn.data.flow_cache import FlowCache
from fastrcn.data.protocols import PROTOCOLS, Protocol
from fastrcn.data.sampling import at_rate
from fastrcn.data.video import VideoReader

INPUTS = ("frames", "flow", "both")


class VideoFolder(Dataset):
    """Clips of labelled videos, sampled and cropped by a paper's protocol.

    An item is (clip, label), or (frames, flow, label) with ``inputs="both"``. In training a clip is (T,3,size,size), at
    test (K,T,3,size,size): every crop of the first clip, then of the second, ..., for ``average_scores``. Frames are
    float32 from 0 to 1. Flow has 2 channels, in pixels: from each frame to the next (of those that the protocol's rate
    leaves), at the size that frames are resized to before they are cropped; a video has one field less than frames, and
    with flow clips are sampled from its fields.

    What is drawn depends on (seed, epoch, index) only, not on workers nor on what was read before. Call ``set_epoch``
    before each epoch; workers that persist hear it too.

    Args:
        source: a folder (``read_folder``), a CSV file (``read_csv``), or a list of ``Entry`` with their ``classes``.
        protocol: a name in ``PROTOCOLS``, or a ``Protocol``.
        train: one random clip and crop; False: all of the protocol's for tests.
        inputs: "frames", "flow" or "both".
        flow: a ``FlowCache``, which keeps flow on disk; None computes it every time, by TV-L1.
        seed: a number that is not negative.
        classes: names of all classes in order, where the source may lack some; None: those in the source.
        skip_unreadable: leave out videos that are damaged or too short for the protocol. All are decoded for that when
            the dataset is made, so that it does not depend on luck what is left out. Otherwise reading one raises.
    Attributes: entries, classes, skipped (pairs of an entry and why it was left out).
    Raises: ValueError naming the argument, or the video; FileNotFoundError.
    """

    def __init__(
        self, source, protocol, *, train=True, inputs="frames", flow=None, seed=0, classes=None, skip_unreadable=False
    ):  # fmt: skip
        if inputs not in INPUTS:
            raise ValueError(f"inputs: expected one of {', '.join(INPUTS)}, got {inputs!r}")
        check_seed(seed)
        if not isinstance(protocol, Protocol) and protocol not in PROTOCOLS:
            raise ValueError(f"protocol: expected a Protocol or one of {', '.join(PROTOCOLS)}, got {protocol!r}")
        self.protocol: Protocol = protocol if isinstance(protocol, Protocol) else PROTOCOLS[protocol]
        self.train, self.inputs, self.seed = train, inputs, seed
        self.flow = FlowCache() if flow is None else flow
        if isinstance(source, list):
            if classes is None:
                raise ValueError("classes: expected names of all classes with a list of entries, got None")
            self.entries, self.classes = source, list(classes)
        else:
            self.entries, self.classes = read_source(source)
        if classes is not None:
            self._rename(list(classes))
        self.skipped: list[tuple[Entry, str]] = []
        if skip_unreadable:
            self.entries, self.skipped = leave_out(self.entries, self._check)
        if not self.entries:
            raise ValueError(f"source: expected at least one video that can be read in {source}")
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def _rename(self, classes):
        unknown = sorted({self.classes[e.label] for e in self.entries} - set(classes))
        if unknown or len(set(classes)) < len(classes):
            raise ValueError(f"classes: expected each class once, {', '.join(unknown) or 'not twice'}, got {classes}")
        numbers = {name: number for number, name in enumerate(classes)}
        self.entries = [e._replace(label=numbers[self.classes[e.label]]) for e in self.entries]
        self.classes = classes

    def _check(self, entry):
        video = VideoReader(entry.path)
        self._clips(entry, video, torch.Generator())
        video.check()

    def __len__(self):
        return len(self.entries)

    def select(self, indices):
        """A copy of the dataset with these of its entries only, in this order, numbered anew; epochs are set apart.

        Args:
            indices: numbers of entries, for example a share that is held out.
        Raises: ValueError naming it.
        """
        chosen = copy.copy(self)
        chosen.entries = pick(self.entries, indices)
        chosen._epoch = self._epoch.clone().share_memory_()
        return chosen

    def set_epoch(self, epoch):
        """Other clips and crops are drawn in each epoch."""
        if epoch < 0:
            raise ValueError(f"epoch: expected a number that is not negative, got {epoch}")
        self._epoch.fill_(epoch)

    def _generator(self, index):
        words = np.random.SeedSequence((self.seed, int(self._epoch), index)).generate_state(2)
        return torch.Generator().manual_seed(int(words[0]) << 31 ^ int(words[1]))

    def _clips(self, entry, video, generator):
        """Frames that clips consist of, or pairs where there is flow: (K,T) or (K,T,2)."""
        frames = torch.arange(*frames_of(entry, video))
        if self.protocol.rate is not None:
            if video.rate is None:
                raise ValueError(f"source: {entry.path} does not tell its frames per second")
            frames = frames[at_rate(len(frames), video.rate, self.protocol.rate)]
        if self.inputs != "frames":
            frames = torch.stack([frames[:-1], frames[1:]], 1)
        try:
            if self.train:
                return frames[self.protocol.train_clip(len(frames), generator=generator)[None]]
            return frames[self.protocol.test_clips(len(frames))]
        except ValueError as error:
            raise ValueError(f"source: {entry.path} is too short: {error}") from error

    def __getitem__(self, index):
        index = range(len(self))[index]
        entry = self.entries[index]
        generator = self._generator(index)
        video = VideoReader(entry.path)
        clips = self._clips(entry, video, generator)
        frame = video.height, video.width
        side = self.protocol.random_side(generator=generator) if self.train else None
        size = self.protocol.frame_size(frame, side=side)
        protocol = self.protocol
        crops = [protocol.random_crop(size, generator=generator)] if self.train else protocol.test_crops(size)
        parts = []
        if self.inputs != "flow":
            of_frames = clips if self.inputs == "frames" else clips[..., 0]
            numbers, places = of_frames.unique(return_inverse=True)
            images = resize(video.read(numbers).float() / 255, size)
            if self.train and self.protocol.color_jitter:
                images = color_jitter(images, generator=generator)
            parts.append(_cropped(images, places, crops, flow=False))
        if self.inputs != "frames":
            pairs, places = clips.flatten(0, 1).unique(dim=0, return_inverse=True)
            fields = self.flow.fields(video, pairs, self.protocol.frame_size(frame))
            parts.append(_cropped(resize(fields, size, flow=True), places.view(clips.shape[:2]), crops, flow=True))
        if self.train:
            parts = [part[0] for part in parts]
        return (*parts, entry.label)


def _cropped(images, places, crops, flow):
    """Clips of images (M,C,H,W) at ``places`` (K,T), every crop of each: (K*crops,T,C,h,w)."""
    found = torch.stack([take_crop(images, crop, flow=flow) for crop in crops])  # (crops,M,C,h,w)
    return found[:, places].transpose(0, 1).flatten(0, 1)
