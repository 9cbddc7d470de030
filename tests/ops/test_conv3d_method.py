"""The choice between the fused kernel and the library's convolution, and of its block sizes: by shape alone."""

from types import SimpleNamespace

import pytest
import torch

from fastrcn.ops.conv3d_relu_maxpool3d.geometry import Conv
from fastrcn.ops.conv3d_relu_maxpool3d.method import fuses_forward, fuses_input_gradient, use_method
from fastrcn.ops.conv3d_relu_maxpool3d.triton_config import choose, shipped
from fastrcn.ops.relu_maxpool3d.geometry import Pool

ONE = (1, 1, 1)


def forward(channels=64, kernel=(1, 3, 3), window=2, groups=1, dtype=torch.bfloat16, exact=False, **pooling):
    padding = tuple(k // 2 for k in kernel)
    x = torch.empty(2, channels, 8, 56, 56, dtype=dtype, device="meta")
    weight = torch.empty(64, channels // groups, *kernel, dtype=dtype, device="meta")
    pool = Pool.of(window, **pooling)
    return fuses_forward(Conv(ONE, padding, ONE, groups), pool, x, weight, exact)


def test_short_sums_are_fused():
    """The write and read that are saved weigh against a slower product only where the sums are short."""
    assert forward(kernel=ONE)
    assert forward()
    assert forward(dtype=torch.float32)
    assert not forward(kernel=(3, 3, 3))


def test_work_done_twice_or_on_zeros_is_counted():
    assert not forward(window=3, stride=2, padding=1)
    assert not forward(channels=3, kernel=(3, 7, 7))
    assert forward(window=2, stride=3)


def test_what_only_the_library_does():
    assert not forward(kernel=ONE, groups=2)
    assert not forward(kernel=ONE, dtype=torch.float32, exact=True)
    with use_method("fused"):
        assert not forward(kernel=ONE, groups=2)
        assert forward(kernel=ONE, dtype=torch.float32, exact=True)


def gradient(needs=(True, False, True), stride=ONE, groups=1, exact=False, **pooling):
    conv, pool = Conv(stride, ONE, ONE, groups), Pool.of(**({"kernel_size": 2} | pooling))
    return fuses_input_gradient(conv, pool, list(needs), exact)


def test_gradient_of_x():
    """Fused where nothing else needs the gradient before pooling."""
    assert gradient()
    assert not gradient((True, True, True))
    assert not gradient((False, True, True))
    assert not gradient(exact=True)
    assert not gradient(kernel_size=1)
    with use_method("fused"):
        assert gradient((True, True, True))
        assert gradient(kernel_size=1)
        assert not gradient(stride=(1, 2, 2))
        assert not gradient(groups=2)
        assert not gradient(kernel_size=3, stride=2)
        assert not gradient(kernel_size=2, stride=4, dilation=2)


def test_override():
    with use_method("library"):
        assert not forward(kernel=ONE)
        assert not gradient()
    with pytest.raises(ValueError, match="method: expected one of fused, library, got 'quick'"), use_method("quick"):
        pass


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
def test_block_sizes(backward, monkeypatch):
    properties = SimpleNamespace(major=9, minor=0, multi_processor_count=132)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)

    def chosen(channels, pixels):
        return choose(torch.empty(0, dtype=torch.bfloat16), backward, channels, pixels, False, None, None)

    table = shipped(90, 2, backward)
    assert chosen(512, 1 << 20) == table[0]
    assert chosen(512, 64).block_m * chosen(512, 64).block_c == min(c.block_m * c.block_c for c in table)
    for channels in (1, 16, 40, 64):
        assert chosen(channels, 1 << 20).block_c < 2 * max(16, channels)
