"""Receptive fields: tables worked out by hand, measured on nets, of nets with branches; sizes as PyTorch's."""

import copy

import pytest
import torch
from torch import nn

import fastrcn
from fastrcn import models
from fastrcn.layers import ConvBNReLUPool3d
from fastrcn.models.inception import Inception
from fastrcn.models.receptive_field import (
    Field,
    Layer,
    fields_of,
    filters_over_time,
    measured_field,
    output_sizes,
    receptive_fields,
    temporal_shift_error,
)

pytestmark = pytest.mark.usefixtures("one_thread")

AROUND = (0, 1, 1)
# Of the small nets: layers on a clip of 20 frames of 64x64, and the table of the lecture.
TOYS = {
    "late": (
        [
            Layer.of((1, 3, 3), padding=AROUND), Layer.of((1, 4, 4), (1, 4, 4)),
            Layer.of((1, 3, 3), padding=AROUND), Layer.of((20, 16, 16)),
        ],
        [(1, 3, 3), (1, 6, 6), (1, 14, 14), (20, 64, 64)],
        [(20, 64, 64), (20, 16, 16), (20, 16, 16), (1, 1, 1)],
    ),
    "early": (
        [
            Layer.of((20, 3, 3), padding=AROUND), Layer.of((1, 4, 4), (1, 4, 4)),
            Layer.of((1, 3, 3), padding=AROUND), Layer.of((1, 16, 16)),
        ],
        [(20, 3, 3), (20, 6, 6), (20, 14, 14), (20, 64, 64)],
        [(1, 64, 64), (1, 16, 16), (1, 16, 16), (1, 1, 1)],
    ),
    "3d": (
        [Layer.of(3, padding=1), Layer.of(4, 4), Layer.of(3, padding=1), Layer.of((5, 16, 16))],
        [(3, 3, 3), (6, 6, 6), (14, 14, 14), (20, 64, 64)],
        [(20, 64, 64), (5, 16, 16), (5, 16, 16), (1, 1, 1)],
    ),
}  # fmt: skip


def extent(ends):
    return tuple(b - a for a, b in ends)


@pytest.mark.parametrize("name", TOYS)
def test_tables_of_the_small_nets(name):
    layers, table, sizes = TOYS[name]
    assert output_sizes(layers, (20, 64, 64)) == sizes
    fields = receptive_fields(layers)
    assert [f.size for f in fields[:3]] == table[:3]
    assert extent(fields[3].seen((0, 0, 0), (20, 64, 64))) == table[3]  # the average sees all, and beyond


def measured(net, *shape, index=None, examples=4):
    return extent(measured_field(net, torch.randn(examples, *shape), index))


def test_measured_fields_of_the_small_nets():
    single = models.create("late_fusion_pool_toy").features
    rows = [measured(single[:k], 3, 64, 64) for k in (1, 3, 4)]
    assert rows == [row[1:] for row in TOYS["late"][1][:3]]
    early = models.create("early_fusion_toy")
    for k, row in zip((1, 3, 4), TOYS["early"][1], strict=False):
        assert measured(lambda x, k=k: early.features[:k](early.stack(x)), 3, 20, 64, 64) == row
    slow = models.create("slow_fusion_toy").features
    for net, row in zip((slow[0][0], slow[0], slow), TOYS["3d"][1], strict=False):
        assert measured(net, 3, 20, 64, 64) == row


@pytest.mark.parametrize("name", ["late_fusion_pool_toy", "early_fusion_toy", "slow_fusion_toy"])
def test_averages_see_the_whole_clip(name):
    assert measured(models.create(name), 3, 20, 64, 64, index=()) == (20, 64, 64)


def test_traced_fields_of_the_small_nets():
    late, slow = models.create("late_fusion_pool_toy").features, models.create("slow_fusion_toy").features
    assert [fields_of(late)[k].size for k in ("0", "1", "2", "3")] == [(3, 3), (3, 3), (6, 6), (14, 14)]
    assert {k: f.size for k, f in fields_of(slow).items()} == {"0": (6, 6, 6), "1": (14, 14, 14), "": (14, 14, 14)}
    assert fields_of(slow)[""] == receptive_fields(TOYS["3d"][0])[2]


def test_measured_place_is_that_of_the_arithmetic():
    layers = [Layer.of(5, 2, 1, dims=2), Layer.of(3, 1, 2, 2, dims=2), Layer.of(2, 2, dims=2)]
    net = nn.Sequential(nn.Conv2d(1, 8, 5, 2, 1), nn.Conv2d(8, 8, 3, padding=2, dilation=2), nn.AvgPool2d(2)).double()
    fields = receptive_fields(layers)
    # 5 from -1; with dilation 2 every second of 5 outputs, 8 more input cells before stride 2 ends: 5 + 4*2
    assert fields[0] == Field((5, 5), (2, 2), (-1, -1))
    assert fields[1] == Field((13, 13), (2, 2), (-5, -5))
    assert fields[2] == Field((15, 15), (4, 4), (-5, -5))
    assert fields_of(net)[""] == fields[2]
    for index in ((0, 3), (2, 4), (5, 5)):
        found = measured_field(net, torch.randn(2, 1, 25, 27, dtype=torch.float64), index)
        assert found == fields[2].seen(index, (25, 27))
    assert fields[2].seen((0, 3), (25, 27)) == ((0, 10), (7, 22))


def inflated_inception(frames, size):
    """The layers of I3D (the longest branch of each module), padded as TensorFlow's "SAME", and its last pooling."""
    layers, sizes = [], (frames, size, size)

    def add(kernel, stride):
        nonlocal sizes
        spare = [max((-(-n // s) - 1) * s + k - n, 0) for n, k, s in zip(sizes, kernel, stride, strict=True)]
        layers.append(Layer.of(kernel, stride, tuple((s // 2, s - s // 2) for s in spare)))
        sizes = layers[-1].output_size(sizes)

    def modules(count):
        for _ in range(count):
            add((3, 3, 3), (1, 1, 1))

    add((7, 7, 7), (2, 2, 2))
    add((1, 3, 3), (1, 2, 2))
    add((1, 1, 1), (1, 1, 1))
    add((3, 3, 3), (1, 1, 1))
    add((1, 3, 3), (1, 2, 2))
    modules(2)
    add((3, 3, 3), (2, 2, 2))
    modules(5)
    add((2, 2, 2), (2, 2, 2))
    modules(2)
    return layers


def test_i3d_sees_99_frames_every_8():
    layers = inflated_inception(64, 224)
    fields = receptive_fields(layers)
    assert (fields[-1].size[0], fields[-1].stride[0]) == (99, 8)
    assert [f.size[0] for f in fields] == [7, 7, 7, 11, 11, 15, 19, 23, 31, 39, 47, 55, 63, 67, 83, 99]
    assert output_sizes(layers, (64, 224, 224))[-1] == (8, 7, 7)
    assert fields[0].start == (-2, -2, -2)


def test_branches_are_joined():
    fields = fields_of(Inception(8, 2, 3, 4, 2, 3, 2))
    assert fields["branch1.conv"].size == (1, 1)
    assert fields["branch2.1.conv"] == fields["branch4.1.bn"] == fields[""] == Field((3, 3), (1, 1), (-1, -1))

    class Uneven(nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right = nn.Conv2d(1, 4, (1, 4), padding=(0, 3)), nn.Conv2d(1, 4, (3, 4), padding=(1, 0))

        def forward(self, x):
            return self.left(x)[:, :, :, 3:] + self.right(x)

    with pytest.raises(ValueError, match=r"module: expected layers and pointwise functions, got .*getitem"):
        fields_of(Uneven())
    assert Field((1, 4), (1, 1), (0, -3)).joined(Field((3, 4), (1, 1), (-1, 0))) == Field((3, 7), (1, 1), (-1, -3))


def test_residual_block_and_fused_layer():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = ConvBNReLUPool3d(2, 2, (5, 1, 3), padding=(2, 0, 1))
            self.pool = nn.MaxPool3d((1, 2, 2))

        def forward(self, x):
            return self.pool(torch.relu(x + self.conv(x)))

    assert fields_of(Block())["pool"] == Field((5, 2, 4), (1, 2, 2), (-2, 0, -1))
    assert measured(Block().eval(), 2, 7, 8, 8, index=(3, 2, 2)) == (5, 2, 4)


@pytest.mark.parametrize("norms", [0, 1])
def test_pooling_that_is_part_of_a_layer(norms):
    tail = [*(nn.BatchNorm3d(2) for _ in range(norms)), nn.ReLU(), nn.MaxPool3d((2, 3, 1), (1, 2, 1), (1, 0, 0))]
    plain = nn.Sequential(nn.Conv3d(2, 2, 3, padding=1), *tail)
    fused = copy.deepcopy(plain)
    assert len(fastrcn.fuse(fused)) > 0
    assert fields_of(fused)[""] == fields_of(plain)[""] == Field((4, 5, 3), (1, 2, 1), (-2, -1, -1))


# PyTorch says that it copies the input for even kernels.
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv3d(1, 1, (3, 5, 1), (2, 1, 3), (1, 0, 0), (1, 2, 1)),
        nn.Conv3d(1, 1, (4, 3, 2), padding="same", dilation=(1, 2, 1)),
        nn.Conv3d(1, 1, 3, padding="valid"),
        nn.MaxPool3d(2, ceil_mode=True),
        nn.MaxPool3d((3, 2, 2), (2, 2, 2), (1, 1, 0), ceil_mode=True),
        nn.AvgPool3d((2, 3, 3), 1, 1),
    ],
    ids=repr,
)
def test_output_sizes_are_pytorchs(layer):
    ours = Layer.of_module(layer)
    for size in ((7, 11, 13), (8, 10, 9), (9, 13, 12)):
        with torch.device("meta"):
            assert ours.output_size(size) == tuple(layer.to("meta")(torch.empty(1, 1, *size)).shape[2:])


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
def test_same_padding_begins_where_pytorchs_does():
    conv = nn.Conv2d(1, 1, (4, 3), padding="same", dilation=(1, 2)).double()
    field = receptive_fields([Layer.of_module(conv)])[0]
    assert field == Field((4, 5), (1, 1), (-1, -2))
    found = measured_field(conv, torch.randn(1, 1, 9, 9, dtype=torch.float64), (0, 4))
    assert found == field.seen((0, 4), (9, 9)) == ((0, 3), (2, 7))


def test_filters_over_time():
    conv3d = nn.Conv3d(3, 12, 3)
    assert filters_over_time(conv3d) is conv3d.weight
    assert filters_over_time(nn.Conv2d(60, 12, 3), 20).shape == (12, 3, 20, 3, 3)
    conv = nn.Conv2d(6, 1, 1)
    with torch.no_grad():
        conv.weight.copy_(torch.arange(6.0).view(1, 6, 1, 1))
    assert filters_over_time(conv, 2).flatten().tolist() == [0, 3, 1, 4, 2, 5]  # red of both frames, green, blue


def test_shift_error_worked_out_by_hand():
    clip = torch.zeros(1, 1, 6, 1, 1)
    clip[0, 0, 1] = 2.0
    weights = torch.arange(6.0)
    assert temporal_shift_error(lambda x: x, clip, 2) == 0
    assert temporal_shift_error(lambda x: x.sum((2, 3, 4)) + 5, clip, 2) == 0
    # a weight of its own for each frame answers 2*1, then 2*3: twice the answer away
    assert temporal_shift_error(lambda x: x[..., 0, 0] @ weights + 5, clip, 2) == pytest.approx(2)
    # read from behind the answer at frame 4 comes at 2 next, where two frames after 4 are 0
    assert temporal_shift_error(lambda x: x.flip(2), clip, 2) == pytest.approx(2**0.5)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: Layer.of((3, 3)), r"kernel: expected one value or 3, got \(3, 3\)"),
        (lambda: Layer.of(0), "kernel, stride, dilation: expected positive ints"),
        (lambda: Layer.of_module(nn.ReLU()), "module: expected a convolution or pooling, got ReLU"),
        (lambda: Layer.of(5).output_size((5, 4, 5)), r"size: expected cells enough .*got \(5, 4, 5\)"),
        (lambda: Field.of_input(1).joined(Field((1,), (2,), (0,))), r"stride: expected the same in all branches"),
        (lambda: fields_of(nn.Sequential(nn.Conv2d(1, 1, 1), nn.Conv3d(1, 1, 1))), r"one number of axes, got \[2, 3\]"),
        (lambda: fields_of(nn.Sequential(nn.Conv2d(1, 1, 1), nn.Softmax(1))), "got Softmax"),
        (lambda: fields_of(models.create("slow_fusion_toy")), "module: expected a net that torch.fx can trace"),
        (lambda: measured_field(lambda x: x * 0, torch.ones(1, 1, 3, 3)), r"index: expected a cell .*got \[1, 1\]"),
        (lambda: temporal_shift_error(None, torch.zeros(1, 1, 4, 2), 1), r"clip, shift: expected \(N,C,T,H,W\)"),
        (lambda: temporal_shift_error(None, torch.zeros(1, 1, 4, 2, 2), 4), r"clip, shift: expected .* 1 to T-1"),
        (lambda: temporal_shift_error(None, torch.ones(1, 1, 4, 2, 2), 1), "clip: expected its last 1 frames to be"),
        (lambda: filters_over_time(nn.Conv3d(1, 1, 1), 2), "num_frames: expected None for a 3-D"),
        (lambda: filters_over_time(nn.Conv2d(6, 1, 1), 4), "num_frames: expected a divisor of 6 channels, got 4"),
        (lambda: filters_over_time(nn.Conv2d(6, 1, 1)), "num_frames: expected a divisor of 6 channels, got None"),
    ],
)
def test_errors(call, words):
    with pytest.raises(ValueError, match=words):
        call()
