"""Filters as clips: the scaling worked out by hand."""

import pytest
import torch

from fastrcn.visualization import filter_clips


def test_each_filter_is_scaled_by_its_own_smallest_and_largest_weight():
    weight = torch.zeros(3, 3, 2, 1, 2)
    weight[0] = torch.tensor(
        [[[[-1.0, 0.0]], [[1.0, 2.0]]], [[[3.0, 0.0]], [[0.0, 0.0]]], [[[0.0, 0.0]], [[0.0, 1.0]]]]
    )
    weight[1, 2, 1, 0, 1] = 1e-3  # a weak filter fills the range too
    weight[2] = -7.0
    clips = filter_clips(weight)
    truth = torch.tensor(
        [[[[0.0, 0.25]], [[0.5, 0.75]]], [[[1.0, 0.25]], [[0.25, 0.25]]], [[[0.25, 0.25]], [[0.25, 0.5]]]]
    )
    torch.testing.assert_close(clips[0], truth)
    assert clips[1].flatten().tolist() == [0.0] * 11 + [1.0]
    assert (clips[2] == 0.5).all()


def test_a_layers_weight_gives_clips_without_gradient():
    layer = torch.nn.Conv3d(3, 6, (4, 5, 5))
    clips = filter_clips(layer.weight)
    assert clips.shape == (6, 3, 4, 5, 5)
    assert not clips.requires_grad
    assert (clips.amin((1, 2, 3, 4)) == 0).all()
    assert (clips.amax((1, 2, 3, 4)) == 1).all()
    assert filter_clips(torch.randn(2, 1, 10, 11, 11)).shape == (2, 1, 10, 11, 11)


@pytest.mark.parametrize("shape", [(6, 3, 5, 5), (6, 2, 4, 5, 5)])
def test_errors(shape):
    with pytest.raises(ValueError, match=r"weight: expected \(Cout,3,T,k,k\) or \(Cout,1,T,k,k\), got shape"):
        filter_clips(torch.zeros(shape))
