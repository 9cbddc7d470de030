"""The library's convolutions, of maps (H,W) or (D,H,W), and those on dense channels-last maps into a target."""

import torch
import torch.nn.functional as F


def convolution(x, weight, bias, stride, padding, dilation):
    """Convolution of channels-first maps; the weight's rank says of how many axes."""
    library = F.conv2d if weight.dim() == 4 else F.conv3d
    return library(x, weight, bias, stride, padding, dilation)


def is_product(kernel, stride, padding):
    """Whether a convolution is a product of matrices: of single pixels, all of them."""
    return {*kernel, *stride} == {1} and not any(padding)


def add_convolution(target, x, weight, padding, stride, dilation):
    """target += convolution(x, weight), by the library. ``target`` (N,Ho,Wo,Co) and ``x`` (N,H,W,Ci) are dense."""
    if target.numel() == 0 or x.numel() == 0:
        return
    c_out, c_in, *kernel = weight.shape
    if is_product(kernel, stride, padding):
        target.view(-1, c_out).addmm_(x.view(-1, c_in), weight.reshape(c_out, c_in).t())
        return
    target += convolution(x.movedim(-1, 1), weight, None, stride, padding, dilation).movedim(1, -1)


def fill(target, row):
    """target = ``row``, one value per channel, or zero where there is none."""
    target.zero_() if row is None else target.copy_(row)


def put_convolution(target, x, weight, bias, padding, stride, dilation):
    """target = convolution(x, weight) + ``bias``, a row or None, by the library: what was there need not be read."""
    if x.numel() == 0:
        fill(target, bias)
        return
    c_out, c_in, *kernel = weight.shape
    if is_product(kernel, stride, padding):
        rows, pixels, matrix = target.view(-1, c_out), x.view(-1, c_in), weight.reshape(c_out, c_in).t()
        torch.mm(pixels, matrix, out=rows) if bias is None else torch.addmm(bias, pixels, matrix, out=rows)
        return
    target.copy_(convolution(x.movedim(-1, 1), weight, bias, stride, padding, dilation).movedim(1, -1))
