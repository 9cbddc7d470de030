"""What follows each Conv3d and BatchNorm3d of a model, found by tracing where its values go."""

import ast
import inspect
import itertools
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx, nn

HEADS = (nn.Conv3d, nn.BatchNorm3d, nn.SyncBatchNorm)
_KINDS = (*HEADS, nn.ReLU, nn.MaxPool3d)
_CONTAINERS = (nn.ModuleList, nn.ModuleDict)
_HARMLESS = ("apply", "eval", "load_state_dict", "parameters", "requires_grad_", "state_dict", "to", "train")
"""Methods of a submodule that another module may call without seeing its values."""


def is_head(module):
    """Whether chains begin with it: also lazy and quantised modules do, to say of them that they stay."""
    kind = type(module)
    quantised = kind.__module__.startswith("torch.ao.nn") and "3d" in kind.__name__
    return isinstance(module, HEADS) or getattr(kind, "cls_to_become", None) in HEADS or quantised


class _Tracer(fx.Tracer):
    proxy_buffer_attributes = True  # else a buffer that forward changes in place would be changed here

    def __init__(self, opaque):
        super().__init__()
        self.opaque, self.failed = opaque, None

    def is_leaf_module(self, m, module_qualified_name):
        ours = type(m).__module__.startswith("fastrcn.layers")
        known = ours or is_head(m) or isinstance(m, _KINDS) or m in self.opaque
        return known or super().is_leaf_module(m, module_qualified_name)

    def call_module(self, m, forward, args, kwargs):
        try:
            return super().call_module(m, forward, args, kwargs)
        except Exception:
            self.failed = m if self.failed is None else self.failed
            raise

    def create_node(self, *args, **kwargs):
        node = super().create_node(*args, **kwargs)
        node.meta["context"] = (torch.is_grad_enabled(), *(torch.is_autocast_enabled(d) for d in ("cpu", "cuda")))
        return node


class _Untraceable(Exception):
    pass


@dataclass
class Region:
    """A module, the graphs of its forward under each mode and for each use of its optional arguments, and the modules
    that are single nodes there although they hold others."""

    root: nn.Module
    graphs: list[fx.Graph] = field(default_factory=list)
    opaque: list[nn.Module] = field(default_factory=list)

    def calls(self, graph) -> Iterator[tuple[fx.Node, nn.Module]]:
        """The nodes that call a module, with it."""
        for node in graph.nodes:
            if node.op == "call_module":
                yield node, self.root.get_submodule(node.target)

    def module(self, node):
        """The module that a node calls, or None."""
        return self.root.get_submodule(node.target) if node.op == "call_module" else None


def _has_heads(module):
    return any(is_head(m) for m in module.modules())


def _first_line(error):
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _variants(root):
    """Values of the optional arguments under which to trace: a flag both ways, None as it is and as a tensor."""
    choices = {}
    for name, parameter in inspect.signature(type(root).forward).parameters.items():
        if parameter.default is None:
            choices[name] = ({name: None}, {})
        elif isinstance(parameter.default, bool):
            choices[name] = ({name: True}, {name: False})
    if len(choices) > 4:
        raise _Untraceable(f"forward has {len(choices)} optional arguments")
    for picked in itertools.product(*choices.values()):
        yield {name: value for part in picked for name, value in part.items()}


def _state(modules):
    """Attributes of modules, lists and dicts among them also as copies."""
    copied = []
    for module in modules:
        contents = {k: v.copy() for k, v in module.__dict__.items() if isinstance(v, (list, dict, set))}
        copied.append((module, dict(module.__dict__), contents))
    return copied


def _ids(values):
    return [*map(id, values), *(map(id, values.values()) if isinstance(values, dict) else ())]


def _restore(state):
    """Undo what a traced forward did to attributes; the name of one, if there was any."""
    found = None
    for module, attributes, contents in state:
        for name in {*module.__dict__, *attributes}:
            before, now = attributes.get(name), module.__dict__.get(name)
            if now is not before and not name.startswith("_tensor_constant"):  # these are the tracer's
                found = name
            elif name in contents and _ids(before) != _ids(contents[name]):
                found = name
                before.clear()
                (before.extend if isinstance(before, list) else before.update)(contents[name])
        module.__dict__.clear()
        module.__dict__.update(attributes)
    return found


def _trace(root, opaque):
    """The graphs of a module's forward, or _Untraceable; modules within that cannot be traced are added to opaque."""
    if "forward" in root.__dict__:
        raise _Untraceable("its forward was replaced on the module itself")
    modules = list(root.modules())
    modes = [m.training for m in modules]
    state = _state(modules)
    graphs, changed = [], None
    tracer = _Tracer(opaque)
    try:
        for training, arguments in itertools.product((True, False), _variants(root)):
            for module in modules:
                module.__dict__["training"] = training
            with torch.random.fork_rng(devices=[]):
                graphs.append(tracer.trace(root, concrete_args=arguments))
            for module, mode in zip(modules, modes, strict=True):
                module.__dict__["training"] = mode
            changed = _restore(state) or changed
    except Exception as error:
        _restore(state)
        if tracer.failed is None or tracer.failed is root or tracer.failed in opaque:
            raise _Untraceable(_first_line(error)) from error
        opaque.append(tracer.failed)
        return _trace(root, opaque)
    if changed:
        raise _Untraceable(f"forward sets the attribute {changed!r}")
    return graphs


def _is_self(node):
    return isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self"


def _elements(tree, name):
    """(expressions that stand for an element of the container ``self.name``, uses of it that give nothing else)."""

    def is_container(node):
        return _is_self(node) and node.attr == name

    elements, uses = [], []
    for node in ast.walk(tree):
        if isinstance(node, ast.Subscript) and is_container(node.value) and not isinstance(node.slice, ast.Slice):
            elements.append(node)
            uses.append(node.value)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "len":
            uses += filter(is_container, node.args)
        elif isinstance(node, ast.For) and isinstance(node.target, ast.Name) and is_container(node.iter):
            named = [n for n in ast.walk(tree) if isinstance(n, ast.Name) and n.id == node.target.id]
            elements += [n for n in named if n is not node.target]
            uses.append(node.iter)
    return elements, uses


def _only_called(parent, name, container):
    """Whether a module's own methods use its submodule ``name``, or each element of that container, only by calling it
    as a whole."""
    for kind in type(parent).__mro__:
        if kind.__module__.startswith("torch.nn"):
            continue
        for method in vars(kind).values():
            if not inspect.isfunction(method) or method.__name__ == "__init__":
                continue
            try:
                tree = ast.parse(textwrap.dedent(inspect.getsource(method)))
            except (OSError, SyntaxError, TypeError):
                return False
            allowed = set()
            for node in ast.walk(tree):
                if isinstance(node, ast.Call):
                    allowed.add(node.func)
                if isinstance(node, ast.Attribute) and node.attr in _HARMLESS:
                    allowed.add(node.value)
            uses = [n for n in ast.walk(tree) if isinstance(n, ast.Attribute) and _is_self(n)]
            if container:
                elements, known = _elements(tree, name)
                if any(e not in allowed for e in elements):
                    return False
                allowed |= set(known)
            if any(u.attr == name and u not in allowed for u in uses):
                return False
            if any(u.attr in ("_modules", "children", "named_children", "modules", "named_modules") for u in uses):
                return False
    return True


def _children(parent):
    """Submodules that a module which cannot be traced holds: (module, whether it is only ever called as a whole)."""
    for name, child in parent.named_children():
        container = isinstance(child, _CONTAINERS)
        whole = _only_called(parent, name, container)
        for module in child.children() if container else [child]:
            yield module, whole


def regions(model) -> tuple[list[Region], list[tuple[nn.Module, str]]]:
    """The parts of a model that can be traced, and for each module that cannot the reason."""
    found, failed, seen = [], [], set()
    waiting: list[Any] = [model]
    while waiting:
        root = waiting.pop(0)
        if root in seen or not _has_heads(root) or is_head(root):
            continue
        seen.add(root)
        # A hook of a module that is not a node would see values of a chain: it is traced on its own.
        opaque = [m for m in root.modules() if m is not root and (m._forward_hooks or m._forward_pre_hooks)]
        try:
            graphs = _trace(root, opaque)
        except _Untraceable as error:
            failed.append((root, f"cannot be traced: {error}"))
            for child, whole in _children(root):
                if whole:
                    waiting.append(child)
                elif _has_heads(child):
                    failed.append((child, f"{type(root).__name__} cannot be traced and may not call it as a whole"))
            continue
        region = Region(root, graphs, opaque)
        found.append(region)
        called = {m for graph in graphs for _, m in region.calls(graph)}
        waiting += [m for m in opaque if m in called]
    return found, failed
