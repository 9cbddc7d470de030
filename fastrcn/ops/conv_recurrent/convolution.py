"""Convolutions on dense channels-last maps that add to their target."""

import torch.nn.functional as F


def add_convolution(target, x, weight, padding, stride=(1, 1), dilation=(1, 1)):
    """target += convolution(x, weight), by the library. ``target`` (N,Ho,Wo,Co) and ``x`` (N,H,W,Ci) are dense."""
    if target.numel() == 0 or x.numel() == 0:
        return
    c_out, c_in, kh, kw = weight.shape
    if kh == kw == 1 and tuple(stride) == (1, 1) and not any(padding):
        target.view(-1, c_out).addmm_(x.view(-1, c_in), weight.reshape(c_out, c_in).t())
        return
    target += F.conv2d(x.permute(0, 3, 1, 2), weight, None, stride, padding, dilation).permute(0, 2, 3, 1)
