"""Stages as Python functions of tensors: under autograd the plain form, without it the fused backward's fallback."""

from functools import cache

from fastrcn.compiler.differentiate import Code
from fastrcn.compiler.emit import Printer, assignments

_PRINTER = Printer(
    {
        "sigmoid": "torch.sigmoid",
        "tanh": "torch.tanh",
        "relu": "torch.relu",
        "exp": "torch.exp",
        "positive": "positive",
    }
)


@cache
def torch_source(code: Code, name: str = "stage") -> str:
    """Python source of a function from the tensors ``code.reads`` to the tuple ``code.outputs``."""
    lines = [f"def {name}({', '.join(s.name for s in code.reads)}):"]
    lines += ["    " + line for line in assignments(code, _PRINTER)]
    results = ", ".join(_PRINTER.doprint(expr) for _, expr in code.outputs)
    return "\n".join([*lines, f"    return ({results},)", ""])


@cache
def torch_function(code: Code):
    """The function itself. A zero gradient comes back as the number 0."""
    import torch

    scope = {"torch": torch, "positive": lambda x: (x > 0).to(x.dtype)}
    exec(compile(torch_source(code), f"<stage of {len(code.outputs)} outputs>", "exec"), scope)
    return scope["stage"]
