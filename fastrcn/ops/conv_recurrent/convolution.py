"""Convolutions on dense channels-last maps that add to their target in place.

A convolution that returns a new tensor makes the system hand out fresh pages for it (see ``fastrcn.memory``) and leaves
the sum to another pass.
"""

import torch
import torch.nn.functional as F

from fastrcn import native


def has_adding_convolution(dtype):
    """Whether oneDNN convolves this type here, so that the sum can be done in its epilogue."""
    if not torch.backends.mkldnn.is_available():
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and native.has_bfloat16_convolution())


def add_convolution(target, x, weight, padding, stride=(1, 1), dilation=(1, 1)):
    """target += convolution(x, weight). ``target`` (N,Ho,Wo,Co) and ``x`` (N,H,W,Ci) are dense, on the CPU."""
    if target.numel() == 0 or x.numel() == 0:
        return
    c_out, c_in, kh, kw = weight.shape
    if kh == kw == 1 and tuple(stride) == (1, 1):
        target.view(-1, c_out).addmm_(x.view(-1, c_in), weight.reshape(c_out, c_in).t())
        return
    if c_in == 1:
        # Maps of one channel are contiguous in both orders; oneDNN would take the other and copy the target.
        x, weight = F.pad(x, (0, 1)), F.pad(weight, (0, 0, 0, 0, 0, 1))
    x, out = x.permute(0, 3, 1, 2), target.permute(0, 3, 1, 2)
    if has_adding_convolution(x.dtype):
        torch.ops.mkldnn._convolution_pointwise_.binary(
            out, x, weight, None, list(padding), list(stride), list(dilation), 1, "add", None, None, [], None
        )
        return
    out += F.conv2d(x, weight, None, stride, padding, dilation)


def reflected(weight):
    """The weight with which a "same" convolution at stride 1 takes the output's gradient to the input's."""
    return weight.transpose(0, 1).flip(2, 3).contiguous()
