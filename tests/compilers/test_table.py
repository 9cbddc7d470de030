"""The table of README is the one that is kept here, and each of its cells is a test."""

import importlib
from pathlib import Path

import pytest

from tests.compilers.subjects import SUBJECTS
from tests.compilers.table import COLUMNS, MARKER, ROWS, render

README = Path(__file__).parents[2] / "README.md"


def test_readme_holds_the_table():
    parts = README.read_text().split(MARKER)
    assert len(parts) == 3, f"README: expected the table between two lines {MARKER}: python -m tests.compilers.table"
    assert parts[1].strip() == render()


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.test)
def test_each_cell_is_a_test(row):
    function = getattr(importlib.import_module(f"tests.compilers.{row.file}"), row.test)
    marks = [mark.args for mark in function.pytestmark if mark.name == "parametrize"]
    assert [(names, list(values)) for names, values in marks] == [("column", list(COLUMNS))]
    assert {row.cell(column).partition(":")[0] for column in COLUMNS} <= {"yes", "no", "reference only"}


def test_columns_are_those_that_are_tested():
    assert list(COLUMNS) == list(SUBJECTS)
