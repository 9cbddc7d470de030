"""The Python of README runs, each block on its own."""

import re
from pathlib import Path

import pytest

README = Path(__file__).parent.parent / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)


def test_there_are_blocks():
    assert len(BLOCKS) > 5


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_block_runs(block, tmp_path):
    # From a file, as cells are known by their source.
    path = tmp_path / "block.py"
    path.write_text(block)
    exec(compile(block, path, "exec"), {"__name__": "block"})
