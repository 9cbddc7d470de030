"""Several processes that use one folder of flow at once."""

import itertools

import pytest
import torch

from fastrcn.data import FlowCache, VideoReader
from tests.helpers.at_once import at_once
from tests.helpers.clips import write_clip


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_processes_that_compute_the_same_fields(tmp_path, one_thread):
    """None fails, none sees a file before it is whole, and what is left is each field once."""
    path = write_clip(tmp_path / "a.mkv", torch.randint(0, 255, (9, 3, 24, 32)).byte(), "ffv1", pix_fmt="yuv444p")
    pairs = torch.tensor([[k, k + 1] for k in range(8)])
    sizes = [(12 + k, 16) for k in range(6)]  # each in a folder of its own

    def fields(cache):
        return [cache.fields(VideoReader(path), part, size) for size in sizes for part in pairs.split(2)]

    expected = fields(FlowCache(iterations=1))
    found = at_once(lambda rank: [f.tolist() for f in fields(FlowCache(tmp_path / "cache", iterations=1))], 4)
    for process, (part, truth) in itertools.product(found, enumerate(expected)):
        torch.testing.assert_close(torch.tensor(process[part]), truth, rtol=0, atol=0)
    left = sorted(p.name for p in (tmp_path / "cache").rglob("*") if p.is_file())
    assert left == sorted([f"{k:06d}-{k + 1:06d}.npy" for k in range(8)] * len(sizes))
