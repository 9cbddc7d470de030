"""Run by test_cuda_stages_on_host.py: single steps of the ``cuda`` backend's time loop in C++, on CPU tensors."""

import os
import re

import pytest
import torch
from torch.nn.functional import conv2d, conv3d

from fastrcn.native import CUDA_TYPE_NUMBERS
from tests.ops.cuda_on_host.stages import load

KERNELS = load(os.environ["FASTRCN_HOST_STAGES"])
TORCH = torch._C.__file__
LIBRARY = KERNELS.TorchLibrary(TORCH, "cpu")
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


def program(dtype=torch.float32):
    """Without stages: sizes, lengths and sums do not matter."""
    return KERNELS.CudaProgram(LIBRARY, CUDA_TYPE_NUMBERS[dtype], 0, (1, 1, 1), 0, 1)


def layout(tensor):
    return tuple(tensor.shape), tensor.stride()


def place(tensor):
    return tensor.data_ptr(), layout(tensor)


def maps(tensor, step=0, first=0):
    """The maps at time 0; ``step``: elements between two times."""
    return (tensor.data_ptr(), step * tensor.itemsize, first), layout(tensor)


def last(*shape, dtype=torch.float32):
    """Random maps (N,C,...), channels last in memory."""
    n, c, *size = shape
    return torch.randn(n, *size, c, dtype=torch.float64).to(dtype).movedim(-1, 1)


def test_fill():
    """Of a slot of wider maps, with zeros and with a row, at the second of three times, and at the first at a place of
    its own."""
    data, row = torch.randn(3, 2, 4, 5, 6), torch.randn(2)
    before, wide = data.clone(), torch.randn(2, 4, 5, 6)
    first, untouched = wide[..., 2:4], wide.clone()
    slot = data[0, ..., 2:4].movedim(-1, 1)
    rows = row.expand(2, 4, 5, 2).movedim(-1, 1)
    for values in (None, row):
        loop = program()
        loop.add_fill(maps(slot, data.stride(0), first.data_ptr()), *((0, ([], [])) if values is None else place(rows)))
        expected = before.clone()
        expected[1, ..., 2:4] = 0 if values is None else row
        loop.run(1, 1, 1, False, 0)
        assert torch.equal(data, expected)
        before = data.clone()
    loop.run(1, 1, 1, True, 0)
    untouched[..., 2:4] = row
    assert torch.equal(data, before)
    assert torch.equal(wide, untouched)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_product(dtype):
    """target += source @ matrix, against sums written out; not at the first step."""
    source, weight, target = (torch.randn(s, dtype=torch.float64).to(dtype) for s in ((7, 3), (4, 3), (7, 4)))
    expected = target.double().clone()
    for p in range(7):
        for o in range(4):
            expected[p, o] += sum(source[p, i].double() * weight[o, i].double() for i in range(3))
    before = target.clone()
    loop = program(dtype)
    loop.add_product(maps(source), maps(target), *place(weight.t()), True)
    loop.run(0, 1, 1, True, 0)
    assert torch.equal(target, before)
    loop.run(0, 1, 1, False, 0)
    torch.testing.assert_close(target, expected.to(dtype))


CASES = {
    "same": ((2, 3, 6, 5), (4, 3, 3, 3), (1, 1), (1, 1), (1, 1)),
    "strided": ((2, 3, 7, 6), (4, 3, 3, 2), (2, 1), (1, 0), (2, 3)),
    "one_channel": ((1, 1, 5, 4), (1, 1, 3, 3), (1, 1), (1, 1), (1, 1)),
    "volume": ((2, 3, 4, 5, 6), (4, 3, 3, 2, 1), (1, 2, 1), (1, 0, 2), (1, 2, 1)),
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("channels", ["last", "first"])
def test_convolution(case, dtype, channels):
    """Two times of two convolutions, summed and added to a target that lies with its channels last, whatever the layout
    in which the library gives its results."""
    size, kernel, stride, padding, dilation = CASES[case]
    function = conv2d if len(size) == 4 else conv3d
    sources = [last(*size, dtype=dtype) for _ in range(2)]
    if channels == "first":
        sources = [s.contiguous() for s in sources]
    weight = 0.3 * torch.randn(kernel, dtype=torch.float64).to(dtype)
    results = [function(s.double(), weight.double(), None, stride, padding, dilation) for s in sources]
    target = last(*results[0].shape, dtype=dtype)
    expected = target.double() + 3 * results[0] + results[1]
    loop = program(dtype)
    addend = loop.add_addend(maps(target), False)
    for source in sources:
        loop.add_convolution(maps(source), *place(weight), (stride, padding, dilation), addend, source is sources[1])
    loop.run(0, 1, 1, True, 0)
    loop.settle()
    loop.run(1, 1, 1, True, 0)
    loop.run(2, 1, 1, False, 0)
    loop.settle()
    loop.settle()
    tolerance = {torch.bfloat16: {"atol": 0.1, "rtol": 0.03}, torch.float16: {"atol": 0.02, "rtol": 0.004}}
    torch.testing.assert_close(target.double(), expected, **tolerance.get(dtype, {"atol": 1e-5, "rtol": 1e-5}))


def convolved(source, weight):
    target = torch.zeros(source.shape[0], weight.shape[0], *source.shape[2:]).to(memory_format=torch.channels_last)
    loop = program()
    addend = loop.add_addend(maps(target), False)
    loop.add_convolution(maps(source), *place(weight), ((1, 1), (1, 1), (1, 1)), addend, False)
    loop.run(0, 1, 1, False, 0)
    loop.settle()
    return target


@pytest.mark.filterwarnings("ignore:TF32 acceleration on top of oneDNN")
def test_modes_of_the_caller():
    """Neither autocast nor grad mode changes a result, and the library's own switches apply."""
    source, weight = last(2, 3, 6, 5), torch.randn(4, 3, 3, 3)
    plain = convolved(source, weight)
    with torch.autocast("cpu", torch.bfloat16), torch.enable_grad():
        assert torch.equal(convolved(source, weight), plain)
    for enabled in (True, False):
        with torch.backends.mkldnn.flags(enabled=enabled), torch.profiler.profile(acc_events=True) as profile:
            convolved(source, weight)
        assert ("aten::mkldnn_convolution" in {e.key for e in profile.key_averages()}) is enabled


def test_results_are_given_back():
    """Of many steps never more than a few results are there at once."""
    source, weight = last(1, 8, 32, 32), torch.randn(8, 8, 3, 3)
    target = torch.zeros_like(source)
    loop = program()
    addend = loop.add_addend(maps(target), False)
    loop.add_convolution(maps(source), *place(weight), ((1, 1), (1, 1), (1, 1)), addend, False)
    with torch.profiler.profile(profile_memory=True, acc_events=True) as profile:
        for _ in range(20):
            loop.run(0, 1, 1, False, 0)
            loop.settle()
    kept = sum(e.self_cpu_memory_usage for e in profile.events())
    assert kept <= 0, kept


def test_errors():
    """Each with the words of who found it."""
    with pytest.raises(RuntimeError, match=r"expected input.* to have 7 channels, but got 3 channels instead"):
        convolved(last(2, 3, 6, 5), torch.randn(4, 7, 3, 3))
    with pytest.raises(RuntimeError, match="a convolution's result has other sizes than its target"):
        convolved(last(2, 3, 6, 5), torch.randn(4, 3, 5, 5))
    loop, source, target = program(), torch.zeros(2, 3), torch.zeros(2, 4)
    loop.add_product(maps(source), maps(target), *place(target), False)
    with pytest.raises(RuntimeError, match=r"PyTorch's addmm_out: .*cannot be multiplied"):
        loop.run(0, 1, 1, False, 0)
    with pytest.raises(IndexError):
        program().add_convolution(maps(last(1, 1, 1, 1)), *place(last(1, 1, 1, 1)), ((1,), (0,), (1,)), 0, False)
    with pytest.raises(IndexError):
        program().add_stage(0, [(0, 0, 0)] * 3, [0] * 3, [], [(0, 0, 0, True, True)])
    with pytest.raises(ValueError, match="no stage kernel 1000"):
        program().add_stage(1000, [], [], [], [])
    with pytest.raises(ValueError, match="takes 3 buffers, 0 of them sums; got 1, 0"):
        program().add_stage(0, [(0, 0, 0)], [0], [], [])
    with pytest.raises(ValueError, match="got 2 buffers and 3 pitches"):
        program().add_stage(0, [(0, 0, 0)] * 2, [0] * 3, [], [])
    loop, source, weight = program(), last(1, 1, 2, 2), torch.ones(1, 1, 1, 1)
    addend = loop.add_addend(maps(source, step=4), False)
    loop.add_convolution(maps(source), *place(weight), ((1, 1), (0, 0), (1, 1)), addend, False)
    loop.run(0, 1, 1, False, 0)
    with pytest.raises(RuntimeError, match="no stage has taken a convolution's result at a time that is over"):
        loop.settle()
    loop, sources, axes = program(), [(0, 4, 4)], [(1, 2, 2), (1, 1, 1), (0, 0, 0), (1, 1, 1)]
    addend = loop.add_addend(maps(source), False, ((sources, *axes), weight.data_ptr(), 4))
    convolution = maps(source), *place(weight), ((1, 1), (0, 0), (1, 1)), addend, False
    loop.add_convolution(*convolution)
    with pytest.raises(ValueError, match="a fused convolution has more sources than its kernel"):
        loop.add_convolution(*convolution)
    with pytest.raises(ValueError, match="addends are added before the steps"):
        loop.add_addend(maps(torch.zeros(1, 1)), False)


def test_a_library_that_lacks_functions():
    with pytest.raises(RuntimeError, match="this PyTorch has no function aoti_torch_nowhere_convolution"):
        KERNELS.TorchLibrary(TORCH, "nowhere")
    with pytest.raises(RuntimeError, match=re.escape("/no/such/library.so is not loaded")):
        KERNELS.TorchLibrary("/no/such/library.so", "cpu")
