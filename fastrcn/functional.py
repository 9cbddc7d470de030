"""Operations as functions of tensors. Sequences are (T,B,C,H,W), of volumes (T,B,C,D,H,W), clips (N,C,D,H,W)."""

from contextlib import nullcontext
from typing import Any

import torch

from fastrcn import backends, cells, exported
from fastrcn.checks import check_call, check_lengths, check_masks, input_options
from fastrcn.compiler.schedule import schedule_of
from fastrcn.ops import autograd
from fastrcn.ops.batch_norm_relu_maxpool3d.op import Call as BatchNormCall
from fastrcn.ops.batch_norm_relu_maxpool3d.op import check_batch_norm
from fastrcn.ops.conv3d_relu_maxpool3d.geometry import Conv, check_conv
from fastrcn.ops.conv3d_relu_maxpool3d.op import Call as Conv3dCall
from fastrcn.ops.conv_recurrent.op import BothCall, Save, run_fused, run_plain
from fastrcn.ops.conv_recurrent.subject import subject_of
from fastrcn.ops.relu_maxpool3d.geometry import Pool

# The built-in cells, whose keys were made when the operators were defined: a compiler cannot trace that.
_RNN = {cell.nonlinearity: cell for cell in cells.BUILT_IN if isinstance(cell, cells.ConvRNN)}
_LSTM = {cell.peephole: cell for cell in cells.BUILT_IN if isinstance(cell, cells.ConvLSTM)}
_GRU = {cell.reset: cell for cell in cells.BUILT_IN if isinstance(cell, cells.ConvGRU)}


@torch.compiler.assume_constant_result  # Dynamo of PyTorch 2.8 cannot trace it
def _has_autocast(device):
    return torch.amp.is_autocast_available(device)


def is_autocast(device):
    """Whether autocast is on for a device type."""
    return _has_autocast(device) and torch.is_autocast_enabled(device)


def _autocast(device, tensors) -> tuple[list[Any], Any]:
    """(the tensors in autocast's type where it is on, a context without autocast)."""
    if not is_autocast(device):
        return tensors, nullcontext()
    dtype = torch.get_autocast_dtype(device)
    eligible = (torch.float32, torch.float16, torch.bfloat16)
    cast = [t.to(dtype) if t is not None and t.dtype in eligible else t for t in tensors]
    return cast, torch.autocast(device, enabled=False)


def _result_type(pool, dtype, device):
    """Of a pooling: autocast on the CPU runs ``max_pool3d`` in float32."""
    autocast = device == "cpu" and torch.is_autocast_enabled("cpu")
    return torch.float32 if autocast and not pool.identity and dtype != torch.float64 else dtype


def _plain(backend):
    """Whether the plain form runs: asked for, or in an exported program."""
    return backend == "reference" or torch.compiler.is_exporting() or torch.onnx.is_in_onnx_export()


def _direction(call, tensors, recompute, backend):
    """One direction: output, zero past the lengths, and last states; see ``_run``."""
    output, *states = _run(call, tensors, recompute, backend)
    lengths = tensors[-1]
    return output if lengths is None else _zero_past(output, lengths), tuple(states)


def _run(call, tensors, recompute, backend):
    """The results of one direction; ``backend``: the one asked for, which an exported program asks for again where it
    runs."""
    leaves_torch = torch.onnx.is_in_onnx_export()
    if leaves_torch:
        exported.check_fixed_steps(tensors[0])
    elif torch.compiler.is_exporting() and call.backend != "reference":
        return exported.from_call(call, tensors, recompute, backend)
    return (run_plain if leaves_torch or call.backend == "reference" else run_fused)(call, tensors)


def conv_recurrent(
    cell, input, weight_ih, weight_hh, bias=None, weight_ch=None, hx=None, *,
    masks=(), stride: Any = 1, dilation: Any = 1, padding: Any = "same", lengths=None, reverse=False, recompute=False,
    backend=None,
):  # fmt: skip
    """Run a recurrent convolutional cell over a sequence, of maps (H,W) as below, or of volumes (D,H,W): then every
    shape has D before H, every kernel its frames, and a pair is three numbers.

    Args:
        cell: a ``fastrcn.cells.Cell``; G is its number of convolutions of the input, S of states.
        input: (T,B,Cin,H,W); a tuple of such for a cell with several inputs.
        weight_ih: (G*C,Cin,kh,kw); a tuple for a cell with several inputs. Odd kernel where ``padding`` is "same".
        weight_hh: (S*C,C,kh,kw), odd kernel; always stride 1.
        bias: (blocks*C,) or None. weight_ch: peepholes, (blocks*C,) or (blocks*C,H,W), where the cell has them.
        hx: initial states, a tuple of (B,C,H,W) in the order of the cell; None for zeros.
        masks: for a cell that calls ``mask()`` as many tensors: (T,B,C,H',W'), (1,B,C,H',W') for all steps, or
            (1,1,C,1,1) for all steps, sequences and pixels; of the type in which is summed, float32 for 16-bit inputs;
            without gradient.
        stride, dilation: of the input convolution.
        padding: of the input convolution: "same" (keeps the map at stride 1), "valid" (none), an int or a pair. The
            recurrent convolution keeps the map that comes out.
        lengths: (B,) ints; past its length a sequence's state is frozen and its output zero. Values on CUDA are not
            read by the host, so that a CUDA graph can hold the call: wrong ones end in a device-side assertion.
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
    stride, dilation, padding = input_options(weight_hh, stride, dilation, padding)
    device = weight_hh.device.type
    tensors, without_autocast = _autocast(device, [*inputs, *weight_ih, weight_hh, bias, weight_ch, *hx])
    n = len(inputs)
    packed, states = tensors[2 * n : 2 * n + 3], tensors[2 * n + 3 :]
    shape = check_call(cell, tensors[:n], tensors[n : 2 * n], packed, states, stride, dilation, padding)
    check_masks(cell, masks, shape, tensors[0])
    if lengths is not None:
        lengths = check_lengths(lengths, inputs[0])
    options = stride, dilation, padding, bool(reverse)
    tensors = [*tensors, *masks, lengths]
    call = exported.call_of(cell.key, n, len(masks), tensors, options, recompute, backend)
    with without_autocast:
        return _direction(call, tensors, recompute, backend)


def conv_recurrent_both(
    cell, input, first, second, *, masks=((), ()),
    stride: Any = 1, dilation: Any = 1, padding: Any = "same", lengths=None, recompute=False, backend=None,
):  # fmt: skip
    """Run the two directions of a bidirectional layer, as two calls of ``conv_recurrent`` would.

    With the ``triton`` backend they share their launches where one direction does not fill the GPU (see
    ``fastrcn.use_directions``); their buffers then stand at the same time.

    Args:
        first, second: (weight_ih, weight_hh, bias, weight_ch, hx) of the direction from the first step to the last, and
            of the other one.
        masks: of the one direction and of the other.
        cell, input, stride, dilation, padding, lengths, recompute, backend: as in ``conv_recurrent``.
    Returns:
        (output, last states) of the one direction and of the other.
    Raises:
        ValueError, TypeError or RuntimeError naming the argument, what was expected and what came.
    """
    for name, direction in (("first", first), ("second", second)):
        if len(direction) != 5:
            raise ValueError(
                f"{name}: expected (weight_ih, weight_hh, bias, weight_ch, hx), got {len(direction)} values"
            )
    inputs = (input,) if isinstance(input, torch.Tensor) else tuple(input)
    n, device = len(inputs), first[1].device.type
    own = []
    for weight_ih, weight_hh, bias, weight_ch, hx in (first, second):
        weight_ih = (weight_ih,) if isinstance(weight_ih, torch.Tensor) else tuple(weight_ih)
        own.append([*weight_ih, weight_hh, bias, weight_ch, *(() if hx is None else hx)])
    tensors, without_autocast = _autocast(device, [*inputs, *own[0], *own[1]])
    stride, dilation, padding = input_options(first[1], stride, dilation, padding)
    middle = n + len(own[0])
    parts = tensors[n:middle], tensors[middle:]
    for part, own_masks in zip(parts, masks, strict=True):
        shape = check_call(cell, tensors[:n], part[:n], part[n : n + 3], part[n + 3 :], stride, dilation, padding)
        check_masks(cell, own_masks, shape, tensors[0])
    if len(own[0]) != len(own[1]) or any(_sizes(a) != _sizes(b) for a, b in zip(*own, strict=True)):
        sizes = [[_sizes(t) for t in direction] for direction in own]
        raise ValueError(f"second: expected tensors of the same shapes as first's {sizes[0]}, got {sizes[1]}")
    if lengths is not None:
        lengths = check_lengths(lengths, inputs[0])
    given = [[*tensors[:n], *part, *m, lengths] for part, m in zip(parts, masks, strict=True)]

    def call_of(k):
        options = stride, dilation, padding, bool(k)
        return exported.call_of(cell.key, n, len(masks[k]), given[k], options, recompute, backend)

    forward = call_of(0)
    name, k = forward.backend, len(schedule_of(cell.key).states)
    save = (Save.STATES if recompute else Save.ALL) if autograd.tracked(tensors) else Save.NOTHING
    of_both = [*tensors[:n], *parts[0], *masks[0], *parts[1], *masks[1], lengths]

    def by(name):
        return BothCall(name, cell.key, n, len(masks[0]), stride, dilation, padding, int(save), 2 + 2 * k)

    asked = "conv_recurrent", subject_of(cell.key, tensors[0]), by, of_both, save != Save.NOTHING, backend
    if _plain(name) or not backends.runs_both(name, *asked):
        with without_autocast:
            one = _direction(forward, given[0], recompute, backend)
            return one, _direction(call_of(1), given[1], recompute, backend)
    with without_autocast:
        one, other, *states = run_fused(by(name), of_both)
    if lengths is not None:
        one, other = (_zero_past(output, lengths) for output in (one, other))
    return (one, tuple(states[:k])), (other, tuple(states[k:]))


def _sizes(tensor):
    return None if tensor is None else tuple(tensor.shape)


def _zero_past(output, lengths):
    """The output with zeros past each sequence's length."""
    steps = torch.arange(output.shape[0], device=output.device).view(-1, *(1,) * (output.dim() - 1))
    return output.masked_fill(steps >= lengths.view(1, -1, *(1,) * (output.dim() - 2)), 0)


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


def conv3d_relu_maxpool3d(
    input, weight, bias=None, *, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups=1, relu=True,
    pool_kernel_size: Any = 1, pool_stride: Any = None, pool_padding: Any = 0, pool_dilation: Any = 1,
    ceil_mode=False, backend=None,
):  # fmt: skip
    """``max_pool3d(relu(conv3d(input, weight, bias)))`` without the tensor between them in memory for backward.

    Args:
        input: (N,Cin,D,H,W), contiguous or channels-last. weight: (Cout,Cin/groups,kd,kh,kw). bias: (Cout,) or None.
        stride, padding, dilation, groups: as in ``torch.nn.functional.conv3d``; padding in numbers.
        relu: False leaves it out.
        pool_kernel_size, pool_stride, pool_padding, pool_dilation, ceil_mode: as in
            ``torch.nn.functional.max_pool3d``; without a window there is no pooling.
        backend: a backend's name; None for the best that can run.
    Returns:
        (N,Cout,D',H',W'), channels-last where the input or the weight is; under autocast of the type that the plain
        functions give.
    Raises:
        ValueError, TypeError or RuntimeError naming the argument, what was expected and what came.
    """
    conv = Conv.of(stride, padding, dilation, groups)
    pool = Pool.of(pool_kernel_size, pool_stride, pool_padding, pool_dilation, ceil_mode)
    device = input.device.type
    tensors, without_autocast = _autocast(device, [input, weight, bias])
    check_conv(conv, pool, *tensors)
    differentiated = autograd.tracked(tensors)
    kept = int(differentiated and bool(relu) and pool.cells == 1)

    def by(name):
        return Conv3dCall(name, conv, bool(relu), pool, differentiated, kept)

    what = conv, bool(relu), pool
    call = backends.chosen("conv3d_relu_maxpool3d", what, by, tensors, differentiated, backend)
    dtype = _result_type(pool, tensors[0].dtype, device)
    with without_autocast:
        results = call.plain(tensors) if _plain(call.backend) else autograd.run(call, tensors, differentiated)
    return results[0].to(dtype)


def batch_norm_relu_maxpool3d(
    input, running_mean, running_var, weight=None, bias=None, *, training=False, momentum=0.1, eps=1e-5, relu=True,
    pool_kernel_size: Any = 1, pool_stride: Any = None, pool_padding: Any = 0, pool_dilation: Any = 1,
    ceil_mode=False, backend=None,
):  # fmt: skip
    """``max_pool3d(relu(batch_norm(input, ...)))``: the normalised tensor is never in memory.

    Args:
        input: (N,C,D,H,W), contiguous or channels-last.
        running_mean, running_var: (C,); None in training for none. Updated in training, as ``batch_norm`` does.
        weight, bias: (C,) or None. training, momentum, eps: as in ``torch.nn.functional.batch_norm``.
        relu: False leaves it out.
        pool_kernel_size, pool_stride, pool_padding, pool_dilation, ceil_mode: as in
            ``torch.nn.functional.max_pool3d``; without a window there is no pooling.
        backend: a backend's name; None for the best that can run.
    Returns:
        (N,C,D',H',W'), in the layout of the input; under autocast of the type that the plain functions give.
    Raises:
        ValueError, TypeError or RuntimeError naming the argument, what was expected and what came.
    """
    pool = Pool.of(pool_kernel_size, pool_stride, pool_padding, pool_dilation, ceil_mode)
    check_batch_norm(input, running_mean, running_var, weight, bias, training, pool)
    device = input.device.type
    statistics = [None, None] if training else [running_mean, running_var]
    tensors = [input, weight, bias, *statistics]
    differentiated = autograd.tracked(tensors)
    kept = int(differentiated and bool(relu) and pool.cells == 1)

    def by(name):
        return BatchNormCall(name, bool(training), float(eps), bool(relu), pool, differentiated, kept)

    what = bool(relu), pool
    call = backends.chosen("batch_norm_relu_maxpool3d", what, by, tensors, differentiated, backend)
    if _plain(call.backend) or input.shape[0] == 0:  # an empty batch has no statistics
        if training:
            tensors[3:] = [running_mean, running_var]
        return call.plain(tensors, momentum)[0]
    output, *rest = autograd.run(call, tensors, differentiated)
    if training and running_mean is not None:
        mean, var = rest[:2]
        _update_running(running_mean, running_var, mean, var, momentum, input.numel() // input.shape[1])
    return output.to(_result_type(pool, output.dtype, device))


def _update_running(running_mean, running_var, mean, var, momentum, count):
    """As ``batch_norm`` does: the variance without bias."""
    with torch.no_grad():
        running_mean.lerp_(mean.to(running_mean.dtype), momentum)
        unbiased = var.to(running_var.dtype) * (count / (count - 1))
        running_var.lerp_(unbiased, momentum)
