"""Flow as networks read it: hand-worked values, and each encoding of a mirrored video."""

import pytest
import torch

from fastrcn.data import (
    FlowBytes,
    flip_bytes,
    flip_flow,
    flip_flow_image,
    flip_stacked,
    flow_image,
    flow_windows,
    follow_trajectories,
    from_bytes,
    i3d_flow,
    stack_flow,
    to_bytes,
)


def uniform(*fields, size=(4, 5)):
    """Fields of one motion each: (1,L,2,H,W)."""
    return torch.tensor(fields)[None, :, :, None, None].expand(-1, -1, -1, *size).clone()


def mirrored(flow):
    """The flow of the mirrored video, by the definition: what moved by (dx,dy) at x moves by (-dx,dy) at W-1-x."""
    out = torch.empty_like(flow)
    width = flow.shape[-1]
    for x in range(width):
        out[:, :, 0, :, x] = -flow[:, :, 0, :, width - 1 - x]
        out[:, :, 1, :, x] = flow[:, :, 1, :, width - 1 - x]
    return out


def test_order_of_a_stack():
    flow = uniform((1.0, 2.0), (3.0, 4.0), (5.0, 6.0))
    stacked = stack_flow(flow, subtract_mean=False)
    assert stacked.shape == (1, 6, 4, 5)
    assert stacked[0, :, 0, 0].tolist() == [1, 2, 3, 4, 5, 6]  # dx_1, dy_1, dx_2, dy_2, dx_3, dy_3
    assert stack_flow(torch.zeros(2, 10, 2, 8, 8)).shape == (2, 20, 8, 8)


def test_each_component_of_each_field_loses_its_mean():
    flow = uniform((1.0, 2.0), (3.0, 4.0))
    assert torch.equal(stack_flow(flow), torch.zeros(1, 4, 4, 5))
    flow[0, 1, 0, 0, 0] = 23.0  # one pixel of 20 moves by 20 more: the mean is 4
    found = stack_flow(flow)
    assert found[0, 2, 0, 0] == 19
    assert found[0, 2, 0, 1] == -1
    assert not found[0, [0, 1, 3]].any()


def test_i3d():
    found = i3d_flow(uniform((10.0, -5.0), (30.0, -40.0)))
    assert found.shape == (1, 2, 2, 4, 5)  # (N,2,L,H,W)
    assert found[0, :, :, 0, 0].tolist() == [[0.5, 1.0], [-0.25, -1.0]]


def test_lrcn_image():
    found = flow_image(uniform((0.0, 0.0), (3.0, -4.0), (20.0, -20.0)))
    assert found.shape == (1, 3, 3, 4, 5)
    assert found[0, :, :, 0, 0].tolist() == [[128, 128, 128], [176, 64, 208], [255, 0, 255]]


def test_bytes_with_a_bound():
    stored = to_bytes(uniform((-20.0, 20.0), (0.0, 100.0)))
    assert stored.values.dtype == torch.uint8
    assert stored.values[0, :, :, 0, 0].tolist() == [[0, 255], [128, 255]]
    flow = torch.rand(2, 3, 2, 6, 7) * 10 - 5
    assert (from_bytes(to_bytes(flow, 5.0)) - flow).abs().max() <= 5 / 255 + 1e-6
    assert (from_bytes(to_bytes(flow, 2.0)) - flow.clamp(-2, 2)).abs().max() <= 2 / 255 + 1e-6


def test_bytes_with_the_range_of_each_field():
    flow = torch.randn(2, 3, 2, 6, 7) * torch.rand(2, 3, 2, 1, 1) * 30
    stored = to_bytes(flow, None)
    assert stored.low.shape == stored.high.shape == (2, 3, 2, 1, 1)
    assert (stored.values.amin((-2, -1)) == 0).all()
    assert (stored.values.amax((-2, -1)) == 255).all()
    step = (flow.amax((-2, -1), keepdim=True) - flow.amin((-2, -1), keepdim=True)) / 255
    assert ((from_bytes(stored) - flow).abs() <= step * 0.501).all()
    still = uniform((3.0, -2.0))
    assert torch.equal(from_bytes(to_bytes(still, None)), still)


def test_mirroring_in_each_encoding():
    flow = torch.randn(2, 4, 2, 5, 6) * 3
    truth = mirrored(flow)
    assert torch.equal(flip_flow(flow), truth)
    assert torch.equal(flip_flow(i3d_flow(flow), dim=1), i3d_flow(truth))
    for subtract_mean in (True, False):
        found, expected = flip_stacked(stack_flow(flow, subtract_mean)), stack_flow(truth, subtract_mean)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(flip_flow_image(flow_image(flow)), flow_image(truth))
    torch.testing.assert_close(follow_trajectories(truth), flip_flow(follow_trajectories(flow)), rtol=0, atol=1e-4)


def test_mirroring_of_clipped_images():
    """Of x = 0 and x = 255, which are any larger motions: 255, and 1 in place of 0."""
    image = flow_image(uniform((-9.0, 0.0), (9.0, 0.0), (0.0, 9.0)))
    assert flip_flow_image(image)[0, :, 0, 0, 0].tolist() == [255, 1, 128]


@pytest.mark.parametrize("bound", [3.0, None])
def test_mirroring_of_bytes(bound):
    flow = torch.randn(2, 3, 2, 5, 6)
    stored = to_bytes(flow, bound)
    found, expected = flip_bytes(stored), to_bytes(mirrored(flow), bound)
    assert (found.values.int() - expected.values.int()).abs().max() <= 1  # where rounding met a half
    torch.testing.assert_close(found.low, expected.low)
    torch.testing.assert_close(found.high, expected.high)
    torch.testing.assert_close(from_bytes(found), mirrored(from_bytes(stored)), rtol=0, atol=1e-5)
    assert isinstance(found, FlowBytes)


def test_windows():
    flow = torch.arange(14.0)[None, :, None, None, None].expand(2, 14, 2, 3, 3)
    found = flow_windows(flow)
    assert found.shape == (2, 5, 10, 2, 3, 3)
    assert found[1, :, 0, 0, 0, 0].tolist() == [0, 1, 2, 3, 4]
    assert found[0, 4, :, 1, 2, 2].tolist() == list(range(4, 14))
    assert flow_windows(flow, 4, 5)[0, :, 0, 0, 0, 0].tolist() == [0, 5, 10]


def test_trajectories():
    """Everything moves right by 2, then each field tells its column and its number."""
    flow = torch.zeros(1, 3, 2, 2, 9)
    flow[0, 0, 0] = 2.0
    flow[0, 1, 0] = 1.0
    flow[0, 1, 1] = torch.arange(9.0) / 10
    flow[0, 2, 0] = torch.arange(9.0)
    found = follow_trajectories(flow)
    assert torch.equal(found[:, 0], flow[:, 0])
    for x in range(6):
        row = round(x / 10 + 0.2, 6)  # down by this much: the field is the same in both rows
        torch.testing.assert_close(found[0, 1, :, 0, x], torch.tensor([1.0, row]))
        torch.testing.assert_close(found[0, 2, 0, 0, x], torch.tensor(x + 3.0))
    torch.testing.assert_close(found[0, 2, 0, 0, 8], torch.tensor(8.0))  # past the border


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: stack_flow(torch.zeros(1, 3, 3, 4, 4)), r"flow: expected \(N,L,2,H,W\)"),
        (lambda: i3d_flow(torch.zeros(3, 2, 4, 4)), r"flow: expected \(N,L,2,H,W\)"),
        (lambda: flow_windows(torch.zeros(1, 9, 2, 4, 4)), "flow: expected at least 10 fields, one window, got 9"),
        (lambda: flow_windows(torch.zeros(1, 9, 2, 4, 4), 0), "length, stride: expected positive ints"),
        (lambda: to_bytes(torch.zeros(1, 9, 2, 4, 4), 0.0), "bound: expected a positive number or None, got 0.0"),
        (lambda: flip_flow(torch.zeros(1, 2, 9, 4, 4)), "flow: expected 2 channels along dimension -3"),
        (lambda: flip_stacked(torch.zeros(1, 3, 4, 4)), r"stacked: expected \(N,2L,H,W\)"),
        (lambda: flip_flow_image(torch.zeros(1, 3, 4, 4)), r"image: expected \(N,L,3,H,W\)"),
    ],
)
def test_errors(call, words):
    with pytest.raises(ValueError, match=words):
        call()
