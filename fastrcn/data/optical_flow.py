"""Optical flow of clips: F(x,y) = (dx,dy) in pixels with I_{t+1}(x+dx, y+dy) = I_t(x,y).

TV-L1 in plain PyTorch: Zach, Pock and Bischof 2007, "A duality based approach for realtime TV-L1 optical flow" (DAGM),
as written down by Sanchez, Meinhardt-Llopis and Facciolo 2013, https://doi.org/10.5201/ipol.2013.26. OpenCV's methods
are there too, with the same signs and units.
"""

import importlib
from typing import Any

import torch
from torch.nn import functional as F

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in a gray frame (ITU-R BT.601), as OpenCV's."""

OPENCV_METHODS = ("opencv_dis", "opencv_farneback", "opencv_tv_l1")
METHODS = ("tv_l1", *OPENCV_METHODS)


def warp(frames, flow):
    """What a frame looks like where each pixel is fetched from its end of the flow: frames(x + flow(x)), bilinear.

    With the flow from I_t to I_{t+1}, ``warp(I_{t+1}, flow)`` is I_t where nothing was hidden. Places outside the frame
    have the value of the nearest pixel of its border.

    Shapes: frames (...,C,H,W), flow (...,2,H,W) -> (...,C,H,W).
    Raises: ValueError naming the argument.
    """
    height, width = frames.shape[-2:]
    if frames.dim() < 3 or flow.shape != (*frames.shape[:-3], 2, height, width):
        expected = f"{(*frames.shape[:-3], 2, height, width)} with frames {tuple(frames.shape)}"
        raise ValueError(f"flow: expected shape {expected}, got {tuple(flow.shape)}")
    options: Any = {"dtype": flow.dtype, "device": flow.device}
    flat = flow.reshape(-1, 2, height, width)
    x = flat[:, 0] + torch.arange(width, **options)
    y = flat[:, 1] + torch.arange(height, **options)[:, None]
    grid = torch.stack([2 * x / max(width - 1, 1) - 1, 2 * y / max(height - 1, 1) - 1], -1)
    images = frames.reshape(-1, *frames.shape[-3:])
    moved = F.grid_sample(images, grid.to(images.dtype), padding_mode="border", align_corners=True)
    return moved.view_as(frames)


def _gradient(u):
    """Forward differences along x and y; 0 at the far border."""
    return F.pad(u[..., :, 1:] - u[..., :, :-1], (0, 1)), F.pad(u[..., 1:, :] - u[..., :-1, :], (0, 0, 0, 1))


def _divergence(px, py):
    """The negative adjoint of ``_gradient``: backward differences. What ``_gradient`` gives 0 for counts as 0."""
    px, py = px[..., :, :-1], py[..., :-1, :]
    return F.pad(px, (0, 1)) - F.pad(px, (1, 0)) + F.pad(py, (0, 0, 0, 1)) - F.pad(py, (0, 0, 1, 0))


def _central(image):
    """Central differences along x and y, the border repeated: (N,2,H,W)."""
    x, y = F.pad(image, (1, 1, 0, 0), mode="replicate"), F.pad(image, (0, 0, 1, 1), mode="replicate")
    return torch.cat([x[..., :, 2:] - x[..., :, :-2], y[..., 2:, :] - y[..., :-2, :]], 1) / 2


def _smoothed(image, sigma):
    """Gaussian filter, the border repeated."""
    radius = max(1, round(3 * sigma))
    at = torch.arange(-radius, radius + 1, dtype=image.dtype, device=image.device)
    weight = torch.exp(-at.square() / (2 * sigma**2))
    weight = weight / weight.sum()
    image = F.pad(image, (radius,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(image, weight.view(1, 1, -1, 1)), weight.view(1, 1, 1, -1))


def _median(flow):
    """3x3 median of each component, the border repeated: takes away what one warp got wrong."""
    n, c, h, w = flow.shape
    cells = F.unfold(F.pad(flow, (1, 1, 1, 1), mode="replicate").view(n * c, 1, h + 2, w + 2), 3)
    return cells.median(1).values.view(n, c, h, w)


def _pyramid(image, scales, zoom, smallest):
    """The image and ever smaller ones, each ``zoom`` times the size of the one before, the last still large enough."""
    images = [_smoothed(image, 0.8)]
    sigma = 0.6 * (zoom**-2 - 1) ** 0.5
    while len(images) < scales:
        size = [round(s * zoom) for s in images[-1].shape[-2:]]
        if min(size) < smallest:
            break
        images.append(F.interpolate(_smoothed(images[-1], sigma), size=size, mode="bilinear", align_corners=False))
    return images


def _one_scale(first, second, u, *, warps, iterations, tau, lambda_, theta):
    """Sanchez et al., algorithm 1, from the flow ``u`` of the coarser scale."""
    gradient = _central(second)
    p = [torch.zeros_like(u), torch.zeros_like(u)]  # the dual variable of each component: along x, along y
    for _ in range(warps):
        moved, slope = warp(second, u), warp(gradient, u)
        square = slope.square().sum(1, keepdim=True)
        constant = moved - (slope * u).sum(1, keepdim=True) - first
        limit = lambda_ * theta * square
        for _ in range(iterations):
            rho = constant + (slope * u).sum(1, keepdim=True)
            # -rho / square where that is small, else the step of +-lambda theta; without slope there is no step
            step = (-rho).clamp(-limit, limit) / square.clamp(min=1e-9)
            u = u + step * slope + theta * _divergence(*p)
            ux, uy = _gradient(u)
            scale = 1 + tau / theta * torch.hypot(ux, uy)
            p = [(p[0] + tau / theta * ux) / scale, (p[1] + tau / theta * uy) / scale]
        u = _median(u)
    return u


@torch.no_grad()
def tv_l1(first, second, *, scales=5, zoom=0.5, smallest=16, warps=5, iterations=50, tau=0.25, lambda_=0.15, theta=0.3):
    """The flow from gray frames to others, by TV-L1 on a pyramid: coarse to fine, warping ``second`` towards ``first``.

    It has no gradients.

    Args:
        scales: images of the pyramid at most, each ``zoom`` times the one before, none with a side below ``smallest``.
        warps: linearisations at each scale. iterations: of the primal-dual scheme between two of them.
        tau, lambda_, theta: its time step, the weight of the data against smoothness, and the tightness; the paper's
            values, which are for gray values up to 255.
    Shapes: first, second (N,1,H,W), from 0 to 1 -> (N,2,H,W).
    Raises: ValueError naming the argument.
    """
    if first.dim() != 4 or first.shape[1] != 1 or first.shape != second.shape:
        shapes = f"{tuple(first.shape)} and {tuple(second.shape)}"
        raise ValueError(f"first, second: expected one shape (N,1,H,W), got {shapes}")
    if not 0 < zoom < 1:
        raise ValueError(f"zoom: expected a number between 0 and 1, got {zoom}")
    for name, value in {"scales": scales, "warps": warps, "iterations": iterations}.items():
        if value < 1:
            raise ValueError(f"{name}: expected a positive int, got {value}")
    both = [_pyramid(image * 255, scales, zoom, smallest) for image in (first, second)]
    u = torch.zeros_like(both[0][-1]).repeat(1, 2, 1, 1)
    for a, b in reversed(list(zip(*both, strict=True))):
        if u.shape[-2:] != a.shape[-2:]:
            grown = [a.shape[-1] / u.shape[-1], a.shape[-2] / u.shape[-2]]
            u = F.interpolate(u, size=a.shape[-2:], mode="bilinear", align_corners=False)
            u = u * u.new_tensor(grown)[:, None, None]
        u = _one_scale(a, b, u, warps=warps, iterations=iterations, tau=tau, lambda_=lambda_, theta=theta)
    return u


def _opencv(method):
    """A function of two gray uint8 arrays that gives their flow (H,W,2)."""
    try:
        cv: Any = importlib.import_module("cv2")
    except ImportError as error:
        raise ImportError(f'method: {method!r} needs OpenCV, pip install "fastrcn[flow]"') from error
    if method == "opencv_dis":
        dis = cv.DISOpticalFlow_create(cv.DISOPTICAL_FLOW_PRESET_MEDIUM)
        return lambda a, b: dis.calc(a, b, None)
    if method == "opencv_farneback":
        # Scale and levels of the pyramid, window, iterations, neighbourhood and smoothing of the polynomials: those of
        # OpenCV's own example.
        return lambda a, b: cv.calcOpticalFlowFarneback(a, b, None, 0.5, 3, 15, 3, 5, 1.2, 0)
    if not hasattr(cv, "optflow"):
        raise ValueError('method: expected one that this OpenCV has; "opencv_tv_l1" comes with opencv-contrib only')
    tv = cv.optflow.DualTVL1OpticalFlow_create()
    return lambda a, b: tv.calc(a, b, None)


def gray(frames):
    """Gray frames (N,T,1,H,W) from 0 to 1, float32 or the frames' type.

    Raises: ValueError naming ``frames`` unless they are (N,T,3,H,W) or (N,T,1,H,W), uint8 or floats from 0 to 1.
    """
    if frames.dim() != 5 or frames.shape[2] not in (1, 3) or 0 in frames.shape:
        raise ValueError(f"frames: expected (N,T,3,H,W) or (N,T,1,H,W), got shape {tuple(frames.shape)}")
    if frames.dtype == torch.uint8:
        frames = frames / 255
    elif not frames.is_floating_point() or not bool(((frames >= 0) & (frames <= 1)).all()):
        raise ValueError(f"frames: expected uint8 or floats from 0 to 1, got other values, of type {frames.dtype}")
    if frames.shape[2] == 1:
        return frames
    return (frames * frames.new_tensor(LUMA)[:, None, None]).sum(2, keepdim=True)


def optical_flow(frames, method="tv_l1", **options):
    """The flow from each frame of a clip to the next.

    Args:
        method: "tv_l1" (``options`` are those of ``tv_l1``), or "opencv_dis" (Kroeger et al. 2016, arXiv 1603.03590),
            "opencv_farneback" (Farneback 2003) or "opencv_tv_l1" with OpenCV's settings, computed on the CPU.
    Shapes: frames (N,T,3,H,W), or gray (N,T,1,H,W), uint8 or floats from 0 to 1; T at least 2 -> (N,T-1,2,H,W).
    Raises: ValueError naming the argument; ImportError where OpenCV is asked for and not installed.
    """
    if method not in METHODS:
        raise ValueError(f"method: expected one of {', '.join(METHODS)}, got {method!r}")
    images = gray(frames)
    if images.shape[1] < 2:
        raise ValueError(f"frames: expected at least 2 of them, got {images.shape[1]}")
    lead = (images.shape[0], images.shape[1] - 1)
    first, second = images[:, :-1].flatten(0, 1), images[:, 1:].flatten(0, 1)
    if method == "tv_l1":
        return tv_l1(first, second, **options).unflatten(0, lead)
    if options:
        raise ValueError(f"options: expected none with {method}, got {', '.join(options)}")
    calculate = _opencv(method)
    before, after = ((x[:, 0] * 255).round().byte().cpu().numpy() for x in (first, second))
    flows = torch.stack([torch.from_numpy(calculate(a, b)) for a, b in zip(before, after, strict=True)]).to(images)
    return flows.permute(0, 3, 1, 2).contiguous().unflatten(0, lead)
