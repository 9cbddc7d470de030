"""Average precision of boxes in frames: worked out by hand, and a plain loop over dictionaries."""

import math
from collections import defaultdict

import pytest
import torch

from fastrcn.metrics import frame_detection_ap

pytestmark = pytest.mark.usefixtures("one_thread")

# Frame, box, class.
TRUTHS = torch.tensor(
    [[0, 0, 0, 10, 10, 0], [0, 20, 0, 30, 10, 0], [1, 0, 0, 10, 10, 0], [1, 0, 0, 10, 10, 1]], dtype=torch.float64
)


def test_perfect_detections():
    scores = torch.tensor([[0.9], [0.2], [0.5], [0.1]], dtype=torch.float64)
    mean, table = frame_detection_ap(torch.cat([TRUTHS, scores], 1), TRUTHS, 3)
    assert mean == 1.0
    assert table[:2].tolist() == [1.0, 1.0]
    assert table[2].isnan(), "a class that is nowhere says nothing"


def test_worked_example():
    detections = torch.tensor(
        [
            [0, 0, 0, 10, 5, 0, 0.9],  # half of the first: right at 0.5
            [0, 0, 0, 10, 10, 0, 0.8],  # all of it, but it is found already
            [2, 0, 0, 10, 10, 0, 0.7],  # no such frame in the truth
            [1, 0, 0, 10, 9, 0, 0.6],  # 0.9 of the third
            [0, 21, 0, 31, 10, 0, 0.5],  # 9/11 of the second
            [1, 0, 0, 10, 10, 1, 0.1],
            [1, 5, 5, 15, 15, 1, 0.3],  # 25/175
        ],
        dtype=torch.float64,
    )
    # Class 0: right at ranks 1, 4, 5, precision 1, 2/4, 3/5, of which the largest from rank 4 on is 3/5.
    mean, table = frame_detection_ap(detections, TRUTHS, 2)
    assert table.tolist() == pytest.approx([(1 + 3 / 5 + 3 / 5) / 3, 1 / 2])
    assert mean == pytest.approx((11 / 15 + 1 / 2) / 2)
    # At 0.85: the second detection now finds the first box, the fourth the third, the fifth nothing.
    assert frame_detection_ap(detections, TRUTHS, 2, 0.85)[1].tolist() == pytest.approx([(2 / 4 + 2 / 4) / 3, 1 / 2])
    assert torch.equal(frame_detection_ap(detections[[6, 3, 0, 5, 2, 4, 1]], TRUTHS, 2)[1], table)


def test_a_detection_goes_to_the_box_that_it_overlaps_most_even_if_that_is_found():
    truths = torch.tensor([[0, 0.0, 0, 10, 10, 0], [0, 4.0, 0, 14, 10, 0]])
    detections = torch.tensor([[0, 0.0, 0, 10, 10, 0, 0.9], [0, 1.0, 0, 11, 10, 0, 0.8]])  # the second: 9/11 and 7/13
    assert frame_detection_ap(detections, truths, 1)[0] == 0.5


def by_loops(detections, truths, label, threshold):
    boxes, found, hits = defaultdict(list), set(), []
    for frame, *box, kind in truths.tolist():
        if kind == label:
            boxes[frame].append(box)
    for frame, x1, y1, x2, y2, kind, _ in sorted(detections.tolist(), key=lambda d: -d[6]):
        if kind != label:
            continue
        best, place = 0.0, None
        for k, (a1, b1, a2, b2) in enumerate(boxes[frame]):
            common = max(0, min(x2, a2) - max(x1, a1)) * max(0, min(y2, b2) - max(y1, b1))
            iou = common / ((x2 - x1) * (y2 - y1) + (a2 - a1) * (b2 - b1) - common)
            if iou > best:
                best, place = iou, (frame, k)
        hits.append(best >= threshold and place not in found)
        if hits[-1]:
            found.add(place)
    precision = [sum(hits[: k + 1]) / (k + 1) for k in range(len(hits))]
    right = [max(precision[k:]) for k in range(len(hits)) if hits[k]]
    return sum(right) / sum(map(len, boxes.values()))


def test_against_loops():
    def rows(count, columns):
        table = torch.rand(count, columns, dtype=torch.float64)
        table[:, 0] = torch.randint(6, (count,)) + 10
        table[:, 1:3] *= 8
        table[:, 3:5] = table[:, 1:3] + 4 + 3 * table[:, 3:5]
        table[:, 5] = torch.randint(2, (count,))
        return table

    detections, truths = rows(150, 7), rows(60, 6)
    _, table = frame_detection_ap(detections, truths, 2)
    truth = [by_loops(detections, truths, label, 0.5) for label in range(2)]
    assert min(truth) > 0.05
    assert table.tolist() == pytest.approx(truth, rel=1e-12)


def test_nothing_detected_or_nothing_there():
    none = torch.zeros(0, 7, dtype=torch.float64)
    assert frame_detection_ap(none, TRUTHS, 2)[0] == 0.0
    extra = torch.tensor([[0, 0.0, 0, 1, 1, 0, 0.5]])
    assert math.isnan(frame_detection_ap(extra, TRUTHS[:0], 2)[0])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d, t: (d[:, :6], t), r"detections: expected \(.,7\), got shape \(1, 6\)"),
        (lambda d, t: (d, d), r"truths: expected \(.,6\), got shape \(1, 7\)"),
        (lambda d, t: (d * math.nan, t), "detections: expected finite numbers, got 7 that are not"),
        (lambda d, t: (d[:, [0, 3, 2, 1, 4, 5, 6]], t), "detections: expected boxes with x2 > x1 and y2 > y1"),
        (lambda d, t: (d, t + torch.tensor([0, 0, 0, 0, 0, 2])), r"truths: expected classes from 0 to 1, got \[2.0"),
    ],
)
def test_errors(change, words):
    detections = torch.tensor([[0, 0.0, 0, 1, 1, 0, 0.5]])
    with pytest.raises(ValueError, match=words):
        frame_detection_ap(*change(detections, TRUTHS), 2)
