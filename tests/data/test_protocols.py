"""The protocols against what the papers say: sizes of clips, their number, places of crops."""

import pickle

import pytest
import torch

from fastrcn.data import PROTOCOLS, take_crop

# frames of a training clip and from its first to its last; clips and frames of each at test, of 300 frames; crops at
# test; side of crops in training and at test; size of resized frames of 240x320
FACTS = {
    "two_stream": (1, 1, (25, 1), 10, 224, 224, (256, 341)),
    "two_stream_flow": (10, 10, (25, 10), 10, 224, 224, (256, 341)),
    "very_deep_two_stream": (1, 1, (25, 1), 10, 224, 224, (256, 341)),
    "very_deep_two_stream_flow": (10, 10, (25, 10), 10, 224, 224, (256, 341)),
    "gru_rcn": (10, 10, (25, 10), 10, 224, 224, (256, 341)),
    "lrcn": (16, 16, (37, 16), 10, 227, 227, (240, 320)),  # starts 0, 8, ..., 280 and 284
    "c3d": (16, 16, (10, 16), 1, 112, 112, (128, 171)),
    "i3d": (64, 64, (1, 300), 1, 224, 224, (256, 341)),
    "convnet_lstm": (25, 121, (1, 60), 1, 224, 224, (256, 341)),
    "two_stream_inception": (1, 1, (25, 1), 1, 224, 224, (256, 341)),
    "two_stream_inception_flow": (10, 10, (25, 10), 1, 224, 224, (256, 341)),
    "slowfast": (32, 63, (10, 32), 3, 224, 256, (256, 341)),
}


def test_every_protocol_is_here():
    assert set(FACTS) == set(PROTOCOLS)


@pytest.mark.parametrize("name", FACTS)
def test_protocol(name):
    length, span, test_shape, crops, train_side, test_side, size = FACTS[name]
    protocol = pickle.loads(pickle.dumps(PROTOCOLS[name]))  # as for the workers of a DataLoader
    assert protocol.frame_size((240, 320)) == size
    clip = protocol.train_clip(300, generator=torch.Generator().manual_seed(0))
    assert clip.shape == (length,)
    assert clip[-1] - clip[0] + 1 == span
    clips = protocol.test_clips(300)
    assert clips.shape == test_shape
    assert clips[0, 0] == 0
    assert 300 - int(clips[-1, -1]) <= (5 if name == "convnet_lstm" else 1), "up to the end"
    found = [protocol.random_crop(size, generator=torch.Generator().manual_seed(s)) for s in range(30)]
    assert {crop.size for crop in found} == {(train_side, train_side)}
    assert len({crop.mirrored for crop in found}) == 2
    several = name in ("very_deep_two_stream", "very_deep_two_stream_flow", "gru_rcn")
    assert (len({crop[2:4] for crop in found}) > 1) == several
    tests = protocol.test_crops(size)
    assert [crop.size for crop in tests] == [(test_side, test_side)] * crops
    assert sum(crop.mirrored for crop in tests) == (5 if crops == 10 else 0)
    frames = torch.zeros(1, 3, *size, dtype=torch.uint8)
    assert take_crop(frames, tests[-1]).shape == (1, 3, test_side, test_side)


def test_what_few_of_them_do():
    assert {name for name, p in PROTOCOLS.items() if p.color_jitter} == {"two_stream"}
    assert {name for name, p in PROTOCOLS.items() if p.largest_side} == {"slowfast"}
    slowfast = PROTOCOLS["slowfast"]
    assert slowfast.frame_size((240, 320), side=320) == (320, 427)
    sides = {slowfast.random_side(generator=torch.Generator().manual_seed(seed)) for seed in range(1000)}
    assert sides == set(range(256, 321))
    assert PROTOCOLS["i3d"].random_side() is None
    for wrong in ({"resize": (256, 320)}, {"largest_side": 255}):
        with pytest.raises(ValueError, match="largest_side: expected None, or at least resize"):
            slowfast._replace(**wrong).random_side()
    kinetics = {"i3d", "convnet_lstm", "two_stream_inception", "two_stream_inception_flow"}
    assert {name for name, p in PROTOCOLS.items() if p.rate == 25.0} == kinetics
    assert {name for name, p in PROTOCOLS.items() if p.rate is None} == set(PROTOCOLS) - kinetics
    assert PROTOCOLS["gru_rcn"].average == "prob"


@pytest.mark.parametrize("name", FACTS)
def test_videos_of_five_frames_are_looped_or_refused(name):
    length, span, *_ = FACTS[name]
    protocol = PROTOCOLS[name]
    if length == 1 or name in ("i3d", "convnet_lstm", "two_stream_inception_flow"):
        assert protocol.train_clip(5).shape == (length,)
        assert protocol.test_clips(5).shape[1] == length
    else:
        for call in (protocol.train_clip, protocol.test_clips):
            with pytest.raises(ValueError, match=f"frames: expected at least {span}, for {length} that are"):
                call(5)


@pytest.mark.parametrize("name", FACTS)
def test_another_size_and_length(name):
    length, _, _, crops, train_side, test_side, _ = FACTS[name]
    half = PROTOCOLS[name].scaled(size=train_side // 2, frames=length + 3)
    size = half.frame_size((240, 320))
    assert abs(2 * size[0] - PROTOCOLS[name].frame_size((240, 320))[0]) <= 2
    found = [half.random_crop(size, generator=torch.Generator().manual_seed(s)) for s in range(30)]
    assert {crop.size for crop in found} == {(train_side // 2, train_side // 2)}
    several = len({crop[2:4] for crop in found}) > 1
    assert several == (name in ("very_deep_two_stream", "very_deep_two_stream_flow", "gru_rcn"))
    tests = half.test_crops(size)
    assert len(tests) == crops
    assert all(abs(2 * crop.size[0] - test_side) <= 1 for crop in tests)
    assert half.train_clip(300).shape == (length + 3,)
    whole = name in ("i3d", "convnet_lstm")
    assert whole or half.test_clips(300).shape[1] == length + 3
    assert not whole or len(half.test_clips(10)[0]) == length + 3  # looped to that
    assert half.scaled() == half


def test_the_same_size_and_length_change_nothing():
    for name, (length, _, _, _, side, _, size) in FACTS.items():
        same = PROTOCOLS[name].scaled(size=side, frames=length)
        assert same.frame_size((240, 320)) == size
        seed = torch.Generator().manual_seed(3), torch.Generator().manual_seed(3)
        crops = [p.random_crop(size, generator=g) for p, g in zip((same, PROTOCOLS[name]), seed, strict=True)]
        assert crops[0] == crops[1]
        assert torch.equal(same.test_clips(300), PROTOCOLS[name].test_clips(300))


def test_sizes_that_cannot_be():
    with pytest.raises(ValueError, match="size: expected a positive int, got 0"):
        PROTOCOLS["c3d"].scaled(size=0)
    with pytest.raises(ValueError, match="length: expected a positive int, got -1"):
        PROTOCOLS["c3d"].scaled(frames=-1)
    own = PROTOCOLS["c3d"]._replace(train_clip=lambda frames, generator=None: torch.arange(4))
    with pytest.raises(ValueError, match="length: expected None for a protocol whose functions do not name it, got 8"):
        own.scaled(frames=8)
