"""Nets of images inflated to nets of clips: Carreira and Zisserman 2017, section 2.4, https://arxiv.org/abs/1705.07750.

A kernel of K steps is the image's kernel K times over, divided by K. Then a video of one image that never changes gives
at every step what the image gives: the fixed point that ``check_fixed_point`` measures.
"""

import copy
import operator
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import fx, nn
from torch.fx.node import map_aggregate, map_arg
from torch.fx.proxy import TraceError
from torch.nn import functional as F

from fastrcn import backends
from fastrcn.layers.conv3d import run_conv, run_conv_batch_norm
from fastrcn.models.i3d import MIXED
from fastrcn.models.inception import MODULES
from fastrcn.ops.relu_maxpool3d.geometry import Pool

WEIGHTS = ("mean", "centre")
TEMPORAL_PADDINGS = ("zeros", "replicate", "valid")


def boring_video(image, frames):
    """The image (N,C,H,W) ``frames`` times: (N,C,frames,H,W), a view."""
    return image[:, :, None].expand(-1, -1, frames, -1, -1)


def check_fixed_point(image_net, clip_net, image, frames):
    """How far a net of clips is from the fixed point: a number for every step, 0 where it is exact but for rounding.

    Args:
        image_net: (N,C,H,W) -> (N,D) or maps (N,D,H',W').
        clip_net: (N,C,T,H,W) -> the same at each of T' steps, (N,D,T') or (N,D,T',H',W'): of what ``inflate`` makes
            ``lambda clip: net(clip, average=False)``, of an ``I3D`` its ``per_step``.
        image: what both see. frames: length of the video.
    Returns: (T',), the norm of the difference over the norm of what the image gives.

    Both must be in evaluation: in training each normalises by statistics of its own. With zeros as temporal padding
    only those steps are exact that see no frame beyond the ends, for I3D none of a clip of 64 frames.
    """
    with torch.no_grad():
        truth = image_net(image)
        found = clip_net(boring_video(image, frames))
    if found.dim() != truth.dim() + 1 or found.shape[:2] + found.shape[3:] != truth.shape:
        expected = "(" + ",".join(map(str, (*truth.shape[:2], "T", *truth.shape[2:]))) + ")"
        raise ValueError(f"clip_net: expected values {expected}, got shape {tuple(found.shape)}")
    difference = (found - truth.unsqueeze(2)).transpose(0, 2).flatten(1)
    return difference.norm(dim=1) / truth.norm()


def inflate_weight(weight, frames, weights="mean"):
    """A kernel of images (O,I,kh,kw) as one of clips (O,I,frames,kh,kw): divided among the steps, or in the middle."""
    if weights not in WEIGHTS:
        raise ValueError(f"weights: expected one of {', '.join(WEIGHTS)}, got {weights!r}")
    if weights == "mean":
        return weight[:, :, None].expand(-1, -1, frames, -1, -1) / frames
    if frames % 2 == 0:
        raise ValueError(f"weights: expected mean for an even kernel, which has no centre, got centre for {frames}")
    return F.pad(weight[:, :, None], (0, 0, 0, 0, frames // 2, frames // 2))


def inflate_inception(state_dict, weights="mean"):
    """The state of an ``I3D`` from that of an ``InceptionV1``, or of torchvision's ``googlenet``, for
    ``load_state_dict``. All kernels become cubes. The auxiliary classifiers are left.

    For the fixed point the two nets must pad alike: ``spatial_padding`` as the image net's ``padding``, and
    ``temporal_padding="replicate"``.
    """
    names = {"conv1": "Conv3d_1a_7x7", "conv2": "Conv3d_2b_1x1", "conv3": "Conv3d_2c_3x3", "fc": "logits"}
    branches = {
        "branch1": "b0", "branch2.0": "b1a", "branch2.1": "b1b", "branch3.0": "b2a", "branch3.1": "b2b",
        "branch4.1": "b3b",
    }  # fmt: skip
    for name, block in zip(MODULES, MIXED, strict=True):
        names |= {f"inception{name}.{ours}": f"{block}.{theirs}" for ours, theirs in branches.items()}
    found = {}
    for key, value in state_dict.items():
        if key.startswith("aux"):
            continue
        layer, _, end = key.rpartition(".")
        if layer == "fc":
            layer, end = "logits", f"conv3d.{end}"
            value = value[..., None, None, None] if value.dim() == 2 else value
        else:
            unit, _, kind = layer.rpartition(".")
            if unit not in names or kind not in ("conv", "bn"):
                raise ValueError(f"state_dict: expected keys of Inception-v1, got {key!r}")
            layer, end = names[unit], f"{'conv3d' if kind == 'conv' else 'bn'}.{end}"
            if kind == "conv":
                value = inflate_weight(value, value.shape[-1], weights)
        found[f"{layer}.{end}"] = value
    return found


class InflatedConv3d(nn.Conv3d):
    """A convolution of images as one of clips. The normalisation, the ReLU and the max-pooling that follow it in the
    net are done with it; the normalisation is an argument, as its parameters stay where they were."""

    def __init__(self, conv, kernel, stride, weights, temporal_padding, relu, pool: Pool, backend):
        half = (kernel - 1) // 2
        super().__init__(
            conv.in_channels, conv.out_channels, (kernel, *conv.kernel_size), (stride, *conv.stride),
            (half if temporal_padding == "zeros" else 0, *conv.padding), (1, *conv.dilation), conv.groups,
            conv.bias is not None, device=conv.weight.device, dtype=conv.weight.dtype,
        )  # fmt: skip
        self.repeated = half if temporal_padding == "replicate" else 0
        self.relu, self.pool, self.backend = relu, pool, backend
        with torch.no_grad():
            self.weight.copy_(inflate_weight(conv.weight, kernel, weights))
            if self.bias is not None:
                self.bias.copy_(conv.bias)

    def forward(self, x, norm=None):
        """(N,C,T,H,W) -> (N,C',T',H',W')."""
        if self.repeated:
            x = F.pad(x, (0, 0, 0, 0, self.repeated, self.repeated), mode="replicate")
        if norm is None:
            return run_conv(self, x, self.weight, self.bias, self.relu, self.pool, self.backend)
        return run_conv_batch_norm(self, norm, x, self.relu, self.pool, self.backend)


class _Valued(fx.Proxy):
    """A value of the net while it is traced. Its sizes are numbers, for the net's checks and paddings."""

    @property
    def shape(self):
        return self.node.meta["value"].shape

    def dim(self):
        return self.node.meta["value"].dim()


class _Tracer(fx.Tracer):
    """Records what the net does with an image, with the values."""

    def __init__(self, method, image):
        super().__init__()
        self.traced_func_name, self.image = method, image

    def proxy(self, node):
        return _Valued(node, self)

    def getattr(self, attr, attr_val, parameter_proxy_cache):
        return attr_val  # modules that run here read their parameters, not records of them

    def create_proxy(self, kind, target, args, kwargs, *rest, **options):
        proxy = super().create_proxy(kind, target, args, kwargs, *rest, **options)

        def value_of(argument):
            return argument.node.meta["value"] if isinstance(argument, fx.Proxy) else argument

        args, kwargs = map_aggregate((args, kwargs), value_of)  # type: ignore[misc]
        if kind == "placeholder":
            value = self.image
        elif kind == "call_module":
            value = self.root.get_submodule(target).forward(*args, **kwargs)
        elif kind == "call_method":
            value = getattr(args[0], target)(*args[1:], **kwargs)
        else:
            value = target(*args, **kwargs) if kind == "call_function" else None
        proxy.node.meta["value"] = value
        return proxy


def _flatten(x):
    """Maps (N,C,T,H,W) as vectors of steps (N,T,C*H*W), in the order of the image net's."""
    return x.transpose(1, 2).flatten(2)


def _mean(x):
    """Averages of maps (N,C,T,H,W) as vectors of steps (N,T,C)."""
    return x.mean((3, 4)).transpose(1, 2)


def _over_time(x, average):
    """(N,T,D) -> (N,D), or (N,D,T)."""
    return x.mean(1) if average else x.transpose(1, 2)


_MAX_POOL = (nn.MaxPool2d, F.max_pool2d)
_RELU = (F.relu, torch.relu, torch.relu_, "relu", "relu_", nn.ReLU)
_ANY = (*_RELU, operator.add, operator.iadd, torch.add, nn.Dropout, nn.Identity)
_MAPS = (nn.LocalResponseNorm, nn.Dropout2d, F.pad)
"""What is the same for maps of clips and of images; ``_ANY`` also for vectors. Padding begins at the last axes."""


class _Inflation:
    """One net's inflation: ``graph`` is rewritten node by node, its layers are exchanged in ``net``."""

    def __init__(self, net, graph, spec, weights, temporal_padding, backend):
        self.net, self.graph, self.spec = net, graph, spec
        self.weights, self.temporal_padding, self.backend = weights, temporal_padding, backend
        self.used, self.merged = set(), set()

    def kind(self, node) -> Any:
        """The module, function or method that a node calls: a class, the function itself, or a name."""
        return type(self.module(node)) if node.op == "call_module" else node.target

    def module(self, node) -> Any:
        return self.net.get_submodule(node.target) if node.op == "call_module" else None

    def only_user(self, node, kinds):
        """The one node that reads this one's value, if it is of one of these kinds."""
        users = list(node.users)
        return users[0] if len(users) == 1 and self.kind(users[0]) in kinds else None

    def over_time(self, node, cube):
        """Kernel and stride over time of a layer, ``cube`` where the table does not name it."""
        name = node.target if node.op == "call_module" else node.name
        for pattern, value in self.spec.items():
            if fnmatchcase(name, pattern):
                self.used.add(pattern)
                return value
        return cube

    def window(self, node):
        """The max-pooling of clips that a node's becomes."""
        options = vars(self.module(node)) if node.op == "call_module" else dict(node.kwargs)
        sizes = options.get("kernel_size", node.args[1] if len(node.args) > 1 else None), options.get("stride")
        kernel, stride = _pair(sizes[0]), _pair(sizes[1] or sizes[0])
        padding, dilation = _pair(options.get("padding", 0)), _pair(options.get("dilation", 1))
        k, s = self.over_time(node, (kernel[0], stride[0]))
        p = 0 if self.temporal_padding == "valid" else (k - 1) // 2  # of cells that never win
        ceil_mode = bool(options.get("ceil_mode", False))
        return Pool.of((k, *kernel), (s, *stride), (p, *padding), (1, *dilation), ceil_mode)

    def convolution(self, new, node, x):
        """A convolution and what of normalisation, ReLU and max-pooling follows it."""
        conv, name = self.module(node), node.target
        if isinstance(conv.padding, str) or conv.padding_mode != "zeros":
            raise ValueError(f"module: expected convolutions padded by numbers of zeros, got {name}: {conv}")
        last, norm = node, None
        follower = self.only_user(last, (nn.BatchNorm2d,))
        if follower is not None:
            last, norm = follower, new.get_attr(follower.target)
            self.net.set_submodule(follower.target, _batch_norm(self.module(follower), conv.weight))
            self.merged.add(follower)
        relu = self.only_user(last, _RELU)
        last = last if relu is None else relu
        pooling = self.only_user(last, _MAX_POOL)
        last = last if pooling is None else pooling
        pool = Pool() if pooling is None else self.window(pooling)
        k, s = self.over_time(node, (conv.kernel_size[0], conv.stride[0]))
        options = (self.weights, self.temporal_padding, relu is not None, pool, self.backend)
        self.net.set_submodule(name, InflatedConv3d(conv, k, s, *options))
        self.merged |= {relu, pooling}
        return last, new.call_module(name, (x,) if norm is None else (x, norm))

    def rewrite(self, new, node, args):
        """The node of clips for one of images."""
        kind, rank = self.kind(node), node.args[0].meta["value"].dim() if _is_node(node.args[0]) else 0
        if kind in (torch.cat, torch.concat) and node.args[1:] == (1,) and not node.kwargs:
            return new.call_function(torch.cat, (args[0], 1 if node.meta["value"].dim() == 4 else 2))
        if rank == 4 and kind in _MAX_POOL:
            return new.call_function(F.max_pool3d, (args[0], *self.window(node)))
        if rank == 4 and kind is nn.AdaptiveAvgPool2d:
            size = (None, *_pair(self.module(node).output_size))
            return new.call_function(F.adaptive_avg_pool3d, (args[0], size))
        if rank == 4 and ((kind in ("flatten", torch.flatten) and node.args[1:] == (1,)) or kind is nn.Flatten):
            return new.call_function(_flatten, (args[0],))
        if rank == 4 and kind in ("mean", torch.mean) and node.args[1:] in (((2, 3),), ([2, 3],)) and not node.kwargs:
            return new.call_function(_mean, (args[0],))
        if kind in _ANY or (rank == 4 and kind in _MAPS) or (rank == 2 and kind is nn.Linear):
            return new.create_node(node.op, node.target, args, dict(node.kwargs))
        raise ValueError(f"module: expected layers that can be inflated, got {node.format_node()}")

    def run(self):
        """The graph of clips."""
        new, made = fx.Graph(), {}
        for node in self.graph.nodes:
            if node in self.merged:
                continue
            args = map_arg(node.args, made.get)
            if node.op == "placeholder":
                made[node] = new.placeholder("clip")
                average = new.placeholder("average", default_value=True)
            elif node.op == "output":
                if not _is_node(node.args[0]) or node.args[0].meta["value"].dim() != 2:
                    raise ValueError("module: expected a net that gives (N,D), as one with a classifier does")
                steps = new.call_function(_over_time, (*args, average))
                steps.meta["is_wrapped"] = True  # pickle traces the net again, for which this must be one call
                new.output(steps)
            elif self.kind(node) is nn.Conv2d:
                last, made_here = self.convolution(new, node, args[0])
                made[last] = made_here
            else:
                made[node] = self.rewrite(new, node, args)
        if set(self.spec) - self.used:
            raise ValueError(
                f"spec: expected names of convolutions and poolings, got {sorted(set(self.spec) - self.used)}"
            )
        return new


def _is_node(value):
    return isinstance(value, fx.Node)


def _pair(value):
    return (value, value) if isinstance(value, int) else tuple(value)


def _batch_norm(norm, like):
    new = nn.BatchNorm3d(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
    new.to(like.device, like.dtype).load_state_dict(norm.state_dict())
    return new


def inflate(
    module, image, spec=None, *, weights="mean", temporal_padding="zeros", method="forward", backend=None
) -> fx.GraphModule:
    """A net of clips from a net of images, with its weights; the keys stay, its convolutions have a further axis.

    Convolutions with the normalisation, ReLU and max-pooling after them are single layers of this package. What
    follows the maps (averages, fully connected layers) runs at every step, and the result is averaged over time.

    Args:
        module: a net of convolutions, max-pooling, averages over the map and fully connected layers that gives (N,D):
            ``VGG16``, ``InceptionV1``, ``ResNet50``. It is not changed.
        image: (N,C,H,W) that it takes; clips must be of this size.
        spec: layers' names or patterns of them, as of files, with (kernel, stride) over time; the first that fits
            counts. Other layers are cubes: kernel and stride over time are those over height.
        weights: "mean", or "centre": in the middle step alone, with zeros elsewhere, which reaches the fixed point with
            zeros as padding too.
        temporal_padding: of convolutions, (kernel - 1) // 2 steps on both sides: "zeros", "replicate" (the first and
            last step again), or "valid" for none, in nets without branches. Max-pooling is padded too unless "valid",
            by what never wins.
        method: the module's method that takes images: ``image_logits`` of ``SingleFrame``.
        backend: of the convolutions.
    Returns: net(clip, average=True): (N,C,T,H,W) -> (N,D), or with ``average=False`` every step's (N,D,T').
    Raises: ValueError naming the argument.

    Summaries speak of the first two layers of I3D as 1x3x3: these are its first two max-poolings, here
    ``spec={"maxpool1": (1, 1), "maxpool2": (1, 1)}``.
    """
    if weights not in WEIGHTS:
        raise ValueError(f"weights: expected one of {', '.join(WEIGHTS)}, got {weights!r}")
    if temporal_padding not in TEMPORAL_PADDINGS:
        raise ValueError(f"temporal_padding: expected one of {', '.join(TEMPORAL_PADDINGS)}, got {temporal_padding!r}")
    backend = backends.check_choice(backend)
    with torch.no_grad():
        try:
            graph = _Tracer(method, image).trace(copy.deepcopy(module).eval())
        except TraceError as error:
            raise ValueError(f"module: expected a net whose path does not depend on values: {error}") from error
    net = copy.deepcopy(module)
    new = _Inflation(net, graph, dict(spec or {}), weights, temporal_padding, backend).run()
    return fx.GraphModule(net, new, "Inflated").train(module.training)
