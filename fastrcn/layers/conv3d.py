"""Conv3d, BatchNorm3d, ReLU and MaxPool3d as one layer, with the state_dict keys of the modules that it replaces."""

from collections import OrderedDict
from typing import Any

import torch
from torch import nn
from torch.autograd import forward_ad

from fastrcn import backends
from fastrcn.checks import triple
from fastrcn.functional import batch_norm_relu_maxpool3d, conv3d_relu_maxpool3d
from fastrcn.ops.conv3d_relu_maxpool3d.cpu_choice import converts_chain, gains
from fastrcn.ops.conv3d_relu_maxpool3d.geometry import Conv
from fastrcn.ops.convolution import winograd
from fastrcn.ops.relu_maxpool3d.geometry import Pool
from fastrcn.ops.relu_maxpool3d.layout import InLayout

_PADDING_MODES = ("zeros", "reflect", "replicate", "circular")
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def computes(module, kind):
    """Whether a call of the module does what ``kind``'s does and nothing else: the same forward, no hooks."""
    for name in ("forward", "_conv_forward"):
        if getattr(type(module), name, None) is not getattr(kind, name, None) or name in module.__dict__:
            return False
    return isinstance(module, kind) and not any(getattr(module, name) for name in _HOOKS)


def pool_of(module):
    """The window of an ``nn.MaxPool3d``."""
    return Pool.of(module.kernel_size, module.stride, module.padding, module.dilation, module.ceil_mode)


def _pool_options(pool: Pool) -> Any:
    names = ("pool_kernel_size", "pool_stride", "pool_padding", "pool_dilation", "ceil_mode")
    return dict(zip(names, pool, strict=True))


def _check_input(input, channels, unbatched):
    shapes = "(N,C,D,H,W) or unbatched (C,D,H,W)" if unbatched else "(N,C,D,H,W)"
    if not isinstance(input, torch.Tensor):
        raise TypeError(f"input: expected a tensor {shapes}, got {type(input).__name__}")
    if input.dim() != 5 and not (unbatched and input.dim() == 4):
        raise ValueError(f"input: expected {shapes}, got shape {tuple(input.shape)}")
    if input.shape[-4] != channels:
        raise ValueError(f"input: expected {channels} channels, got {input.shape[-4]} in shape {tuple(input.shape)}")


def _padded(conv, input):
    """The input and the padding in numbers that is still to be done: what ``nn.Conv3d`` makes of its options."""
    around = conv._reversed_padding_repeated_twice  # of W, H and D: before and after
    if conv.padding_mode != "zeros":
        return nn.functional.pad(input, around, mode=conv.padding_mode), 0
    if not isinstance(conv.padding, str):
        return input, conv.padding
    before, after = tuple(around[-2::-2]), tuple(around[::-2])
    return (input, before) if before == after else (nn.functional.pad(input, around), 0)


def run_conv(conv, input, weight, bias, relu, pool: Pool, backend):
    """``conv3d_relu_maxpool3d`` with the options of an ``nn.Conv3d``, on its own weight and bias or others."""
    _check_input(input, conv.in_channels, unbatched=True)
    x, padding = _padded(conv, input if input.dim() == 5 else input[None])
    output = conv3d_relu_maxpool3d(
        x, weight, bias, stride=conv.stride, padding=padding, dilation=conv.dilation, groups=conv.groups, relu=relu,
        backend=backend, **_pool_options(pool),
    )  # fmt: skip
    return output if input.dim() == 5 else output[0]


def _gains(conv, input, trains=True):
    """Whether a convolution without ReLU and pooling is worth the operator on a CPU, in training or without. A graph
    that is being compiled always has the operator where some sizes gain: it should serve all."""
    if not trains and not winograd.has_kernel(*conv.kernel_size[1:]) and conv.kernel_size != (1, 1, 1):
        return False
    if not _is_known(conv, input):
        return True
    return gains(input, conv.weight, Conv(conv.stride, conv.padding, conv.dilation, conv.groups), trains)


def _is_known(conv, input):
    """Whether the sizes, type, layout and padding of a convolution on a CPU are those that the operator will see."""
    if torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu"):
        return False
    if torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0:
        return False
    return input.dim() == 5 and conv.padding_mode == "zeros" and not isinstance(conv.padding, str)


def _converts(conv, input, backend):
    """Whether contiguous maps are worth a change to channels-last for the whole chain on a CPU."""
    if backends.requested(backend)[0] not in (None, "cpu") or not _is_known(conv, input):
        return False
    return converts_chain(input, conv.weight, Conv(conv.stride, conv.padding, conv.dilation, conv.groups))


def run_batch_norm(norm, input, relu, pool: Pool, backend):
    """``batch_norm_relu_maxpool3d`` with the statistics and options of an ``nn.BatchNorm3d``, which it updates."""
    _check_input(input, norm.num_features, unbatched=False)
    momentum = 0.0 if norm.momentum is None else norm.momentum
    tracks = norm.training and norm.track_running_stats
    if tracks and norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
        if norm.momentum is None:
            momentum = 1 / float(norm.num_batches_tracked)
    known = norm.running_mean is not None and norm.running_var is not None
    running = (norm.running_mean, norm.running_var) if tracks or not norm.training else (None, None)
    return batch_norm_relu_maxpool3d(
        input, *running, norm.weight, norm.bias, training=norm.training or not known, momentum=momentum, eps=norm.eps,
        relu=relu, backend=backend, **_pool_options(pool),
    )  # fmt: skip


def _folded(conv, norm):
    """Weight and bias of the convolution that also normalises with the running statistics."""
    kind = torch.promote_types(conv.weight.dtype, torch.float32)
    scale = torch.rsqrt(norm.running_var.to(kind) + norm.eps)
    if norm.weight is not None:
        scale = scale * norm.weight.to(kind)
    shift = -norm.running_mean.to(kind)
    if conv.bias is not None:
        shift = shift + conv.bias.to(kind)
    shift = shift * scale
    if norm.bias is not None:
        shift = shift + norm.bias.to(kind)
    weight = conv.weight * scale.view(-1, 1, 1, 1, 1)
    return weight.to(conv.weight.dtype), shift.to(conv.weight.dtype)


def run_conv_batch_norm(conv, norm, input, relu=True, pool=Pool(), backend=None):  # noqa: B008
    """An ``nn.Conv3d``, an ``nn.BatchNorm3d``, the ReLU and the pooling after them: two operations in training, one in
    evaluation. The modules keep their names wherever they are: for blocks whose state_dict's keys are given. An
    ``nn.SyncBatchNorm`` is called, and then the ReLU and the pooling: its statistics are those of all processes."""
    _check_input(input, conv.in_channels, unbatched=False)
    if not norm.training and norm.running_mean is not None and norm.running_var is not None:
        return run_conv(conv, input, *_folded(conv, norm), relu, pool, backend)
    converts = False
    if input.device.type == "cpu" and (backend is not None or _gains(conv, input)):
        converts = _converts(conv, input, backend)
        input = InLayout.apply(input, True) if converts else input
        maps = run_conv(conv, input, conv.weight, conv.bias, False, Pool(), backend)
    else:  # not by a call: a class of its own may do more in it
        maps = conv._conv_forward(input, conv.weight, conv.bias)
    if isinstance(norm, nn.SyncBatchNorm):
        for module in (norm, *_make_tail(relu, pool)):
            maps = module(maps)
    else:
        maps = run_batch_norm(norm, maps, relu, pool, backend)
    return InLayout.apply(maps, False) if converts else maps


def _make_conv(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, factory):
    for name, value in {"in_channels": in_channels, "out_channels": out_channels, "groups": groups}.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name}: expected a positive int, got {value!r}")
    for name, value in {"in_channels": in_channels, "out_channels": out_channels}.items():
        if value % groups:
            raise ValueError(f"groups: expected a divisor of {name}={value}, got {groups}")
    if padding_mode not in _PADDING_MODES:
        raise ValueError(f"padding_mode: expected one of {', '.join(_PADDING_MODES)}, got {padding_mode!r}")
    kernel, stride = triple(kernel_size, "kernel_size", 1), triple(stride, "stride", 1)
    if isinstance(padding, str):
        if padding not in ("same", "valid"):
            raise ValueError(f'padding: expected numbers, "same" or "valid", got {padding!r}')
        if padding == "same" and stride != (1, 1, 1):
            raise ValueError(f'padding: expected numbers or "valid" with stride {stride}, got "same"')
    else:
        padding = triple(padding, "padding", 0)
    dilation = triple(dilation, "dilation", 1)
    return nn.Conv3d(
        in_channels, out_channels, kernel, stride, padding, dilation, groups, bias, padding_mode, **factory
    )


def _make_tail(relu, window):
    pool = Pool.of(*window)
    tail: list[nn.Module] = [nn.ReLU()] if relu else []
    if not pool.identity:
        tail.append(nn.MaxPool3d(*pool[:4], ceil_mode=pool.ceil_mode))
    return tail


class _Chain(nn.Sequential):
    """The modules of a chain in order. They are called one by one, as in ``nn.Sequential``, where one of them was
    exchanged for another kind or has hooks."""

    _kinds: tuple[type[nn.Module], ...]
    backend: str | None

    def _build(self, modules, backend):
        nn.Sequential.__init__(self, *modules)
        self.backend = backends.check_choice(backend)

    @classmethod
    def _from_modules(cls, backend, **modules):
        kinds = (*cls._kinds, nn.ReLU, nn.MaxPool3d)
        for (name, module), kind in zip(modules.items(), kinds, strict=True):
            if module is None and kind in (nn.ReLU, nn.MaxPool3d):
                continue
            if not isinstance(module, kind):
                raise TypeError(f"{name}: expected {kind.__name__}, got {type(module).__name__}")
        chain = cls.__new__(cls)
        chain._build([m for m in modules.values() if m is not None], backend)
        return chain

    def _parts(self):
        """(modules of the first kinds, whether a ReLU follows, the window); None where modules must be called."""
        first, rest = list(self)[: len(self._kinds)], list(self)[len(self._kinds) :]
        if len(first) < len(self._kinds) or not all(computes(m, k) for m, k in zip(first, self._kinds, strict=True)):
            return None
        relu = len(rest) > 0 and computes(rest[0], nn.ReLU)
        rest = rest[1:] if relu else rest
        if not rest:
            return first, relu, Pool()
        if len(rest) > 1 or not computes(rest[0], nn.MaxPool3d) or rest[0].return_indices:
            return None
        return first, relu, pool_of(rest[0])

    def __getitem__(self, idx) -> Any:
        if isinstance(idx, slice):
            return nn.Sequential(OrderedDict(list(self._modules.items())[idx]))
        return super().__getitem__(idx)

    def extra_repr(self):
        return "" if self.backend is None else f"backend={self.backend!r}"


class ConvReLUPool3d(_Chain):
    """``nn.Sequential(nn.Conv3d, nn.ReLU, nn.MaxPool3d)`` as one operation, with its state_dict keys.

    Args:
        in_channels .. padding_mode: as in ``nn.Conv3d``.
        pool_kernel_size, pool_stride, pool_padding, pool_dilation, ceil_mode: as in ``nn.MaxPool3d``; without a window
            there is no such module.
        relu: False leaves that module out.
        backend: a backend's name; None for the best that can run.
    Shapes:
        input (N,Cin,D,H,W) or (Cin,D,H,W); output (N,Cout,D',H',W') or (Cout,D',H',W').
    Raises:
        ValueError, TypeError or RuntimeError naming the argument, what was expected and what came.
    """

    _kinds = (nn.Conv3d,)

    def __init__(
        self, in_channels, out_channels, kernel_size, stride=1, padding=0, dilation=1, groups=1, bias=True,
        padding_mode="zeros", *, pool_kernel_size: Any = 1, pool_stride: Any = None, pool_padding: Any = 0,
        pool_dilation: Any = 1, ceil_mode=False, relu=True, backend=None, device=None, dtype=None,
    ):  # fmt: skip
        conv = _make_conv(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode,
            {"device": device, "dtype": dtype},
        )  # fmt: skip
        window = (pool_kernel_size, pool_stride, pool_padding, pool_dilation, ceil_mode)
        self._build([conv, *_make_tail(relu, window)], backend)

    @classmethod
    def from_modules(cls, conv, relu=None, pool=None, backend=None):
        """Of these modules themselves: they and their parameters are shared, not copied. None: there is none."""
        return cls._from_modules(backend, conv=conv, relu=relu, pool=pool)

    def forward(self, input):
        """Convolution, ReLU and pooling."""
        parts = self._parts()
        if parts is None:
            return super().forward(input)
        (conv,), relu, pool = parts
        return run_conv(conv, input, conv.weight, conv.bias, relu, pool, self.backend)


class ConvBNReLUPool3d(_Chain):
    """``nn.Sequential(nn.Conv3d, nn.BatchNorm3d, nn.ReLU, nn.MaxPool3d)`` as two operations in training, the
    convolution and the rest; as one in evaluation, where the statistics are part of the convolution's weight.

    A bias before a batch normalisation has no effect but on ``running_mean``; it is there unless ``bias=False``, as in
    ``nn.Conv3d``. Where ``nn.SyncBatchNorm.convert_sync_batchnorm`` exchanged the normalisation, the modules are called
    one by one: its statistics come from all processes.

    Args:
        in_channels .. padding_mode: as in ``nn.Conv3d``. eps, momentum, affine, track_running_stats: as in
            ``nn.BatchNorm3d``. The others as in ``ConvReLUPool3d``.
    Shapes:
        input (N,Cin,D,H,W); output (N,Cout,D',H',W').
    Raises:
        ValueError, TypeError or RuntimeError naming the argument, what was expected and what came.
    """

    _kinds = (nn.Conv3d, nn.BatchNorm3d)

    def __init__(
        self, in_channels, out_channels, kernel_size, stride=1, padding=0, dilation=1, groups=1, bias=True,
        padding_mode="zeros", *, eps=1e-5, momentum: float | None = 0.1, affine=True, track_running_stats=True,
        pool_kernel_size: Any = 1, pool_stride: Any = None, pool_padding: Any = 0, pool_dilation: Any = 1,
        ceil_mode=False, relu=True, backend=None, device=None, dtype=None,
    ):  # fmt: skip
        factory: Any = {"device": device, "dtype": dtype}
        conv = _make_conv(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, factory
        )
        norm = nn.BatchNorm3d(out_channels, eps, momentum, affine, track_running_stats, **factory)
        window = (pool_kernel_size, pool_stride, pool_padding, pool_dilation, ceil_mode)
        self._build([conv, norm, *_make_tail(relu, window)], backend)

    @classmethod
    def from_modules(cls, conv, norm, relu=None, pool=None, backend=None):
        """Of these modules themselves: they and their parameters are shared, not copied. None: there is none."""
        return cls._from_modules(backend, conv=conv, norm=norm, relu=relu, pool=pool)

    def forward(self, input):
        """Convolution, normalisation, ReLU and pooling."""
        parts = self._parts()
        if parts is None:
            return super().forward(input)
        (conv, norm), relu, pool = parts
        return run_conv_batch_norm(conv, norm, input, relu, pool, self.backend)


class BatchNormReLUPool3d(nn.BatchNorm3d):
    """``nn.BatchNorm3d`` with the ReLU and the max-pooling that follow it, as one operation.

    ``nn.SyncBatchNorm.convert_sync_batchnorm`` would make a normalisation alone of it: convert first, then use
    ``fastrcn.fuse``, which leaves what was converted.

    Args:
        num_features, eps, momentum, affine, track_running_stats: as in ``nn.BatchNorm3d``.
        relu, pool_kernel_size, pool_stride, pool_padding, pool_dilation, ceil_mode, backend: as in ``ConvReLUPool3d``.
    Shapes:
        input (N,C,D,H,W); output (N,C,D',H',W').
    Raises:
        ValueError, TypeError or RuntimeError naming the argument, what was expected and what came.
    """

    backend: str | None

    def __init__(
        self, num_features, eps=1e-5, momentum: float | None = 0.1, affine=True, track_running_stats=True, *,
        relu=True, pool_kernel_size: Any = 1, pool_stride: Any = None, pool_padding: Any = 0, pool_dilation: Any = 1,
        ceil_mode=False, backend=None, device=None, dtype=None,
    ):  # fmt: skip
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device=device, dtype=dtype)
        self.relu = bool(relu)
        self.pool = Pool.of(pool_kernel_size, pool_stride, pool_padding, pool_dilation, ceil_mode)
        self.backend = backends.check_choice(backend)

    def forward(self, input):
        """Normalisation, ReLU and pooling."""
        return run_batch_norm(self, input, self.relu, self.pool, self.backend)

    def extra_repr(self):
        return f"{super().extra_repr()}, {_tail_repr(self)}"


class FusedConv3d(nn.Conv3d):
    """What ``fastrcn.fuse`` makes of an ``nn.Conv3d``: the ReLU and the max-pooling that follow it are part of it."""

    relu = True
    pool = Pool()
    backend: str | None = None

    def forward(self, input):
        """Convolution, ReLU and pooling."""
        alone = not self.relu and self.pool.identity and self.backend is None
        trains = torch.is_grad_enabled() and self.weight.requires_grad
        if alone and not (input.device.type == "cpu" and _gains(self, input, trains)):
            return super().forward(input)
        return run_conv(self, input, self.weight, self.bias, self.relu, self.pool, self.backend)

    def extra_repr(self):
        return f"{super().extra_repr()}, {_tail_repr(self)}"


def _tail_repr(module):
    parts = [f"relu={module.relu}"]
    if not module.pool.identity:
        parts += [f"{name}={value}" for name, value in _pool_options(module.pool).items()]
    return ", ".join(parts if module.backend is None else [*parts, f"backend={module.backend!r}"])
