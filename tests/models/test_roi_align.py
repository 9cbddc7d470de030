"""RoIAlign against a loop over samples and against torchvision's Python form."""

import importlib
import itertools
import math

import pytest
import torch

from fastrcn.models import roi_align
from tests.helpers.tolerances import assert_close
from tests.helpers.torchvision_models import ops


def torchvisions(maps, boxes, size, spatial_scale, sampling_ratio, aligned):
    """Its form in Python as it stands: ``ops.roi_align`` would compile it first."""
    plain = importlib.import_module(f"{ops.__name__}.roi_align")._roi_align.__wrapped__
    return plain(maps, boxes, spatial_scale, *size, sampling_ratio, aligned)


def interpolated(image, y, x):
    """(C,H,W) at one place. Its outermost cells reach one cell further; there is nothing beyond."""
    height, width = image.shape[1:]
    if not (-1 <= y <= height and -1 <= x <= width):
        return torch.zeros_like(image[:, 0, 0])
    y, x = min(max(y, 0.0), height - 1.0), min(max(x, 0.0), width - 1.0)
    top, left = int(y), int(x)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    dy, dx = y - top, x - left
    above = image[:, top, left] * (1 - dx) + image[:, top, right] * dx
    below = image[:, bottom, left] * (1 - dx) + image[:, bottom, right] * dx
    return above * (1 - dy) + below * dy


def written_out(maps, boxes, size, spatial_scale, sampling_ratio, aligned):
    """One sample after another."""
    found = torch.zeros(len(boxes), maps.shape[1], *size, dtype=maps.dtype)
    for m, (n, x1, y1, x2, y2) in enumerate(boxes.tolist()):
        x1, y1, x2, y2 = (v * spatial_scale - (0.5 if aligned else 0) for v in (x1, y1, x2, y2))
        width, height = x2 - x1, y2 - y1
        if not aligned:
            width, height = max(width, 1.0), max(height, 1.0)
        down, across = height / size[0], width / size[1]
        samples_y, samples_x = (sampling_ratio or math.ceil(v) for v in (down, across))
        for p, q in itertools.product(range(size[0]), range(size[1])):
            for i, j in itertools.product(range(samples_y), range(samples_x)):
                y, x = y1 + (p + (i + 0.5) / samples_y) * down, x1 + (q + (j + 0.5) / samples_x) * across
                found[m, :, p, q] += interpolated(maps[int(n)], y, x) / (samples_y * samples_x)
    return found


INSIDE = [
    [0, 8.0, 16.0, 100.0, 60.0],
    [1, 0.0, 0.0, 128.0, 96.0],
    [0, 33.3, 5.7, 41.1, 90.2],
    [1, 60.0, 40.0, 61.0, 41.0],
]
OUTSIDE = [
    [0, -40.0, -20.0, 50.0, 150.0], [1, 100.0, 70.0, 190.0, 130.0], [0, 300.0, 300.0, 400.0, 400.0],
    [1, 60.0, 50.0, 20.0, 80.0], [0, 30.0, 30.0, 30.0, 30.0], [1, -16.0, -16.0, 144.0, 112.0],
]  # fmt: skip
OPTIONS = list(itertools.product(((7, 7), (3, 2)), (0, 2), (True, False)))


@pytest.mark.parametrize(("size", "sampling_ratio", "aligned"), OPTIONS)
def test_equals_a_loop_over_samples(size, sampling_ratio, aligned):
    """Also for boxes partly or wholly outside, empty ones, and ones turned round."""
    maps = torch.randn(2, 3, 6, 8, dtype=torch.float64)
    boxes = torch.tensor(INSIDE + OUTSIDE, dtype=torch.float64)
    truth = written_out(maps, boxes, size, 1 / 16, sampling_ratio, aligned)
    found = roi_align(maps, boxes, size, spatial_scale=1 / 16, sampling_ratio=sampling_ratio, aligned=aligned)
    assert_close(found, truth)


@pytest.mark.parametrize(("size", "sampling_ratio", "aligned"), OPTIONS)
def test_equals_torchvisions_with_the_maps_gradient(size, sampling_ratio, aligned):
    maps = torch.randn(2, 3, 6, 8, dtype=torch.float64, requires_grad=True)
    boxes = torch.tensor(INSIDE, dtype=torch.float64)
    truth = torchvisions(maps, boxes, size, 1 / 16, sampling_ratio, aligned)
    found = roi_align(maps, boxes, size, spatial_scale=1 / 16, sampling_ratio=sampling_ratio, aligned=aligned)
    assert_close(found, truth)
    weights = torch.randn_like(truth)
    grads = [torch.autograd.grad((v * weights).sum(), maps)[0] for v in (found, truth)]
    assert_close(*grads)


def test_the_whole_image_by_hand():
    """Bins of one cell are the cells, bins of two by two cells their means, where centres are aligned."""
    maps = torch.arange(16.0).view(1, 1, 4, 4)
    whole = torch.tensor([[0, 0.0, 0.0, 64.0, 64.0]])
    assert torch.equal(roi_align(maps, whole, 4, spatial_scale=1 / 16), maps)
    expected = torch.tensor([[[[2.5, 4.5], [10.5, 12.5]]]])
    torch.testing.assert_close(roi_align(maps, whole, 2, spatial_scale=1 / 16), expected)
    # One sample in the middle of the lower right bin lies between four cells; without alignment half a cell further.
    one = roi_align(maps, whole, 2, spatial_scale=1 / 16, sampling_ratio=1)
    torch.testing.assert_close(one, expected)
    older = roi_align(maps, whole, 2, spatial_scale=1 / 16, sampling_ratio=1, aligned=False)
    torch.testing.assert_close(older, torch.tensor([[[[5.0, 7.0], [13.0, 15.0]]]]))


def test_a_shifted_box_sees_shifted_maps():
    maps = torch.randn(1, 2, 9, 9, dtype=torch.float64)
    box = torch.tensor([[0, 30.0, 33.0, 90.0, 80.0]], dtype=torch.float64)
    for dy, dx in ((1, 0), (0, 2), (1, 1)):
        moved = box + torch.tensor([0, 16 * dx, 16 * dy, 16 * dx, 16 * dy], dtype=torch.float64)
        found = roi_align(maps.roll((dy, dx), (2, 3)), moved, 7, spatial_scale=1 / 16)
        assert_close(found, roi_align(maps, box, 7, spatial_scale=1 / 16))


def test_gradients():
    """In the maps, and in the boxes away from the cells' centres, where bilinear weights have a corner."""
    maps = torch.randn(2, 2, 5, 6, dtype=torch.float64, requires_grad=True)
    boxes = torch.tensor([[0.3, 0.9, 4.1, 3.7], [1.2, 0.4, 5.5, 4.6]], dtype=torch.float64, requires_grad=True)
    image = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    for options in ({"sampling_ratio": 2}, {"sampling_ratio": 0, "aligned": False}):

        def pooled(m, b, options=options):
            return roi_align(m, torch.cat([image, b], 1), (3, 2), **options)

        assert torch.autograd.gradcheck(pooled, (maps, boxes))


def test_no_boxes_and_types():
    maps = torch.randn(2, 3, 6, 8)
    assert roi_align(maps, torch.zeros(0, 5), 7).shape == (0, 3, 7, 7)
    boxes = torch.tensor(INSIDE)
    truth = roi_align(maps.double(), boxes.double(), 7, spatial_scale=1 / 16)
    assert_close(roi_align(maps, boxes, 7, spatial_scale=1 / 16), truth)
    low = roi_align(maps.bfloat16(), boxes, 7, spatial_scale=1 / 16)
    assert low.dtype == torch.bfloat16
    torch.testing.assert_close(low.double(), truth, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((torch.zeros(3, 6, 8), torch.zeros(1, 5), 7), r"maps: expected \(N,C,H,W\), got shape \(3, 6, 8\)"),
        ((torch.zeros(2, 3, 6, 8), torch.zeros(1, 4), 7), r"boxes: expected \(M,5\).*got shape \(1, 4\)"),
        ((torch.zeros(2, 3, 6, 8), torch.zeros(1, 5), 0), "output_size: expected positive ints, got 0"),
        ((torch.zeros(2, 3, 6, 8), torch.full((1, 5), 2.0), 7), r"boxes: expected images from 0 to 1, got \[2\]"),
    ],
)
def test_errors(arguments, words):
    with pytest.raises(ValueError, match=words):
        roi_align(*arguments)


def test_negative_sampling_ratio():
    with pytest.raises(ValueError, match="sampling_ratio: expected 0 or a positive int, got -1"):
        roi_align(torch.zeros(1, 1, 2, 2), torch.zeros(1, 5), 1, sampling_ratio=-1)
