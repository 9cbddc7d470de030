"""Reading videos: the right frames out of many containers, and errors that name the file."""

from fractions import Fraction

import av
import pytest
import torch

from fastrcn.data import VideoReader, read_clip
from tests.helpers.clips import numbered_frames, numbers_of, write_clip

# With key frames every 8 frames, so that seeking is used. In some of these seeking misses: AVI with B frames, MPEG.
KINDS = {
    "h264.mp4": {"codec": "libx264", "g": "8"},
    "h264_b.mp4": {"codec": "libx264", "b_frames": 2, "g": "8"},
    "mpeg4.mp4": {"g": "8"},
    "mpeg4.avi": {"g": "8"},
    "mpeg4_b.avi": {"b_frames": 2, "g": "8"},
    "h264.avi": {"codec": "libx264", "b_frames": 2, "g": "8"},
    "h264.mkv": {"codec": "libx264", "b_frames": 2, "g": "8"},
    "vp8.webm": {"codec": "libvpx", "g": "8"},
    "vp9.webm": {"codec": "libvpx-vp9", "g": "8"},
    "mjpeg.mov": {"codec": "mjpeg", "pix_fmt": "yuvj420p"},
    "mpeg2.mpg": {"codec": "mpeg2video", "b_frames": 2, "rate": 25, "g": "8"},
    "h264.ts": {"codec": "libx264", "b_frames": 2, "g": "8"},
    "bare.h264": {"codec": "libx264", "b_frames": 2, "g": "8"},
}


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    return {name: write_clip(folder / name, numbered_frames(40), **options) for name, options in KINDS.items()}


@pytest.mark.parametrize("name", KINDS)
def test_frames_by_number(clips, name):
    video = VideoReader(clips[name])
    assert (video.frames, video.height, video.width) == (40, 32, 48)
    assert video.rate == (25 if name in ("mpeg2.mpg", "bare.h264") else 10)
    assert numbers_of(video.read()) == list(range(40))
    for wanted in ([0], [39], [20], [15, 16, 17], [7, 6, 5], [3, 30, 3, 11], [38, 39, 0, 1]):
        assert numbers_of(video.read(wanted)) == wanted
    every = video.read(gray=True)
    for start in range(40):
        assert torch.equal(video.read(torch.tensor([start]), gray=True)[0], every[start]), start


def test_counting_does_not_decode(clips, monkeypatch):
    monkeypatch.setattr(VideoReader, "_decoded", None)
    assert [VideoReader(clips[name]).frames for name in KINDS if name != "bare.h264"] == [40] * (len(KINDS) - 1)


def test_frames_behind_a_key_frame_are_read_from_there(clips):
    video = VideoReader(clips["h264.mkv"])
    assert 8 <= next(video._decoded(20))[0] <= 20
    assert next(video._decoded(0))[0] == 0


def test_colours_and_sizes(tmp_path):
    frames = torch.zeros(3, 3, 32, 48, dtype=torch.uint8)
    frames[0, 0], frames[1, 1], frames[2, 2] = 200, 200, 200  # red, green, blue
    frames[:, :, :, 24:] = 100
    video = VideoReader(write_clip(tmp_path / "c.mkv", frames, "ffv1", pix_fmt="yuv444p"))
    found = video.read()
    assert found.shape == (3, 3, 32, 48)
    assert found.dtype == torch.uint8
    assert (found.int() - frames.int()).abs().max() <= 3
    gray = video.read(gray=True)
    assert gray.shape == (3, 1, 32, 48)
    weights = torch.tensor([0.299, 0.587, 0.114])
    # luma is stored from 16 to 235, and read as it is stored
    luma = 16 + 219 / 255 * (frames.float() * weights[:, None, None]).sum(1, keepdim=True)
    assert min((gray - luma).abs().max(), (gray - (luma - 16) * 255 / 219).abs().max()) <= 3
    small = video.read([1], size=(16, 12))
    assert small.shape == (1, 3, 16, 12)
    assert (small[0, :, 8, 2].int() - torch.tensor([0, 200, 0])).abs().max() <= 3
    assert (small[0, :, 8, 10].int() - 100).abs().max() <= 3


def test_read_clip(clips):
    found = read_clip(clips["mpeg4.mp4"], 17, 4, 40, color=True)
    assert found.shape == (40, 3, 16, 24)
    assert found.dtype == torch.float32
    assert found.max() <= 1
    assert numbers_of(found * 255) == list(range(40))
    with pytest.raises(ValueError, match=r"video: .*mpeg4.mp4 has 40 frames, at least 41 are needed"):
        read_clip(clips["mpeg4.mp4"], 17, 4, 41)


def test_rates_that_are_no_whole_numbers(tmp_path):
    path = write_clip(tmp_path / "c.mp4", numbered_frames(10), rate=Fraction(30000, 1001))
    assert VideoReader(path).rate == Fraction(30000, 1001)


def test_frames_that_do_not_come_at_one_rate(tmp_path):
    path = tmp_path / "c.mkv"
    times = [0, 1, 2, 7, 8, 30, 31, 32, 50, 51]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"g": "3"})
        stream.height, stream.width, stream.pix_fmt = 32, 48, "yuv420p"
        for time, frame in zip(times, numbered_frames(10), strict=True):
            image = av.VideoFrame.from_ndarray(frame.permute(1, 2, 0).contiguous().numpy(), format="rgb24")
            image.pts, image.time_base = time, Fraction(1, 10)
            container.mux(stream.encode(image))
        container.mux(stream.encode())
    video = VideoReader(path)
    assert video.frames == 10
    for k in range(10):
        assert numbers_of(video.read([k])) == [k]


def raises(path, words, call=lambda video: video.read()):
    """The error names the file, and says this."""
    with pytest.raises((ValueError, FileNotFoundError), match=words) as caught:
        call(VideoReader(path))
    assert str(path) in str(caught.value)


def test_files_that_are_no_videos(tmp_path):
    raises(tmp_path / "none.mp4", "video: there is no file")
    raises(tmp_path, "video: there is no file")
    (tmp_path / "empty.mp4").write_bytes(b"")
    raises(tmp_path / "empty.mp4", "cannot be decoded: the file is empty")
    (tmp_path / "text.mp4").write_text("not a video " * 100)
    raises(tmp_path / "text.mp4", "cannot be decoded")
    with av.open(str(tmp_path / "sound.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        sound = av.AudioFrame.from_ndarray(torch.zeros(1, 800, dtype=torch.int16).numpy(), layout="mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
    raises(tmp_path / "sound.wav", "has no video stream")


@pytest.mark.parametrize(
    ("name", "options"),
    [("c.mp4", {"codec": "libx264", "muxer": {"movflags": "faststart"}}), ("c.avi", {})],
)
def test_damaged_files(tmp_path, name, options):
    frames = (torch.rand(40, 3, 64, 96) * 255).byte()
    path = write_clip(tmp_path / name, frames, g="8", **options)
    data = path.read_bytes()
    assert VideoReader(path).read().shape == (40, 3, 64, 96)
    path.write_bytes(data[: len(data) * 6 // 10])
    raises(path, "cannot be decoded: it is damaged or cut off", lambda video: video.frames)
    middle = len(data) // 2
    path.write_bytes(data[:middle] + bytes(3000) + data[middle + 3000 :])
    raises(path, "cannot be decoded")
    path.write_bytes(data[:100])
    raises(path, "cannot be decoded|has no video stream")


@pytest.mark.parametrize("name", ["c.mkv", "c.webm"])
def test_matroska_that_was_cut_off(tmp_path, name):
    frames = (torch.rand(40, 3, 64, 96) * 255).byte()
    path = write_clip(tmp_path / name, frames, "libvpx", g="8")
    data = path.read_bytes()
    assert VideoReader(path).frames == 40
    for share in (3, 6, 9):
        path.write_bytes(data[: len(data) * share // 10])
        raises(path, "cannot be decoded: it is (cut off|damaged)", lambda video: video.frames)


def test_frames_that_are_not_there(clips):
    path = clips["mpeg4.mp4"]
    for wanted in ([3, 40], [], [-1], [1.5], [True, False], 3, [[1]]):
        words = f"indices of frames of .*: expected whole numbers, at least one, each from 0 to 39, got {wanted!r}"
        with pytest.raises(ValueError, match=words.replace("[", r"\[")) as caught:
            VideoReader(path).read(wanted)
        assert str(path) in str(caught.value)
    with pytest.raises(ValueError, match=r"size: expected a positive int or two, height and width, got \(0, 4\)"):
        VideoReader(path).read(size=(0, 4))
