"""What an output cell sees of the input, by arithmetic and by measuring; how nets answer a shift in time."""

import operator
from typing import Any, NamedTuple

import torch
from torch import fx, nn
from torch.nn import functional as F

from fastrcn.ops.relu_maxpool3d.geometry import Pool

Pair = tuple[int, int]


def _each(value, dims, name):
    values = (value,) * dims if isinstance(value, int) else tuple(value)
    if len(values) != dims:
        raise ValueError(f"{name}: expected one value or {dims}, got {value!r}")
    return values


class Layer(NamedTuple):
    """A convolution or pooling, of each axis: 2 for images, 3 for clips (time first)."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[Pair, ...]
    dilation: tuple[int, ...]
    ceil_mode: bool = False

    @classmethod
    def of(cls, kernel, stride: Any = 1, padding: Any = 0, dilation: Any = 1, *, dims=3, ceil_mode=False):
        """From numbers or tuples of them, as PyTorch's layers take them.

        Of an axis, padding may also be a pair, (before, after), or "same" for all: half of the kernel, more after.
        """
        kernel, stride, dilation = (
            _each(v, dims, n) for v, n in ((kernel, "kernel"), (stride, "stride"), (dilation, "dilation"))
        )
        if any(v < 1 for v in (*kernel, *stride, *dilation)):
            came = f"{kernel}, {stride}, {dilation}"
            raise ValueError(f"kernel, stride, dilation: expected positive ints, got {came}")
        if padding == "same":
            spare = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
            pairs = [(s // 2, s - s // 2) for s in spare]
        else:
            pairs = [(p, p) if isinstance(p, int) else tuple(p) for p in _each(padding, dims, "padding")]
        return cls(kernel, stride, tuple(pairs), dilation, bool(ceil_mode))

    @classmethod
    def of_module(cls, module):
        """From a convolution or pooling of PyTorch. Raises ValueError for any other module."""
        dims = 2 if isinstance(module, _LAYERS_2D) else 3
        if not isinstance(module, (*_LAYERS_2D, *_LAYERS_3D)):
            raise ValueError(f"module: expected a convolution or pooling, got {type(module).__name__}")
        padding = 0 if module.padding == "valid" else module.padding
        dilation, ceil_mode = getattr(module, "dilation", 1), getattr(module, "ceil_mode", False)
        return cls.of(module.kernel_size, module.stride, padding, dilation, dims=dims, ceil_mode=ceil_mode)

    def output_size(self, size):
        """Cells of each axis after it. With ``ceil_mode`` the last window must begin before the end, as in PyTorch."""
        found = []
        for n, k, s, (before, after), d in zip(size, *self[:4], strict=True):
            reach = n + before + after - d * (k - 1) - 1
            count = (reach + (s - 1 if self.ceil_mode else 0)) // s + 1
            if self.ceil_mode and (count - 1) * s >= n + before:
                count -= 1
            if count < 1:
                raise ValueError(f"size: expected cells enough for a kernel of {self.kernel}, got {tuple(size)}")
            found.append(count)
        return tuple(found)


_LAYERS_2D: Any = (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)
_LAYERS_3D: Any = (nn.Conv3d, nn.MaxPool3d, nn.AvgPool3d)


class Field(NamedTuple):
    """What output cells see: ``size`` input cells each; the first from cell ``start`` on, below zero in the padding;
    the next ``stride`` further."""

    size: tuple[int, ...]
    stride: tuple[int, ...]
    start: tuple[int, ...]

    @classmethod
    def of_input(cls, dims):
        """That of the input itself."""
        return cls((1,) * dims, (1,) * dims, (0,) * dims)

    def after(self, layer: Layer):
        """That of the output of one more layer."""
        size, start, stride = [], [], []
        for n, jump, first, k, s, (before, _), d in zip(*self, *layer[:4], strict=True):
            size.append(n + d * (k - 1) * jump)
            start.append(first - before * jump)
            stride.append(jump * s)
        return Field(tuple(size), tuple(stride), tuple(start))

    def joined(self, other: "Field"):
        """That of cells which see what both see, as after a sum or a concatenation."""
        if self.stride != other.stride:
            raise ValueError(f"stride: expected the same in all branches, got {self.stride} and {other.stride}")
        start = tuple(map(min, self.start, other.start))
        ends = [max(a + m, b + n) for a, m, b, n in zip(self.start, self.size, other.start, other.size, strict=True)]
        return Field(tuple(map(operator.sub, ends, start)), self.stride, start)

    def seen(self, index, size):
        """(first, past the last) input cell of each axis that output cell ``index`` sees of an input of ``size``."""
        found = []
        for i, n, jump, first, cells in zip(index, *self, size, strict=True):
            begin = first + i * jump
            found.append((max(begin, 0), min(begin + n, cells)))
        return tuple(found)


def receptive_fields(layers):
    """The field of the output of each of the layers, in order. [Field]"""
    fields: list[Field] = []
    for layer in layers:
        fields.append((fields[-1] if fields else Field.of_input(len(layer.kernel))).after(layer))
    return fields


def output_sizes(layers, size):
    """Cells of each axis after each of the layers, in order, for an input of ``size``."""
    sizes = []
    for layer in layers:
        size = layer.output_size(size)
        sizes.append(size)
    return sizes


_POINTWISE: Any = (
    nn.ReLU, nn.Sigmoid, nn.Tanh, nn.Identity, nn.Dropout, nn.BatchNorm2d, nn.BatchNorm3d, nn.LocalResponseNorm,
)  # fmt: skip
_POINTWISE_CALLS: Any = (F.relu, F.relu_, torch.relu, torch.relu_, F.dropout, "relu", "relu_")
_JOINING_CALLS: Any = (operator.add, operator.iadd, torch.add, operator.mul, torch.cat, "add", "add_")


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m, module_qualified_name):
        ours = type(m).__module__.startswith("fastrcn.layers")
        return ours or super().is_leaf_module(m, module_qualified_name)


def _after_module(field: Field, module):
    if isinstance(module, nn.Sequential):  # a fused layer: the modules that it stands for
        for part in module:
            field = _after_module(field, part)
        return field
    field = field if isinstance(module, _POINTWISE) else field.after(Layer.of_module(module))
    pool = getattr(module, "pool", None)  # of a layer that has it as part of it
    if isinstance(pool, Pool):
        field = field.after(Layer.of(pool.kernel, pool.stride, pool.padding, pool.dilation))
    return field


def fields_of(module):
    """The field of the output of each layer that a net calls, by the layer's name in it; its own under "".

    The net is traced, so that its branches are followed too: where they join, a cell sees what both see. The layers of
    this package count as what they stand for. {name: Field}

    Raises: ValueError for a net with layers or functions whose field is not known, or that cannot be traced: see
    ``measured_field``.
    """
    layers = [m for m in module.modules() if isinstance(m, (*_LAYERS_2D, *_LAYERS_3D))]
    axes = {len(Layer.of_module(m).kernel) for m in layers}
    if len(axes) != 1:
        raise ValueError(f"module: expected convolutions and poolings of one number of axes, got {sorted(axes)}")
    dims = axes.pop()
    try:
        graph = _Tracer().trace(module)
    except Exception as error:  # whatever a forward does with a value that it does not have yet
        raise ValueError(f"module: expected a net that torch.fx can trace, got {error}") from error
    fields: dict[Any, Field] = {}
    names: dict[str, Field] = {}
    for node in graph.nodes:
        inputs = [fields[n] for n in node.all_input_nodes]
        if node.op == "placeholder":
            fields[node] = Field.of_input(dims)
        elif node.op == "call_module":
            fields[node] = names[str(node.target)] = _after_module(inputs[0], module.get_submodule(node.target))
        elif node.target in _POINTWISE_CALLS or node.op == "output":
            fields[node] = inputs[0]
        elif node.target in _JOINING_CALLS:
            fields[node] = inputs[0]
            for other in inputs[1:]:
                fields[node] = fields[node].joined(other)
        else:
            raise ValueError(f"module: expected layers and pointwise functions, got {node.target}")
        names[""] = fields[node]
    return names


def measured_field(net, input, index=None):
    """(first, past the last) input cell of each axis that an output cell's gradient reaches.

    Gradients of max-poolings and ReLUs reach few cells at a time: ``input`` should hold many examples (N,C,...), all of
    which count together.

    Args:
        net: a function of the input.
        index: of the output cell, without batch and channels; None for the one in the middle.
    Raises: ValueError where no gradient arrives.
    """
    input = input.detach().requires_grad_()
    output = net(input)
    cell = [n // 2 for n in output.shape[2:]] if index is None else list(index)
    (grad,) = torch.autograd.grad(output[(slice(None), slice(None), *cell)].sum(), input)
    reached = (grad != 0).flatten(0, 1).any(0)
    if not reached.any():
        raise ValueError(f"index: expected a cell that some input cell changes, got {cell}")
    return tuple((int(cells.min()), int(cells.max()) + 1) for cells in reached.nonzero().unbind(1))


def temporal_shift_error(net, clip, shift):
    """How far a net is from answering a clip that comes later by the same answer, later: 0 for equivariance.

    Answers are compared with that to a blank (zero) clip. The maps of a net that keeps time (N,C,T',H',W') are shifted
    by the same share of their length, rounded; an output without time should not change at all. 3-D convolutions are
    equivariant to multiples of their stride, as long as what they see of the event reaches no end of the clip; early
    fusion is not: it has weights of its own for each frame.

    Args:
        net: a function of clips.
        clip: (N,C,T,H,W), at least its last ``shift`` frames blank.
        shift: in frames.
    Returns: the norm of the difference over that of the answer. A float
    Raises: ValueError naming the argument.
    """
    if clip.dim() != 5 or not 0 < shift < clip.shape[2]:
        raise ValueError(f"clip, shift: expected (N,C,T,H,W) and 1 to T-1 frames, got {tuple(clip.shape)}, {shift}")
    if clip[:, :, -shift:].any():
        raise ValueError(f"clip: expected its last {shift} frames to be zero, they are not")
    with torch.no_grad():
        blank = net(torch.zeros_like(clip))
        answer, later = net(clip) - blank, net(clip.roll(shift, 2)) - blank
    if answer.dim() == 5:
        answer = answer.roll(round(shift * answer.shape[2] / clip.shape[2]), 2)
    return float((later - answer).norm() / answer.norm())


def filters_over_time(conv, num_frames=None):
    """A convolution's weight as filters over time: a view (C_out,C_in,T,kh,kw).

    Of an ``nn.Conv3d`` its weight, with the kernel's length as T: the same filters at every time. Of the ``nn.Conv2d``
    that early fusion begins with, whose channels are ``num_frames`` frames in order, with T = ``num_frames``: filters
    of their own for every time.

    Raises: ValueError naming the argument.
    """
    if isinstance(conv, nn.Conv3d):
        if num_frames is not None:
            raise ValueError(f"num_frames: expected None for a 3-D convolution, got {num_frames}")
        return conv.weight
    if num_frames is None or num_frames < 1 or conv.weight.shape[1] % num_frames:
        raise ValueError(f"num_frames: expected a divisor of {conv.weight.shape[1]} channels, got {num_frames}")
    return conv.weight.unflatten(1, (num_frames, -1)).transpose(1, 2)
