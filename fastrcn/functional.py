"""Operations as functions of tensors. Sequences are (T,B,C,H,W)."""

from contextlib import nullcontext
from typing import Any

import torch

from fastrcn import backends, cells
from fastrcn.checks import check_call, check_lengths
from fastrcn.ops.conv_recurrent.op import Call, Save, run_fused, run_plain

# The built-in cells, whose keys were made when the operators were defined: a compiler cannot trace that.
_RNN = {cell.nonlinearity: cell for cell in cells.BUILT_IN if isinstance(cell, cells.ConvRNN)}
_LSTM = {cell.peephole: cell for cell in cells.BUILT_IN if isinstance(cell, cells.ConvLSTM)}
_GRU = {cell.reset: cell for cell in cells.BUILT_IN if isinstance(cell, cells.ConvGRU)}


def _pair(value, name):
    pair = (value, value) if isinstance(value, int) else tuple(value)
    if len(pair) != 2 or any(not isinstance(v, int) or v < 1 for v in pair):
        raise ValueError(f"{name}: expected a positive int or a pair of them, got {value!r}")
    return pair


def conv_recurrent(
    cell, input, weight_ih, weight_hh, bias=None, weight_ch=None, hx=None, *,
    stride: Any = 1, dilation: Any = 1, lengths=None, reverse=False, recompute=False, backend=None,
):  # fmt: skip
    """Run a recurrent convolutional cell over a sequence.

    Args:
        cell: a ``fastrcn.cells.Cell``; G is its number of convolutions of the input, S of states.
        input: (T,B,Cin,H,W); a tuple of such for a cell with several inputs.
        weight_ih: (G*C,Cin,kh,kw); a tuple for a cell with several inputs. Padded to keep the map at stride 1.
        weight_hh: (S*C,C,kh,kw), odd kernel; always stride 1.
        bias: (blocks*C,) or None. weight_ch: peepholes, (blocks*C,) or (blocks*C,H,W), where the cell has them.
        hx: initial states, a tuple of (B,C,H,W) in the order of the cell; None for zeros.
        stride, dilation: of the input convolution.
        lengths: (B,) ints; past its length a sequence's state is frozen and its output zero.
        reverse: run from the last step to the first.
        recompute: keep only the states for backward and rebuild the pre-activations there.
        backend: a backend's name; None for the best that can run.
    Returns:
        output (T,B,C,H',W'), channels-last in memory, and the tuple of last states (B,C,H',W').
    Raises:
        ValueError, TypeError or RuntimeError naming the argument, what was expected and what came.
    """
    inputs = (input,) if isinstance(input, torch.Tensor) else tuple(input)
    weight_ih = (weight_ih,) if isinstance(weight_ih, torch.Tensor) else tuple(weight_ih)
    hx = () if hx is None else tuple(hx)
    stride, dilation = _pair(stride, "stride"), _pair(dilation, "dilation")
    tensors: list[Any] = [*inputs, *weight_ih, weight_hh, bias, weight_ch, *hx]
    device = weight_hh.device.type
    autocast = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    if autocast:
        dtype = torch.get_autocast_dtype(device)
        eligible = (torch.float32, torch.float16, torch.bfloat16)
        tensors = [t.to(dtype) if t is not None and t.dtype in eligible else t for t in tensors]
    n = len(inputs)
    packed, states = tensors[2 * n : 2 * n + 3], tensors[2 * n + 3 :]
    check_call(cell, tensors[:n], tensors[n : 2 * n], packed, states, stride, dilation)
    if lengths is not None:
        lengths = check_lengths(lengths, inputs[0])
    tracked = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)
    save = (Save.STATES if recompute else Save.ALL) if tracked else Save.NOTHING
    name = backends.select("conv_recurrent", cell.key, tensors[0].dtype, device, backend)
    call = Call(name, cell.key, n, stride, dilation, bool(reverse), int(save))
    plain = name == "reference" or torch.compiler.is_exporting() or torch.onnx.is_in_onnx_export()
    with torch.autocast(device, enabled=False) if autocast else nullcontext():
        output, *states = (run_plain if plain else run_fused)(call, lengths, tensors)
    if lengths is not None:
        steps = torch.arange(output.shape[0], device=output.device).view(-1, 1, 1, 1, 1)
        output = output.masked_fill(steps >= lengths.view(1, -1, 1, 1, 1), 0)
    return output, tuple(states)


def conv_lstm(input, weight_ih, weight_hh, bias=None, weight_ch=None, hx=None, **options):
    """ConvLSTM over a sequence, gates i, f, g, o; peepholes (i, f, o) where ``weight_ch`` is given.

    Arguments and results as ``conv_recurrent``; hx and the last states are (h, c). Shi et al. 2015, arXiv 1506.04214.
    """
    return conv_recurrent(_LSTM[weight_ch is not None], input, weight_ih, weight_hh, bias, weight_ch, hx, **options)


def conv_gru(input, weight_ih, weight_hh, bias=None, hx=None, *, reset="before", **options):
    """ConvGRU over a sequence, gates r, z, n.

    ``reset="before"`` is the form of Ballas et al. 2016, arXiv 1511.06432; "after" is cuDNN's, with a bias
    of (4*C,): r, z, n of the input, n of the state. Arguments and results as ``conv_recurrent``; hx is (h,).
    """
    if reset not in _GRU:
        raise ValueError(f'reset: expected "before" or "after", got {reset!r}')
    return conv_recurrent(_GRU[reset], input, weight_ih, weight_hh, bias, None, hx, **options)


def conv_rnn(input, weight_ih, weight_hh, bias=None, hx=None, *, nonlinearity="tanh", **options):
    """ConvRNN over a sequence, h' = tanh(Wx + Uh + b), or relu.

    Arguments and results as ``conv_recurrent``; hx is (h,).
    """
    if nonlinearity not in _RNN:
        raise ValueError(f'nonlinearity: expected "tanh" or "relu", got {nonlinearity!r}')
    return conv_recurrent(_RNN[nonlinearity], input, weight_ih, weight_hh, bias, None, hx, **options)
