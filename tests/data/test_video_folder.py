"""Labelled videos: what an item is, that it can be repeated, flow kept on disk, and files that cannot be read."""

import itertools
from functools import partial

import pytest
import torch
from torch.utils.data import DataLoader

from fastrcn.data import (
    PROTOCOLS,
    FlowCache,
    Protocol,
    VideoFolder,
    VideoReader,
    average_scores,
    flow_cache,
    optical_flow,
    random_clip,
    random_crop,
    ten_crops,
    uniform_clips,
)
from tests.helpers.clips import numbered_frames, numbers_of, write_clip

SMALL = Protocol(
    partial(random_clip, length=4), partial(uniform_clips, length=4, count=3), 24, partial(random_crop, size=16),
    partial(ten_crops, size=16),
)  # fmt: skip


@pytest.fixture
def root(tmp_path):
    """Two classes, "jump" and "run", of one and of two videos."""
    root = tmp_path / "videos"
    for name, count in (("run/b.mp4", 20), ("run/a.avi", 30), ("jump/c.mkv", 12)):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        write_clip(root / name, numbered_frames(count))
    (root / ".hidden").write_text("")
    (root / "jump" / ".hidden").write_text("")
    return root


def equal(items, others):
    return all(all(torch.equal(torch.as_tensor(a), torch.as_tensor(b)) for a, b in zip(*pair, strict=True))
               for pair in zip(items, others, strict=True))  # fmt: skip


def test_a_folder_per_class(root):
    data = VideoFolder(root, SMALL)
    assert len(data) == 3
    assert data.classes == ["jump", "run"]
    assert [(entry.path.name, entry.label) for entry in data.entries] == [("c.mkv", 0), ("a.avi", 1), ("b.mp4", 1)]
    assert data.skipped == []
    for index, (clip, label) in enumerate(data):
        assert clip.shape == (4, 3, 16, 16)
        assert clip.dtype == torch.float32
        assert clip.max() <= 1
        assert label == data.entries[index].label
        numbers = numbers_of(clip * 255)
        assert numbers == list(range(numbers[0], numbers[0] + 4)), "frames that follow each other"
    assert equal([data[-1]], [data[2]])


def test_clips_of_a_test(root):
    clips, label = VideoFolder(root, SMALL, train=False)[1]
    assert clips.shape == (30, 4, 3, 16, 16)  # ten crops of each of three clips
    assert label == 1
    for k, start in enumerate((0, 13, 26)):
        for crop in range(10):
            assert numbers_of(clips[10 * k + crop] * 255) == list(range(start, start + 4))
    assert average_scores(torch.randn(1, 30, 2)).shape == (1, 2)


def test_crops_of_a_test_are_of_the_resized_frames(tmp_path):
    """A bright left half: corners on the left are bright, mirrored ones on the right."""
    (tmp_path / "x").mkdir()
    frames = torch.zeros(4, 3, 32, 64, dtype=torch.uint8)
    frames[..., :32] = 240
    write_clip(tmp_path / "x" / "a.mkv", frames, "ffv1", pix_fmt="yuv444p")
    clips, _ = VideoFolder(tmp_path, SMALL._replace(test_clips=partial(uniform_clips, length=4, count=1)), train=False)[
        0
    ]
    left, right = clips[..., :8].mean((1, 2, 3, 4)), clips[..., 8:].mean((1, 2, 3, 4))
    bright = 240 / 255
    expected_left = torch.tensor([bright, 0, bright, 0, bright, bright, 0, bright, 0, 0])
    expected_right = torch.tensor([bright, 0, bright, 0, 0, bright, 0, bright, 0, bright])
    torch.testing.assert_close(left, expected_left, rtol=0, atol=0.03)
    torch.testing.assert_close(right, expected_right, rtol=0, atol=0.03)


def test_items_depend_on_seed_epoch_and_index_only(root):
    data = VideoFolder(root, SMALL, seed=3)
    first = [data[k] for k in range(3)]
    assert equal([data[k] for k in (2, 0, 1)], [first[k] for k in (2, 0, 1)])
    assert equal(first, [VideoFolder(root, SMALL, seed=3)[k] for k in range(3)])
    starts = set()
    for epoch in range(20):
        data.set_epoch(epoch)
        starts.add(numbers_of(data[1][0] * 255)[0])
    assert len(starts) > 8, "of 27 places"
    data.set_epoch(0)
    assert equal(first, [data[k] for k in range(3)])
    assert not equal(first, [VideoFolder(root, SMALL, seed=4)[k] for k in range(3)])


def test_workers_give_the_same_and_hear_of_epochs(root):
    data, plain = VideoFolder(root, SMALL), VideoFolder(root, SMALL)
    loader = DataLoader(data, batch_size=None, num_workers=2, persistent_workers=True)
    epochs = []
    for epoch in (0, 1, 5):
        data.set_epoch(epoch)
        plain.set_epoch(epoch)
        epochs.append(list(loader))
        assert equal(epochs[-1], [plain[k] for k in range(3)])
    assert not equal(epochs[0], epochs[1])
    batch, labels = next(iter(DataLoader(data, batch_size=3)))
    assert batch.shape == (3, 4, 3, 16, 16)
    assert labels.tolist() == [0, 1, 1]


def test_csv(root):
    table = root / "train.csv"
    table.write_text("path,label,start,end\nrun/b.mp4,run,,\njump/c.mkv,jump,2,6\nrun/a.avi,run,25,\n")
    data = VideoFolder(table, SMALL)
    assert data.classes == ["jump", "run"]
    assert [label for _, label in data] == [1, 0, 1]
    assert numbers_of(data[1][0] * 255) == [2, 3, 4, 5]
    assert numbers_of(data[2][0] * 255)[0] in (25, 26)
    table.write_text("label,path\n3,run/b.mp4\n10,jump/c.mkv\n", encoding="utf-8-sig")  # as spreadsheets write it
    data = VideoFolder(table, SMALL)
    assert [label for _, label in data] == [3, 10], "whole numbers are taken as they are"
    assert len(data.classes) == 11


def test_classes_that_a_part_of_the_data_lacks(root):
    data = VideoFolder(root, SMALL, classes=["run", "swim", "jump"])
    assert [entry.label for entry in data.entries] == [2, 0, 0]
    with pytest.raises(ValueError, match="classes: expected each class once, run, got"):
        VideoFolder(root, SMALL, classes=["jump", "swim"])


def test_a_list_of_entries(root):
    whole = VideoFolder(root, SMALL)
    part = VideoFolder([whole.entries[1], whole.entries[0]], SMALL, classes=whole.classes)
    assert part.entries == [whole.entries[1], whole.entries[0]]
    assert part.classes == whole.classes
    assert part[0][-1] == whole.entries[1].label
    with pytest.raises(ValueError, match="classes: expected names of all classes with a list of entries, got None"):
        VideoFolder(whole.entries, SMALL)


def test_a_share_of_the_entries(root):
    data = VideoFolder(root, SMALL, train=False)
    part = data.select(torch.tensor([2, 0]))
    assert [entry.path.name for entry in part.entries] == ["b.mp4", "c.mkv"]
    assert equal(list(part), [data[2], data[0]])
    assert len(data) == 3, "the dataset itself stays"
    assert part.classes == data.classes
    drawn = VideoFolder(root, SMALL, seed=2)
    held_out = drawn.select([0, 1])
    before = list(held_out)
    drawn.set_epoch(5)
    assert equal(list(held_out), before), "epochs are set apart"
    words = r"indices: expected whole numbers, at least one, each from 0 to 2, got \["
    for wrong in ([3], [0, -1], [], [True, False, True], [0.5]):
        with pytest.raises(ValueError, match=words):
            data.select(wrong)


def test_rates(root):
    """Videos of 10 frames per second at 5."""
    clip, _ = VideoFolder(root, SMALL._replace(rate=5.0))[1]
    numbers = numbers_of(clip * 255)
    assert torch.tensor(numbers).diff().tolist() == [2, 2, 2]
    assert numbers[0] % 2 == 0


def moving_square(count):
    frames = torch.full((count, 3, 24, 48), 60, dtype=torch.uint8)
    for t, frame in enumerate(frames):
        frame[:, 6:18, 2 * t + 2 : 2 * t + 14] = 200
    return frames


@pytest.fixture
def moving(tmp_path):
    (tmp_path / "videos" / "right").mkdir(parents=True)
    write_clip(tmp_path / "videos" / "right" / "a.mkv", moving_square(8), "ffv1", pix_fmt="yuv444p")
    return tmp_path / "videos"


def test_flow_is_cropped_and_mirrored_as_the_frames_are(tmp_path, one_thread):
    """Each item against every crop of the whole frames: the one that shows its frames must show its flow too."""
    (tmp_path / "videos" / "x").mkdir(parents=True)
    texture = torch.nn.functional.interpolate(torch.rand(1, 3, 6, 12), size=(24, 48), mode="bicubic").clamp(0, 1)
    moving = torch.cat([(texture * 255).byte().roll(2 * t, -1) for t in range(6)])
    path = write_clip(tmp_path / "videos" / "x" / "a.mkv", moving, "ffv1", pix_fmt="yuv444p")
    still = SMALL._replace(train_clip=lambda frames, generator: torch.arange(frames))
    video = VideoReader(path)
    whole, gray = video.read().float() / 255, video.read(gray=True)
    fields = torch.cat([optical_flow(gray[None, t : t + 2], iterations=20)[0] for t in range(5)])
    assert fields[:, 0].median() == pytest.approx(2, abs=0.3)
    assert fields[:, 1].abs().median() < 0.3
    mirrorings, kept = set(), FlowCache(tmp_path / "cache", iterations=20)
    for seed in range(6):
        frames, flow, label = VideoFolder(tmp_path / "videos", still, inputs="both", flow=kept, seed=seed)[0]
        assert label == 0
        assert frames.shape == (5, 3, 16, 16)
        assert flow.shape == (5, 2, 16, 16), "one less than the video has frames"
        found = []
        for top, left, mirrored in itertools.product(range(9), range(33), (False, True)):
            image, field = (v[:, :, top : top + 16, left : left + 16] for v in (whole[:5], fields))
            if mirrored:
                image, field = image.flip(-1), field.flip(-1) * torch.tensor([-1.0, 1.0])[:, None, None]
            if torch.allclose(image, frames, rtol=0, atol=1e-6):
                found.append(field)
                mirrorings.add(mirrored)
        assert len(found) == 1
        torch.testing.assert_close(flow, found[0], rtol=0, atol=1e-5)
        (only, _) = VideoFolder(tmp_path / "videos", still, inputs="flow", flow=kept, seed=seed)[0]
        assert torch.equal(only, flow)
    assert mirrorings == {False, True}


def test_flow_is_kept_on_disk(moving, tmp_path, monkeypatch, one_thread):
    cache = FlowCache(tmp_path / "cache", iterations=10)
    kept = VideoFolder(moving, SMALL, inputs="flow", flow=cache, train=False)
    plain = VideoFolder(moving, SMALL, inputs="flow", flow=FlowCache(iterations=10), train=False)
    first = kept[0]
    assert first[0].shape == (30, 4, 2, 16, 16)
    assert equal([first], [plain[0]])
    files = list((tmp_path / "cache").rglob("*"))
    assert sorted(path.name for path in files if path.is_file()) == [f"{k:06d}-{k + 1:06d}.npy" for k in range(7)]
    (tmp_path / "plain").write_text("")
    assert {path.stat().st_mode for path in files if path.is_file()} == {(tmp_path / "plain").stat().st_mode}
    calls = []
    monkeypatch.setattr(flow_cache, "optical_flow", lambda *a, **k: calls.append(a) or optical_flow(*a, **k))
    assert equal([first], [kept[0]])
    assert not calls, "all of it was on disk"
    other = FlowCache(tmp_path / "cache", iterations=11)
    assert not torch.equal(VideoFolder(moving, SMALL, inputs="flow", flow=other, train=False)[0][0], first[0])
    assert len(calls) == 7
    write_clip(moving / "right" / "a.mkv", moving_square(8).flip(-1), "ffv1", pix_fmt="yuv444p")
    assert not equal([first], [kept[0]]), "another file in its place"
    assert len(calls) == 14
    for path in (tmp_path / "cache").rglob("*.npy"):
        path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match=r"cache: .*\.npy is damaged, delete it"):
        kept[0]


def test_a_field_that_could_not_be_written_leaves_nothing(moving, tmp_path, monkeypatch, one_thread):
    def full(file, values):
        file.write(b"begun")
        raise OSError("no space left")

    monkeypatch.setattr(flow_cache.np, "save", full)
    with pytest.raises(OSError, match="no space left"):
        VideoFolder(moving, SMALL, inputs="flow", flow=FlowCache(tmp_path / "cache", iterations=1))[0]
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_looped_flow_has_no_jump_from_the_end_to_the_beginning(moving, tmp_path):
    pairs = []

    class Noted(FlowCache):
        def fields(self, video, wanted, size):
            pairs.extend(wanted.tolist())
            return torch.zeros(len(wanted), 2, *size)

    looped = SMALL._replace(train_clip=partial(random_clip, length=20, loop=True))
    flow, _ = VideoFolder(moving, looped, inputs="flow", flow=Noted())[0]
    assert flow.shape[0] == 20
    assert pairs == [[k, k + 1] for k in range(7)]


def damage(root):
    """One file cut off, one too short for four frames, one that is no video."""
    data = (root / "run" / "a.avi").read_bytes()
    (root / "run" / "a.avi").write_bytes(data[: len(data) // 2])
    write_clip(root / "run" / "short.mp4", numbered_frames(3))
    (root / "jump" / "text.mp4").write_text("not a video")


def test_unreadable_videos_raise(root):
    damage(root)
    data = VideoFolder(root, SMALL)
    words = {"a.avi": "cannot be decoded", "short.mp4": "is too short", "text.mp4": "cannot be decoded"}
    for index, entry in enumerate(data.entries):
        if entry.path.name in words:
            with pytest.raises(ValueError, match=words[entry.path.name]) as caught:
                data[index]
            assert str(entry.path) in str(caught.value)
        else:
            data[index]


def test_unreadable_videos_are_left_out_and_named(root, tmp_path):
    damage(root)
    data = VideoFolder(root, SMALL, skip_unreadable=True)
    assert [entry.path.name for entry in data.entries] == ["c.mkv", "b.mp4"]
    assert len(data) == 2
    assert {entry.path.name for entry, _ in data.skipped} == {"a.avi", "short.mp4", "text.mp4"}
    assert all(str(entry.path) in why for entry, why in data.skipped)
    table = root / "gone.csv"
    table.write_text("path,label\nnone.mp4,run\n")
    with pytest.raises(ValueError, match="source: expected at least one video that can be read"):
        VideoFolder(table, SMALL, skip_unreadable=True)
    with pytest.raises(FileNotFoundError, match=r"none.mp4"):
        VideoFolder(table, SMALL)[0]


def test_every_frame_is_decoded_before_a_video_counts_as_readable(tmp_path):
    (tmp_path / "x").mkdir()
    path = write_clip(tmp_path / "x" / "a.avi", (torch.rand(40, 3, 64, 96) * 255).byte(), g="8")
    data = path.read_bytes()
    cut = len(data) * 3 // 4
    path.write_bytes(data[:cut] + bytes(3000) + data[cut + 3000 :])
    assert VideoReader(path).read([0]).shape == (1, 3, 64, 96), "its beginning is sound"
    with pytest.raises(ValueError, match="source: expected at least one video that can be read"):
        VideoFolder(tmp_path, SMALL, skip_unreadable=True)


def test_a_named_protocol_on_a_clip(root, one_thread):
    clip, _ = VideoFolder(root, "c3d")[1]
    assert clip.shape == (16, 3, 112, 112)
    clip, _ = VideoFolder(root, PROTOCOLS["slowfast"]._replace(train_clip=SMALL.train_clip))[1]
    assert clip.shape == (4, 3, 224, 224)
    jittered, _ = VideoFolder(root, "two_stream")[1]
    assert jittered.std((2, 3)).max() < 0.02, "one colour for the clip"
    assert (jittered[0, 0] - jittered[0, 2]).abs().mean() > 1e-4


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("file,label\n", "with the columns path,label.,start,end., got file,label"),
        ("path,label,more\n", "got path,label,more"),
        ("path,label\nx.mp4\n", "line 2: expected path,label, got"),
        ("path,label\nx.mp4,a,b\n", "line 2: expected path,label, got"),
        ("path,label\nx.mp4,\n", "line 2: expected path,label, got"),
        ("path,label,start,end\nx.mp4,a,1.5,\n", "line 2: expected start and end as frames, got 1.5"),
        ("path,label,start,end\nx.mp4,a,,\ny.mp4,a,5,5\n", "line 3: expected an end after the start, got 5, 5"),
        ("path,label\n", "expected at least one video that can be read"),
    ],
)
def test_csv_errors(tmp_path, text, words):
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(ValueError, match=words) as caught:
        VideoFolder(tmp_path / "list.csv", SMALL)
    assert "list.csv" in str(caught.value)


def test_errors(root):
    with pytest.raises(ValueError, match="protocol: expected a Protocol or one of two_stream, "):
        VideoFolder(root, "none")
    with pytest.raises(ValueError, match="inputs: expected one of frames, flow, both, got 'rgb'"):
        VideoFolder(root, SMALL, inputs="rgb")
    with pytest.raises(ValueError, match="seed: expected an int that is not negative, got -1"):
        VideoFolder(root, SMALL, seed=-1)
    with pytest.raises(ValueError, match="epoch: expected a number that is not negative, got -1"):
        VideoFolder(root, SMALL).set_epoch(-1)
    with pytest.raises(FileNotFoundError, match="source: there is no"):
        VideoFolder(root / "none", SMALL)
    (root / "run" / "notes.txt").write_text("")
    (root / "c.mp4").write_text("")
    with pytest.raises(ValueError, match=r"source: expected a folder per class .* got .*c.mp4, .*notes.txt"):
        VideoFolder(root, SMALL)
    (root / "empty").mkdir()
    with pytest.raises(ValueError, match=r"source: expected videos in every class, there is none in .*empty"):
        VideoFolder(root, SMALL)


def test_an_end_beyond_the_video(root):
    table = root / "list.csv"
    table.write_text("path,label,start,end\nrun/b.mp4,run,0,21\n")
    with pytest.raises(ValueError, match=r"b.mp4 has 20 frames, 0 to 21 were asked for"):
        VideoFolder(table, SMALL)[0]
