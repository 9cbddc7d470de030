"""Hurricane tracking and forecasting: targets, positions read off maps, and nets trained for a moment.

The tracks of the forecasting test are real (IBTrACS), its maps are not: they are Gaussians drawn at the storms' centres
on a coarse grid that is centred where the storm is last seen. The tracker's climate maps are made up altogether.
"""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fastrcn.models import HurricaneForecaster, HurricaneTracker, density_maps, local_maxima, strongest_positions
from tests.helpers import loops
from tests.helpers.storm_tracks import storm_tracks
from tests.helpers.tolerances import assert_close

NOWHERE = [math.nan, math.nan]


class TestDensityMaps:
    @pytest.mark.parametrize("sigma", [1.5, 2.5])
    def test_integrates_to_the_number_of_hurricanes(self, sigma):
        positions = torch.tensor([[[30.0, 20.3], [25.7, 50.0]], [[30.0, 20.3], NOWHERE], [NOWHERE, NOWHERE]]).double()
        maps = density_maps(positions, (60, 70), sigma, "density")
        assert maps.shape == (3, 1, 60, 70)
        assert_close(maps.sum((1, 2, 3)), torch.tensor([2.0, 1.0, 0.0]).double())

    def test_half_of_one_at_the_border_is_outside(self):
        edges = torch.tensor([[[-0.5, 20.0]], [[39.5, 39.5]]]).double()
        maps = density_maps(edges, (40, 40), 2.0, "density")
        assert maps.sum((1, 2, 3)).tolist() == pytest.approx([0.5, 0.25], abs=1e-2)

    def test_peaks(self):
        near = torch.tensor([[10.0, 10.0], [10.0, 12.0]])
        maps = density_maps(near, (21, 21), 2.0)
        assert maps.shape == (1, 21, 21)
        assert maps.max() == 1  # not more where they overlap
        assert maps[0, 10, [10, 12]].tolist() == [1, 1]
        assert maps[0, 12, 10].item() == pytest.approx(math.exp(-0.5))
        assert density_maps(torch.zeros(4, 0, 2), (3, 3)).shape == (4, 1, 3, 3)
        assert (density_maps(torch.tensor([NOWHERE]), (3, 3)) == 0).all()


def test_positions_come_back():
    rows, columns = torch.randint(0, 30, (2, 3, 4)), torch.randint(0, 40, (2, 3, 4))
    positions = torch.stack([rows, columns], -1)[..., :1, :]  # (2,3,1,2)
    maps = density_maps(positions.double(), (30, 40))
    assert torch.equal(strongest_positions(maps), positions[..., 0, :])


def test_local_maxima_are_the_hurricanes():
    storms = torch.tensor([[[5.0, 6.0], [20.0, 30.0]], [[9.0, 9.0], NOWHERE], [NOWHERE, NOWHERE]])[:, None]
    maps = density_maps(storms, (30, 40))
    assert maps.shape == (3, 1, 1, 30, 40)
    assert local_maxima(maps).tolist() == [[0, 0, 5, 6], [0, 0, 20, 30], [1, 0, 9, 9]]
    assert local_maxima(maps, radius=30).tolist() == [[0, 0, 5, 6], [0, 0, 20, 30], [1, 0, 9, 9]]  # equally high
    assert local_maxima(maps * torch.tensor([1.0, 0.4, 1.0]).view(3, 1, 1, 1, 1)).tolist() == [
        [0, 0, 5, 6],
        [0, 0, 20, 30],
    ]
    maps[0, 0, 0, 5, 7] = 1.5
    assert local_maxima(maps).tolist()[0] == [0, 0, 5, 7]


class TestTracker:
    def test_shapes_of_the_published_data(self):
        with torch.device("meta"):
            net = HurricaneTracker()
            density = net(*net.example_inputs(2))
        assert density.shape == (2, 10, 1, 128, 257)
        layers = [4 * 25 * c * (i + c) + 7 * c for i, c in ((6, 32), (32, 64), (64, 32))]
        assert sum(p.numel() for p in net.parameters()) == sum(layers) + 33

    @pytest.mark.parametrize("output", ["sigmoid", "logits"])
    def test_equals_layers_written_out(self, output):
        net = HurricaneTracker(2, (3, 2), 3, output=output).double()
        for p in net.parameters():
            nn.init.uniform_(p, -0.4, 0.4)
        maps = torch.rand(2, 4, 2, 6, 7, dtype=torch.float64)
        x = maps.transpose(0, 1)
        for layer, size in zip(net.layers, (3, 2), strict=True):
            zero = torch.zeros(2, size, 6, 7, dtype=torch.float64)
            p = {n.removesuffix("_l0"): v for n, v in layer.named_parameters()}
            x, _ = loops.run(loops.lstm_step, p, x, (zero, zero))
        truth = torch.stack([F.conv2d(frame, net.head.weight, net.head.bias) for frame in x], 1)
        assert_close(net(maps), torch.sigmoid(truth) if output == "sigmoid" else truth)

    def test_shifts_with_its_input_away_from_borders(self):
        net = HurricaneTracker(2, (3, 4, 2), 3).double()
        for p in net.parameters():
            nn.init.uniform_(p, -0.5, 0.5)
        maps = torch.zeros(1, 2, 2, 40, 40, dtype=torch.float64)
        maps[..., 15:20, 15:20] = torch.rand(1, 2, 2, 5, 5, dtype=torch.float64)
        density, shifted = net(maps), net(maps.roll((3, 4), (3, 4)))
        # Borders reach one pixel further with every layer and step: 6.
        assert_close(shifted[..., 9:34, 10:34], density[..., 6:31, 6:30])
        assert (shifted - density).abs().max() > 1e-3


def climate(clips, steps=6, size=20):
    """Made-up maps (clips,steps,3,size,size) of two winds and pressure, and the path of the one vortex in each.

    A second low has the same pressure and no winds, so pressure alone does not tell them apart.
    """
    grid, time = torch.arange(size).float(), torch.arange(steps)[:, None] - steps / 2

    def path():
        return size / 2 + 6 * torch.rand(clips, 1, 2) - 3 + time * (2 * torch.rand(clips, 1, 2) - 1)

    storm, low = path(), path()

    def bump(centre):
        y, x = grid[:, None] - centre[..., 0, None, None], grid - centre[..., 1, None, None]
        return torch.exp(-(y**2 + x**2) / 8), y, x

    (peak, y, x), (other, _, _) = bump(storm), bump(low)
    maps = torch.stack([-y * peak, x * peak, -peak - other], 2)
    return maps + 0.2 * torch.randn_like(maps), storm


@pytest.mark.slow
def test_tracks_a_moving_vortex_among_lows(one_thread):
    net = HurricaneTracker(3, (12, 8), 3, output="logits")
    optimizer = torch.optim.Adam(net.parameters(), 2e-2)
    for _ in range(60):
        maps, storm = climate(4)
        target = density_maps(storm[:, :, None], (20, 20), 1.5)
        optimizer.zero_grad()
        F.binary_cross_entropy_with_logits(net(maps), target).backward()
        optimizer.step()
    maps, storm = climate(50)
    with torch.no_grad():
        density = net(maps)
    error = (strongest_positions(density) - storm).norm(dim=-1)
    pressure = (strongest_positions(-maps[:, :, 2:]) - storm).norm(dim=-1)
    assert error.median() < 1
    assert (error < 2).float().mean() > 0.98
    assert (pressure < 2).float().mean() < 0.8  # the lowest pressure is often the other low
    # What moves by three rows and two columns is found there.
    moved = torch.zeros_like(maps[:1])
    moved[..., 8:13, 8:13] = climate(1)[0][..., 8:13, 8:13]
    with torch.no_grad():
        here, there = (strongest_positions(net(m)) for m in (moved, moved.roll((3, 2), (3, 4))))
    assert torch.equal(here + torch.tensor([3, 2]), there)


class TestForecaster:
    def test_five_after_five(self):
        with torch.device("meta"):
            net = HurricaneForecaster()
            maps = torch.empty(2, 5, 1, 128, 257)
            assert net(maps).shape == (2, 5, 1, 128, 257)
            assert net(maps, 7).shape == (2, 7, 1, 128, 257)

    def test_is_the_encoder_forecaster(self):
        net = HurricaneForecaster((3, 4), 3, output="linear")
        maps = torch.rand(1, 4, 1, 6, 7)
        assert torch.equal(net(maps), super(HurricaneForecaster, net).forward(maps, 5))


@pytest.mark.slow
def test_forecasts_storms_better_than_simple_rules(one_thread):
    size, degrees = 16, 1.6  # a window of 25.6 degrees

    def windows(seasons, stride):
        """Ten steps of every track, in pixels of a window centred on the storm at the fifth, longitudes unscaled."""
        parts = [t[k : k + 10] for t in storm_tracks(seasons) for k in range(0, len(t) - 9, stride)]
        steps = torch.stack(parts)
        return (steps - steps[:, 4:5]) / degrees + (size - 1) / 2

    def maps_of(steps):
        return density_maps(steps[:, :, None], (size, size), 1.0)

    train, held_out = windows(range(2000, 2012), 3), windows(range(2015, 2020), 9)
    assert len(train) > 2000
    assert len(held_out) > 400
    net = HurricaneForecaster((20,), 3, patch=2, output="residual")
    steps, rate = 240, 2e-2
    optimizer = torch.optim.Adam(net.parameters(), rate)
    for k in range(steps):
        optimizer.param_groups[0]["lr"] = rate * (1 - k / steps)
        maps = maps_of(train[torch.randint(len(train), (12,))])
        optimizer.zero_grad()
        (100 * F.mse_loss(net(maps[:, :5]), maps[:, 5:])).backward()
        optimizer.step()
    maps = maps_of(held_out)
    past, future = maps[:, :5], maps[:, 5:]
    ahead = torch.arange(1, 6)
    with torch.no_grad():
        error = F.mse_loss(net(past), future)
    copied = F.mse_loss(past[:, 4:].expand_as(future), future)
    extrapolated_maps = past[:, 4:] + ahead.view(5, 1, 1, 1) * (past[:, 4:] - past[:, 3:4])
    extrapolated = held_out[:, 4:5] + ahead[:, None] * (held_out[:, 4:5] - held_out[:, 3:4])
    assert error < 0.4 * copied
    assert error < 0.4 * F.mse_loss(extrapolated_maps.clamp(0, 1), future)
    assert error < F.mse_loss(maps_of(extrapolated), future)  # the storm moves on as in the last six hours


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: density_maps(torch.zeros(3), (4, 4)), r"positions: expected \(...,hurricanes,2\)"),
        (lambda: density_maps(torch.zeros(1, 2), (4, 4), 0), "sigma"),
        (lambda: density_maps(torch.zeros(1, 2), (4, 4), scale="sum"), "scale"),
        (lambda: HurricaneTracker(output="tanh"), "output"),
        (lambda: HurricaneTracker(hidden_sizes=()), "hidden_sizes"),
        (lambda: HurricaneTracker(2, (2,))(torch.zeros(1, 2, 3, 4, 4)), r"maps: expected \(N,T,2,H,W\)"),
        (lambda: HurricaneForecaster((2,), 3)(torch.zeros(1, 2, 3, 4, 4)), r"frames: expected density maps"),
        (lambda: HurricaneForecaster((2,), 3)(torch.zeros(1, 2, 1, 4, 4), 0), "horizon"),
        (lambda: HurricaneForecaster((2,), 3, output="logits"), "output"),
    ],
)
def test_errors(make, words):
    with pytest.raises(ValueError, match=words):
        make()
