"""Digits that move: at constant speed, inside the frame, the same for one seed."""

import sys

import pytest
import torch

from fastrcn.data import MovingDigits, moving_digits

pytestmark = pytest.mark.usefixtures("one_thread")


def test_digits_move_and_bounce():
    clips = moving_digits(3, 40, 32, digits=1)
    assert clips.shape == (3, 40, 1, 32, 32)
    assert clips.min() == 0
    assert clips.max() <= 1
    mass = clips.sum((2, 3, 4))
    assert torch.allclose(mass, mass[:, :1].expand_as(mass), rtol=1e-5)  # it never leaves the frame
    pixels = torch.arange(32.0)
    rows = (clips.sum((2, 4)) * pixels).sum(2) / mass
    columns = (clips.sum((2, 3)) * pixels).sum(2) / mass
    speed = (rows.diff(dim=1) ** 2 + columns.diff(dim=1) ** 2).sqrt()
    assert speed.median() == pytest.approx(2, abs=0.5)
    assert (rows.diff(dim=1).sign().diff(dim=1).abs() == 2).any()
    assert torch.equal(clips, moving_digits(3, 40, 32, digits=1))
    assert not torch.equal(clips, moving_digits(3, 40, 32, digits=1, seed=1))


def test_the_brighter_of_two_digits_is_seen():
    one, both = (moving_digits(1, 5, 32, digits=n, scale=3) for n in (1, 2))
    assert (both >= one).all(), "the first digit is drawn first, of the same seed"
    assert both.max() <= 1


def test_as_a_dataset():
    data = MovingDigits(4, 3, 2, size=32, seed=5)
    assert len(data) == 4
    clips = moving_digits(4, 5, 32, seed=5)
    assert torch.equal(clips[:2], moving_digits(2, 5, 32, seed=5)), "a clip does not depend on how many there are"
    for number in (3, 0, 2, 1, 0):
        past, future, valid = data[number]
        assert torch.equal(past, clips[number, :3])
        assert torch.equal(future, clips[number, 3:])
        assert valid.shape == future.shape
        assert valid.all()
    assert torch.equal(data.select([2])[0][1], clips[2, 3:])
    assert not torch.equal(clips[0], clips[1])


def test_without_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match="pip install scikit-learn"):
        moving_digits(1, 1)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"clips": 0}, "clips: expected a positive int, got 0"),
        ({"digits": 0}, "digits: expected a positive int, got 0"),
        ({"seed": -1}, "seed: expected an int that is not negative, got -1"),
        ({"size": 16}, "size: expected more than a digit's 16 pixels, got 16"),
    ],
)
def test_errors(options, words):
    with pytest.raises(ValueError, match=words):
        moving_digits(**{"clips": 1, "frames": 2, **options})
