"""Files of pictures and clips: read back with the right sizes, frames and colours."""

import pytest
import torch
from PIL import Image

from fastrcn.visualization import write


def pixels(image):
    image = image.convert("RGB")
    return torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(image.height, image.width, 3)


def test_png_is_read_back(tmp_path):
    frame = torch.tensor(
        [[[0.0, 1.0, 0.2]], [[0.5, 0.0, 0.4]], [[2.0, -1.0, 0.6]]]
    )  # (3,1,3), values beyond are clipped
    write.write_png(tmp_path / "a.png", frame, 4)
    with Image.open(tmp_path / "a.png") as image:
        assert image.size == (12, 4)
        found = pixels(image)
    assert found[0, 0].tolist() == [0, 128, 255]
    assert found[3, 7].tolist() == [255, 0, 0]
    assert found[2, 8].tolist() == [51, 102, 153]
    write.write_png(tmp_path / "b.png", torch.full((1, 2, 3), 0.2))
    with Image.open(tmp_path / "b.png") as image:
        assert (pixels(image) == 51).all()


def test_gif_is_read_back(tmp_path):
    clip = torch.zeros(3, 5, 4, 6)
    for t in range(5):
        clip[0, t, 1, t] = 1.0  # a red dot that moves right
    write.write_gif(tmp_path / "a.gif", clip, fps=5, scale=3)
    with Image.open(tmp_path / "a.gif") as film:
        assert film.size == (18, 12)
        assert film.n_frames == 5
        assert film.info["loop"] == 0
        for t in range(5):
            film.seek(t)
            assert film.info["duration"] == 200
            red = pixels(film)[..., 0] > 200
            assert red.nonzero().tolist() == [[y, x] for y in range(3, 6) for x in range(3 * t, 3 * t + 3)]


def test_equal_frames_stay_longer(tmp_path):
    clip = torch.zeros(1, 4, 3, 3)
    clip[:, 3] = 1
    write.write_gif(tmp_path / "a.gif", clip, fps=10)
    with Image.open(tmp_path / "a.gif") as film:
        assert film.n_frames == 2
        assert film.info["duration"] == 300


def test_mosaic_by_hand():
    clips = torch.arange(3).float().view(3, 1, 1, 1, 1).expand(3, 1, 2, 1, 2) / 4
    sheet = write.mosaic(clips, 2)
    assert sheet.shape == (1, 2, 3, 5)
    truth = [[0.0, 0.0, 1.0, 0.25, 0.25], [1.0] * 5, [0.5, 0.5, 1.0, 1.0, 1.0]]
    assert sheet[0].tolist() == [truth, truth]
    assert write.mosaic(clips, 3, gap=2).shape == (1, 2, 1, 10)
    with pytest.raises(ValueError, match=r"clips: expected \(K,C,T,h,w\), at least one"):
        write.mosaic(torch.zeros(0, 3, 1, 2, 2), 2)
    with pytest.raises(ValueError, match="columns: expected a positive int, got 0"):
        write.mosaic(clips, 0)


def test_sheet_shows_every_image_at_its_place(tmp_path):
    shades = torch.tensor([[0.0, 0.25, 0.5], [0.6, 0.75, 0.9]])
    images = [[shade.expand(1, 10, 20) for shade in row] for row in shades]
    write.write_sheet(tmp_path / "a.png", images, ["one", "two"], ["a", "b", "c"], scale=3)
    with Image.open(tmp_path / "a.png") as image:
        assert image.size == (130 + 3 * (60 + 6), 22 + 2 * (30 + 6))
        found = pixels(image)
    for r, row in enumerate(shades):
        for c, shade in enumerate(row):
            top, left = 22 + 36 * r, 130 + 66 * c
            middle = found[top + 5 : top + 25, left + 5 : left + 55].float().mean()  # of dots of several colours
            assert abs(middle - 255 * shade) <= 1
    assert found[:, :125].min() < 100, "the rows' names"
    assert found[:18, 130:].min() < 100, "the columns' names"


def test_heat_grows_brighter():
    colors = write.heat(torch.linspace(0, 1, 12).view(2, 2, 3))
    assert colors.shape == (3, 2, 2, 3)
    brightness = colors.mean(0).flatten()
    assert (brightness.diff() > 0).all()
    assert brightness[0] < 0.02
