"""How much segments of time, or boxes, overlap: intersection over union of all pairs."""

import torch


def check_segments(segments, name):
    """Raises ValueError naming the argument unless it is (...,2)."""
    if segments.dim() < 1 or segments.shape[-1] != 2:
        raise ValueError(f"{name}: expected (...,2) of start and end, got shape {tuple(segments.shape)}")


def tiou(a, b):
    """Temporal intersection over union of all pairs: (M,2), (N,2) -> (M,N); 0 where both are empty."""
    check_segments(a, "a")
    check_segments(b, "b")
    a, b = a[:, None], b[None]
    common = (torch.minimum(a[..., 1], b[..., 1]) - torch.maximum(a[..., 0], b[..., 0])).clamp(min=0)
    union = (a[..., 1] - a[..., 0]) + (b[..., 1] - b[..., 0]) - common
    return common / torch.where(union > 0, union, 1)


def box_iou(a, b):
    """Intersection over union of all pairs of boxes x1, y1, x2, y2: (M,4), (N,4) -> (M,N); 0 where both are empty.

    Areas are of real numbers, without the pixel that PASCAL VOC's code adds to each side. Raises ValueError naming the
    argument.
    """
    for name, boxes in (("a", a), ("b", b)):
        if boxes.dim() != 2 or boxes.shape[1] != 4:
            raise ValueError(f"{name}: expected (.,4) of x1, y1, x2, y2, got shape {tuple(boxes.shape)}")
    areas = [(x[:, 2] - x[:, 0]) * (x[:, 3] - x[:, 1]) for x in (a, b)]
    a, b = a[:, None], b[None]
    sides = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0)
    common = sides.prod(-1)
    union = areas[0][:, None] + areas[1] - common
    return common / torch.where(union > 0, union, 1)
