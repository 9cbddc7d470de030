"""Windows of videos: which frames they are, and how they are divided."""

import pytest
import torch
from torch.utils.data import DataLoader

from fastrcn.data import VideoReader, VideoWindows
from tests.helpers.clips import numbered_frames, numbers_of, write_clip


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("videos")
    for name, count in (("a/long.mp4", 20), ("b/short.avi", 9), ("b/middle.mkv", 12)):
        (root / name).parent.mkdir(exist_ok=True)
        write_clip(root / name, numbered_frames(count), g="8")
    return root


def numbers(item):
    past, future, _ = item
    return numbers_of(past * 255), numbers_of(future * 255)


def test_windows_of_a_video(root):
    path = root / "a" / "long.mp4"
    data = VideoWindows(path, 3, 2, size=(16, 24))
    assert len(data) == 16
    for start, (past, future, valid) in enumerate(data):
        assert past.shape == (3, 3, 16, 24)
        assert future.shape == valid.shape == (2, 3, 16, 24)
        assert valid.dtype == torch.bool
        assert valid.all()
        frames = VideoReader(path).read(range(start, start + 5), size=(16, 24)).to(torch.float32) / 255
        assert torch.equal(torch.cat([past, future]), frames)
        assert numbers_of(frames * 255) == list(range(start, start + 5))
    assert torch.equal(data[-1][0], data[15][0])
    gray = VideoWindows(path, 3, 2, size=16, gray=True, step=4)
    assert gray[0][0].shape == (3, 1, 16, 16)
    assert [window.start for window in gray.windows] == [0, 4, 8, 12]


def test_sources(root, tmp_path):
    by_class = VideoWindows(root, 3, 2, size=8, step=4)
    assert [entry.path.name for entry in by_class.entries] == ["long.mp4", "middle.mkv", "short.avi"]
    expected = [(0, 0), (0, 4), (0, 8), (0, 12), (1, 0), (1, 4), (2, 0), (2, 4)]
    assert by_class.windows == expected
    assert [numbers(by_class[k])[0][0] for k in range(8)] == [start for _, start in expected]
    assert VideoWindows(root / "b", 3, 2, size=8, step=4).windows == [(0, 0), (0, 4), (1, 0), (1, 4)]
    table = tmp_path / "list.csv"
    table.write_text(f"path,label,start,end\n{root / 'a' / 'long.mp4'},x,4,11\n{root / 'b' / 'short.avi'},x,,\n")
    data = VideoWindows(table, 3, 2, size=8, step=2)
    assert data.windows == [(0, 4), (0, 6), (1, 0), (1, 2), (1, 4)]
    assert numbers(data[1]) == ([6, 7, 8], [9, 10])


@pytest.mark.parametrize(
    ("share", "earlier", "later"),
    [
        # 20 frames, windows of 6 begin at 0 to 14; the later begin at 20 - round(share * 20) or after, at most at 14
        (0.5, [0, 1, 2, 3, 4], [10, 11, 12, 13, 14]),
        (0.3, list(range(9)), [14]),
        (0.05, list(range(9)), [14]),
        (0.69, [0], list(range(6, 15))),
    ],
)
def test_split(root, share, earlier, later):
    data = VideoWindows(root / "a", 4, 2, size=8)
    first, last = data.split(share)
    assert [window.start for window in first.windows] == earlier
    assert [window.start for window in last.windows] == later
    seen = [{k for item in part for group in numbers(item) for k in group} for part in (first, last)]
    assert not seen[0] & seen[1]
    assert len(data) == 15, "the dataset itself stays"


def test_split_of_several_and_of_steps(root):
    first, last = VideoWindows(root, 3, 2, size=8, step=4).split(0.4)
    # long: windows reach over 0 to 16, cut before 10; middle: over 0 to 8, too short to be divided; short likewise.
    assert first.windows == [(0, 0), (0, 4), (1, 0), (1, 4), (2, 0), (2, 4)]
    assert last.windows == [(0, 12)]
    assert VideoWindows(root, 3, 2, size=8).select([3, 1]).windows == [(0, 3), (0, 1)]
    with pytest.raises(
        ValueError, match="share: expected a sequence long enough for two windows of 5 frames, got none"
    ):
        VideoWindows(root / "b" / "short.avi", 3, 2, size=8).split(0.5)
    for share in (0, 1, -0.5, 20):
        with pytest.raises(ValueError, match="share: expected more than 0 and less than 1, got"):
            VideoWindows(root / "a", 3, 2, size=8).split(share)


def test_workers_and_batches(root):
    data = VideoWindows(root, 3, 2, size=8, step=4)
    plain = list(DataLoader(data, batch_size=3))
    for batch, other in zip(plain, DataLoader(data, batch_size=3, num_workers=2), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(batch, other, strict=True))
    assert plain[0][0].shape == (3, 3, 3, 8, 8)


def test_what_cannot_be_read(tmp_path):
    write_clip(tmp_path / "a.mp4", numbered_frames(10))
    write_clip(tmp_path / "b.mp4", numbered_frames(4))
    with pytest.raises(ValueError, match=r"source: .*b.mp4 has 4 frames, at least 5 are needed for a window"):
        VideoWindows(tmp_path, 3, 2, size=8)
    (tmp_path / "c.mp4").write_text("not a video")
    damaged = write_clip(tmp_path / "d.avi", (torch.rand(40, 3, 64, 96) * 255).byte(), g="8")
    data = damaged.read_bytes()
    damaged.write_bytes(data[: len(data) // 2] + bytes(3000) + data[len(data) // 2 + 3000 :])
    found = VideoWindows(tmp_path, 3, 2, size=8, skip_unreadable=True)
    assert [entry.path.name for entry in found.entries] == ["a.mp4"]
    assert {entry.path.name: why for entry, why in found.skipped}.keys() == {"b.mp4", "c.mp4", "d.avi"}
    assert all(str(entry.path) in why for entry, why in found.skipped)
    with pytest.raises(ValueError, match=r"video: .*d.avi cannot be decoded"):
        list(VideoWindows(damaged, 3, 2, size=8))
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(ValueError, match=r"source: expected a folder with nothing but videos .* got .*notes.txt"):
        VideoWindows(tmp_path, 3, 2, size=8)
    with pytest.raises(FileNotFoundError, match=r"source: there is no .*none"):
        VideoWindows(tmp_path / "none", 3, 2, size=8)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"source: expected at least one video that can be read in .*empty"):
        VideoWindows(tmp_path / "empty", 3, 2, size=8)


@pytest.mark.parametrize("name", ["inputs", "targets", "step", "size"])
def test_bad_options(root, name):
    with pytest.raises(ValueError, match=rf"{name}: expected a positive int.*, got 0"):
        VideoWindows(root, **{"inputs": 3, "targets": 2, "size": 8, name: 0})
