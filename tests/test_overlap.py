"""Overlap of boxes: by hand and by counting points. That of segments is tested with the models that use it."""

import pytest
import torch

from fastrcn.overlap import box_iou

pytestmark = pytest.mark.usefixtures("one_thread")


def test_box_iou_by_hand():
    a = torch.tensor([[0.0, 0.0, 4.0, 2.0], [1.0, 1.0, 1.0, 1.0]])
    b = torch.tensor([[0.0, 0.0, 4.0, 2.0], [2.0, 1.0, 6.0, 3.0], [4.0, 0.0, 5.0, 2.0], [1.0, 1.0, 1.0, 1.0]])
    # Second: 2x1 common of 8 + 8 - 2; third: they only touch.
    assert torch.equal(box_iou(a, b), torch.tensor([[1.0, 2 / 14, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]]))
    assert box_iou(a, b[:0]).shape == (2, 0)


def test_box_iou_of_boxes_with_whole_numbers_is_that_of_their_cells():
    def boxes(count):
        corner = torch.randint(8, (count, 2))
        return torch.cat([corner, corner + torch.randint(1, 8, (count, 2))], 1)

    def cells(box):
        return {(x, y) for x in range(box[0], box[2]) for y in range(box[1], box[3])}

    a, b = boxes(30), boxes(40)
    truth = [[len(cells(x) & cells(y)) / len(cells(x) | cells(y)) for y in b.tolist()] for x in a.tolist()]
    found = box_iou(a.double(), b.double())
    assert 0.2 < (found > 0).double().mean() < 0.9
    torch.testing.assert_close(found, torch.tensor(truth, dtype=torch.float64), rtol=1e-12, atol=0)


def test_errors():
    with pytest.raises(ValueError, match=r"b: expected \(.,4\) of x1, y1, x2, y2, got shape \(1, 5\)"):
        box_iou(torch.zeros(1, 4), torch.zeros(1, 5))
