"""A model as a user may bring it."""

import torch
from torch import nn

from fastrcn import ConvLSTM, ConvReLUPool3d


class Own(nn.Module):
    """Clips (N,3,T,H,W) -> scores."""

    def __init__(self, num_classes, width):
        super().__init__()
        self.conv = nn.Conv3d(3, width, 3)
        self.last = nn.Linear(width, num_classes)

    def forward(self, clip):
        return self.last(torch.relu(self.conv(clip)).mean((2, 3, 4)))


def make(num_classes=10, width=4):
    return Own(num_classes, width)


class Recurrent(nn.Module):
    """Clips (N,3,T,H,W) -> scores, by a 3-D convolution and a ConvLSTM of fastrcn."""

    def __init__(self, num_classes):
        super().__init__()
        self.conv = ConvReLUPool3d(3, 4, 3, padding=1, pool_kernel_size=(1, 2, 2))
        self.lstm = ConvLSTM(4, 5)
        self.last = nn.Linear(5, num_classes)

    def forward(self, clip):
        states, _ = self.lstm(self.conv(clip).permute(2, 0, 1, 3, 4))
        return self.last(states[-1].mean((2, 3)))


def make_recurrent(num_classes=10):
    return Recurrent(num_classes)
