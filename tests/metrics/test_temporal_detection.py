"""Mean average precision of detected segments: cases worked out by hand."""

import pytest
import torch

from fastrcn.metrics import temporal_detection_ap

TRUTHS = torch.tensor(
    [[0, 0.0, 10.0, 0], [0, 20.0, 30.0, 0], [1, 5.0, 15.0, 0], [1, 40.0, 60.0, 1]]
)  # fmt: skip


def test_perfect_detections():
    detections = torch.cat([TRUTHS, torch.tensor([[0.9], [0.1], [0.5], [0.3]])], 1)
    means, table = temporal_detection_ap(detections, TRUTHS, 3)
    assert means.tolist() == [1.0] * 7
    assert table.shape == (7, 3)
    assert table[:, :2].min() == 1
    assert table[:, 2].isnan().all(), "a class that is nowhere says nothing"


def test_worked_example():
    detections = torch.tensor(
        [
            [0, 0.0, 8.0, 0, 0.9],  # 0.8 with the first
            [0, 0.0, 10.0, 0, 0.8],  # exact, but that one is found already up to a tIoU of 0.8
            [1, 20.0, 30.0, 0, 0.7],  # in the other video: wrong
            [1, 5.0, 20.0, 0, 0.6],  # 10/15 with the third
            [1, 40.0, 60.0, 0, 0.5],  # right place, wrong class
            [1, 45.0, 60.0, 1, 0.2],  # 0.75
        ]
    )
    means, table = temporal_detection_ap(detections, TRUTHS, 2, (0.5, 0.7, 0.9))
    at_half = (1 + 2 / 4) / 3  # right: ranks 1 and 4
    at_70 = 1 / 3  # rank 1
    at_90 = (1 / 2) / 3  # rank 2
    truth = torch.tensor([[at_half, 1.0], [at_70, 1.0], [at_90, 0.0]]).double()
    torch.testing.assert_close(table, truth)
    torch.testing.assert_close(means, truth.mean(1))
    shuffled = detections[[3, 0, 5, 2, 4, 1]]
    assert torch.equal(temporal_detection_ap(shuffled, TRUTHS, 2, (0.5, 0.7, 0.9))[1], table)


def test_a_segment_already_found_leaves_the_detection_to_the_next_best():
    truths = torch.tensor([[0, 0.0, 10.0, 0], [0, 4.0, 14.0, 0]])
    detections = torch.tensor([[0, 0.0, 10.0, 0, 0.9], [0, 1.0, 11.0, 0, 0.8]])  # the second: 9/11 and 7/13
    assert temporal_detection_ap(detections, truths, 1, (0.5, 0.6))[0].tolist() == [1.0, 0.5]


def test_nothing_detected_or_nothing_there():
    none = torch.zeros(0, 5)
    assert temporal_detection_ap(none, TRUTHS, 2, (0.5,))[0].tolist() == [0.0]
    extra = torch.tensor([[0, 0.0, 1.0, 1, 0.5]])
    assert temporal_detection_ap(extra, TRUTHS[:0], 2, (0.5,))[0].isnan().all()


def test_errors():
    with pytest.raises(ValueError, match=r"detections: expected \(.,5\), got shape \(4, 4\)"):
        temporal_detection_ap(TRUTHS, TRUTHS, 2)
    with pytest.raises(ValueError, match=r"truths: expected \(.,4\), got shape \(0, 5\)"):
        temporal_detection_ap(torch.zeros(0, 5), torch.zeros(0, 5), 2)
