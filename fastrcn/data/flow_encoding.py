"""Optical flow as the input of networks.

Simonyan and Zisserman 2014, arXiv 1406.2199 (stacks); Donahue et al. 2015, arXiv 1411.4389 (images); Carreira and
Zisserman 2017, arXiv 1705.07750 (clips). A flow here is (N,L,2,H,W) in pixels, x before y, as from ``optical_flow``.

Mirroring a video negates the flow along x: each encoding has its function for that.
"""

from typing import NamedTuple

import torch

from fastrcn.data.optical_flow import optical_flow, warp

BOUND = 20.0
"""Pixels at which I3D clips flow, and with which stored flow usually is."""
IMAGE_SCALE, IMAGE_CENTRE = 16.0, 128.0
"""Of LRCN's flow images: gray values of one pixel of motion, and the value of none, which is also their mean."""


def _check_flow(flow):
    if flow.dim() != 5 or flow.shape[2] != 2 or 0 in flow.shape[1:]:
        raise ValueError(f"flow: expected (N,L,2,H,W) with at least one field, got shape {tuple(flow.shape)}")


def flow_windows(flow, length=10, stride=1):
    """Runs of ``length`` fields, every ``stride``: (N,T,2,H,W) -> (N,(T-length)//stride+1,length,2,H,W), a view.

    Raises: ValueError where the flow is shorter than one.
    """
    _check_flow(flow)
    if length < 1 or stride < 1:
        raise ValueError(f"length, stride: expected positive ints, got {length}, {stride}")
    if flow.shape[1] < length:
        raise ValueError(f"flow: expected at least {length} fields, one window, got {flow.shape[1]}")
    return flow.unfold(1, length, stride).movedim(-1, 2)


def follow_trajectories(flow):
    """Trajectory stacking: each field is read where the fields before it have carried the first frame's pixels.

    So channels at one place belong to one moving point. Beyond the border the nearest pixel of it is read.
    Shapes: (N,L,2,H,W) -> the same.
    """
    _check_flow(flow)
    moved, found = torch.zeros_like(flow[:, 0]), []
    for field in flow.unbind(1):
        found.append(warp(field, moved))
        moved = moved + found[-1]
    return torch.stack(found, 1)


def bidirectional_flow(frames, method="tv_l1", **options):
    """Fields forward from the middle frame of a clip, then as many backward from it.

    The paper does not say in which order the backward fields go: here, as the forward ones, away from the middle.

    Shapes: frames (N,L+1,3,H,W), L even -> (N,L,2,H,W). Other arguments and errors as ``optical_flow``.
    """
    if frames.dim() != 5 or frames.shape[1] < 3 or frames.shape[1] % 2 == 0:
        raise ValueError(f"frames: expected (N,T,C,H,W) with an odd T of at least 3, got shape {tuple(frames.shape)}")
    middle = frames.shape[1] // 2
    directions = (frames[:, middle:], frames[:, : middle + 1].flip(1))
    return torch.cat([optical_flow(part, method, **options) for part in directions], 1)


def stack_flow(flow, subtract_mean=True):
    """The input of a temporal stream: channels dx_1, dy_1, dx_2, dy_2, ..., each less its mean over the field.

    That mean is mostly the camera's motion. Shapes: (N,L,2,H,W) -> (N,2L,H,W).
    """
    _check_flow(flow)
    if subtract_mean:
        flow = flow - flow.mean((-2, -1), keepdim=True)
    return flow.flatten(1, 2)


def i3d_flow(flow):
    """The input of I3D's flow stream: clipped to 20 pixels and divided by that. (N,L,2,H,W) -> (N,2,L,H,W)."""
    _check_flow(flow)
    return (flow.clamp(-BOUND, BOUND) / BOUND).transpose(1, 2)


def flow_image(flow):
    """LRCN's images of flow: x, y and magnitude, 16 gray values a pixel around 128, clipped to 0 to 255.

    To be fed less their mean, 128. Shapes: (N,L,2,H,W) -> (N,L,3,H,W).
    """
    _check_flow(flow)
    magnitude = torch.hypot(flow[:, :, :1], flow[:, :, 1:])
    return (torch.cat([flow, magnitude], 2) * IMAGE_SCALE + IMAGE_CENTRE).clamp(0, 255)


class FlowBytes(NamedTuple):
    """Flow as it is stored: uint8 ``values`` of the flow's shape, 0 for ``low`` and 255 for ``high`` (...,2,1,1)."""

    values: torch.Tensor
    low: torch.Tensor
    high: torch.Tensor


def to_bytes(flow, bound: float | None = BOUND):
    """Flow in 0 to 255, linear: from -``bound`` to ``bound``, beyond which it is clipped.

    Without a bound from the smallest to the largest value of each component of each field, as in the two-stream paper.
    """
    _check_flow(flow)
    if bound is None:
        low, high = flow.amin((-2, -1), keepdim=True), flow.amax((-2, -1), keepdim=True)
    elif bound > 0:
        high = torch.full_like(flow[..., :1, :1], bound)
        low = -high
    else:
        raise ValueError(f"bound: expected a positive number or None, got {bound}")
    width = torch.where(high > low, high - low, 1.0)  # a field of one value has none
    values = ((flow - low) / width * 255).round().clamp(0, 255)
    return FlowBytes(values.to(torch.uint8), low, high)


def from_bytes(stored: FlowBytes):
    """The flow that was stored, to half a step of (high-low)/255."""
    return stored.low + stored.values.to(stored.low.dtype) / 255 * (stored.high - stored.low)


def _negated_x(values, dim, negate):
    """Mirrored, and what ``negate`` makes of the first of each two entries along ``dim``."""
    values = values.flip(-1).movedim(dim, 0).clone()
    values[0::2] = negate(values[0::2])
    return values.movedim(0, dim)


def flip_flow(flow, dim=-3):
    """The flow of the mirrored video, with the channels along ``dim``: 1 for ``i3d_flow``'s."""
    if flow.shape[dim] != 2:
        raise ValueError(f"flow: expected 2 channels along dimension {dim}, got shape {tuple(flow.shape)}")
    return _negated_x(flow, dim, torch.neg)


def flip_stacked(stacked):
    """What ``stack_flow`` gives (N,2L,H,W) for the mirrored video."""
    if stacked.dim() != 4 or stacked.shape[1] % 2:
        raise ValueError(f"stacked: expected (N,2L,H,W), got shape {tuple(stacked.shape)}")
    return _negated_x(stacked, 1, torch.neg)


def flip_bytes(stored: FlowBytes):
    """What ``to_bytes`` gives for the mirrored video."""
    low, high = stored.low.clone(), stored.high.clone()
    low[:, :, 0], high[:, :, 0] = -stored.high[:, :, 0], -stored.low[:, :, 0]
    return FlowBytes(_negated_x(stored.values, 2, lambda v: 255 - v), low, high)


def flip_flow_image(image):
    """What ``flow_image`` gives for the mirrored video: x' = 256 - x, to the one gray value that clipping at 255 takes.

    The authors' loader takes 255 - x, of which no motion, 128, is no fixed point.
    """
    if image.dim() != 5 or image.shape[2] != 3:
        raise ValueError(f"image: expected (N,L,3,H,W), got shape {tuple(image.shape)}")
    image = image.flip(-1)
    return torch.cat([(2 * IMAGE_CENTRE - image[:, :, :1]).clamp(max=255), image[:, :, 1:]], 2)
