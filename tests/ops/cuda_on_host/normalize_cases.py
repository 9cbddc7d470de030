"""The kernels of layer normalisation against float64, wherever they run."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from fastrcn.native import CUDA_TYPE_NUMBERS
from fastrcn.ops.conv_recurrent.geometry import accumulate_type
from tests.helpers.tolerances import assert_close

EPS = 1e-3
_BESIDE = 64
"""Values before and behind the maps, which no kernel may touch."""


@dataclass(frozen=True)
class NormalizeCase:
    """``slices`` of each image; ``source``: "own", the target itself, "other" maps or "none", zeros; ``skip``: values
    by which the maps are off their alignment; ``mean``: about which the values are."""

    images: int = 3
    values: int = 96
    slices: int = 1
    source: str = "own"
    skip: int = 0
    mean: float = 0.5


CASES = {
    "one_value": NormalizeCase(values=1),
    "odd": NormalizeCase(values=45, source="other"),
    "packs": NormalizeCase(),
    "not_aligned": NormalizeCase(skip=1, slices=3),
    "several_turns": NormalizeCase(images=2, values=20000, source="other"),
    "slices": NormalizeCase(images=2, values=16 * 1031, slices=3),
    "odd_slices": NormalizeCase(images=1, values=4097, slices=4, source="other"),
    "empty_slices": NormalizeCase(values=40, slices=7, source="other"),
    "more_slices_than_threads": NormalizeCase(images=1, values=8 * 300, slices=300),
    "zeros": NormalizeCase(values=33, source="none"),
    "zeros_in_slices": NormalizeCase(slices=2, source="none"),
}


class _Maps:
    """Maps (images, values) between others that must stay."""

    def __init__(self, values, dtype, device, skip=0):
        count, first = values.numel(), _BESIDE + skip
        self.whole = torch.randn(count + 2 * first).to(device, dtype)
        self.slot = slice(first, first + count)
        self.maps = self.whole[self.slot].view(values.shape)
        self.maps.copy_(values)
        self.before = self.whole.clone()

    @property
    def address(self):
        return self.maps.data_ptr()

    def found(self):
        """As the kernel left the maps, on the CPU; it left everything else alone."""
        kept = self.before.clone()
        kept[self.slot] = self.whole[self.slot]
        assert torch.equal(kept, self.whole)
        return self.maps.cpu()


def launch(kernels, backward, case: NormalizeCase, dtype, target, source, scale, device="cpu", stream=0):
    """Run the kernels on addresses; ``source`` 0: none."""
    sums = torch.full((case.images, case.slices, kernels.cuda_slice_sums), torch.nan, dtype=accumulate_type(dtype))
    sums = sums.to(device)
    wrong = kernels.launch_cuda_normalize(
        CUDA_TYPE_NUMBERS[dtype], backward, target, source, scale, case.images, case.values, case.slices,
        sums.data_ptr(), 0.0 if backward else EPS, stream,
    )  # fmt: skip
    assert not wrong, wrong


def run_forward(kernels, case: NormalizeCase, dtype, device="cpu", stream=0):
    """(what was normalised in float64, what the kernel made of it, the scales)."""
    given = (case.mean + torch.randn(case.images, case.values, dtype=torch.float64)).to(dtype)
    source = _Maps(given, dtype, device, case.skip)
    target = source if case.source == "own" else _Maps(torch.randn(given.shape), dtype, device, case.skip)
    scale = _Maps(torch.randn(case.images), accumulate_type(dtype), device)
    of_source = 0 if case.source == "none" else source.address
    launch(kernels, False, case, dtype, target.address, of_source, scale.address, device, stream)
    if target is not source:
        assert torch.equal(source.whole, source.before)
    given = torch.zeros_like(given) if case.source == "none" else given
    return given.double(), target.found(), scale.found()


def check_forward(kernels, case: NormalizeCase, dtype, device="cpu", stream=0):
    given, made, scale = run_forward(kernels, case, dtype, device, stream)
    truth = F.layer_norm(given, (case.values,), eps=EPS)
    assert_close(made, truth, "made", plain=truth.to(dtype))
    assert_close(scale, (given.var(1, correction=0) + EPS).rsqrt(), "scale")


def check_backward(kernels, case: NormalizeCase, dtype, device="cpu", stream=0):
    """``skip`` is of the gradients and of what forward made."""
    shape, wide = (case.images, case.values), accumulate_type(dtype)
    given = torch.randn(shape, dtype=torch.float64)
    made = F.layer_norm(given, (case.values,), eps=EPS).to(dtype)
    scale = (given.var(1, correction=0) + EPS).rsqrt().to(wide)
    grad = (case.mean + torch.randn(shape, dtype=torch.float64)).to(dtype)
    target, source = (_Maps(t, dtype, device, case.skip) for t in (grad, made))
    scales = _Maps(scale, wide, device)
    launch(kernels, True, case, dtype, target.address, source.address, scales.address, device, stream)
    grad, made, scale = grad.double(), made.double(), scale.double()[:, None]
    truth = scale * (grad - grad.mean(1, keepdim=True) - (grad * made).mean(1, keepdim=True) * made)
    if case.values == 1:
        # What is left of a difference of equals.
        assert (target.found().double() - truth).abs().max() <= 100 * torch.finfo(dtype).eps
    else:
        assert_close(target.found(), truth, "gradient", plain=truth.to(dtype))
    for maps in (source, scales):
        assert torch.equal(maps.whole, maps.before)
