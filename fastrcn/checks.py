"""Checks of arguments. Every error names the argument, what was expected and what came."""

from typing import Any

import torch

from fastrcn.cells import Cell
from fastrcn.compiler.schedule import schedule_of
from fastrcn.ops.conv_recurrent.geometry import accumulate_type, output_map


def _shape(tensor):
    return tuple(tensor.shape)


def _ints(value, count, least) -> Any:
    """An int, or ``count`` of them, each of at least ``least``, as a tuple of ``count``; None for anything else."""
    values = (value,) * count if isinstance(value, int) else value
    if not isinstance(values, (tuple, list)) or len(values) != count:
        return None
    right = all(isinstance(v, int) and not isinstance(v, bool) and v >= least for v in values)
    return tuple(values) if right else None


def triple(value, name, least):
    """An int or three of them as a triple of ints of at least ``least``."""
    values = _ints(value, 3, least)
    if values is None:
        raise ValueError(f"{name}: expected an int of at least {least} or three of them, got {value!r}")
    return values


_NUMBERS = {1: "a list with one", 2: "a pair", 3: "three"}
_AXES = {2: "H,W", 3: "D,H,W"}
_KERNEL_AXES = {2: "kh,kw", 3: "kd,kh,kw"}


def per_axis(value, name, axes):
    """A positive int, or one for each of a map's 1 to 3 axes, as a tuple of so many."""
    values = _ints(value, axes, 1)
    if values is None:
        raise ValueError(f"{name}: expected a positive int or {_NUMBERS[axes]} of them, got {value!r}")
    return values


def map_axes(weight_hh):
    """How many axes the maps have that a recurrent convolution's weight is for: 2 or 3."""
    if weight_hh.dim() not in (4, 5):
        raise ValueError(
            f"weight_hh: expected 4 dimensions (blocks*C,C,{_KERNEL_AXES[2]}), or for maps ({_AXES[3]}) 5 "
            f"(blocks*C,C,{_KERNEL_AXES[3]}), got shape {_shape(weight_hh)}"
        )
    return weight_hh.dim() - 2


def check_kernel(kernel, name):
    """Kernel sizes must be odd: an even one has no middle, so no padding keeps the map's size."""
    if any(k < 1 or k % 2 == 0 for k in kernel):
        raise ValueError(f"{name}: expected odd kernel sizes, which keep the map's size, got {tuple(kernel)}")


def check_padding(padding, axes):
    """The input convolution's padding as one number for each of a map's 2 or 3 axes, None for "same"."""
    if padding == "same":
        return None
    values = _ints(0 if padding == "valid" else padding, axes, 0)
    if values is None:
        raise ValueError(
            f'padding: expected "same", "valid", an int of at least 0 or {_NUMBERS[axes]} of them, got {padding!r}'
        )
    return values


def input_options(weight_hh, stride, dilation, padding):
    """The input convolution's options, for each axis of the maps."""
    axes = map_axes(weight_hh)
    return per_axis(stride, "stride", axes), per_axis(dilation, "dilation", axes), check_padding(padding, axes)


def check_cell(cell):
    """Raise TypeError for what is no cell, such as a cell's class."""
    if not isinstance(cell, Cell):
        raise TypeError(f"cell: expected a fastrcn.cells.Cell, such as ConvLSTM(), got {cell!r}")


def check_call(cell, inputs, weight_ih, packed, hx, stride, dilation, padding):
    """Check one call of conv_recurrent: ranks, sizes, types, devices. ``packed``: weight_hh, bias, weight_ch. Returns
    the shape of the output (T,B,C,H,W), of maps as ``weight_hh`` has: (D,H,W) too."""
    check_cell(cell)
    weight_hh, bias, weight_ch = packed
    axes = map_axes(weight_hh)
    schedule = schedule_of(cell.key)
    blocks = schedule.blocks
    names = schedule.inputs
    if len(inputs) != len(names) or len(weight_ih) != len(names):
        raise ValueError(
            f"input, weight_ih: expected {len(names)} each for the inputs {names}, got {len(inputs)}, {len(weight_ih)}"
        )
    c = weight_hh.shape[1]
    if weight_hh.shape[0] != blocks["h"] * c:
        raise ValueError(f"weight_hh: expected {blocks['h']}*{c} rows for {cell!r}, got shape {_shape(weight_hh)}")
    check_kernel(weight_hh.shape[2:], "weight_hh")
    named = {"weight_hh": weight_hh}
    for name, x, weight in zip(names, inputs, weight_ih, strict=True):
        label = "input" if len(names) == 1 else f"input {name}"
        if x.dim() != 3 + axes:
            raise ValueError(f"{label}: expected {3 + axes} dimensions (T,B,C,{_AXES[axes]}), got shape {_shape(x)}")
        if weight.dim() != 2 + axes or weight.shape[0] != blocks[name] * c:
            raise ValueError(
                f"weight_ih of {label}: expected shape ({blocks[name]}*{c},Cin,{_KERNEL_AXES[axes]}), "
                f"got {_shape(weight)}"
            )
        if x.shape[2] != weight.shape[1]:
            raise ValueError(f"{label}: expected {weight.shape[1]} channels, got {x.shape[2]} in shape {_shape(x)}")
        if x.shape[:2] != inputs[0].shape[:2] or x.shape[3:] != inputs[0].shape[3:]:
            raise ValueError(f"{label}: expected T,B,{_AXES[axes]} as in {_shape(inputs[0])}, got {_shape(x)}")
        if x.shape[0] == 0 or any(n == 0 for n in x.shape[3:]):
            raise ValueError(f"{label}: expected at least one step and a map of at least one pixel, got {_shape(x)}")
        if padding is None:
            check_kernel(weight.shape[2:], f"weight_ih of {label}")
        named |= {label: x, f"weight_ih of {label}": weight}
    b = inputs[0].shape[1]
    size = output_map(inputs[0].shape[3:], weight_ih[0].shape[2:], stride, dilation, padding)
    if padding is not None and any(n < 1 for n in size):
        raise ValueError(
            f"input: expected a map that the kernel {tuple(weight_ih[0].shape[2:])} with dilation {tuple(dilation)} "
            f"and padding {padding} fits in, got {tuple(inputs[0].shape[3:])}"
        )
    for weight, name in zip(weight_ih[1:], names[1:], strict=True):
        if output_map(inputs[0].shape[3:], weight.shape[2:], stride, dilation, padding) != size:
            raise ValueError(f"weight_ih of input {name}: its convolution gives another map than the first input's")
    if bias is not None:
        named["bias"] = bias
        rows = blocks["bias"] * c
        # A bias that a convolution carries is one number per channel; one that is added to its norm may be a map.
        maps = (rows, *size) if all(not slot.bias_blocks for group in schedule.groups for slot in group.slots) else None
        if _shape(bias) not in ((rows,), maps):
            raise ValueError(
                f"bias: expected shape ({blocks['bias']}*{c},){f' or {maps}' if maps else ''}, got {_shape(bias)}"
            )
    rows = (blocks["peephole"] + blocks["scale"]) * c
    if (weight_ch is None) != (rows == 0):
        raise ValueError(
            f"weight_ch: expected {blocks['peephole']}*{c} peepholes and {blocks['scale']}*{c} factors of norms for "
            f"{cell!r}, got {'none' if weight_ch is None else _shape(weight_ch)}"
        )
    if weight_ch is not None:
        named["weight_ch"] = weight_ch
        if _shape(weight_ch) not in ((rows,), (rows, *size)):
            full = ",".join(str(n) for n in (rows, *size))
            raise ValueError(f"weight_ch: expected shape ({rows},) or ({full}), got {_shape(weight_ch)}")
    if hx:
        if len(hx) != len(schedule.states):
            raise ValueError(f"hx: expected {len(schedule.states)} states {schedule.states}, got {len(hx)}")
        for state, value in zip(schedule.states, hx, strict=True):
            named[f"hx ({state.name})"] = value
            if _shape(value) != (b, c, *size):
                raise ValueError(f"hx ({state.name}): expected shape {(b, c, *size)}, got {_shape(value)}")
    check_same(named, inputs[0])
    return inputs[0].shape[0], b, c, *size


def check_masks(cell, masks, shape, first):
    """The masks of a cell: as many as it asks for, of a state's ``shape`` (T,B,C,...) or spread over axes of it."""
    channels = shape[2]
    number, kind = len(schedule_of(cell.key).masks), accumulate_type(first.dtype)
    if len(masks) != number:
        raise ValueError(f"masks: expected {number} for {cell!r}, got {len(masks)}")
    shapes = [shape, (1, *shape[1:]), (1, 1, channels, *(1,) * (len(shape) - 3))]
    for k, m in enumerate(masks):
        if _shape(m) not in shapes:
            raise ValueError(f"masks ({k}): expected one of the shapes {shapes}, got {_shape(m)}")
        if m.dtype != kind:
            raise TypeError(f"masks ({k}): expected {kind}, in which {first.dtype} is summed, got {m.dtype}")
        if m.device != first.device:
            raise RuntimeError(f"masks ({k}): expected device {first.device}, the input's, got {m.device}")
        if m.requires_grad:
            raise ValueError(f"masks ({k}): expected a tensor without gradient, got one that requires it")


def check_same(named, first):
    """All tensors must share the input's floating point type and device."""
    if not first.is_floating_point():
        raise TypeError(f"input: expected a floating point type, got {first.dtype}")
    for name, tensor in named.items():
        if tensor.dtype != first.dtype:
            raise TypeError(f"{name}: expected {first.dtype}, the input's type, got {tensor.dtype}")
        if tensor.device != first.device:
            raise RuntimeError(f"{name}: expected device {first.device}, the input's, got {tensor.device}")


def check_lengths(lengths, input):
    """Lengths as an int64 tensor (B,) on the input's device. Values on the CPU are checked here, those on CUDA by an
    assertion there, as PyTorch checks indices: the host does not wait for them, and a CUDA graph can hold the call."""
    steps, batch = input.shape[:2]
    if not isinstance(lengths, torch.Tensor) and len(lengths) == 0:
        lengths = torch.empty(0, dtype=torch.int64)
    lengths = torch.as_tensor(lengths)
    if lengths.is_floating_point() or lengths.dtype == torch.bool or lengths.is_complex():
        raise TypeError(f"lengths: expected whole numbers, got {lengths.dtype}")
    if tuple(lengths.shape) != (batch,):
        raise ValueError(f"lengths: expected shape ({batch},), one for each sequence, got {tuple(lengths.shape)}")
    compiling = torch.compiler.is_compiling()
    if not compiling and not lengths.is_meta and batch:
        _check_values(lengths, steps)
    if compiling or lengths.device.type != "cpu" or input.device.type != "cuda":
        return lengths.to(device=input.device, dtype=torch.int64)
    if torch.cuda.is_current_stream_capturing():
        raise RuntimeError(
            "lengths: expected a tensor on CUDA while a CUDA graph is captured, whose replays would read memory of the "
            "CPU that is free by then, got values on the CPU"
        )
    # From pinned memory, so that the host does not wait for what the GPU is doing.
    return lengths.to(torch.int64).pin_memory().to(input.device, non_blocking=True)


def _check_values(lengths, steps):
    """Lengths must be numbers of steps."""
    expected = f"lengths: expected values from 0 to {steps}, the number of steps"
    if lengths.is_cuda:
        torch.ops.aten._assert_async.msg(((lengths >= 0) & (lengths <= steps)).all(), expected)
        return
    low, high = int(lengths.min()), int(lengths.max())
    if low < 0 or high > steps:
        raise ValueError(f"{expected}, got {low} to {high}")
