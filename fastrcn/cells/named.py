"""Cells of this package from their text, as exported programs carry them: equal text means an equal cell."""

import ast

import fastrcn.cells
from fastrcn.cells.cell import Cell


def cell_of(text) -> Cell | None:
    """The cell whose ``repr`` is ``text``; None where that is no cell of ``fastrcn.cells`` with plain options."""
    try:
        return _cell(ast.parse(text, mode="eval").body)
    except (SyntaxError, ValueError):
        return None


def _cell(node) -> Cell | None:
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute) or node.args:
        return None
    module = ast.unparse(node.func.value)
    kind = getattr(fastrcn.cells, node.func.attr, None)
    if not (isinstance(kind, type) and issubclass(kind, Cell) and kind.__module__ == module):
        return None
    options = {}
    for keyword in node.keywords:
        inner = isinstance(keyword.value, ast.Call)
        value = _cell(keyword.value) if inner else ast.literal_eval(keyword.value)
        if keyword.arg is None or (inner and value is None):
            return None
        options[keyword.arg] = value
    return kind(**options)
