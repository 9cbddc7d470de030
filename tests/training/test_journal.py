"""Logs that a killed run left, and what a resumed one makes of them."""

import pytest

from fastrcn.training.journal import EPOCHS, PICTURE, STEPS, Journal


def fill(folder, steps, journal=None):
    journal = journal or Journal(folder)
    for step in steps:
        journal.step(step=step, epoch=(step + 1) // 2, loss=1 / step)
        if step % 2 == 0:
            journal.epoch(epoch=step // 2, step=step, training_loss=1 / step)
    return journal


def test_rows_past_the_checkpoint_are_forgotten(tmp_path):
    fill(tmp_path, range(1, 7))
    whole = [(tmp_path / name).read_bytes() for name in (STEPS, EPOCHS)]
    with (tmp_path / STEPS).open("a") as file:
        file.write("7,4,0.1")  # killed while it wrote
    fill(tmp_path, range(4, 7), Journal(tmp_path, step=3, epoch=1))
    assert [(tmp_path / name).read_bytes() for name in (STEPS, EPOCHS)] == whole


def test_a_run_that_is_begun_anew_keeps_nothing(tmp_path):
    fill(tmp_path, range(1, 3))
    Journal(tmp_path)
    assert not (tmp_path / STEPS).exists()


def test_missing_rows_are_an_error(tmp_path):
    fill(tmp_path, range(1, 3))
    with pytest.raises(ValueError, match="expected every step from 1 to 5, got 2 rows") as caught:
        Journal(tmp_path, step=5, epoch=1)
    assert STEPS in str(caught.value)


def test_losses_are_drawn_and_go_to_tensorboard(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    fill(tmp_path, range(1, 7), Journal(tmp_path, tensorboard=True)).close()
    assert (tmp_path / PICTURE).read_bytes().startswith(b"\x89PNG")
    board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(e.step, e.value) for e in board.Scalars("steps/loss")][:2] == [(1, 1.0), (2, 0.5)]
    assert [e.step for e in board.Scalars("epochs/training_loss")] == [2, 4, 6]


def test_other_columns_are_an_error(tmp_path):
    journal = fill(tmp_path, range(1, 2))
    with pytest.raises(ValueError, match=r"expected the columns step,epoch,loss, got step,loss"):
        journal.step(step=2, loss=0.5)
