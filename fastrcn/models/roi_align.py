"""RoIAlign of He et al. 2017, "Mask R-CNN", https://arxiv.org/abs/1703.06870, in plain PyTorch."""

import torch


def roi_align(maps, boxes, output_size, *, spatial_scale=1.0, sampling_ratio=0, aligned=True):
    """Each box is divided into bins; a bin is the mean of samples in it, interpolated bilinearly from the maps.

    Bilinear weights are a product of one over the height and one over the width, and so is a mean over a grid: a box is
    two matrix products, maps (H,W) with weights (bins,H) and (W,bins). Differentiable, in the boxes too.

    Args:
        maps: (N,C,H,W). boxes: (M,5): number of the image, and x1, y1, x2, y2 in its pixels.
        output_size: bins over height and width, a number or a pair.
        spatial_scale: from the boxes' pixels to the maps' cells: 1/16 for maps of a sixteenth of the size.
        sampling_ratio: samples over the height and over the width of a bin; 0 for as many as cells, rounded up.
        aligned: the centre of the first cell lies at half a cell, as pixels' do. False: at 0, and boxes are at least a
            cell large, as in older code.
    Returns: (M,C,bins,bins). A sample more than a cell outside is 0; one nearer takes the value at the edge.
    Raises: ValueError naming the argument.
    """
    rows, columns = (output_size, output_size) if isinstance(output_size, int) else output_size
    if maps.dim() != 4:
        raise ValueError(f"maps: expected (N,C,H,W), got shape {tuple(maps.shape)}")
    if boxes.dim() != 2 or boxes.shape[1] != 5:
        raise ValueError(f"boxes: expected (M,5), image and x1, y1, x2, y2, got shape {tuple(boxes.shape)}")
    if rows < 1 or columns < 1:
        raise ValueError(f"output_size: expected positive ints, got {output_size}")
    if sampling_ratio < 0:
        raise ValueError(f"sampling_ratio: expected 0 or a positive int, got {sampling_ratio}")
    image = boxes[:, 0].long()
    if boxes.shape[0] and not boxes.is_meta and not 0 <= int(image.min()) <= int(image.max()) < maps.shape[0]:
        raise ValueError(f"boxes: expected images from 0 to {maps.shape[0] - 1}, got {sorted(set(image.tolist()))}")
    places = boxes[:, 1:].to(torch.promote_types(boxes.dtype, torch.float32)) * spatial_scale
    if aligned:
        places = places - 0.5
    x1, y1, x2, y2 = places.unbind(1)
    down = _weights(y1, y2, rows, maps.shape[2], sampling_ratio, aligned).to(maps.dtype)
    across = _weights(x1, x2, columns, maps.shape[3], sampling_ratio, aligned).to(maps.dtype)
    return torch.einsum("mph,mchw,mqw->mcpq", down, maps[image], across)


def _weights(start, end, bins, cells, sampling_ratio, aligned):
    """What each bin of each box takes from each cell, along one side: (M,bins,cells)."""
    length = end - start
    if not aligned:
        length = length.clamp(min=1)
    size = length / bins
    if sampling_ratio:
        samples = torch.full_like(size, sampling_ratio)
        most = sampling_ratio
    else:
        samples = size.detach().ceil().clamp(min=0)  # none in a box that is empty or turned round
        most = int(samples.max()) if len(samples) and not samples.is_meta else 1
    number = torch.arange(most, device=start.device)
    within = (number + 0.5) / samples.clamp(min=1)[:, None]
    at = torch.arange(bins, device=start.device)[None, :, None] + within[:, None]
    at = start[:, None, None] + at * size[:, None, None]  # (M,bins,samples), in cells
    counts = (number < samples[:, None])[:, None] & (at >= -1) & (at <= cells)
    centre = torch.arange(cells, device=start.device)
    near = (1 - (at.clamp(0, cells - 1)[..., None] - centre).abs()).clamp(min=0)
    return (near * counts[..., None]).sum(2) / samples.clamp(min=1)[:, None, None]
