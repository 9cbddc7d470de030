"""The compiled CUDA stages against the emitted PyTorch code on the same device."""

import pytest
import torch

from fastrcn import cells, native
from fastrcn.compiler.emit_torch import torch_function
from fastrcn.compiler.schedule import schedule_of
from fastrcn.compiler.signature import backward_signatures, forward_signatures
from tests.helpers.tolerances import assert_close


@pytest.mark.gpu
@pytest.mark.parametrize("cell", cells.BUILT_IN, ids=repr)
@pytest.mark.parametrize("channels", [1, 17, 64])
def test_stage_on_the_gpu(cell, channels):
    schedule = schedule_of(cell.key)
    pixels, device = 513, "cuda"
    for signature in (*forward_signatures(schedule), *backward_signatures(schedule)):
        if any(a.role == "d_param" for a in signature.args):
            continue  # these sums are made by the backend that will use the kernels
        buffers = [torch.randn(pixels, channels, device=device) for _ in signature.args]
        named = dict(zip((a.name for a in signature.args), buffers, strict=True))
        before = {n: b.clone() for n, b in named.items()}
        values = {n: b.double() for n, b in before.items()}
        for source, _, *more in signature.carries:
            for other in more:
                values[source] = values[source] + values[other]
        outputs = torch_function(signature.code)(*(values[s.name] for s in signature.code.reads))
        names = [s.name for s, _ in signature.code.outputs]
        wrong = native.module().launch_cuda_stage(
            schedule.fingerprint, signature.stage, signature.backward, 0, [b.data_ptr() for b in buffers],
            [channels] * len(buffers), channels, pixels, pixels, 0, 0, torch.cuda.current_stream().cuda_stream,
        )  # fmt: skip
        assert not wrong, wrong
        torch.cuda.synchronize()
        for name, truth in zip(names, outputs, strict=True):
            arg = next((a for a in signature.args if a.name == name), None)
            if arg is None:
                continue
            truth = before[name].double() + truth if arg.mode == "accumulate" else truth
            assert_close(named[name], torch.as_tensor(truth, device=device).expand(pixels, channels), name)
