"""Actions of boxes: the head by hand, whole images, shifted boxes; SlowFast's and I3D's trunks; training."""

import pytest
import torch
from torch.nn import functional as F

from fastrcn import models
from fastrcn.models import I3D, I3DAVA, RoIHead, SlowFast, SlowFastAVA
from tests.helpers.tolerances import assert_close, relative_error


def head(*args, **options):
    torch.manual_seed(0)
    net = RoIHead(*args, **options).double().eval()
    torch.nn.init.normal_(net.projection.weight)
    return net


def test_parameter_counts():
    with torch.device("meta"):
        net, trunk = models.create("slowfast_ava"), SlowFast(None, alpha=4, fusion_kernel=7)
        baseline = models.create("i3d_ava")
    linear = (2048 + 256) * 80 + 80
    assert sum(p.numel() for p in trunk.parameters()) == 34_566_488 - (2304 * 400 + 400)
    assert sum(p.numel() for p in net.parameters()) == 34_566_488 - (2304 * 400 + 400) + linear
    assert sum(p.numel() for p in baseline.head.parameters()) == 528 * 80 + 80


def test_keys_are_pyslowfasts():
    """Those of SlowFast; its head's linear layer has the same name, and nothing else of the head has a state."""
    with torch.device("meta"):
        found, plain = SlowFastAVA().state_dict(), SlowFast(80, fusion_kernel=7).state_dict()
    assert {n: v.shape for n, v in found.items()} == {n: v.shape for n, v in plain.items()}


def test_shapes_at_the_papers_size():
    """Maps of a sixteenth: 14x14, also of SlowFast's last stage."""
    with torch.device("meta"):
        net = models.create("slowfast_ava").eval()
        slow, fast, boxes = net.example_inputs(2)
        maps = net.features(slow, fast)
        assert [tuple(m.shape) for m in maps] == [(2, 2048, 8, 14, 14), (2, 256, 32, 14, 14)]
        assert net(slow, fast, boxes).shape == (2, 80)
        baseline = models.create("i3d_ava").eval()
        clip, boxes = baseline.example_inputs(3)
        assert I3D.forward(baseline, clip).shape == (3, 528, 16, 14, 14)
        assert baseline(clip, boxes).shape == (3, 80)
    for trunk in (net, baseline):
        assert trunk.head.spatial_scale == 1 / 16
        assert trunk.head.aligned
        assert trunk.head.resolution == 7
        assert [trunk.get_submodule(name) for name in trunk.heads] == [trunk.head.projection]


@pytest.mark.parametrize("side", [7, 14])
def test_a_box_of_the_whole_image_is_global_pooling(side):
    """Bins are cells, or means of 2x2 of them: the maximum over all, of each pathway's mean over time."""
    net = head(5, 4)
    maps = [torch.randn(2, c, t, side, side, dtype=torch.float64) for c, t in ((3, 2), (2, 8))]
    boxes = torch.tensor([[n, 0.0, 0.0, 16.0 * side, 16.0 * side] for n in (0, 1)], dtype=torch.float64)
    pooled = [F.avg_pool2d(m.sum(2) / m.shape[2], side // 7).flatten(2).max(2).values for m in maps]
    truth = torch.cat(pooled, 1) @ net.projection.weight.T + net.projection.bias
    assert_close(net(maps, boxes), truth)


def test_the_head_by_hand():
    """One map, one box of 2x2 cells around four numbers, two frames: the largest mean of the four decides."""
    net = RoIHead(1, 1, resolution=2)
    torch.nn.init.ones_(net.projection.weight)
    maps = torch.zeros(1, 1, 2, 5, 5)
    maps[0, 0, :, 1:3, 2:4] = torch.tensor([[[1.0, 2.0], [3.0, 4.0]], [[3.0, 8.0], [3.0, 0.0]]])
    maps[0, 0, 0, 4, 4] = 100  # outside the box
    box = torch.tensor([[0, 32.0, 16.0, 64.0, 48.0]])
    assert net.eval()([maps], box).item() == pytest.approx(5.0, rel=1e-6)


def test_a_shifted_box_sees_what_moved_with_it():
    net = head(3, 4)
    maps = torch.randn(1, 3, 2, 9, 9, dtype=torch.float64)
    box = torch.tensor([[0, 30.0, 33.0, 90.0, 80.0]], dtype=torch.float64)
    truth = net([maps], box)
    moved = box + torch.tensor([0, 32, 16, 32, 16], dtype=torch.float64)
    assert_close(net([maps.roll((1, 2), (3, 4))], moved), truth)
    assert relative_error(net([maps], moved), truth) > 1e-2


def test_boxes_of_several_clips_in_any_order():
    net = models.create("slowfast_ava", small=True).double().eval()
    torch.nn.init.normal_(net.head.projection.weight)
    slow, fast, _ = (x.double() for x in net.example_inputs(2))
    boxes = torch.tensor([[1, 3, 5, 30, 40], [0, 10, 2, 44, 20], [1, 0, 0, 48, 48], [1, 20, 20, 25, 47]]).double()
    found = net(slow, fast, boxes)
    assert found.shape == (4, 5)
    for m, box in enumerate(boxes):
        n, alone = int(box[0]), box.clone()[None]
        alone[0, 0] = 0
        assert_close(found[m : m + 1], net(slow[n : n + 1], fast[n : n + 1], alone))
    assert net(slow, fast, boxes[:0]).shape == (0, 5)


def test_i3d_is_cut_after_mixed_4e():
    net = models.create("i3d_ava", small=True).double().eval()
    whole = I3D(5, width=16, size=48, frames=17).double().eval()
    missing, unexpected = whole.load_state_dict(net.state_dict(), strict=False)
    assert set(unexpected) == {"head.projection.weight", "head.projection.bias"}
    assert {n.split(".")[0] for n in missing} == {"Mixed_4f", "Mixed_5b", "Mixed_5c", "logits"}
    clip, boxes = (x.double() for x in net.example_inputs(2))
    assert_close(net(clip, boxes), net.head([whole.endpoint(clip, "Mixed_4e")], boxes))


def test_start_and_dropout():
    net = RoIHead(2304)
    assert net.projection.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert (net.projection.bias == 0).all()
    assert net.dropout.p == 0.5
    maps, box = [torch.rand(1, 2304, 2, 7, 7)], torch.tensor([[0, 0.0, 0.0, 112.0, 112.0]])
    assert not torch.equal(net.train()(maps, box), net(maps, box))


def test_learns_which_box_holds_the_flickering_square():
    """Two squares of the same mean in each clip, one flickers: only its box has the class."""
    torch.manual_seed(0)
    net = RoIHead(2, 1, resolution=3, dropout=0.0)
    trunk = torch.nn.Conv3d(1, 2, (3, 1, 1), padding=(1, 0, 0))
    optimizer = torch.optim.Adam([*net.parameters(), *trunk.parameters()], lr=0.05)
    clips, boxes, labels = torch.zeros(8, 1, 6, 8, 8), [], []
    for n in range(8):
        for k, (y, x) in enumerate(((1, 1 + n % 3), (5, 4 - n % 3))):
            flickers = k == n % 2
            clips[n, 0, :, y : y + 2, x : x + 2] = torch.tensor([1.0, 0.0] * 3 if flickers else [0.5] * 6)[
                :, None, None
            ]
            boxes.append([n, 16 * x, 16 * y, 16 * x + 32, 16 * y + 32])
            labels.append([float(flickers)])
    boxes, labels = torch.tensor(boxes, dtype=torch.float32), torch.tensor(labels)
    for _ in range(150):
        loss = F.binary_cross_entropy_with_logits(net([trunk(clips).relu()], boxes), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert ((net([trunk(clips).relu()], boxes) > 0) == (labels > 0)).all()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda: head(5, 4)([torch.zeros(1, 3, 2, 7, 7)], torch.zeros(1, 5)),
            "maps: expected 5 channels in all pathways",
        ),
        (lambda: head(3, 4)([torch.zeros(1, 3, 2, 7, 7)], torch.zeros(1, 4)), r"boxes: expected \(M,5\)"),
        (lambda: head(3, 4)([torch.zeros(1, 3, 2, 7, 7)], torch.ones(1, 5)), "boxes: expected images from 0 to 0"),
        (lambda: SlowFastAVA(5, width=12), "width: expected a multiple of 8"),
        (lambda: I3DAVA(5, width=12), "width: expected a multiple of 8"),
    ],
)
def test_errors(make, words):
    with pytest.raises(ValueError, match=words):
        make()
