"""Optical flow of video files, kept on disk once it is computed."""

import hashlib
import json
from pathlib import Path

import numpy as np
import torch

from fastrcn.data.optical_flow import optical_flow
from fastrcn.files import write_at_once


class FlowCache:
    """Flow from a frame of a video to one after it, each field in a file of its own.

    A field is found again by the file's path, size and time of change, the method with its options, the frames' numbers
    and their size, so that a file that was replaced has its flow computed anew. Fields are stored as computed, float32:
    8 bytes a pixel. Several processes may use one folder: a file appears at once, whole. Nothing is ever deleted.

    Args:
        folder: where files are; None computes every field anew.
        method, options: as of ``optical_flow``.
    """

    def __init__(self, folder=None, method="tv_l1", **options):
        self.folder = None if folder is None else Path(folder)
        self.method, self.options = method, options

    def _place(self, folder, video, size):
        stat = video.path.stat()
        key = [
            str(video.path.resolve()),
            stat.st_size,
            stat.st_mtime_ns,
            self.method,
            sorted(self.options.items()),
            size,
        ]
        return folder / hashlib.sha256(json.dumps(key).encode()).hexdigest()

    def fields(self, video, pairs, size):
        """The flow of pairs of frames, in pixels.

        Args:
            video: a ``VideoReader``. pairs: (L,2) of its frames. size: height and width that they are resized to.
        Returns: (L,2,*size), float32.
        Raises: as ``VideoReader.read`` and ``optical_flow``; ValueError naming a file of the cache that is damaged.
        """
        wanted = [tuple(pair) for pair in pairs.tolist()]
        found, place = {}, None
        if self.folder is not None:
            place = self._place(self.folder, video, list(size))
            found = {pair: _load(_file(place, pair), size) for pair in wanted if _file(place, pair).exists()}
        missing = sorted(set(wanted) - found.keys())
        if missing:
            numbers = sorted({number for pair in missing for number in pair})
            frames = dict(zip(numbers, video.read(numbers, size=size, gray=True), strict=True))
            for pair in missing:
                both = torch.stack([frames[number] for number in pair])[None]
                found[pair] = optical_flow(both, self.method, **self.options)[0, 0]
                if place is not None:
                    _store(_file(place, pair), found[pair])
        return torch.stack([found[pair] for pair in wanted])


def _file(place, pair):
    return place / f"{pair[0]:06d}-{pair[1]:06d}.npy"


def _load(path, size):
    try:
        field = torch.from_numpy(np.load(path, allow_pickle=False))
    except (ValueError, EOFError) as error:
        raise ValueError(f"cache: {path} is damaged, delete it: {error}") from error
    if field.shape != (2, *size) or field.dtype != torch.float32:
        raise ValueError(f"cache: {path} is damaged, delete it: {field.dtype} of shape {tuple(field.shape)}")
    return field


def _store(path, field):
    def write(place):
        with place.open("wb") as file:  # given a path, np.save would add a suffix
            np.save(file, field.numpy())

    path.parent.mkdir(parents=True, exist_ok=True)
    write_at_once(path, write)
