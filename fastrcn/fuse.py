"""``fastrcn.fuse``: exchange the chains Conv3d -> [BatchNorm3d] -> ReLU -> [MaxPool3d] of a model in place."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx, nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.utils import parametrize

from fastrcn import backends, chains
from fastrcn.layers.conv3d import BatchNormReLUPool3d, FusedConv3d, computes, pool_of
from fastrcn.ops.relu_maxpool3d.geometry import CLOSED, Pool

_RELU_FUNCTIONS = (torch.relu, torch.relu_, nn.functional.relu, nn.functional.relu_)
_READERS = (torch.cat, torch.stack, "size", "dim", "mean", "sum")
_VIEWS = (torch.flatten, "flatten", "view", "reshape", "permute", "transpose", "squeeze", "unsqueeze", "contiguous")
_FRESH = (nn.modules.conv._ConvNd, nn.modules.batchnorm._BatchNorm, nn.Linear, nn.ReLU, nn.MaxPool3d)
_VIEW_MODULES = (nn.Identity, nn.Flatten, nn.Dropout, nn.Dropout3d, nn.AvgPool3d, nn.AdaptiveAvgPool3d)


@dataclass(frozen=True)
class Replaced:
    """A chain that was exchanged: its modules' names, what the first became (the others are ``nn.Identity``), and what
    of the chain stays."""

    modules: tuple[str, ...]
    became: str
    note: str = ""

    def __str__(self):
        return f"{', '.join(self.modules)} -> {self.became}" + (f" ({self.note})" if self.note else "")


@dataclass(frozen=True)
class Left:
    """A chain, or a part of the model, that stays as it was."""

    modules: tuple[str, ...]
    reason: str

    def __str__(self):
        return f"{', '.join(self.modules)}: {self.reason}"


@dataclass
class FuseReport:
    """What ``fuse`` did. Its length is the number of chains that were exchanged."""

    replaced: list[Replaced] = field(default_factory=list)
    left: list[Left] = field(default_factory=list)

    def __len__(self):
        return len(self.replaced)

    def _summary(self):
        return f"fused {len(self.replaced)} chains"

    def __str__(self):
        lines = [f"{self._summary()}, left {len(self.left)}"]
        lines += [f"  {entry}" for entry in self.replaced]
        lines += [f"  left {entry}" for entry in self.left]
        return "\n".join(lines)


class _Stays(Exception):
    """Why a chain, or a module at its end, stays."""


@dataclass
class _Chain:
    """Nodes of one graph: a convolution or normalisation, the ReLU after it, and the max-pooling after that."""

    head: fx.Node
    relu: fx.Node
    pool: fx.Node | None

    def nodes(self):
        return [n for n in (self.head, self.relu, self.pool) if n is not None]


def _is_call(node, module, kind, functions, methods):
    if node.op == "call_module":
        return isinstance(module, kind)
    return node.target in functions if node.op == "call_function" else node.target in methods


def _next(node):
    """The only node that uses a node's value, if it is in the same context (gradient mode, autocast)."""
    users = list(node.users)
    same = len(users) == 1 and users[0].meta.get("context") == node.meta.get("context")
    return users[0] if same and users[0].args[:1] == (node,) else None


def _is_pool(region, node):
    function = node.op == "call_function" and "max_pool3d" in getattr(node.target, "__name__", "")
    return function or isinstance(region.module(node), nn.MaxPool3d)


def _is_relu(region, node):
    return _is_call(node, region.module(node), nn.ReLU, _RELU_FUNCTIONS, ("relu", "relu_"))


def _chain(region, head):
    """The chain that begins at a node; None where no ReLU follows."""
    relu = next((n for n in head.users if _is_relu(region, n)), None)
    if relu is None:
        return None
    pool = _next(relu)
    return _Chain(head, relu, pool if pool is not None and _is_pool(region, pool) else None)


def _may_be_written(region, node):
    """Whether what follows may change a value in place, through a view too, or whoever gets the result.

    Only operations that are known decide: for torch.fx ``x += y`` is ``x + y``."""
    for user in node.users:
        module = region.module(user)
        if module is None:
            reads = user.target in _READERS or (user.target is getattr and user.args[1] == "shape")
            looks = user.target in _VIEWS
        else:
            writes = bool(module.__dict__.get("inplace"))
            reads = isinstance(module, _FRESH) and not writes
            looks = type(module) in _VIEW_MODULES and not writes
        if not reads and not (looks and not _may_be_written(region, user)):
            return True
    return False


class _Fuser:
    """One region of a model: judges its chains and exchanges them."""

    def __init__(self, model, region, backend, report):
        self.region, self.backend, self.report = region, backend, report
        self.names: dict[nn.Module, list[str]] = {}
        for name, module in model.named_modules(remove_duplicate=False):
            self.names.setdefault(module, []).append(name)
        self.hidden = {m for opaque in region.opaque for m in opaque.modules()}
        self.counts = [Counter(m for _, m in region.calls(graph)) for graph in region.graphs]

    def run(self):
        """Exchange what can be."""
        judged = set()
        for graph in self.region.graphs:
            for node, module in list(self.region.calls(graph)):
                if module in judged or isinstance(module, (FusedConv3d, BatchNormReLUPool3d)):
                    continue
                chain = _chain(self.region, node) if chains.is_head(module) else None
                if chain is None or not self._is_3d(chain, module):
                    continue
                judged.add(module)
                try:
                    self._exchange(chain, module)
                except _Stays as reason:
                    self.report.left.append(Left(self._names_of(chain), str(reason)))

    def _is_3d(self, chain, module):
        """A SyncBatchNorm tells only by what stands before it."""
        if not isinstance(module, nn.SyncBatchNorm):
            return True
        before = chain.head.args[0] if chain.head.args else None
        return isinstance(before, fx.Node) and isinstance(self.region.module(before), nn.Conv3d)

    def _name(self, module):
        return self.names[module][0]

    def _names_of(self, chain):
        modules = (self.region.module(n) for n in chain.nodes())
        return tuple(self._name(m) for m in modules if m is not None)

    def _check_head(self, module):
        kind = type(module).__name__
        if isinstance(module, nn.SyncBatchNorm):
            raise _Stays("a SyncBatchNorm takes its statistics from all processes")
        if parametrize.is_parametrized(module):
            raise _Stays(f"{self._name(module)} has parametrizations")
        if isinstance(module, LazyModuleMixin):
            raise _Stays(f"{self._name(module)} is a {kind}: it has no weight before the first call")
        if type(module) not in (nn.Conv3d, nn.BatchNorm3d):
            raise _Stays(f"{self._name(module)} is a {kind}, not exactly a Conv3d or BatchNorm3d")

    def _check_module(self, module, kind):
        """A module may be exchanged only if its one call is the one seen."""
        name = self._name(module)
        if type(module) is not kind:
            raise _Stays(f"{name} is a {type(module).__name__}, not exactly a {kind.__name__}")
        if not computes(module, kind):
            raise _Stays(f"{name} has hooks or another forward, which would no longer see its values")
        calls = max(count[module] for count in self.counts)
        if calls != 1:
            raise _Stays(f"{name} is called {calls} times")
        prefixes = [f"{n}." if n else "" for n in self.names[self.region.root]]
        outside = [n for n in self.names[module] if not n.startswith(tuple(prefixes))]
        if outside or module in self.hidden:
            raise _Stays(f"{name} also belongs to a part that was not traced with it")

    def _check_paths(self, chain, modules):
        """In every graph that calls one of the modules the chain is the same."""
        wanted = [self._signature(n) for n in chain.nodes()]
        for graph in self.region.graphs:
            called = [(node, module) for node, module in self.region.calls(graph) if module in modules]
            if not called:
                continue
            other = _chain(self.region, called[0][0]) if called[0][1] is modules[0] else None
            if other is None or [self._signature(n) for n in other.nodes()] != wanted:
                raise _Stays("in training, in evaluation or by an optional argument other operations follow")
            if len(other.head.users) != 1:
                raise _Stays(f"{self._name(modules[0])}'s output is used {len(other.head.users)} times")
            if _next(other.head) is not other.relu:
                raise _Stays("the ReLU is not a plain call in the same gradient mode and autocast")

    def _signature(self, node) -> Any:
        return self.region.module(node) or node.target

    def _window(self, chain) -> tuple[nn.Module | None, str]:
        """(the module of the pooling that can be absorbed, why there is none)."""
        if chain.pool is None:
            return None, ""
        pool = self.region.module(chain.pool)
        if pool is None:
            return None, "its max-pooling is a function, which cannot be removed"
        try:
            self._check_module(pool, nn.MaxPool3d)
        except _Stays as reason:
            return None, str(reason)
        if pool.return_indices:
            return None, f"{self._name(pool)} returns indices"
        cells = pool_of(pool).cells
        if cells > CLOSED:
            raise _Stays(f"{self._name(pool)} has windows of {cells} cells, more than {CLOSED}")
        return (pool, "") if cells > 1 else (None, f"{self._name(pool)} has windows of one cell")

    def _pool_nodes(self, pool):
        return [node for graph in self.region.graphs for node, module in self.region.calls(graph) if module is pool]

    def _exchange(self, chain, head):
        self._check_head(head)
        self._check_module(head, type(head))
        pool, why = self._window(chain)
        relu, note = self.region.module(chain.relu), ""
        if relu is None:
            note = "its ReLU is a function, which cannot be removed"
        else:
            try:
                self._check_module(relu, nn.ReLU)
            except _Stays as reason:
                relu, note = None, str(reason)
        if relu is None and pool is None:
            raise _Stays(f"{note}, and there is no max-pooling to absorb" + (f": {why}" if why else ""))
        absorbed = [m for m in (relu, pool) if m is not None]
        self._check_paths(chain, [head, *absorbed])
        # A ReLU keeps its result for backward, and without the pooling the next operation works on that very tensor.
        if relu is None and any(_may_be_written(self.region, n) for n in self._pool_nodes(pool)):
            raise _Stays(f"{note}, and what follows the max-pooling may write to its result")
        kept = f"{note}: it stays, on the smaller tensor" if note else ""
        names = tuple(self._name(m) for m in (head, *absorbed))
        fused = FusedConv3d if isinstance(head, nn.Conv3d) else BatchNormReLUPool3d
        self._become(head, fused, True, Pool() if pool is None else pool_of(pool))
        for module in absorbed:
            module.__class__ = nn.Identity
        notes = [kept or why]
        before = chain.head.args[0] if fused is BatchNormReLUPool3d else None
        conv = self.region.module(before) if isinstance(before, fx.Node) else None
        if type(conv) is nn.Conv3d and computes(conv, nn.Conv3d) and not parametrize.is_parametrized(conv):
            # With nothing after it, it is what it was wherever it is called; its gradients are faster.
            self._become(conv, FusedConv3d, False, Pool())
            notes.append(f"{self._name(conv)} -> FusedConv3d")
        self.report.replaced.append(Replaced(names, fused.__name__, "; ".join(filter(None, notes))))

    def _become(self, module: Any, fused, relu, pool):
        """The object stays, so that whoever holds it sees the change; its keys and parameters stay with it."""
        module.__class__ = fused
        module.relu, module.pool, module.backend = relu, pool, self.backend


def fuse(model, backend=None) -> FuseReport:
    """Exchange the chains Conv3d -> ReLU -> [MaxPool3d] and BatchNorm3d -> ReLU -> [MaxPool3d] of a model, in place.

    The first module of a chain becomes a subclass of its class that also does what follows, the others become
    ``nn.Identity``; a Conv3d before a BatchNorm3d becomes one that has faster gradients. The state_dict's keys, all
    parameter objects, the model's class and its methods stay, and the outputs and gradients are equal but for rounding.
    A chain is exchanged only where tracing ``forward`` with ``torch.fx``, in training and in evaluation, shows that no
    other operation sees a value within it; a method that ``forward`` does not call is not seen. A ReLU that is a
    function, or also serves elsewhere, runs once more on the pooled tensor, which changes nothing. Convert to
    ``nn.SyncBatchNorm`` before, not after.

    Args:
        model: any ``nn.Module``. backend: a backend's name for what is exchanged; None for the best that can run.
    Returns:
        What was exchanged, and what was left and why: print it.
    Raises:
        TypeError for anything but a module, ValueError for an unknown backend.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    backends.check_choice(backend)
    report = FuseReport()
    regions, failed = chains.regions(model)
    for region in regions:
        _Fuser(model, region, backend, report).run()
    names = {module: name for name, module in model.named_modules()}
    report.left += [Left((names[module] or type(module).__name__,), reason) for module, reason in failed]
    return report
