"""Video files made here."""

import av
import torch


def write_clip(path, frames, codec="mpeg4", rate=10, pix_fmt="yuv420p", b_frames=0, muxer=None, **options):
    """Frames (T,3,H,W), uint8, as a video file; ``muxer``, ``options``: of the container and of the codec."""
    if codec in ("mpeg4", "mpeg2video", "mjpeg"):
        options = {"qmin": "1", "qmax": "3", **options}  # or they are too coarse to tell gray values 6 apart
    with av.open(str(path), "w", options=muxer or {}) as container:
        stream = container.add_stream(codec, rate=rate, options=options)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[2:], pix_fmt
        stream.codec_context.max_b_frames = b_frames
        for frame in frames.permute(0, 2, 3, 1).contiguous():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame.numpy(), format="rgb24")))
        container.mux(stream.encode())
    return path


def numbered_frames(count, height=32, width=48):
    """Frames whose gray value tells their number, 6 apart from 16 on: up to 40 of them."""
    values = 16 + 6 * torch.arange(count, dtype=torch.uint8)
    return values[:, None, None, None].expand(count, 3, height, width).contiguous()


def numbers_of(frames):
    """The numbers that decoded ``numbered_frames`` (T,C,H,W) tell."""
    return ((frames.float().mean((1, 2, 3)) - 16) / 6).round().int().tolist()
