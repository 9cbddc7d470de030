"""The order of items: every one in every epoch, the same however many processes share it."""

import pytest

from fastrcn.training.batches import EpochBatches


def epoch(items, batch_size, number=0, begin=0, seed=0, rank=0, count=1):
    batches = EpochBatches(items, batch_size, seed, rank, count)
    batches.epoch, batches.begin = number, begin
    found = list(batches)
    assert len(found) == len(batches)
    return found


def test_every_item_once_and_the_last_batch_is_filled_from_the_first():
    batches = epoch(10, 4)
    order = [item for batch in batches for item in batch]
    assert sorted(order[:10]) == list(range(10))
    assert order[10:] == order[:2]
    assert [len(b) for b in batches] == [4, 4, 4]


def test_fewer_items_than_a_batch():
    (batch,) = epoch(3, 8)
    assert sorted(batch[:3]) == [0, 1, 2]
    assert batch == (batch[:3] * 3)[:8]


def test_order_depends_on_epoch_and_seed_only():
    assert epoch(50, 5) == epoch(50, 5)
    assert epoch(50, 5, number=1) != epoch(50, 5)
    assert epoch(50, 5, seed=1) != epoch(50, 5)
    assert epoch(50, 5, seed=1) != epoch(50, 5, number=1)


def test_going_on_within_an_epoch():
    assert epoch(11, 2, begin=4) == epoch(11, 2)[4:]
    assert epoch(11, 2, begin=6) == []


def test_processes_share_each_batch():
    whole, parts = epoch(10, 4), [epoch(10, 4, rank=r, count=2) for r in range(2)]
    assert [a + b for a, b in zip(*parts, strict=True)] == whole


def test_errors_name_the_argument():
    with pytest.raises(ValueError, match="batch_size: expected a multiple of the 3 processes, got 4"):
        EpochBatches(10, 4, 0, 0, 3)
    with pytest.raises(ValueError, match="data: expected at least one item"):
        EpochBatches(0, 4, 0)
